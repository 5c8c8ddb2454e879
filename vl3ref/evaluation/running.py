"""Ask a model a benchmark's questions and judge its answers, file after file; every item ends in one line of results.

run     data folder -> items -> (asking.py) replies -> judged -> results.py, as they come
judged  the verdicts on what was said, by both protocols; so results are judged anew without a model
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from vl3ref.errors import InputError, quoted
from vl3ref.evaluation import asking
from vl3ref.evaluation.benchmark import OFFICIAL, Benchmark, Item, Judge, Verdict
from vl3ref.evaluation.results import FORMAT, Results, read, writer
from vl3ref.inputs.processor import Processor
from vl3ref.model.videollama3 import VideoLLaMA3

CONTROLS = {"blank": asking.blank, "shuffled": asking.shuffled}
"""What is shown instead: how much the questions give away, and how much the order of frames says."""

SECONDS_BETWEEN_LINES = 15.0
"""Of progress."""


def run(
    model: VideoLLaMA3,
    processor: Processor,
    benchmark: Benchmark,
    data: str | Path,
    output: str | Path,
    *,
    name: str = "model",
    changes: str = "",
    limit: int | None = None,
    resume: bool = False,
    controls: bool = True,
    max_new_tokens: int = asking.MAX_NEW_TOKENS,
    judge: Judge | None = None,
    shard: tuple[int, int] = (0, 1),
    tell: Callable[[str], None] = lambda line: None,
) -> Results:
    """Ask all questions that have not been answered yet.

    Args:
        data: the benchmark's folder.
        output: file of results.
        name: of the model, for the table.
        changes: what is not the checkpoint's own, by name: another pruner, a change.
        limit: ask the first items only.
        resume: go on with `output`.
        controls: ask again with blank visuals, and with the frames of videos shuffled.
        max_new_tokens: of an answer; the authors' evaluation has 2,048.
        judge: for official rules that ask a GPT.
        shard: (rank, processes): ask every so many-th file only.
        tell: gets a line about every item that is broken, and about progress.

    Raises:
        InputError: the data or the file of results cannot be used. What is wrong with one item, or with its file, ends
            as that item's outcome instead.
    """
    groups = _by_file(benchmark, Path(data), limit)
    numbers = {item.id: number for number, item in enumerate(item for group in groups for item in group)}
    own = groups[shard[0] :: shard[1]]
    setting = {**OFFICIAL, "max_new_tokens": max_new_tokens, "controls": controls}
    heading: dict[str, Any] = {"format": FORMAT, "benchmark": benchmark.name, "model": name, "changes": changes}
    heading |= {**_identity(model), "setting": {**setting, "repetition_penalty": asking.penalty(model)}}
    heading |= {"items": len(numbers), "questions": _digest(item for group in groups for item in group)}
    heading["shard"] = {"rank": shard[0], "of": shard[1], "items": sum(map(len, own))}
    with writer(Path(output), heading, resume) as (before, add):
        done, began = {record["id"] for record in before.records}, time.monotonic()
        answered = len(done)
        for group in own:
            left = [item for item in group if item.id not in done]
            for item, said in _answers(model, processor, left, controls, max_new_tokens):
                record = {"number": numbers[item.id], **_described(item, Path(data)), **said}
                record = judged(benchmark, json.loads(json.dumps(record)), judge)
                add(record)
                answered += 1
                if why := record["broken"] or item.trouble:
                    tell(f"broken: {item.id}: {why}")
            if time.monotonic() - began > SECONDS_BETWEEN_LINES:
                tell(f"{benchmark.name}: {answered} of {heading['shard']['items']} questions")
                began = time.monotonic()
    return read(output)


def judged(benchmark: Benchmark, record: dict[str, Any], judge: Judge | None = None) -> dict[str, Any]:
    """A record with the verdicts of both protocols on what was said, in place of those that it may have.

    "by_letter" and "by_option" are strict verdicts as well: on the option whose letter, or whose text, is likeliest.
    """
    item = item_of(record)
    if record["broken"]:
        broken = asdict(Verdict("broken", read=record["broken"]))
        return {**record, "official": broken, "strict": broken}
    found = {**record, **_verdicts(benchmark, item, record["response"], judge)}
    for control in CONTROLS:
        if "response" in record.get(control, {}):
            found[control] = {**record[control], **_verdicts(benchmark, item, record[control]["response"], judge)}
    for form, scores in record["likelihood"].items():
        best = scores.index(max(scores))
        found[form] = asdict(benchmark.strict(item, asking.labels(item)[best]))
    return found


def item_of(record: dict[str, Any]) -> Item:
    """The item of a line of results, without what was asked."""
    names = ("id", "media", "answer", "options", "kind", "subset", "trouble", "more")
    return Item(content=None, **{name: record[name] for name in names})


def rescored(benchmark: Benchmark, path: str | Path, judge: Judge | None = None) -> Results:
    """A file of results, judged anew: nothing is asked.

    Raises:
        InputError: it is of another benchmark, or was changed so that an item cannot be judged.
    """
    results = read(path)
    if not results.heading or results.heading["benchmark"] != benchmark.name:
        raise InputError(f"{path} holds no results of {benchmark.name}")
    records = []
    for record in results.records:
        try:
            records.append(judged(benchmark, record, judge))
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            what = f"{type(error).__name__}: {error}"
            raise InputError(f"{path}: the item {quoted(record['id'])} cannot be judged ({what[:200]})") from None
    return replace(results, records=records)


def fingerprint(model: VideoLLaMA3) -> str:
    """Tells checkpoints apart: some values of every weight, whatever dtype they were loaded in."""
    digest = hashlib.sha256()
    for name, weight in model.named_parameters():
        values = weight.detach().flatten()
        some = values[:: max(1, len(values) // 64)].float().cpu().numpy()
        digest.update(name.encode() + some.tobytes())
    return digest.hexdigest()[:16]


# ------------------------------------------------------------------------------------------------------------ questions


def _by_file(benchmark: Benchmark, data: Path, limit: int | None) -> list[list[Item]]:
    """The items of each file, files and items in the benchmark's order."""
    if not data.is_dir():
        raise InputError(
            f"{quoted(str(data), 300)} is not a folder: name the one that holds the data of {benchmark.name}"
        )
    groups: dict[str, list[Item]] = {}
    seen: set[str] = set()
    for item in benchmark.items(data):
        if len(seen) == limit:
            break
        if item.id in seen:
            raise InputError(f"{data} has two items of {benchmark.name} with the id {quoted(item.id)}")
        seen.add(item.id)
        groups.setdefault(item.media, []).append(item)
    if not seen:
        raise InputError(f"{data} holds no questions of {benchmark.name}")
    return [*groups.values()]


def _identity(model: VideoLLaMA3) -> dict[str, str]:
    pruner = getattr(model.pruner, "__name__", type(model.pruner).__name__)
    return {"weights": fingerprint(model), "dtype": str(model.dtype).removeprefix("torch."), "pruner": pruner}


def _digest(items: Iterable[Item]) -> str:
    """Of what is asked; how answers are judged may change."""
    digest = hashlib.sha256()
    for item in items:
        texts = [part.get("text") for part in item.content or ()]
        digest.update(json.dumps([item.id, texts, item.answer, item.options], default=str).encode())
    return digest.hexdigest()[:16]


def _described(item: Item, data: Path) -> dict[str, Any]:
    media = Path(item.media)
    relative = os.path.relpath(media, data) if media.is_relative_to(data) else item.media
    names = ("id", "subset", "kind", "answer", "options", "more", "trouble")
    return {"media": relative, **{name: getattr(item, name) for name in names}}


# -------------------------------------------------------------------------------------------------------------- answers


def _answers(
    model: VideoLLaMA3, processor: Processor, items: Sequence[Item], controls: bool, max_new_tokens: int
) -> Iterator[tuple[Item, dict[str, Any]]]:
    """Each item of one file with what was said to it: "response", "likelihood", and the same for each control; or with
    why it is "broken"."""
    nothing = {"response": "", "likelihood": {}}
    can_be_asked = [item for item in items if item.content]
    yield from (
        (item, {**nothing, "broken": item.trouble or "it has no question"}) for item in items if not item.content
    )
    for group in asking.same_visuals(can_be_asked):
        try:
            questions = asking.prepare(model, processor, group)
        except InputError as error:
            yield from ((item, {**nothing, "broken": str(error)}) for item in group)
            continue
        plain = asking.ask(model, processor, questions, max_new_tokens)
        without = replace(questions, items=[replace(item, options=()) for item in group])
        shown = {name: change(without) for name, change in CONTROLS.items()} if controls else {}
        others = {name: asking.ask(model, processor, x, max_new_tokens) for name, x in shown.items() if x is not None}
        for index, (item, reply) in enumerate(zip(group, plain, strict=True)):
            if isinstance(reply, InputError):
                yield item, {**nothing, "broken": str(reply)}
                continue
            said: dict[str, Any] = {"broken": "", "response": reply.text, "likelihood": {}}
            if reply.letters:
                scores = {"by_letter": reply.letters, "by_option": reply.options}
                said["likelihood"] = {name: [round(x, 5) for x in row] for name, row in scores.items()}
            for name, replies in others.items():
                other = replies[index]
                said[name] = {"broken": str(other)} if isinstance(other, InputError) else {"response": other.text}
            yield item, said


# ------------------------------------------------------------------------------------------------------------- judging


class _JudgeFailedError(Exception):
    pass


def _verdicts(benchmark: Benchmark, item: Item, response: str, judge: Judge | None) -> dict[str, Any]:
    def asked(prompt: str) -> str:
        assert judge is not None
        try:
            reply = judge(prompt)
        except Exception as error:  # somebody else's code
            raise _JudgeFailedError(f"the judge failed: {type(error).__name__}: {error}") from None
        if not isinstance(reply, str):
            raise _JudgeFailedError(f"the judge should return a text, not {quoted(reply)}")
        return reply

    try:
        official = benchmark.official(item, response, None if judge is None else asked)
    except _JudgeFailedError as error:
        official = Verdict("needs a judge", read=str(error))
    return {"official": asdict(official), "strict": asdict(benchmark.strict(item, response))}
