"""How well a model answers held-out questions about the small world, skill by skill, by exact match.

Beside the questions as they are stand three controls: with blank pictures (what the wording alone gives away), with
the frames of clips in another order (what order tells), and without DiffFP (what dropping repeated tokens costs, and
saves).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from rich.table import Table as RichTable

from vl3ref.inputs.processor import Processor
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.tinyworld import SKILLS, TIME_SKILLS, held_out
from vl3ref.training.samples import to_conversation

SEED = 1_000_003
"""Of the examination: training's samples have small seeds."""

TOGETHER = 50
"""Questions answered in one batch."""


@dataclass(frozen=True)
class Score:
    """What came out for one skill.

    Attributes:
        right, asked: answers that equal the expected one, and questions.
        tokens: visual tokens per question that reached the decoder, on average.
    """

    right: int
    asked: int
    tokens: float

    @property
    def accuracy(self) -> float:
        return self.right / self.asked


Change = Callable[[dict[str, Any], np.random.Generator], dict[str, Any]]


def blank(sample: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """Pictures and clips of the same size, all grey."""
    kind = "image" if "image" in sample else "video"
    return {**sample, kind: [np.full_like(sample[kind][0], 222)]}


def shuffled(sample: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """A clip's frames in another order, at the same times."""
    clip = sample["video"][0]
    order = np.arange(len(clip))
    while len(clip) > 1 and (order == np.arange(len(clip))).all():
        order = rng.permutation(len(clip))
    return {**sample, "video": [clip[order]]}


@torch.inference_mode()
def examine(
    model: VideoLLaMA3,
    processor: Processor,
    skill: str,
    questions: int = 300,
    change: Change | None = None,
    diff_fp: bool = True,
    seed: int | None = None,
) -> Score:
    """Ask the held-out questions of one skill, one to a picture or clip.

    Args:
        change: what to do to each sample before it is shown.
        diff_fp: False keeps every visual token.
        seed: of the questions.
    """
    seed = SEED if seed is None else seed
    rng = np.random.default_rng(seed)
    samples = held_out(skill, seed, questions)
    right, tokens = 0, 0
    for start in range(0, questions, TOGETHER):
        asked = samples[start : start + TOGETHER]
        expected = [sample["conversations"][-1]["value"] for sample in asked]
        shown = asked if change is None else [change(sample, rng) for sample in asked]
        inputs = processor(
            [to_conversation(sample)[:-1] for sample in shown], **({} if diff_fp else {"diff_fp": False})
        ).to(model.device)
        tokens += int(model.keep_mask(inputs).sum())
        longest = max(len(processor.tokenizer.encode(answer)[0]) for answer in expected) + 4
        answers = [processor.decode(ids) for ids in model.generate(inputs, max_new_tokens=longest)]
        right += sum(answer == wanted for answer, wanted in zip(answers, expected, strict=True))
    return Score(right, questions, tokens / questions)


def examine_all(
    model: VideoLLaMA3,
    processor: Processor,
    column: "Column",
    questions: int = 300,
    seed: int | None = None,
) -> dict[str, Score]:
    """One column of the table: the score of every skill that it is about."""
    return {
        skill: examine(model, processor, skill, questions, column.change, column.diff_fp, seed)
        for skill in column.skills
    }


@dataclass(frozen=True)
class Column:
    """What is done to the questions of a column, and which skills it is about."""

    skills: Sequence[str]
    change: Change | None = None
    diff_fp: bool = True


COLUMNS: Mapping[str, Column] = {
    "accuracy": Column(SKILLS),
    "blank pictures": Column(SKILLS, change=blank),
    "shuffled frames": Column(TIME_SKILLS, change=shuffled),
    "DiffFP off": Column(TIME_SKILLS, diff_fp=False),
}


class Table:
    """Scores by column and skill."""

    def __init__(self) -> None:
        self.columns: dict[str, dict[str, Score]] = {}

    def add(self, column: str, scores: dict[str, Score]) -> None:
        self.columns[column] = scores

    def overall(self, column: str) -> float:
        """Accuracy over all questions of a column."""
        scores = self.columns[column].values()
        return sum(score.right for score in scores) / sum(score.asked for score in scores)

    def rows(self) -> list[list[str]]:
        """A heading, a row for each skill, and one for all of them together. Visual tokens stand beside the columns
        that differ in them."""
        rows = [["skill", *self.columns]]
        for skill in SKILLS:
            scores = [scores.get(skill) for scores in self.columns.values()]
            if not any(scores):
                continue
            rows.append([skill, *("" if score is None else _cell(score) for score in scores)])
        return [*rows, ["all", *(f"{self.overall(column):.1%}" for column in self.columns)]]

    def for_terminal(self) -> RichTable:
        heading, *rows = self.rows()
        table = RichTable(*heading)
        for row in rows:
            table.add_row(*row)
        return table

    def as_markdown(self) -> str:
        heading, *rows = self.rows()
        lines = [heading, ["---", *["---:"] * (len(heading) - 1)], *rows]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)

    def as_json(self) -> dict[str, Any]:
        return {
            column: {"all": self.overall(column), **{skill: asdict(score) for skill, score in scores.items()}}
            for column, scores in self.columns.items()
        }


def _cell(score: Score) -> str:
    return f"{score.accuracy:.1%} ({score.tokens:.1f})"
