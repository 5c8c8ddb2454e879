"""`vl3ref eval`: how much a model knows, of the small world, of the paper's benchmarks or of data of one's own."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from vl3ref.cli import held_out
from vl3ref.cli.benchmarks import Asked, BenchmarkOptions, evaluate_benchmark, is_benchmark
from vl3ref.cli.options import (
    Adapter,
    Change,
    Device,
    between,
    check_device,
    check_outputs,
    chosen_change,
    labels,
    option,
    with_options,
    write_text,
)
from vl3ref.cli.printing import note, say_table
from vl3ref.errors import InputError

OWN = "For data of your own"


@with_options(BenchmarkOptions)
def evaluate(
    data: Annotated[
        list[str],
        typer.Argument(
            metavar="tinyworld|NAME|DATA...",
            help="The small world; a benchmark of the paper; annotation files of your own.",
            show_default=False,
        ),
    ],
    model: Annotated[list[str] | None, option("--model", help="Checkpoint (default: vl3-tiny); repeatable.")] = None,
    adapter: Adapter = None,
    change: Change = None,
    pruner: Annotated[
        list[str] | None,
        option("--pruner", help="difffp, rlt, cosine, uniform or question; NAME=0.25 keeps a quarter; repeatable."),
    ] = None,
    metric: Annotated[
        str | None,
        option("--metric", help="exact, options (the likeliest), FILE.py:FUNCTION (default: exact).", panel=OWN),
    ] = None,
    media: Annotated[Path | None, option("--media", help="Folder of the data's relative paths.", panel=OWN)] = None,
    max_tokens: Annotated[int | None, option("--max-tokens", help="Most new tokens of an answer.")] = None,
    questions: Annotated[int, option("--questions", help="Of each skill (default: 300).")] = 300,
    controls: Annotated[
        bool, option("--controls/--no-controls", help="Blank pictures, shuffled frames, no pruning (first model).")
    ] = True,
    seed: Annotated[int | None, option("--seed", help="Of the questions.")] = None,
    json_file: Annotated[Path | None, option("--json", help="Write the numbers here.")] = None,
    markdown: Annotated[Path | None, option("--markdown", help="Write the table here.")] = None,
    device: Device = None,
    *,
    options: BenchmarkOptions,
) -> None:
    """Ask a model held-out questions about the small world and count exact answers, skill by skill; or ask what a
    benchmark of the paper asks, or your own annotations."""
    between("--questions", questions, 1, 1_000_000)
    between("--seed", seed, 0)
    between("--max-tokens", max_tokens, 1, 1_000_000)
    check_outputs(json_file, markdown)
    check_device(device)
    if is_benchmark(data, options):
        if metric or media:
            raise InputError("--metric and --media are for data of your own: benchmarks have their own rules")
        asked = Asked(
            models=model or ["vl3-tiny"],
            adapter=adapter,
            change=change,
            pruners=pruner or [],
            max_tokens=max_tokens,
            controls=controls,
            device=device,
        )
        evaluate_benchmark(data, options, asked, json_file, markdown)
        return
    if data != ["tinyworld"]:
        held_out.evaluate_own(data, model, adapter, change, pruner, metric, media, max_tokens, json_file, device)
        return
    if given := [name for name, x in (("--metric", metric), ("--media", media), ("--max-tokens", max_tokens)) if x]:
        raise InputError(f"{given[0]} is for data of your own: name its annotation files in place of tinyworld")
    import vl3ref
    from vl3ref.pruners import read_pruner
    from vl3ref.tinyworld import SKILLS, examination

    changing = chosen_change(change)
    names = model or ["vl3-tiny"]
    columns: dict[str, dict[str, examination.Score]] = {}
    for label, name in zip(labels(names), names, strict=True):
        label += " + change" if changing else ""
        network, processor = vl3ref.load(name, device, change=changing, adapter=adapter)
        pruners = {text: {"pruner": read_pruner(text, network)} for text in pruner or ()}
        for kind, settings in {**examination.EXAMINATIONS, **pruners}.items():
            if kind not in ("accuracy", *pruners) and (not controls or name != names[0]):
                continue
            column = columns[f"{label} {kind}" if len(names) > 1 else kind] = {}
            arguments = {"questions": questions, "seed": examination.SEED if seed is None else seed, **settings}
            for skill in arguments.pop("skills", SKILLS):  # one at a time: they take a while
                column |= examination.examine(network, processor, [skill], **arguments)
                note(f"{[*columns][-1]}, {skill}: {column[skill].accuracy:.1%} of {questions}")
    table = Table(*examination.rows(columns)[0])
    for row in examination.rows(columns)[1:]:
        table.add_row(*row)
    say_table(table, width=140)
    if json_file is not None:
        write_text(json_file, json.dumps(examination.as_json(columns), indent=2) + "\n")
    if markdown is not None:
        write_text(markdown, examination.as_markdown(columns))
