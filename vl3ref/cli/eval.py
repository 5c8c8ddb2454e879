"""`vl3ref eval`."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from vl3ref.cli.options import Device, check_device, note, option
from vl3ref.cli.train import at_least
from vl3ref.errors import InputError


def evaluate(
    world: Annotated[Literal["tinyworld"], typer.Argument(metavar="tinyworld", show_default=False)],
    model: Annotated[list[str] | None, option("--model", help="Checkpoint (default: vl3-tiny); repeatable.")] = None,
    questions: Annotated[int, option("--questions", help="Of each skill (default: 300).")] = 300,
    controls: Annotated[
        bool, option("--controls/--no-controls", help="Blank pictures, shuffled frames, no DiffFP (first model).")
    ] = True,
    seed: Annotated[int | None, option("--seed", help="Of the questions.")] = None,
    json_file: Annotated[Path | None, option("--json", help="Write the numbers here.")] = None,
    markdown: Annotated[Path | None, option("--markdown", help="Write the table here.")] = None,
    device: Device = None,
) -> None:
    """Ask a model held-out questions about the small world, and count exact answers, skill by skill."""
    at_least("--questions", questions, 1)
    at_least("--seed", seed, 0)
    for file in (json_file, markdown):
        if file is not None and (file.is_dir() or not file.absolute().parent.is_dir()):
            raise InputError(f"{file} cannot be written: it is a folder, or its folder is not there")
    check_device(device)
    import vl3ref
    from vl3ref.tinyworld import examination as evaluation

    names = model or ["vl3-tiny"]
    labels = [Path(name).name for name in names]
    if len(set(labels)) < len(labels):  # as the `final` of several runs
        labels = names
    table = evaluation.Table()
    for index, name in enumerate(names):
        network, processor = vl3ref.load(name, device)
        columns = evaluation.COLUMNS if controls and index == 0 else {"accuracy": evaluation.COLUMNS["accuracy"]}
        for column, settings in columns.items():
            label = f"{labels[index]} {column}" if len(names) > 1 else column
            table.add(label, evaluation.examine_all(network, processor, settings, questions, seed))
            note(f"{label}: {table.overall(label):.1%} of {questions} questions a skill")
    Console(width=140).print(table.for_terminal())
    if json_file is not None:
        json_file.write_text(json.dumps(table.as_json(), indent=2) + "\n", encoding="utf-8")
    if markdown is not None:
        markdown.write_text(table.as_markdown(), encoding="utf-8")
