"""The small world as samples in the official annotation format, with pictures and clips as arrays."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from vl3ref.errors import InputError
from vl3ref.tinyworld.charts import chart
from vl3ref.tinyworld.clips import clip
from vl3ref.tinyworld.documents import document, sign
from vl3ref.tinyworld.drawing import Frame
from vl3ref.tinyworld.encoding import Encoding, encoded, random_encoding
from vl3ref.tinyworld.questions import Example, Question, pick, shuffle
from vl3ref.tinyworld.scenes import scene
from vl3ref.training.samples import to_conversation

PICTURE_SKILLS = ("colour", "shape", "count", "position", "reading", "chart", "document", "picture caption")
TIME_SKILLS = ("motion", "order", "frequency", "time", "change", "video caption")
SKILLS = PICTURE_SKILLS + TIME_SKILLS

MAKERS: Mapping[str, Callable[[np.random.Generator, bool], Example]] = {
    "scene": scene,
    "sign": sign,
    "document": document,
    "chart": chart,
    "clip": clip,
}
PICTURES = {"scene": 3, "sign": 2, "document": 2, "chart": 2}
"""Kinds of pictures in an examination, each with its relative frequency in training."""


class TinyWorld:
    """Endless synthetic samples to train on, made when they are asked for. Sample i of a seed is always the same.

    Args:
        seed: each has other samples.
        mixture: relative frequency of each kind of `MAKERS`.
        turns: most questions about one picture or clip; they make one conversation.
        as_text: share of each kind that is given as text instead of pixels, for a decoder that cannot see yet. Kinds
            that are left out are never text.
        easy: share of the samples with few things, small boards and short clips.
        described: shares of the samples that are an inventory, cell by cell; lists of several things, each with what
            is asked of it; and a description. The others are questions.
        compressed: share of the clips that went through a video encoder (`encoding.random_encoding`).
        system: share of the conversations that begin with the system prompt.
        size: what `len` returns.
    """

    def __init__(
        self,
        seed: int,
        mixture: Mapping[str, int | float],
        turns: int = 4,
        as_text: Mapping[str, int | float] | None = None,
        easy: int | float = 0.0,
        described: tuple[int | float, int | float, int | float] = (0.1, 0.1, 0.1),
        compressed: int | float = 0.0,
        system: int | float = 1.0,
        size: int = 1 << 40,
    ) -> None:
        self.seed, self.turns, self.as_text, self.easy, self.size = seed, turns, as_text or {}, easy, size
        self.described, self.compressed, self.system = described, compressed, system
        self.kinds = sorted(mixture)
        self.shares = np.array([mixture[kind] for kind in self.kinds]) / sum(mixture.values())

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: Any) -> Mapping[str, Any]:
        rng, kind, example = self._example(index)
        as_text = bool(rng.random() < self.as_text.get(kind, 0.0))
        if example.times is not None and not as_text and rng.random() < self.compressed:
            example = replace(example, frames=encoded(example.frames, random_encoding(rng)))
        form = rng.random()
        if form < self.described[0]:
            asked = [example.inventory()]
        elif form < sum(self.described[:2]):
            asked = example.lists(rng, self.turns)
        elif form < sum(self.described):
            asked = [example.caption]
        else:
            asked = choose_questions(rng, example, self.turns)
        worded = [(question, as_typed(rng, pick(rng, question.wordings()))) for question in asked]
        # One order alone would be learned one way: a decoder finds what follows a word long before what precedes it.
        turned, system = bool(rng.random() < 0.5), bool(rng.random() < self.system)
        return annotation(example, worded, as_text, turned, system)

    def conversation(self, index: int) -> list[dict[str, Any]]:
        return to_conversation(self[index])

    def name(self, index: int) -> str:
        return f"tinyworld seed {self.seed} sample {index}"

    def picture_and_text(self, index: int) -> tuple[Frame, str]:
        """A picture or one frame of a clip, and what it shows as text."""
        rng, _, example = self._example(index)
        number = int(rng.integers(len(example.frames)))
        return example.frames[number], example.frame_as_text(number)

    def _example(self, index: int) -> tuple[np.random.Generator, str, Example]:
        rng = np.random.default_rng([self.seed, index])
        kind = self.kinds[int(rng.choice(len(self.kinds), p=self.shares))]
        return rng, kind, MAKERS[kind](rng, bool(rng.random() < self.easy))


COMMON_WORDS = frozenset(("the", "thing", "seconds", "appear", "appears", "first", "stays"))
"""Words that give nothing away."""


def choose_questions(rng: np.random.Generator, example: Example, turns: int) -> list[Question]:
    """Up to `turns` questions about one example, of as many kinds as it has; about a tenth ask for what is absent.

    No earlier turn gives an answer away: its words were not said before, and at least two of the answers that one
    could guess among were not said either (where there are two).
    """
    left = {kind: [x for x in example.questions if x.kind == kind] for kind in {x.kind: 0 for x in example.questions}}
    chosen: list[Question] = []
    said: set[str] = set()
    while len(chosen) < turns and left:
        if example.absent and rng.random() < 0.06:
            question = pick(rng, example.absent)
            if question not in chosen:
                chosen.append(question)
            continue
        kind = pick(rng, list(left))
        questions = shuffle(rng, left.pop(kind))
        for question in questions:
            unsaid = [choice for choice in set(question.choices) if not _words(choice) & said]
            if not _words(question.answer) & said and (question.candidates < 2 or len(unsaid) >= 2):
                chosen.append(question)
                said |= _words(question.answer) | _words(" ".join(question.about.values()))
                break
    return chosen


def _words(text: str) -> set[str]:
    words = set(re.findall("[a-z]{3,}|[0-9]+", text.lower())) - COMMON_WORDS
    return words | {word.removesuffix("s").removesuffix("e") for word in words}  # one or several


def as_typed(rng: np.random.Generator, wording: str) -> str:
    """A wording as people type it: with "color", without a capital, without its question mark, or politely."""
    if rng.random() < 0.15:
        wording = wording.replace("colour", "color")
    if rng.random() < 0.08:
        wording = f"Please: {wording}"
    if rng.random() < 0.2:
        wording = wording[0].lower() + wording[1:]
    return wording[:-1] if rng.random() < 0.15 else wording


def annotation(
    example: Example,
    questions: Sequence[tuple[Question, str]],
    as_text: bool = False,
    turned: bool = False,
    system: bool = True,
) -> dict[str, Any]:
    """A sample in the official format. Pictures and clips are arrays; a clip's seconds are its "timestamps".

    Args:
        as_text: show text instead of pixels; `turned`: with its pairs in the other order ("circle red").
        system: whether the conversation begins with the system prompt; an empty one takes its place.
    """
    sample: dict[str, Any] = {}
    if as_text:
        front = f"{example.as_text(turned)}\n"
    elif example.times is None:
        sample["image"], front = [example.frames[0]], "<image>\n"
    else:
        sample["video"], front = [np.stack(example.frames)], "<video>\n"
        sample["timestamps"] = example.times
    turns = [] if system else [{"from": "system", "value": ""}]
    for question, wording in questions:
        turns.append({"from": "human", "value": front + wording})
        turns.append({"from": "gpt", "value": question.answer})
        front = ""
    return {**sample, "conversations": turns}


# --------------------------------------------------------------------------------------------------- held-out questions

CELLS: Mapping[str, tuple[int, ...]] = {
    "colour": (0, 1, 2, 3, 4),
    "shape": (0, 1, 2, 3, 4),
    "count": (1, 2, 3, 4),
    "position": (0, 2, 3, 4),
    "reading": (0, 1, 2),
    "chart": (0, 1, 2, 3, 4),
    "document": (0, 2, 3, 4),
    "picture caption": (1, 2, 3, 4),
    "motion": (0, 1, 2, 3),
    "order": (0, 2, 3, 4),
    "frequency": (0, 1, 2),
    "time": (0, 1, 2, 3),
    "change": (0, 1, 2, 3),
    "video caption": (1, 2, 3),
}
"""The cells of an examination's table: numbers of candidates, the last one with all above it; 0: what is absent."""


def cell_of(question: Question) -> int:
    return min(question.candidates, CELLS[question.skill][-1])


def held_out(
    skill: str,
    seed: int,
    count: int,
    new_wordings: bool = False,
    encoding: Encoding | Literal["random"] | None = "random",
) -> list[tuple[Question, dict[str, Any]]]:
    """Fresh questions of one skill, one for each picture or clip.

    A tenth asks for what is absent, a tenth has one candidate (where a skill has such questions); the others are
    spread evenly over the skill's cells.

    Args:
        skill: one of `SKILLS`.
        seed: an examination's. Training's samples have small seeds, so none of them comes again.
        new_wordings: ask in wordings that training never used.
        encoding: of clips; "random": of the qualities that training has; None: frames as they were drawn.

    Returns:
        Each question with its annotation, whose last turn is the right answer.

    Raises:
        InputError: there is no such skill.
    """
    if skill not in SKILLS:
        raise InputError(f"there is no skill {skill!r}; there are {', '.join(SKILLS)}")
    rng, of_encodings = (np.random.default_rng([seed, SKILLS.index(skill), n]) for n in (1, 2))
    kinds = list(PICTURES) if skill in PICTURE_SKILLS else ["clip"]
    samples = []
    for cell in _cells_to_ask(rng, CELLS[skill], count):
        example, question = next(found for found in _search(rng, kinds, skill) if cell_of(found[1]) == cell)
        wording = pick(rng, question.wordings(held_out=new_wordings))
        if example.times is not None and encoding is not None:
            how = random_encoding(of_encodings) if encoding == "random" else encoding
            example = replace(example, frames=encoded(example.frames, how))
        samples.append((question, annotation(example, [(question, wording)])))
    return samples


def _cells_to_ask(rng: np.random.Generator, cells: Sequence[int], count: int) -> list[int]:
    few = [cell for cell in cells if cell < 2]
    asked = [cell for cell in few for _ in range(count // 10)]
    many = [cell for cell in cells if cell >= 2]
    asked += [many[n % len(many)] for n in range(count - len(asked))]
    return shuffle(rng, asked)


def _search(rng: np.random.Generator, kinds: Sequence[str], skill: str) -> Iterator[tuple[Example, Question]]:
    """Examples, each with one question of the skill: of a random kind, and as likely an absent one as another."""
    while True:
        example = MAKERS[pick(rng, kinds)](rng, False)
        found = [x for x in (*example.questions, *example.absent, example.caption) if x.skill == skill]
        if found:
            by_cell: dict[int, list[Question]] = {}
            for question in found:
                by_cell.setdefault(cell_of(question), []).append(question)
            cell = pick(rng, list(by_cell))
            kind = pick(rng, sorted({question.kind for question in by_cell[cell]}))
            yield example, pick(rng, [question for question in by_cell[cell] if question.kind == kind])


def write(samples: Sequence[Mapping[str, Any]], folder: Path) -> Path:
    """Write samples as files that `vl3ref train` reads: PNG pictures, a folder of frames for each clip, annotations.

    Frames in a folder have no times of their own, so a clip keeps its "timestamps" in the annotation.

    Returns:
        The path of annotations.jsonl.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for index, sample in enumerate(samples):
        line = dict(sample)
        if "image" in sample:
            line["image"] = [f"{index:06}.png"]
            Image.fromarray(sample["image"][0]).save(folder / line["image"][0])
        if "video" in sample:
            line["video"] = [f"{index:06}"]
            (folder / line["video"][0]).mkdir(exist_ok=True)
            for number, frame in enumerate(sample["video"][0]):
                Image.fromarray(frame).save(folder / line["video"][0] / f"{number:03}.png")
        lines.append(json.dumps(line))
    path = folder / "annotations.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
