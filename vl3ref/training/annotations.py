"""Annotation files of the official trainer: a `.json` file is a list of samples, a `.jsonl` file has one on each line.

What a sample looks like, and how it becomes a conversation: `samples.py`.
"""

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from vl3ref.errors import quoted
from vl3ref.files import check_regular, parse_json
from vl3ref.training.samples import AnnotationError, short, to_conversation


class Annotations:
    """The samples of annotation files, one file after another.

    JSON lines stay in their files: only where each begins is held (12 bytes a sample), and the file is opened for every
    sample, so that data-loading workers, forked or not, share nothing.

    Args:
        files: `.json` files (a list) or `.jsonl` files, UTF-8. Empty lines do not count.
        root: the folder of relative media paths; each annotation file's own by default.

    Raises:
        AnnotationError: a file is missing, empty, or no list. A damaged line raises when it is asked for.
    """

    def __init__(self, files: str | Path | Sequence[str | Path], root: str | Path | None = None) -> None:
        paths = [files] if isinstance(files, str | Path) else files
        if not isinstance(paths, Sequence) or not paths or not all(isinstance(path, str | Path) for path in paths):
            raise AnnotationError(f"annotation files should be paths, at least one, not {quoted(files)}")
        self.files = [_File(Path(path)) for path in paths]
        self.roots = [file.path.parent if root is None else Path(root) for file in self.files]
        self.ends = list(accumulate(map(len, self.files)))

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, index: int) -> dict[str, Any]:
        """A sample as it stands in its file.

        Raises:
            AnnotationError: the line is damaged, or the sample is no object.
        """
        number, inside = self._find(index)
        return self.files[number].read(inside)

    def conversation(self, index: int) -> list[dict[str, Any]]:
        """`to_conversation` of one sample."""
        return to_conversation(self[index], self.roots[self._find(index)[0]])

    def name(self, index: int) -> str:
        """For people: "data.jsonl line 17" or "data.json entry 17", both counted from 1, and the sample's id if any."""
        number, inside = self._find(index)
        try:
            sample = self[index]
        except AnnotationError:
            sample = {}
        return self.files[number].place(inside) + (f" (id {str(sample['id'])[:60]})" if "id" in sample else "")

    def _find(self, index: int) -> tuple[int, int]:
        """The number of a sample's file, and its own number there."""
        index = range(len(self))[index]
        number = bisect_right(self.ends, index)
        return number, index - (self.ends[number - 1] if number else 0)


class _File:
    """One annotation file: the entries of a list, or where the lines begin."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: list[Any] | None = None
        suffix = path.suffix.lower()
        if suffix not in (".json", ".jsonl"):
            raise AnnotationError(
                f"{quoted(str(path), 300)} should be .json (a list) or .jsonl (a sample on each line)"
            )
        check_regular(path, AnnotationError)
        try:
            if suffix == ".json":
                self.entries = _read_list(path)
            else:
                self.starts, self.numbers = _find_lines(path)
        except OSError as error:
            raise AnnotationError(f"{path} cannot be read: {error.strerror or error}") from None
        if not len(self):
            raise AnnotationError(f"{path} holds no samples")

    def __len__(self) -> int:
        return len(self.starts) if self.entries is None else len(self.entries)

    def place(self, index: int) -> str:
        return f"{self.path.name} " + (f"line {self.numbers[index]}" if self.entries is None else f"entry {index + 1}")

    def read(self, index: int) -> dict[str, Any]:
        if self.entries is not None:
            sample = self.entries[index]
        else:
            try:
                with self.path.open("rb") as file:
                    file.seek(int(self.starts[index]))
                    line = file.readline()
            except OSError as error:
                raise AnnotationError(f"{self.place(index)} cannot be read: {error.strerror or error}") from None
            sample = parse_json(line, self.place(index), AnnotationError)
        if not isinstance(sample, dict):
            raise AnnotationError(f"{self.place(index)} should be an object {{...}}, not {short(sample)}")
        return sample


def _read_list(path: Path) -> list[Any]:
    try:
        entries = parse_json(path.read_bytes(), path, AnnotationError)
    except AnnotationError as error:
        raise AnnotationError(f"{error}; if it has a sample on each line, name it .jsonl") from None
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
