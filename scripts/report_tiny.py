"""Examine vl3-tiny and its checkpoints after each stage, plot the losses of its run, and fill docs/results/vl3-tiny.md.

python scripts/report_tiny.py [RUN] [QUESTIONS]   default: runs/tiny, 300 of each skill, a third after each stage
"""

import csv
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import torch
from matplotlib import pyplot

import vl3ref
from vl3ref.tinyworld import EXAMINATIONS, Score, examine
from vl3ref.tinyworld.examination import as_markdown, overall, rows, rows_by_candidates
from vl3ref.tinyworld.recipe import PHASES, Phase
from vl3ref.training.checkpoints import latest_checkpoint
from vl3ref.training.run_log import read_log

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
MEANS = ("loss", "learning_rate", "gradient_norm", "tokens", "targets", "seconds")
WINDOW = 50
"""The last loss, and each line of the published log, are means over this many steps."""


def main(run: Path, questions: int) -> None:
    columns: dict[str, dict[str, Score]] = {}

    def add(name: str, scores: dict[str, Score]) -> None:
        columns[name] = scores
        print(f"{name}: {overall(scores):.1%}", flush=True)

    shipped = vl3ref.load(run / "vl3-tiny", "cpu")
    for name, settings in EXAMINATIONS.items():
        add(name, examine(*shipped, questions=questions, **settings))
    *earlier, _ = (phase.name for phase in finished(run) if phase.name.startswith("stage"))
    for stage in earlier:
        checkpoint = latest_checkpoint(run / stage)
        add(f"after {stage}", examine(*vl3ref.load(checkpoint, "cpu"), questions=max(questions // 3, 1)))
    plot_losses(run, RESULTS / "vl3-tiny-loss.png")
    write_log(run, RESULTS / "vl3-tiny-log.csv")
    page = RESULTS / "vl3-tiny.md"
    fill(page, "candidates", as_markdown(rows_by_candidates(columns["accuracy"])))
    fill(page, "table", as_markdown(rows(columns)))
    fill(page, "run", run_table(run))


def finished(run: Path) -> list[Phase]:
    """The phases that a run has been through."""
    return [phase for phase in PHASES if latest_checkpoint(run / phase.name)]


def run_table(run: Path) -> str:
    """What each phase of the run took."""
    lines = [
        "| phase | what for | steps | samples | target tokens | last loss | minutes |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    hours = 0.0
    for phase in finished(run):
        rows = read_log(run / phase.name / "log.csv")
        minutes = sum(float(row["seconds"]) for row in rows) / 60
        hours += minutes / 60
        targets = sum(float(row["targets"]) for row in rows)
        last = [float(row["loss"]) for row in rows[-WINDOW:]]
        samples = len(rows) * phase.batch_size
        lines.append(
            f"| {phase.name} | {phase.stage.purpose} | {len(rows):,} | {samples:,} | {targets:,.0f} "
            f"| {sum(last) / len(last):.3f} | {minutes:.0f} |"
        )
    summary = (
        f"{hours:.1f} hours of computing on {torch.get_num_threads()} CPU cores, without waits for samples and "
        f"checkpoints. The last loss is the mean of the last {WINDOW} steps; [the log](vl3-tiny-log.csv) has the "
        f"means of every {WINDOW}."
    )
    return "\n".join([*lines, "", summary, ""])


def write_log(run: Path, path: Path) -> None:
    """The log of all phases, a line for every window of steps: its last step, and means."""
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["phase", "step", *MEANS])
        for phase in finished(run):
            rows = read_log(run / phase.name / "log.csv")
            for first in range(0, len(rows), WINDOW):
                window = rows[first : first + WINDOW]
                means = (sum(float(row[name]) for row in window) / len(window) for name in MEANS)
                table.writerow([phase.name, window[-1]["step"], *(f"{mean:.4g}" for mean in means)])


def plot_losses(run: Path, path: Path) -> None:
    """The loss of every step, phase after phase; one panel for cross-entropy, one for SigLIP's."""
    figure, (words, pairs) = pyplot.subplots(1, 2, figsize=(11, 4), width_ratios=(4, 1), layout="constrained")
    start = 0
    for phase in finished(run):
        losses = [float(row["loss"]) for row in read_log(run / phase.name / "log.csv")]
        panel, first = (pairs, 0) if phase.name == "siglip" else (words, start)
        panel.plot(range(first, first + len(losses)), losses, linewidth=0.3, alpha=0.4, color="C0")
        panel.plot(range(first, first + len(losses)), smoothed(losses), linewidth=1.2, label=phase.name)
        if panel is words:
            start += len(losses)
    for panel, name in ((words, "cross-entropy per target token"), (pairs, "sigmoid loss per picture")):
        panel.set_yscale("log")
        panel.set_xlabel("step")
        panel.set_title(name, fontsize=9)
        panel.grid(alpha=0.3)
        panel.legend(fontsize=7)
    figure.savefig(path, dpi=120)


def smoothed(values: list[float], keep: float = 0.97) -> list[float]:
    """An exponential mean that starts at the first value."""
    mean, out = values[0], []
    for value in values:
        mean = keep * mean + (1 - keep) * value
        out.append(mean)
    return out


def fill(page: Path, name: str, content: str) -> None:
    """Put something between a page's marks `<!-- name -->` and `<!-- end -->`."""
    text = page.read_text(encoding="utf-8")
    before, found, rest = text.partition(f"<!-- {name} -->\n")
    _, _, after = rest.partition("<!-- end -->")
    if not found:
        raise SystemExit(f"{page} has no place for {name}")
    page.write_text(f"{before}{found}{content}<!-- end -->{after}", encoding="utf-8")


if __name__ == "__main__":
    arguments = sys.argv[1:]
    main(Path(arguments[0]) if arguments else ROOT / "runs" / "tiny", int(arguments[1]) if len(arguments) > 1 else 300)
