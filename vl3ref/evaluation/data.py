"""Benchmark files -> rows that know where they stand, and items about pictures and videos beside them."""

import csv
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from vl3ref.errors import InputError, quoted
from vl3ref.evaluation.benchmark import Item
from vl3ref.extras import import_extra
from vl3ref.files import check_regular, read_bytes, read_json
from vl3ref.training.annotations import Annotations

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv")
"""In this order, as in the authors' evaluation."""


@dataclass(frozen=True)
class Row:
    """One entry of a file. `where`: for people, "test.csv row 3"."""

    where: str
    values: Mapping[str, Any]

    def __getitem__(self, key: str) -> Any:
        if key not in self.values:
            raise InputError(f'{self.where} has no "{key}"')
        return self.values[key]

    def text(self, key: str) -> str:
        """A text; a number as it is printed."""
        return self._text(key, self[key])

    def texts(self, key: str) -> list[str]:
        """A list of texts, at least one."""
        if not isinstance(self[key], list) or not self[key]:
            raise InputError(f'{self.where}: "{key}" should be a list of texts, not {quoted(self[key])}')
        return [self._text(key, value) for value in self[key]]

    def _text(self, key: str, value: Any) -> str:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise InputError(f'{self.where}: "{key}" should be text, not {quoted(value)}')
        return str(value)

    def row(self, key: str) -> "Row":
        """An object inside."""
        return as_row(f'{self.where}, "{key}"', self[key])


def as_row(where: str, values: Any) -> Row:
    if not isinstance(values, dict):
        raise InputError(f"{where} should be an object {{...}}, not {quoted(values)}")
    return Row(where, values)


def json_rows(path: Path) -> Iterator[Row]:
    """Objects of a `.jsonl` file, or of the list in a `.json` file."""
    samples = Annotations(path)
    return (Row(samples.name(index), samples[index]) for index in range(len(samples)))


def json_object(path: Path) -> dict[str, Row]:
    """The objects in a JSON object, by their names."""
    return {key: as_row(f"{path.name}, entry {quoted(key)}", row) for key, row in read_json(path, InputError).items()}


def csv_rows(path: Path) -> Iterator[Row]:
    try:
        text = StringIO(read_bytes(path, InputError).decode("utf-8-sig"), newline="")
        for number, values in enumerate(csv.DictReader(text, strict=True), start=1):
            if None in values or None in values.values():
                raise InputError(f"{path.name} row {number} has more or fewer fields than the first line has names")
            yield Row(f"{path.name} row {number}", values)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as CSV: {error}") from None


def table_rows(*paths: Path) -> Iterator[Row]:
    """Rows of parquet files, one file after another, a few at a time."""
    use = f"{paths[0].name} is read by pyarrow"
    pa, pq = (import_extra(module, "eval", use) for module in ("pyarrow", "pyarrow.parquet"))
    for path in paths:
        check_regular(path, InputError)
        number = 0
        try:
            for batch in pq.ParquetFile(path).iter_batches(batch_size=16):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(f"{path.name} row {number}", values)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise InputError(f"{path} cannot be read as parquet after row {number}: {reason}") from None


def tables(*folders: Path) -> list[Path]:
    """The parquet files of the split "test" in the first folder that has any."""
    for folder in folders:
        if found := sorted(folder.glob("test-*.parquet")):
            return found
    raise InputError(f"{folders[0]} has no test-*.parquet, nor has {' or '.join(map(str, folders[1:]))}")


# --------------------------------------------------------------------------------------------------------------- items


def about(form: Literal["image", "video"], media: Path, question: str, answer: Any, /, **fields: Any) -> Item:
    """An item about one file: first the file, then the question. It cannot be asked if the file is missing."""
    content = [{"type": form, form: str(media)}, {"type": "text", "text": question}]
    try:
        check_regular(media, InputError)
    except InputError as error:
        return Item(media=str(media), content=None, answer=answer, **{**fields, "trouble": str(error)})
    return Item(media=str(media), content=content, answer=answer, **fields)


def embedded_image(row: Row, key: str) -> Image.Image | str:
    """A picture that lies in a table, decoded when it is needed; or what is wrong."""
    value = row.values.get(key)
    data = value.get("bytes") if isinstance(value, dict) else None
    if not isinstance(data, bytes):
        return f"{row.where} has no {key}"
    try:
        return Image.open(BytesIO(data))
    except Exception as error:  # Pillow's decoders raise many kinds
        return f"{row.where}: {key} cannot be read as a picture: {type(error).__name__}"


def video_file(folder: Path, name: str) -> Path:
    """A video of any of the four suffixes; if there is none, where it should be."""
    paths = [folder / f"{name}{suffix}" for suffix in VIDEO_SUFFIXES]
    return next((path for path in paths if _exists(path)), paths[0])


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name too long, or with a null byte
        return False


def checked(items: Callable[[Path], Iterator[Item]]) -> Callable[[Path], Iterator[Item]]:
    """Items as they come, of which there is at least one, and no two have the same id."""

    def check(root: Path) -> Iterator[Item]:
        ids: set[str] = set()
        for item in items(root):
            if item.id in ids:
                raise InputError(f"{root}: two questions have the id {quoted(item.id)}")
            ids.add(item.id)
            yield item
        if not ids:
            raise InputError(f"{root} holds no questions")

    return check
