"""`vl3ref eval NAME` on the paper's benchmarks: ask, or judge anew what was answered, or merge what several processes
answered; then print the table."""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from rich.table import Table

from vl3ref.cli.interrupts import raising
from vl3ref.cli.options import between, check_outputs, chosen_change, labels, option, write_text
from vl3ref.cli.printing import note, say, say_table
from vl3ref.errors import InputError, quoted

if TYPE_CHECKING:
    from vl3ref.evaluation.benchmark import Benchmark
    from vl3ref.evaluation.results import Results

PANEL = "For benchmarks"


@dataclass(kw_only=True)
class BenchmarkOptions:
    """What only benchmarks have."""

    folder: Annotated[Path | None, option("--data", help="Folder that holds its data.", panel=PANEL)] = None
    protocol: Annotated[str, option(help="official or strict (default: official).", panel=PANEL)] = "official"
    limit: Annotated[int | None, option(help="Ask the first items only.", panel=PANEL)] = None
    output: Annotated[Path | None, option(help="JSON lines of all answers (default: NAME.jsonl).", panel=PANEL)] = None
    resume: Annotated[bool, option("--resume", help="Go on with the output of a killed run.", panel=PANEL)] = False
    rescore: Annotated[list[Path] | None, option(help="Judge the answers in such a file; repeatable.", panel=PANEL)] = (
        None
    )
    merge: Annotated[bool, option("--merge", help="DATA are outputs of one run's processes.", panel=PANEL)] = False
    submission: Annotated[
        Path | None, option(help="Write what the server takes that knows the hidden answers.", panel=PANEL)
    ] = None
    judge: Annotated[
        str | None, option(help="FILE.py:FUNCTION, prompt -> reply, for official rules that ask a GPT.", panel=PANEL)
    ] = None

    def check(self) -> None:
        """
        Raises:
            InputError: a value out of range, or options that exclude each other.
        """
        between("--limit", self.limit, 1)
        if self.protocol not in ("official", "strict"):
            raise InputError(f"--protocol should be official or strict, not {quoted(self.protocol)}")
        if self.rescore and (self.merge or self.folder or self.resume or self.limit):
            raise InputError("--rescore reads a file of answers: it goes with --protocol, --judge and --output only")
        if self.merge and (self.folder or self.resume or self.limit):
            raise InputError("--merge reads files of answers: it goes with --protocol and --output only")
        if self.merge and self.output is None:
            raise InputError("--merge puts all answers into one file: name it with --output")
        check_outputs(self.output, self.submission)

    @property
    def used(self) -> str:
        """One of these options that was given; empty if none was."""
        flags: dict[str, Any] = {
            "--merge": self.merge,
            "--rescore": self.rescore,
            "--data": self.folder,
            "--limit": self.limit,
        }
        flags |= {"--resume": self.resume, "--output": self.output, "--judge": self.judge}
        flags |= {"--submission": self.submission}
        return next((name for name, value in flags.items() if value), "--protocol" * (self.protocol != "official"))


@dataclass(kw_only=True)
class Asked:
    """Who is asked, and how."""

    models: list[str]
    adapter: str | None
    change: str | None
    pruners: list[str]
    max_tokens: int | None
    controls: bool
    device: str | None


def is_benchmark(data: list[str], options: BenchmarkOptions) -> bool:
    """Whether these are words for `evaluate_benchmark`.

    Raises:
        InputError: options of benchmarks were given with something else.
    """
    from vl3ref.evaluation.benchmarks import BENCHMARKS

    if options.merge or (len(data) == 1 and data[0] in BENCHMARKS):
        return True
    if options.used:
        raise InputError(
            f"{options.used} is for benchmarks ({', '.join(BENCHMARKS)}), and {quoted(data[0])} is none of them"
        )
    return False


def evaluate_benchmark(
    data: list[str], options: BenchmarkOptions, asked: Asked, json_file: Path | None, markdown: Path | None
) -> None:
    from vl3ref.checkpoints import read_change
    from vl3ref.evaluation.benchmarks import BENCHMARKS
    from vl3ref.evaluation.results import as_lines, merge
    from vl3ref.evaluation.running import rescored

    options.check()
    judge = read_change(options.judge, "a judge") if options.judge else None
    if options.merge:
        merged = merge(data)
        if (name := merged.heading["benchmark"]) not in BENCHMARKS:
            raise InputError(f"{data[0]} holds results of {quoted(name)}, which is none of {', '.join(BENCHMARKS)}")
        found = {merged.heading["model"]: merged}
    elif options.rescore:
        name = data[0]
        found = {str(path): rescored(BENCHMARKS[name], path, judge) for path in options.rescore}
    else:
        name = data[0]
        found = _ask_all(BENCHMARKS[name], options, asked, judge)
    if options.output is not None and (options.merge or options.rescore):
        if len(found) > 1:
            raise InputError("--output holds the answers of one model: rescore one file at a time")
        write_text(options.output, as_lines(next(iter(found.values()))))
    if options.submission is not None and found:
        _submit(name, options.submission, found)
    if found:
        _show(BENCHMARKS[name], options, found, json_file, markdown)


def _ask_all(benchmark: "Benchmark", options: BenchmarkOptions, asked: Asked, judge: Any) -> dict[str, "Results"]:
    """The results of each model with each pruner; none where other processes ask the rest."""
    import vl3ref
    from vl3ref.evaluation.asking import MAX_NEW_TOKENS
    from vl3ref.evaluation.results import check_new
    from vl3ref.evaluation.running import run
    from vl3ref.pruners import read_pruner

    if options.folder is None:
        raise InputError(f"--data should name the folder that holds the data of {benchmark.name}")
    changing = chosen_change(asked.change)
    rank, world = _process()
    device = asked.device
    if world > 1:
        from vl3ref.training.distributed import own_device  # which takes seconds to import

        device = str(own_device(device))
    columns = [(name, pruner) for name in labels(asked.models) for pruner in asked.pruners or [""]]
    outputs = []
    for column in columns:
        path = options.output or Path(f"{benchmark.name}.jsonl")
        parts = [path.stem, *(re.sub(r"[^\w.=-]", "-", text) for text in column if text and len(columns) > 1)]
        outputs.append(path.with_name("-".join(parts) + f".{rank + 1}-of-{world}" * (world > 1) + path.suffix))
        check_outputs(outputs[-1])
        check_new(outputs[-1], options.resume)
    found: dict[str, Results] = {}
    loaded: Any = None
    for index, ((name, pruner), path) in enumerate(zip(columns, outputs, strict=True)):
        if index % (len(columns) // len(asked.models)) == 0:
            loaded = None  # before the next takes its memory
            folder = asked.models[index * len(asked.models) // len(columns)]
            loaded = vl3ref.load(folder, device, change=changing, adapter=asked.adapter)
        model, processor = loaded
        model.pruner = read_pruner(pruner, model) if pruner else model.pruner
        changes = ", ".join(filter(None, [asked.change, asked.adapter, pruner]))
        about: dict[str, Any] = {"name": name, "changes": changes, "limit": options.limit, "resume": options.resume}
        about |= {"controls": asked.controls, "max_new_tokens": asked.max_tokens or MAX_NEW_TOKENS, "judge": judge}
        with raising():
            results = run(model, processor, benchmark, options.folder, path, shard=(rank, world), tell=note, **about)
        found[f"{name} {pruner}".strip()] = results
        note(f"every answer is in {path}")
    if world > 1:
        note(f"this was process {rank + 1} of {world}; when all are done: vl3ref eval --merge FILES... --output FILE")
    return found if world == 1 else {}


def _process() -> tuple[int, int]:
    """Which process this is, and how many there are: what torchrun says, or whoever starts one of them again.

    Raises:
        InputError: the two do not go together.
    """
    rank, world = (os.environ.get(name, default) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    if not (rank.isdecimal() and world.isdecimal() and int(rank) < int(world)):
        raise InputError(f"RANK and WORLD_SIZE should be as torchrun sets them, not {quoted(rank)} and {quoted(world)}")
    return int(rank), int(world)


def _submit(name: str, path: Path, found: dict[str, "Results"]) -> None:
    from vl3ref.evaluation.benchmarks import SUBMISSIONS
    from vl3ref.evaluation.running import item_of

    if name not in SUBMISSIONS or len(found) > 1:
        raise InputError(f"--submission is for one model's answers to {' or '.join(SUBMISSIONS)}")
    records = [record for results in found.values() for record in results.records if not record["broken"]]
    words = {record["id"]: record["response"] for record in records}
    form: Any = SUBMISSIONS[name]
    write_text(path, json.dumps(form([*map(item_of, records)], words), indent=1) + "\n")
    note(f"{len(records)} answers for the server are in {path}")


def _show(
    benchmark: "Benchmark",
    options: BenchmarkOptions,
    found: dict[str, "Results"],
    json_file: Path | None,
    markdown: Path | None,
) -> None:
    """A table for each model, and each further model compared with the first."""
    from vl3ref.evaluation.report import as_json, as_markdown, cells, compare, comparison, notes, rows

    protocol = cast(Literal["official", "strict"], options.protocol)
    held: dict[str, Any] = {"protocol": protocol, "models": {}}
    page: list[str] = []
    for label, results in found.items():
        table = rows(results, benchmark, protocol)
        heading, *body = cells(table)
        shown = Table(*heading)
        for cell in body:
            shown.add_row(*cell)
        said = [*notes(results, benchmark, protocol)]
        say_table(shown, width=170)
        say("\n".join(said))
        held["models"][label] = as_json(results, table)
        page.append(f"{as_markdown([heading, *body])}\n" + "".join(f"{line}\n" for line in said))
    (first, results), *others = found.items()
    held["comparisons"] = {}
    for label, other in others:
        differences = compare(results, other, benchmark, protocol)
        held["comparisons"][label] = {subset: vars(x) for subset, x in differences.items()}
        for line in comparison((first, label), differences):
            say(line)
            page.append(f"{line}\n")
    if json_file is not None:
        write_text(json_file, json.dumps(held, indent=1) + "\n")
    if markdown is not None:
        write_text(markdown, "\n".join(page))
