"""Results as JSON lines: a heading that says what was asked of whom, and a line for each item as soon as it is judged.

    {"format": "vl3ref results 1", "benchmark": "mlvu", "model": "2b", "weights": "5b1e...", "items": 2174, ...}
    {"number": 0, "id": "1_plotQA-0", "media": "video/1_plotQA/a.mp4", "response": "(B)", "official": {...}, ...}

A file may end in the middle of a line, where a run was killed; what is whole counts.
"""

import errno
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from vl3ref.errors import InputError, quoted
from vl3ref.evaluation.benchmark import Outcome, Verdict
from vl3ref.files import check_regular, held, parse_json, read_bytes, writing

FORMAT = "vl3ref results 1"
HEADING: dict[str, type] = {"setting": dict, "items": int, "shard": dict}
HEADING |= dict.fromkeys(("benchmark", "model", "changes", "weights", "dtype", "pruner", "questions"), str)
RECORD: dict[str, type] = dict.fromkeys(("id", "media", "subset", "kind", "trouble", "broken", "response"), str)
RECORD |= {"number": int, "options": list, **dict.fromkeys(("more", "likelihood", "official", "strict"), dict)}
"""What a heading and a line hold at least, and of which type."""


@dataclass(frozen=True)
class Results:
    """
    Attributes:
        heading: what was asked of whom: as `HEADING`.
        records: of the items so far: as `RECORD`, "answer", and what `vl3ref.evaluation.running.judged` adds.
        whole: bytes of whole lines in the file.
    """

    heading: dict[str, Any]
    records: list[dict[str, Any]]
    whole: int = 0


def read(path: str | Path) -> Results:
    """A file of results; without a heading if not even that was written.

    Raises:
        InputError: it is none, a line of it is damaged, or an item stands in it twice.
    """
    content = read_bytes(path, InputError)
    *lines, half = content.split(b"\n")
    values = [parse_json(line, f"{path} line {number}", InputError) for number, line in enumerate(lines, start=1)]
    if not values and len(half) < 4096:
        return Results({}, [])
    if not values or not _fits(values[0], HEADING) or values[0].get("format") != FORMAT:
        raise InputError(f"{path} is no file of results: its first line should be the heading that vl3ref eval writes")
    lines_of: dict[str, int] = {}
    for number, record in enumerate(values[1:], start=2):
        if not _fits(record, RECORD) or not all(map(_is_verdict, _verdicts(record))):
            raise InputError(f"{path} line {number} is no result: delete it, and --resume asks its item again")
        if (before := lines_of.setdefault(record["id"], number)) != number:
            raise InputError(f"{path} holds the item {quoted(record['id'])} twice, in lines {before} and {number}")
    return Results(values[0], values[1:], len(content) - len(half))


@contextmanager
def writer(path: Path, heading: dict[str, Any], resume: bool) -> Iterator[tuple[Results, Callable[[Any], None]]]:
    """What a file of results holds already, and a function that adds a line to it. No other process writes it.

    Args:
        resume: go on with a file that exists; a last line that is half-written is dropped.

    Raises:
        InputError: it exists and is not to be gone on with, is of another run, or cannot be written.
    """
    check_new(path, resume)
    with writing(path, InputError):
        file = path.open("ab", buffering=0)

    def add(value: Any) -> None:
        with writing(path, InputError):
            line = json.dumps(value).encode() + b"\n"
            if file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with file, held(path, InputError):
        before = read(path)
        if before.heading:
            check_same(before.heading, heading, path, [*HEADING])
        with writing(path, InputError):
            file.truncate(before.whole)
        if not before.heading:
            add(heading)
        yield before, add


def check_new(path: Path, resume: bool) -> None:
    """
    Raises:
        InputError: a file exists and is not to be gone on with, or is no file.
    """
    if os.path.lexists(path):
        check_regular(path, InputError)
        if not resume:
            raise InputError(f"{path} exists: go on with it by --resume, or name another --output")


def merge(paths: Sequence[str | Path]) -> Results:
    """The results of all shards of a run, in the order of one that was not sharded.

    Raises:
        InputError: they are not of one run, or an item is missing or there twice; says which file.
    """
    parts = {str(path): read(path) for path in paths}
    if len(parts) < len(paths) or not all(part.heading for part in parts.values()):
        raise InputError("name each shard's file once; an empty one has no results")
    first, *_ = parts.values()
    shards: dict[int, str] = {}
    for path, part in parts.items():
        check_same(part.heading, first.heading, path, [name for name in HEADING if name != "shard"])
        shard = part.heading["shard"]
        if not _fits(shard, {"rank": int, "of": int, "items": int}) or shard["of"] != first.heading["shard"]["of"]:
            raise InputError(f"{path} is a shard of a run with another number of processes")
        if (other := shards.setdefault(shard["rank"], path)) != path:
            raise InputError(f"{path} and {other} are the same shard")
        if len(part.records) < shard["items"]:
            missing = shard["items"] - len(part.records)
            raise InputError(f"{path} is not finished, {missing} of its {shard['items']} items are missing: --resume")
    if absent := sorted({*range(first.heading["shard"]["of"])} - {*shards}):
        names = ", ".join(str(rank + 1) for rank in absent)
        raise InputError(f"of {first.heading['shard']['of']} shards, {names} is missing")
    records = sorted((x for part in parts.values() for x in part.records), key=lambda record: record["number"])
    if [record["number"] for record in records] != [*range(first.heading["items"])]:
        raise InputError(f"the shards hold {len(records)} items that are not the run's {first.heading['items']}")
    items = {"rank": 0, "of": 1, "items": len(records)}
    return Results({**first.heading, "shard": items}, records)


def as_lines(results: Results) -> str:
    """As they stand in a file."""
    return "".join(json.dumps(value) + "\n" for value in (results.heading, *results.records))


def check_same(heading: dict[str, Any], other: dict[str, Any], path: str | Path, names: Sequence[str]) -> None:
    """
    Raises:
        InputError: two headings differ in one of these.
    """
    for name in names:
        if heading[name] != other[name] and name != "model":  # a name of a model may change; its weights do not
            is_setting = isinstance(heading[name], dict) and isinstance(other[name], dict)
            keys = [key for key in heading[name] if heading[name][key] != other[name].get(key)] if is_setting else []
            here, there = (quoted(x[name].get(keys[0]) if keys else x[name]) for x in (heading, other))
            what = " ".join([name, *keys[:1]])
            raise InputError(f"{path} is of another run: its {what} is {here}, not {there}; name another file")


def _fits(value: Any, types: dict[str, type]) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(name), kind) for name, kind in types.items())


def _verdicts(record: dict[str, Any]) -> Iterator[Any]:
    """All that a line holds, those on controls too."""
    yield from (record[name] for name in ("official", "strict"))
    yield from (record[name] for name in ("by_letter", "by_option") if name in record)
    for control in (record[name] for name in ("blank", "shuffled") if name in record):
        if not isinstance(control, dict):
            yield control
        elif "response" in control:
            yield from (control.get(name) for name in ("official", "strict"))


def _is_verdict(value: Any) -> bool:
    try:
        verdict = Verdict(**value)
        return verdict.outcome in get_args(Outcome) and 0 <= verdict.score <= 1
    except TypeError:
        return False
