"""What a benchmark is: where its questions lie, what the model is asked, how an answer is read and how it counts.

data on disk --items--> Item --asked--> the model's words --judge--> Verdict --> the table
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Protocol = Literal["official", "strict"]
"""official: prompts and scoring of the authors' evaluation code, faults that change a number included.
strict: scores that need no judge and no chance (`vl3ref.evaluation.metrics`)."""

Outcome = Literal["right", "wrong", "unparsed", "needs a judge", "broken", "skipped"]
"""Every item ends as one of these. Some scores are shares: then "right" is a full score and "wrong" everything below.

unparsed: no rule found an answer in the model's words; counts as wrong, and is counted.
needs a judge: the official rule asks a GPT and no judge was given; does not count.
broken: its file is missing or cannot be read, or the item contradicts itself; does not count, and is named.
skipped: it has no public answer, or the protocol leaves it out; does not count.
"""


OFFICIAL: Mapping[str, Any] = {
    "fps": 1,
    "max_frames": 180,
    "max_tokens": 16_384,
    "image_merge_size": 1,
    "video_merge_size": 2,
}
"""How the authors' evaluation prepares images and videos, whatever the checkpoint's own defaults are."""


@dataclass(frozen=True)
class Item:
    """One question.

    Attributes:
        id: unique in its benchmark, and the same in every run.
        media: file that the question is about. Questions about one file share its encoding, its place on a machine,
            and a draw of the bootstrap.
        content: parts of the user's message, as `Processor` takes them. None: it cannot be asked; see `trouble`.
        answer: what is right: with options, the right one's letter, "A" for the first; else in the benchmark's own
            form. None: hidden.
        options: texts to choose from, without their letters.
        kind: the row of the table that it counts in (a task type, a split).
        subset: the table it counts in, for benchmarks that are asked twice (with and without subtitles).
        trouble: why it is broken, one sentence. With content all the same: the item contradicts itself (its answer is
            none of its options); it is asked, since an official rule may score it, and `strict` finds it broken.
        more: what the benchmark's own rules need besides.
    """

    id: str
    media: str
    content: Sequence[Mapping[str, Any]] | None
    answer: Any
    options: Sequence[str] = ()
    kind: str = ""
    subset: str = ""
    trouble: str = ""
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """What became of an item.

    Attributes:
        score: 0 to 1; what is averaged.
        read: the answer found in the model's words, to be looked at.
    """

    outcome: Outcome
    score: float = 0.0
    read: str = ""


Judge = Callable[[str], str]
"""A prompt -> the judge's reply, for official rules that ask a GPT. Somebody else's function."""


@dataclass(frozen=True)
class Benchmark:
    """One benchmark. Each file of `vl3ref.evaluation.benchmarks` defines one.

    Attributes:
        name: on the command line.
        title: as the paper writes it.
        items: the questions in a data folder, in a fixed order. Raises InputError for a folder that is not the
            benchmark's: says which file is missing.
        official, strict: judge the model's words. `official` gets the judge, or None.
        overall: how kinds make one number. "micro": the mean over items. "macro": the mean of the kinds' means.
        paper: the paper's figures in percent, (2B, 7B), by subset ("" for the only one).
        video: whether items are videos (1 frame per second, at most 180, merge size 2) or images (merge size 1).
    """

    name: str
    title: str
    items: Callable[[Path], Iterator[Item]]
    official: Callable[[Item, str, Judge | None], Verdict]
    strict: Callable[[Item, str], Verdict]
    overall: Literal["micro", "macro"]
    paper: Mapping[str, tuple[float, float]]
    video: bool


def right_if(is_right: bool, read: str) -> Verdict:
    return Verdict("right" if is_right else "wrong", float(is_right), read)


def share(score: float, read: str) -> Verdict:
    return Verdict("right" if score == 1 else "wrong", score, read)
