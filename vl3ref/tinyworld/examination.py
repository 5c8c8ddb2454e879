"""How many held-out questions about the small world a model answers right, by exact match: skill by skill, and within
each skill by the number of answers that one could guess among.

Beside the plain questions stand controls: wordings that training never used, clips as they were drawn or compressed by
ffmpeg's default, blank pictures (what a question's wording alone gives away), a clip's frames in another order (what
the order tells), and no pruning (what dropping repeated tokens costs, and saves).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import Tensor

from vl3ref.inputs.processor import Processor
from vl3ref.model.diff_fp import Pruner, keep_all
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.model_inputs import ModelInputs
from vl3ref.tinyworld.encoding import Encoding
from vl3ref.tinyworld.questions import Question
from vl3ref.tinyworld.samples import CELLS, SKILLS, TIME_SKILLS, cell_of, held_out
from vl3ref.training.samples import to_conversation

SEED = 1_000_003
"""An examination's default seed. Training's samples have small ones."""

BATCH = 50
"""Questions answered at once."""


@dataclass(frozen=True)
class Answer:
    """What a model answered to one question.

    Attributes:
        asked: the question, with what one could guess among.
        wording: as it was asked.
    """

    asked: Question
    wording: str
    given: str

    @property
    def expected(self) -> str:
        return self.asked.answer

    @property
    def right(self) -> bool:
        return self.given == self.expected


@dataclass(frozen=True)
class Score:
    """The result for one skill, or for a cell of it.

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

    @property
    def guess(self) -> float:
        """What guessing among the answers that are there would give. It never says that there is none."""
        return sum(1 / answer.asked.candidates for answer in self.answers if answer.asked.candidates) / self.asked

    def cells(self) -> "dict[int, Score]":
        """By number of candidates, as in `samples.CELLS`; 0: what is absent."""
        cells: dict[int, list[Answer]] = {}
        for answer in self.answers:
            cells.setdefault(cell_of(answer.asked), []).append(answer)
        return {cell: Score(cells[cell], self.tokens) for cell in sorted(cells)}


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
    new_wordings: bool = False,
    encoding: Encoding | Literal["random"] | None = "random",
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
        new_wordings: ask in wordings that training never used.
        encoding: of clips; "random": x264 at crf 18 to 28; None: as they were drawn.

    Raises:
        InputError: there is no such skill.
    """
    scores = {}
    for skill in skills:
        rng = np.random.default_rng(seed)
        asked, samples = zip(*held_out(skill, seed, questions, new_wordings, encoding), strict=True)
        scores[skill] = _ask(model, processor, asked, [control(x, rng) if control else x for x in samples], pruner)
    return scores


def _ask(
    model: VideoLLaMA3,
    processor: Processor,
    asked: Sequence[Question],
    samples: Sequence[Mapping[str, Any]],
    pruner: Pruner | None,
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
        wordings = [turns[-1]["content"][-1]["text"] for turns in prompts]
        longest = max(len(processor.tokenizer.encode(turns[-1]["content"])[0]) for turns in conversations)
        ids = model.generate(processor(prompts), max_new_tokens=longest + 4, pruner=counting_pruner)
        answers += map(Answer, asked[start : start + BATCH], wordings, map(processor.decode, ids))
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
    "new wordings": {"new_wordings": True},
    "lossless": {"encoding": None, "skills": TIME_SKILLS},
    "crf 23": {"encoding": Encoding(23), "skills": TIME_SKILLS},
    "blank pictures": {"control": blank},
    "shuffled frames": {"control": shuffled, "skills": TIME_SKILLS},
    "pruning off": {"pruner": keep_all, "skills": TIME_SKILLS},
}
"""The plain examination and its controls: arguments of `examine`. Encoding, frames and pruning only matter to clips."""


# -------------------------------------------------------------------------------------------------------------- tables

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


def rows_by_candidates(scores: Mapping[str, Score]) -> list[list[str]]:
    """A table of one examination: a row for each skill, a column for each number of candidates, and beside each
    accuracy in how many questions it was measured. "guess" is what guessing among the candidates would give."""
    most = max(cells[-1] for cells in CELLS.values())
    table = [["skill", "absent", *(str(n) for n in range(1, most + 1)), "guess"]]
    for skill, score in scores.items():
        cells = score.cells()
        row = []
        for cell in range(most + 1):
            row.append(f"{cells[cell].accuracy:.0%} of {cells[cell].asked}" if cell in cells else "")
        table.append([skill, *row, f"{score.guess:.0%}"])
    return table


def as_markdown(table: Sequence[Sequence[str]]) -> str:
    heading, *body = table
    lines = [heading, ["---", *["---:"] * (len(heading) - 1)], *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def as_json(columns: Columns) -> dict[str, Any]:
    def numbers(score: Score) -> dict[str, Any]:
        cells = {str(cell): {"right": part.right, "asked": part.asked} for cell, part in score.cells().items()}
        return {"right": score.right, "asked": score.asked, "tokens": score.tokens, "candidates": cells}

    return {
        column: {"all": overall(scores), **{skill: numbers(score) for skill, score in scores.items()}}
        for column, scores in columns.items()
    }
