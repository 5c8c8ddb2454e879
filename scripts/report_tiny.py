"""Examine vl3-tiny and what it was after each stage, draw the losses of its run, and write docs/results/vl3-tiny.md.

python scripts/report_tiny.py [RUN] [QUESTIONS]        default: runs/tiny, 300 of each skill
"""

import csv
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import torch
from matplotlib import pyplot

import vl3ref
from vl3ref.tinyworld.examination import COLUMNS, Table, examine_all
from vl3ref.tinyworld.recipe import PHASES, Phase
from vl3ref.training.run_log import read_log
from vl3ref.training.run_state import latest_checkpoint

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
MEANS = ("loss", "rate", "norm", "tokens", "learnt", "seconds")
STRETCH = 50
"""Steps that a line of the log, and the last loss, are the mean of."""


def main(run: Path, questions: int) -> None:
    table = Table()
    shipped = vl3ref.load(run / "vl3-tiny", "cpu")
    for name, column in COLUMNS.items():
        table.add(name, examine_all(*shipped, column, questions))
        print(f"{name}: {table.overall(name):.1%}", flush=True)
    *earlier, _ = (phase.name for phase in done(run) if phase.name.startswith("stage"))
    for stage in earlier:
        model, processor = vl3ref.load(latest_checkpoint(run / stage), "cpu")
        name = f"after {stage}"
        table.add(name, examine_all(model, processor, COLUMNS["accuracy"], questions))
        print(f"{name}: {table.overall(name):.1%}", flush=True)
    draw_losses(run, RESULTS / "vl3-tiny-loss.png")
    write_log(run, RESULTS / "vl3-tiny-log.csv")
    page = RESULTS / "vl3-tiny.md"
    fill(page, "table", table.as_markdown())
    fill(page, "run", run_table(run))


def done(run: Path) -> list[Phase]:
    """The phases that a run has been through."""
    return [phase for phase in PHASES if latest_checkpoint(run / phase.name)]


def run_table(run: Path) -> str:
    """What each phase of the run took."""
    lines = [
        "| phase | what for | steps | samples | learnt tokens | last loss | minutes |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    hours = 0.0
    for phase in done(run):
        rows = read_log(run / phase.name / "log.csv")
        minutes = sum(float(row["seconds"]) for row in rows) / 60
        hours += minutes / 60
        learnt = sum(float(row["learnt"]) for row in rows)
        last = [float(row["loss"]) for row in rows[-STRETCH:]]
        lines.append(
            f"| {phase.name} | {phase.stage.purpose} | {len(rows):,} | {len(rows) * phase.batch:,} | {learnt:,.0f} "
            f"| {sum(last) / len(last):.3f} | {minutes:.0f} |"
        )
    told = (
        f"{hours:.1f} hours of computing on {torch.get_num_threads()} CPU cores, without waits for samples and "
        f"checkpoints. The last loss is the mean of the last {STRETCH} steps; [the log](vl3-tiny-log.csv) has the "
        f"means of every {STRETCH}."
    )
    return "\n".join([*lines, "", told, ""])


def write_log(run: Path, path: Path) -> None:
    """The log of all phases, a line for every stretch of steps: its last step, and means."""
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["phase", "step", *MEANS])
        for phase in done(run):
            rows = read_log(run / phase.name / "log.csv")
            for first in range(0, len(rows), STRETCH):
                stretch = rows[first : first + STRETCH]
                means = (sum(float(row[name]) for row in stretch) / len(stretch) for name in MEANS)
                table.writerow([phase.name, stretch[-1]["step"], *(f"{mean:.4g}" for mean in means)])


def draw_losses(run: Path, path: Path) -> None:
    """The loss of every step, phase after phase; one panel for cross-entropy, one for SigLIP's."""
    figure, (words, pairs) = pyplot.subplots(1, 2, figsize=(11, 4), width_ratios=(4, 1), layout="constrained")
    start = 0
    for phase in done(run):
        losses = [float(row["loss"]) for row in read_log(run / phase.name / "log.csv")]
        panel, first = (pairs, 0) if phase.name == "siglip" else (words, start)
        panel.plot(range(first, first + len(losses)), losses, linewidth=0.3, alpha=0.4, color="C0")
        panel.plot(range(first, first + len(losses)), smoothed(losses), linewidth=1.2, label=phase.name)
        if panel is words:
            start += len(losses)
    for panel, name in ((words, "cross-entropy per learnt token"), (pairs, "sigmoid loss per picture")):
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
