"""What DiffFP saves and costs: tokens kept of a real clip, tokens kept and accuracy on the small world, by threshold.

python scripts/diff_fp_curve.py [MODEL] [QUESTIONS]        default: vl3-tiny, 100 of each skill

Fills docs/diff_fp.md and draws its pictures.
"""

import sys

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from report_tiny import RESULTS, ROOT, fill

import vl3ref
from vl3ref.inputs.processor import Processor
from vl3ref.inspection import Seen, inspect_part
from vl3ref.model.diff_fp import DiffFP
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.plots import contact_sheet
from vl3ref.tinyworld import TIME_SKILLS, examine
from vl3ref.tinyworld.encoding import Encoding
from vl3ref.tinyworld.examination import as_markdown, overall

THRESHOLDS = (0.1, 0.5, 1.0, 2.0, 4.0, 8.0, 12.75, 25.5, 51.0, 102.0)
"""Of the released rule: the mean difference of pixels in [-1, 1], times 255. 25.5 is a difference of 0.1."""
ENCODINGS = {"lossless": None, "crf 23": Encoding(23)}
PAGE = ROOT / "docs" / "diff_fp.md"
CLIP = ROOT / "docs" / "media" / "bunny.mp4"


def main(name: str, questions: int) -> None:
    model, processor = vl3ref.load(name, "cpu")
    table = [
        [
            "threshold",
            "grey levels",
            f"{CLIP.name}: kept",
            *(f"{x}: {y}" for x in ENCODINGS for y in ("accuracy", "tokens")),
        ]
    ]
    curves: dict[str, list[float]] = {}
    for threshold in THRESHOLDS:
        seen = real_clip(model, processor, threshold)
        figures = {CLIP.name: seen.kept / seen.tokens}
        row = [f"{threshold:g}", f"{threshold / 2:g}", f"{figures[CLIP.name]:.1%}"]
        for label, encoding in ENCODINGS.items():
            scores = examine(model, processor, TIME_SKILLS, questions, pruner=DiffFP(threshold), encoding=encoding)
            tokens = sum(score.tokens for score in scores.values()) / len(scores)
            row += [f"{overall(scores):.1%}", f"{tokens:.1f}"]
            figures |= {f"{label}: accuracy": overall(scores), f"{label}: tokens": tokens}
        for label, figure in figures.items():
            curves.setdefault(label, []).append(figure)
        table.append(row)
        print(", ".join(row), flush=True)
    fill(PAGE, "curve", as_markdown(table))
    plot(curves)
    for label, threshold in (("released", 0.1), ("tenth", 25.5)):
        contact_sheet(real_clip(model, processor, threshold)).savefig(RESULTS / f"diff-fp-{label}.jpg")


def real_clip(model: VideoLLaMA3, processor: Processor, threshold: float) -> Seen:
    """The real clip at one frame a second and the released models' budget of visual tokens."""
    part = {"type": "video", "video": str(CLIP), "fps": 1}
    return inspect_part(part, model, processor, DiffFP(threshold), max_tokens=16384)


def plot(curves: dict[str, list[float]]) -> None:
    """Tokens kept, and accuracy, against the threshold."""
    figure, (kept, right) = pyplot.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    kept.plot(THRESHOLDS, curves[CLIP.name], marker="o", label=CLIP.name)
    for label in ENCODINGS:
        tokens = curves[f"{label}: tokens"]
        kept.plot(THRESHOLDS, [x / tokens[0] for x in tokens], marker=".", label=f"small world, {label} (1: at 0.1)")
        right.plot(THRESHOLDS, curves[f"{label}: accuracy"], marker=".", label=f"small world, {label}")
    for panel, title in ((kept, "share of the visual tokens kept"), (right, "answers right (questions about time)")):
        panel.set_xscale("log")
        panel.set_ylim(0, 1.02)
        panel.axvline(0.1, color="grey", linestyle=":")
        panel.axvline(25.5, color="grey", linestyle="--")
        panel.set(title=title, xlabel="threshold (dotted: released code; dashed: 0.1 of pixels in [-1, 1])")
        panel.grid(alpha=0.3)
        panel.legend(fontsize=7)
    figure.savefig(RESULTS / "diff-fp.png", dpi=120)


if __name__ == "__main__":
    given = sys.argv[1:]
    main(given[0] if given else "vl3-tiny", int(given[1]) if len(given) > 1 else 100)
