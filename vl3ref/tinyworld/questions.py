"""A picture or clip of the small world, and the questions that can be asked about it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from vl3ref.tinyworld.drawing import Frame

T = TypeVar("T")


@dataclass(frozen=True)
class Question:
    """One question in several wordings, and its only right answer.

    Attributes:
        skill: what it takes to answer, one of `samples.SKILLS`, or "inventory".
    """

    skill: str
    wordings: Sequence[str]
    answer: str


@dataclass(frozen=True)
class Example:
    """A picture or clip with all its questions.

    Attributes:
        frames: one for a picture, several of the same size for a clip.
        questions: about details; the last one asks for a description.
        texts: what each frame shows, cell by cell. A decoder that cannot see yet learns from these.
        times: seconds of a clip's frames; None for a picture.
    """

    frames: list[Frame]
    questions: list[Question]
    texts: list[str]
    times: list[float] | None = None

    def as_text(self) -> str:
        """All frames as text. A clip's frames come with their times, and one like the frame before it is "same"."""
        if self.times is None:
            return self.texts[0]
        texts = [text if n == 0 or text != self.texts[n - 1] else "same" for n, text in enumerate(self.texts)]
        return ",".join(f"Time {time}s:{text}" for time, text in zip(self.times, texts, strict=True))

    def inventory(self) -> Question:
        """Everything shown, cell by cell: a dense description to learn seeing from."""
        wordings = ("Name everything you see.", "What is in each cell?", "List it all.")
        return Question("inventory", wordings, self.as_text())


def picture_caption(answer: str) -> Question:
    return Question("picture caption", ("Describe the picture.", "What is in the picture?"), answer)


# ------------------------------------------------------------------------------------------------------ choosing, words


def pick(rng: np.random.Generator, choices: Sequence[T]) -> T:
    return choices[int(rng.integers(len(choices)))]


def shuffle(rng: np.random.Generator, items: Sequence[T]) -> list[T]:
    return [items[int(i)] for i in rng.permutation(len(items))]


def with_article(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
