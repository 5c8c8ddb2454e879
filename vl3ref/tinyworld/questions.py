"""A picture or clip of the small world, and the questions that can be asked about it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from vl3ref.tinyworld.drawing import Frame
from vl3ref.tinyworld.wordings import ABSENT_NOUNS, WANTED, WORDINGS, Kind

T = TypeVar("T")

NONE = "there is none"
"""The answer to a question about something that is not shown."""


@dataclass(frozen=True)
class Question:
    """One question, its only right answer, and the answers that one could give without knowing which thing is meant.

    Attributes:
        kind: a key of `wordings.WORDINGS`.
        answer: compared to the letter.
        choices: what the same question could be answered about anything that is shown; one of them is right.
        about: what stands in the gaps of the wordings.
    """

    kind: str
    answer: str
    choices: Sequence[str]
    about: dict[str, str] = field(default_factory=dict)

    @property
    def skill(self) -> str:
        return WORDINGS[self.kind].skill

    @property
    def candidates(self) -> int:
        """How many answers there are to guess among; 0 if nothing that is shown is right."""
        return 0 if self.answer == NONE else len(set(self.choices))

    def wordings(self, held_out: bool = False) -> list[str]:
        """All the ways to ask: those of training, or those that training never sees."""
        kind: Kind = WORDINGS[self.kind]
        return [wording.format(**self.about) for wording in (kind.held_out if held_out else kind.training)]


PAIR = re.compile(r"\{(.*?)\|(.*?)\}")
"""{red|circle} in a text: two things said of one place, which can be said in either order."""


@dataclass(frozen=True)
class Example:
    """A picture or clip with all its questions.

    Attributes:
        frames: one for a picture, several of the same size for a clip.
        questions: about details of what is shown.
        absent: about what is not shown; the answer is `NONE`.
        caption: asks for a description.
        texts: what each frame shows, cell by cell, with pairs as in `PAIR`. A decoder that cannot see yet learns from
            these.
        times: seconds of a clip's frames; None for a picture.
    """

    frames: list[Frame]
    questions: list[Question]
    absent: list[Question]
    caption: Question
    texts: list[str]
    times: list[float] | None = None

    def frame_as_text(self, frame: int, turned: bool = False) -> str:
        """What a frame shows: "red circle", or "circle red" if `turned`."""
        return PAIR.sub(r"\2 \1" if turned else r"\1 \2", self.texts[frame])

    def as_text(self, turned: bool = False) -> str:
        """All frames as text. A clip's frames come with their times, and one like the frame before it is "same"."""
        texts = [self.frame_as_text(frame, turned) for frame in range(len(self.texts))]
        if self.times is None:
            return texts[0]
        texts = [text if n == 0 or text != texts[n - 1] else "same" for n, text in enumerate(texts)]
        return ",".join(f"Time {time}s:{text}" for time, text in zip(self.times, texts, strict=True))

    def inventory(self) -> Question:
        """Everything shown, cell by cell: a dense description to learn seeing from."""
        return Question("inventory", self.as_text(), [])

    def lists(self, rng: np.random.Generator, most: int) -> list[Question]:
        """Up to `most` lists, each several questions of one kind at once: "the colour of each: star, circle?" "star
        red, circle blue".

        The answer says each name before what is asked of it, and in a random order. A decoder learns to find a thing
        by its name from these: the name is the word before, and nothing else tells which thing is meant.
        """
        by_kind: dict[str, dict[str, str]] = {}
        for question in self.questions:
            if question.kind in WANTED:
                name = WANTED[question.kind][1].format(**question.about)
                by_kind.setdefault(question.kind, {})[name] = question.answer
        kinds = shuffle(rng, [kind for kind, answers in by_kind.items() if len(answers) > 1])[:most]
        lists = []
        for kind in kinds:
            names = shuffle(rng, list(by_kind[kind]))[:4]
            about = {"wanted": WANTED[kind][0], "names": ", ".join(names)}
            lists.append(Question("each", ", ".join(f"{name} {by_kind[kind][name]}" for name in names), [], about))
        return lists or [self.inventory()]


def picture_caption(answer: str, things: int = 1) -> Question:
    """`things` are what the description has to put in order: its candidates."""
    return Question("picture caption", answer, [str(n) for n in range(things)])


# ------------------------------------------------------------------------------------------------------ choosing, words


def pick(rng: np.random.Generator, choices: Sequence[T]) -> T:
    return choices[int(rng.integers(len(choices)))]


def shuffle(rng: np.random.Generator, items: Sequence[T]) -> list[T]:
    return [items[int(i)] for i in rng.permutation(len(items))]


def absent_name(rng: np.random.Generator, present: Sequence[str], names: Sequence[str]) -> str:
    """One of the names that is not present; now and then the name of something that the world does not have."""
    rest = [name for name in names if name not in present]
    return pick(rng, ABSENT_NOUNS) if rng.random() < 0.25 or not rest else pick(rng, rest)


def with_article(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def listed(names: Sequence[str]) -> str:
    """ "a, b and c" """
    *front, last = names
    return f"{', '.join(front)} and {last}" if front else last


def sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
