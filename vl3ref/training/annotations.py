"""Annotation files of the official trainer: a `.json` file is a list of samples, a `.jsonl` file has one on each line.

What a sample looks like, and how it becomes a conversation: `samples.py`.
"""

import json
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from vl3ref.training.samples import AnnotationError, short, to_conversation


class Annotations(Sequence):  # of Mapping[str, Any]; said so, a checker of types would read one
    """The samples of one annotation file.

    JSON lines stay in the file: only where each begins is held (12 bytes a sample), and the file is opened for every
    sample, so that data-loading workers, forked or not, share nothing.

    Args:
        path: a `.json` file (a list) or a `.jsonl` file, UTF-8. Empty lines do not count.
        root: the folder of relative media paths; the annotation file's own by default.

    Raises:
        AnnotationError: the file is missing, empty, or no list. A damaged line raises when it is asked for.
    """

    def __init__(self, path: str | Path, root: str | Path | None = None) -> None:
        self.path = Path(path)
        self.root = self.path.parent if root is None else Path(root)
        self._entries: list[Any] | None = None
        suffix = self.path.suffix.lower()
        if suffix not in (".json", ".jsonl"):
            raise AnnotationError(f"{self.path} should be .json (a list of samples) or .jsonl (a sample on each line)")
        try:
            if suffix == ".json":
                self._entries = _read_list(self.path)
            else:
                self._starts, self._numbers = _find_lines(self.path)
        except OSError as error:
            raise AnnotationError(f"{self.path} cannot be read: {error.strerror or error}") from None
        if not len(self):
            raise AnnotationError(f"{self.path} holds no samples")

    def __len__(self) -> int:
        return len(self._starts) if self._entries is None else len(self._entries)

    def __getitem__(self, index: Any) -> Any:
        """A sample as it stands in the file, a dict; of a slice, a list of them.

        Raises:
            AnnotationError: the line is damaged, or the sample is no dict.
        """
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        index = range(len(self))[index]
        try:
            sample = self._read_line(index) if self._entries is None else self._entries[index]
        except (OSError, ValueError, RecursionError) as error:
            raise AnnotationError(f"{self._place(index)} cannot be read as JSON: {error}") from None
        if not isinstance(sample, dict):
            raise AnnotationError(f"{self._place(index)} should be an object {{...}}, not {short(sample)}")
        return sample

    def conversation(self, index: int) -> list[dict[str, Any]]:
        """`to_conversation` of one sample."""
        return to_conversation(self[index], self.root)

    def name(self, index: int) -> str:
        """For people: "data.jsonl line 17" or "data.json entry 17", both counted from 1, and the sample's id if any."""
        try:
            sample = self[index]
        except AnnotationError:
            sample = {}
        return self._place(range(len(self))[index]) + (f" (id {sample['id']})" if "id" in sample else "")

    def _place(self, index: int) -> str:
        place = f"line {self._numbers[index]}" if self._entries is None else f"entry {index + 1}"
        return f"{self.path.name} {place}"

    def _read_line(self, index: int) -> Any:
        with self.path.open("rb") as file:
            file.seek(int(self._starts[index]))
            return json.loads(file.readline())


class Several:
    """Several annotation files as one."""

    def __init__(self, files: Sequence[Annotations]) -> None:
        self.files = list(files)
        self.ends = list(accumulate(len(file) for file in files))

    def __len__(self) -> int:
        return self.ends[-1]

    def conversation(self, index: int) -> list[dict[str, Any]]:
        number, inside = self._place(index)
        return self.files[number].conversation(inside)

    def name(self, index: int) -> str:
        number, inside = self._place(index)
        return self.files[number].name(inside)

    def _place(self, index: int) -> tuple[int, int]:
        number = bisect_right(self.ends, index)
        return number, index - (self.ends[number - 1] if number else 0)


def _read_list(path: Path) -> list[Any]:
    try:
        entries = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise AnnotationError(f"{path} is not JSON: {error}; if it has a sample on each line, name it .jsonl") from None
    if not isinstance(entries, list):
        raise AnnotationError(f"{path} should be a list of samples, not {short(entries)}")
    return entries


def _find_lines(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Of each line that is not empty: (N,) int64 the byte it begins at, (N,) int32 its number, from 1."""
    starts, numbers, position = array("q"), array("i"), 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                starts.append(position)
                numbers.append(number)
            position += len(line)
    return np.array(starts, dtype=np.int64), np.array(numbers, dtype=np.int32)
