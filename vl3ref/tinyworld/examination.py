"""How many held-out questions about the small world a model answers right, skill by skill, by exact match.

Three controls stand beside the plain questions: blank pictures (what a question's wording alone gives away), a clip's
frames in another order (what the order tells), and no pruning (what dropping repeated tokens costs, and saves).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from vl3ref.inputs.processor import Processor
from vl3ref.model.diff_fp import Pruner, keep_all
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.model_inputs import ModelInputs
from vl3ref.tinyworld.samples import SKILLS, TIME_SKILLS, held_out
from vl3ref.training.samples import to_conversation

SEED = 1_000_003
"""An examination's default seed. Training's samples have small ones."""

BATCH = 50
"""Questions answered at once."""


@dataclass(frozen=True)
class Answer:
    """What a model answered to one question."""

    question: str
    expected: str
    given: str

    @property
    def right(self) -> bool:
        return self.given == self.expected


@dataclass(frozen=True)
class Score:
    """The result for one skill.

    Attributes:
        tokens: visual tokens per question that reached the decoder, on average.
    """

    answers: Sequence[Answer]
    tokens: float

    @property
    def right(self) -> int:
        return sum(answer.right for answer in self.answers)

    @property
    def asked(self) -> int:
        return len(self.answers)

    @property
    def accuracy(self) -> float:
        return self.right / self.asked


Control = Callable[[dict[str, Any], np.random.Generator], dict[str, Any]]
"""(a sample, random numbers) -> the sample that is shown instead."""


def examine(
    model: VideoLLaMA3,
    processor: Processor,
    skills: Sequence[str] = SKILLS,
    questions: int = 300,
    control: Control | None = None,
    pruner: Pruner | None = None,
    seed: int = SEED,
) -> dict[str, Score]:
    """Ask fresh questions about the small world, and compare the greedy answers with the right ones to the letter.

        model, processor = vl3ref.load("runs/mine/final", change=my_change)
        for skill, score in examine(model, processor, questions=50).items():
            print(skill, score.accuracy)

    Args:
        skills: some of `SKILLS`.
        questions: for each skill, one to a picture or clip.
        control: applied to each sample before it is shown: `blank`, `shuffled`, or your own.
        pruner: in place of the model's; `keep_all` keeps every visual token.
        seed: each has other questions, and other random numbers for `control`.

    Raises:
        InputError: there is no such skill.
    """
    scores = {}
    for skill in skills:
        rng = np.random.default_rng(seed)
        samples = held_out(skill, seed, questions)
        scores[skill] = _ask(model, processor, [control(x, rng) for x in samples] if control else samples, pruner)
    return scores


def _ask(
    model: VideoLLaMA3, processor: Processor, samples: Sequence[Mapping[str, Any]], pruner: Pruner | None
) -> Score:
    answers: list[Answer] = []
    tokens = 0

    def counting_pruner(inputs: ModelInputs, features: Tensor | None) -> Tensor:
        nonlocal tokens
        scores = (pruner or model.pruner)(inputs, features)
        if isinstance(scores, Tensor):  # what else a pruner may return, the model refuses
            tokens += int((scores > 0).sum())
        return scores

    for start in range(0, len(samples), BATCH):
        conversations = [to_conversation(sample) for sample in samples[start : start + BATCH]]
        prompts = [turns[:-1] for turns in conversations]
        questions = [turns[-1]["content"][-1]["text"] for turns in prompts]
        expected = [turns[-1]["content"] for turns in conversations]
        longest = max(len(processor.tokenizer.encode(answer)[0]) for answer in expected)
        ids = model.generate(processor(prompts), max_new_tokens=longest + 4, pruner=counting_pruner)
        answers += map(Answer, questions, expected, map(processor.decode, ids))
    return Score(answers, tokens / len(samples))


# ------------------------------------------------------------------------------------------------------------ controls


def blank(sample: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """A grey picture or clip of the same size."""
    kind = "image" if "image" in sample else "video"
    return {**sample, kind: [np.full_like(sample[kind][0], 222)]}


def shuffled(sample: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """A clip's frames in another order, at the same times."""
    clip = sample["video"][0]
    order = np.arange(len(clip))
    while len(clip) > 1 and (order == np.arange(len(clip))).all():
        order = rng.permutation(len(clip))
    return {**sample, "video": [clip[order]]}


EXAMINATIONS: Mapping[str, Mapping[str, Any]] = {
    "accuracy": {},
    "blank pictures": {"control": blank},
    "shuffled frames": {"control": shuffled, "skills": TIME_SKILLS},
    "pruning off": {"pruner": keep_all, "skills": TIME_SKILLS},
}
"""The plain examination and its controls: arguments of `examine`. Frames and pruning only matter to clips."""


# --------------------------------------------------------------------------------------------------------------- table

Columns = Mapping[str, Mapping[str, Score]]
"""Scores by column and skill."""


def overall(scores: Mapping[str, Score]) -> float:
    """Accuracy over all questions."""
    return sum(score.right for score in scores.values()) / sum(score.asked for score in scores.values())


def rows(columns: Columns) -> list[list[str]]:
    """A table: the heading, a row for each skill, and one for all. Visual tokens stand in brackets."""
    table = [["skill", *columns]]
    for skill in SKILLS:
        scores = [column.get(skill) for column in columns.values()]
        if any(scores):
            cells = ["" if score is None else f"{score.accuracy:.1%} ({score.tokens:.1f})" for score in scores]
            table.append([skill, *cells])
    return [*table, ["all", *(f"{overall(column):.1%}" for column in columns.values())]]


def as_markdown(columns: Columns) -> str:
    heading, *body = rows(columns)
    lines = [heading, ["---", *["---:"] * len(columns)], *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def as_json(columns: Columns) -> dict[str, Any]:
    def numbers(score: Score) -> dict[str, Any]:
        return {"right": score.right, "asked": score.asked, "tokens": score.tokens}

    return {
        column: {"all": overall(scores), **{skill: numbers(score) for skill, score in scores.items()}}
        for column, scores in columns.items()
    }
