"""The small world as samples in the official annotation format, with pictures and clips as arrays."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vl3ref.errors import InputError
from vl3ref.tinyworld.charts import chart
from vl3ref.tinyworld.clips import clip
from vl3ref.tinyworld.documents import document, label, sign
from vl3ref.tinyworld.drawing import Frame
from vl3ref.tinyworld.questions import Example, Question, pick
from vl3ref.tinyworld.scenes import scene
from vl3ref.training.samples import to_conversation

PICTURE_SKILLS = ("colour", "shape", "count", "position", "reading", "chart", "document", "picture caption")
TIME_SKILLS = ("motion", "order", "frequency", "time", "change", "video caption")
SKILLS = PICTURE_SKILLS + TIME_SKILLS

MAKERS: Mapping[str, Callable[[np.random.Generator, bool], Example]] = {
    "scene": scene,
    "sign": sign,
    "label": label,
    "document": document,
    "chart": chart,
    "clip": clip,
}
PICTURES = {"scene": 3, "sign": 2, "document": 2, "chart": 2}
"""Kinds of pictures in an examination, each with its relative frequency in training. Labels are for training alone."""


class TinyWorld:
    """Endless synthetic samples to train on, made when they are asked for. Sample i of a seed is always the same.

    Args:
        seed: each has other samples.
        mixture: relative frequency of each kind of `MAKERS`.
        turns: most questions about one picture or clip; they make one conversation.
        as_text: share of each kind that is given as text instead of pixels, for a decoder that cannot see yet. Kinds
            that are left out are never text.
        easy: share of the samples with few things, small boards and short clips.
        size: what `len` returns.
    """

    def __init__(
        self,
        seed: int,
        mixture: Mapping[str, int | float],
        turns: int = 6,
        as_text: Mapping[str, int | float] | None = None,
        easy: int | float = 0.0,
        size: int = 1 << 40,
    ) -> None:
        self.seed, self.turns, self.as_text, self.easy, self.size = seed, turns, as_text or {}, easy, size
        self.kinds = sorted(mixture)
        self.shares = np.array([mixture[kind] for kind in self.kinds]) / sum(mixture.values())

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: Any) -> Mapping[str, Any]:
        rng, kind, example = self._example(index)
        as_text = rng.random() < self.as_text.get(kind, 0.0)
        return annotation(example, choose_questions(rng, example, self.turns), as_text)

    def conversation(self, index: int) -> list[dict[str, Any]]:
        return to_conversation(self[index])

    def name(self, index: int) -> str:
        return f"tinyworld seed {self.seed} sample {index}"

    def picture_and_text(self, index: int) -> tuple[Frame, str]:
        """A picture or one frame of a clip, and what it shows as text."""
        rng, _, example = self._example(index)
        number = int(rng.integers(len(example.frames)))
        return example.frames[number], example.texts[number]

    def _example(self, index: int) -> tuple[np.random.Generator, str, Example]:
        rng = np.random.default_rng([self.seed, index])
        kind = self.kinds[int(rng.choice(len(self.kinds), p=self.shares))]
        return rng, kind, MAKERS[kind](rng, bool(rng.random() < self.easy))


def choose_questions(rng: np.random.Generator, example: Example, turns: int) -> list[tuple[Question, str]]:
    """The questions of one conversation, each in one wording: the inventory, a description, or up to `turns` details.

    A question is left out if a word of its answer was said before. The model would copy the answer instead of looking.
    """
    *details, description = example.questions
    form = rng.random()
    if form < 0.2:
        details = [example.inventory()]
    elif form < 0.35 or not details:
        details = [description]
    chosen: list[tuple[Question, str]] = []
    said: set[str] = set()
    for question in details:
        wording = pick(rng, question.wordings)
        answer = _words(question.answer)
        if len(chosen) < turns and not answer & said:
            chosen.append((question, wording))
            said |= answer | _words(wording)
    return chosen


def _words(text: str) -> set[str]:
    return set(re.findall("[a-z]{3,}", text.lower()))


def annotation(example: Example, questions: Sequence[tuple[Question, str]], as_text: bool = False) -> dict[str, Any]:
    """A sample in the official format. Pictures and clips are arrays; a clip's seconds are its "timestamps"."""
    sample: dict[str, Any] = {}
    if as_text:
        front = f"{example.as_text()}\n"
    elif example.times is None:
        sample["image"], front = [example.frames[0]], "<image>\n"
    else:
        sample["video"], front = [np.stack(example.frames)], "<video>\n"
        sample["timestamps"] = example.times
    turns = []
    for question, wording in questions:
        turns.append({"from": "human", "value": front + wording})
        turns.append({"from": "gpt", "value": question.answer})
        front = ""
    return {**sample, "conversations": turns}


def held_out(skill: str, seed: int, count: int) -> list[dict[str, Any]]:
    """Fresh questions of one skill, one for each picture or clip.

    Args:
        skill: one of `SKILLS`.
        seed: an examination's. Training's samples have small seeds, so none of them comes again.

    Returns:
        Annotations, whose last turn is the right answer.

    Raises:
        InputError: there is no such skill.
    """
    if skill not in SKILLS:
        raise InputError(f"there is no skill {skill!r}; there are {', '.join(SKILLS)}")
    rng = np.random.default_rng([seed, SKILLS.index(skill), 1])
    kinds = list(PICTURES) if skill in PICTURE_SKILLS else ["clip"]
    samples: list[dict[str, Any]] = []
    while len(samples) < count:
        example = MAKERS[pick(rng, kinds)](rng, False)
        questions = [question for question in example.questions if question.skill == skill]
        if questions:
            question = pick(rng, questions)
            samples.append(annotation(example, [(question, pick(rng, question.wordings))]))
    return samples


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
