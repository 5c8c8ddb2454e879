"""Accuracy against visual tokens kept, for every pruner at several budgets, and what each drops of a clip.

python scripts/pruner_table.py [QUESTIONS] [FOLDER] [MODEL]        default: 300 of each skill, docs/results, vl3-tiny

Writes pruners.md (the table), pruners.json, pruners.png (the plot) and pruners-NAME.jpg (frames) into the folder.
"""

import json
import sys
from pathlib import Path

from matplotlib.figure import Figure

import vl3ref
from vl3ref.inputs.processor import Processor
from vl3ref.inspection import visuals_of
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.plots import contact_sheet
from vl3ref.pruners import RULES, read_pruner
from vl3ref.tinyworld import TIME_SKILLS, examine
from vl3ref.tinyworld.examination import overall

ROOT = Path(__file__).parents[1]
BUDGETS = ("0.5", "0.33", "0.25", "0.17")
"""Shares of a clip's tokens. DiffFP as released keeps about a third of the small world's."""

Rows = dict[str, dict[str, float]]
"""Pruner -> visual tokens per question ("tokens"), and accuracy over all ("all") and in each skill."""


def main(questions: int, folder: Path, name: str) -> None:
    model, processor = vl3ref.load(name, "cpu")
    names = ["all", *RULES, *(f"{rule}={budget}" for budget in BUDGETS for rule in RULES)]
    rows: Rows = {}
    for pruner in names:
        rows[pruner] = measure(model, processor, pruner, questions)
        print(f"{pruner}: {rows[pruner]['all']:.1%} with {rows[pruner]['tokens']:.1f} tokens", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pruners.json").write_text(json.dumps({"questions": questions, "rows": rows}, indent=1) + "\n")
    (folder / "pruners.md").write_text(table(rows, questions, name), encoding="utf-8")
    plot(rows, folder / "pruners.png")
    show_frames(model, processor, folder)


def measure(model: VideoLLaMA3, processor: Processor, pruner: str, questions: int) -> dict[str, float]:
    scores = examine(model, processor, TIME_SKILLS, questions, pruner=read_pruner(pruner, model))
    tokens = sum(score.tokens for score in scores.values()) / len(scores)
    return {"tokens": tokens, "all": overall(scores), **{skill: score.accuracy for skill, score in scores.items()}}


def table(rows: Rows, questions: int, name: str) -> str:
    headings = ["pruner", "tokens", "of all", "accuracy", *TIME_SKILLS]
    lines = [
        f"# Pruners side by side\n\n{name} on the small world's skills of time, {questions} questions of each, exact "
        "match. Tokens are visual tokens per question that reach the decoder, on average. A bare name has the paper's "
        "number; `=0.25` is that rule with a budget of a quarter.\n\n"
        f"Made by `python scripts/pruner_table.py {questions}`. "
        "The model was trained with DiffFP, which a comparison on it favours; `all` shows what it makes of tokens that "
        "its training dropped.\n",
        f"| {' | '.join(headings)} |",
        f"|---{'|---:' * (len(headings) - 1)}|",
    ]
    for pruner, row in rows.items():
        share = row["tokens"] / rows["all"]["tokens"]
        skills = " | ".join(f"{row[skill]:.1%}" for skill in TIME_SKILLS)
        lines.append(f"| `{pruner}` | {row['tokens']:.1f} | {share:.0%} | {row['all']:.1%} | {skills} |")
    lines += [
        "",
        "![accuracy against visual tokens](pruners.png)",
        "",
        "A third of bunny.mp4's tokens, as each keeps them:",
    ]
    lines += [f"\n`{rule}`\n\n![kept by {rule}](pruners-{rule}-33.jpg)" for rule in RULES]
    return "\n".join(lines) + "\n"


def plot(rows: Rows, path: Path) -> None:
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel="visual tokens per question", ylabel="accuracy")
    for number, rule in enumerate(RULES):
        curve = sorted((row["tokens"], row["all"]) for name, row in rows.items() if name.startswith(f"{rule}="))
        [line] = axes.plot(*zip(*curve, strict=True), marker=".", label=rule, linewidth=4 - 0.6 * number)
        axes.plot(rows[rule]["tokens"], rows[rule]["all"], "*", color=line.get_color(), markersize=12)
    axes.plot(rows["all"]["tokens"], rows["all"]["all"], "kx", label="all tokens")
    axes.plot([], [], "*", color="grey", markersize=12, label="with the paper's number")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def show_frames(model: VideoLLaMA3, processor: Processor, folder: Path) -> None:
    """What the pruners keep of a clip: with the paper's number, and a third of its tokens."""
    video = {"type": "video", "video": str(ROOT / "docs" / "media" / "bunny.mp4"), "max_frames": 9}
    question = {"type": "text", "text": "What happens?"}
    inputs = processor([{"role": "user", "content": [video, question]}], max_tokens=1024)
    for rule in RULES:
        for pruner in (rule, f"{rule}=0.33"):
            [seen] = visuals_of(inputs, model.splice(inputs, read_pruner(pruner, model)).keep_mask)
            contact_sheet(seen).savefig(folder / f"pruners-{pruner.replace('=0.', '-')}.jpg")
            print(f"{pruner}: {seen.kept} of {seen.tokens} tokens of bunny.mp4", flush=True)


if __name__ == "__main__":
    given = sys.argv[1:]
    main(
        int(given[0]) if given else 300,
        Path(given[1]) if given[1:] else ROOT / "docs" / "results",
        given[2] if given[2:] else "vl3-tiny",
    )
