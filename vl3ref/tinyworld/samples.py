"""The small world as annotations in the official format, with pictures and clips in memory."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vl3ref.errors import InputError
from vl3ref.tinyworld.clips import clip
from vl3ref.tinyworld.documents import chart, document, label, sign
from vl3ref.tinyworld.pictures import Question, Shown, pick, scene
from vl3ref.training.samples import to_conversation

PICTURE_SKILLS = ("colour", "shape", "count", "position", "reading", "chart", "document", "picture caption")
TIME_SKILLS = ("motion", "order", "frequency", "time", "change", "video caption")
SKILLS = PICTURE_SKILLS + TIME_SKILLS

MAKERS: Mapping[str, Callable[[np.random.Generator, bool], Shown]] = {
    "scene": scene,
    "sign": sign,
    "label": label,
    "document": document,
    "chart": chart,
    "clip": clip,
}
PICTURES = {"scene": 3, "sign": 2, "document": 2, "chart": 2}
"""Kinds of pictures that are asked about, and how often each is shown in comparison. Labels only help to learn."""


class TinyWorld:
    """Endless training samples: sample i of a seed is always the same, and made when it is asked for.

    Args:
        seed: another seed is another world of samples.
        mixture: how often each kind of `MAKERS` comes, in comparison.
        turns: questions about one picture or clip at most, one conversation.
        told: share of each kind that is told in words instead of shown: text, for the decoder. None of it by default.
        easy: share of the samples with few things, small boards and short clips: what is learnt first.
        size: what `len` says.
    """

    def __init__(
        self,
        seed: int,
        mixture: Mapping[str, int | float],
        turns: int = 6,
        told: Mapping[str, int | float] | None = None,
        easy: int | float = 0.0,
        size: int = 1 << 40,
    ) -> None:
        self.seed, self.turns, self.told, self.easy, self.size = seed, turns, told or {}, easy, size
        self.kinds = sorted(mixture)
        self.shares = np.array([mixture[kind] for kind in self.kinds]) / sum(mixture.values())

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: Any) -> Mapping[str, Any]:
        rng, kind, shown = self._draw(index)
        in_words = rng.random() < self.told.get(kind, 0.0)
        return annotation(shown, chosen(rng, shown, self.turns), in_words)

    def told_picture(self, index: int) -> tuple[np.ndarray, str]:
        """A picture, or one frame of a clip, and what it shows in words."""
        rng, _, shown = self._draw(index)
        frame = int(rng.integers(len(shown.frames)))
        return shown.frames[frame], shown.words[frame]

    def _draw(self, index: int) -> tuple[np.random.Generator, str, Shown]:
        rng = np.random.default_rng([self.seed, index])
        kind = self.kinds[int(rng.choice(len(self.kinds), p=self.shares))]
        return rng, kind, MAKERS[kind](rng, bool(rng.random() < self.easy))

    def conversation(self, index: int) -> list[dict[str, Any]]:
        return to_conversation(self[index])

    def name(self, index: int) -> str:
        return f"tinyworld seed {self.seed} sample {index}"


def chosen(rng: np.random.Generator, shown: Shown, turns: int) -> list[tuple[Question, str]]:
    """What a conversation asks: everything at once, a description, or at most so many details; each with its wording.

    No answer has a word in it that was said before. Else it could be had from an earlier question, and would be: to
    repeat is learnt sooner than to look.
    """
    *details, whole = shown.questions
    draw = rng.random()
    if draw < 0.2:
        details = [shown.inventory()]
    elif draw < 0.35 or not details:
        details = [whole]
    asked: list[tuple[Question, str]] = []
    said: set[str] = set()
    for question in details:
        wording = pick(rng, question.wordings)
        answer = set(re.findall("[a-z]{3,}", question.answer.lower()))
        if len(asked) < turns and not answer & said:
            asked.append((question, wording))
            said |= answer | set(re.findall("[a-z]{3,}", wording.lower()))
    return asked


def annotation(shown: Shown, questions: Sequence[tuple[Question, str]], in_words: bool = False) -> dict[str, Any]:
    """A sample in the official format. Pictures and clips are arrays; a clip's seconds are its "timestamps"."""
    sample: dict[str, Any] = {}
    front = f"{shown.in_words()}\n"
    if not in_words and shown.times is None:
        sample["image"], front = [shown.frames[0]], "<image>\n"
    elif not in_words:
        sample["video"], front = [np.stack(shown.frames)], "<video>\n"
        sample["timestamps"] = shown.times
    turns = []
    for question, wording in questions:
        turns.append({"from": "human", "value": front + wording})
        turns.append({"from": "gpt", "value": question.answer})
        front = ""
    return {**sample, "conversations": turns}


def held_out(skill: str, seed: int, count: int) -> list[dict[str, Any]]:
    """Fresh questions of one skill, one to a picture or clip.

    Args:
        skill: one of `SKILLS`.
        seed: of the examination; training's samples have other seeds.

    Returns:
        Annotations, whose last turn is the right answer.
    """
    if skill not in SKILLS:
        raise InputError(f"there is no skill {skill!r}; there are {', '.join(SKILLS)}")
    rng = np.random.default_rng([seed, SKILLS.index(skill), 1])
    kinds = list(PICTURES) if skill in PICTURE_SKILLS else ["clip"]
    found: list[dict[str, Any]] = []
    while len(found) < count:
        shown = MAKERS[pick(rng, kinds)](rng, False)
        fitting = [question for question in shown.questions if question.skill == skill]
        if fitting:
            question = fitting[int(rng.integers(len(fitting)))]
            found.append(annotation(shown, [(question, pick(rng, question.wordings))]))
    return found


def write(samples: Sequence[Mapping[str, Any]], folder: Path) -> Path:
    """Write samples as files: PNG pictures, a folder of frames per clip, and annotations.jsonl, whose path is returned.

    A folder of frames has no clock (the official loader takes it as three a second), so clips keep their timestamps in
    the annotation.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for index, sample in enumerate(samples):
        line = dict(sample)
        if "image" in sample:
            line["image"] = [f"{index:06}.png"]
            Image.fromarray(sample["image"][0]).save(folder / line["image"][0])
        if "video" in sample:
            frames = folder / f"{index:06}"
            frames.mkdir(exist_ok=True)
            for number, frame in enumerate(sample["video"][0]):
                Image.fromarray(frame).save(frames / f"{number:03}.png")
            line["video"] = [frames.name]
        lines.append(json.dumps(line))
    path = folder / "annotations.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
