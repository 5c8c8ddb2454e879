"""`vl3ref eval`: how much a model knows."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from vl3ref.cli.options import Device, check_device, note, option
from vl3ref.errors import InputError


def evaluate(
    world: Annotated[Literal["tinyworld"], typer.Argument(metavar="tinyworld", show_default=False)],
    model: Annotated[list[str] | None, option("--model", help="Checkpoint (default: vl3-tiny); repeatable.")] = None,
    change: Annotated[str | None, option("--change", help="FILE.py:FUNCTION that changes parts of the model.")] = None,
    questions: Annotated[int, option("--questions", help="Of each skill (default: 300).")] = 300,
    controls: Annotated[
        bool, option("--controls/--no-controls", help="New wordings, blank pictures, and more (first model).")
    ] = True,
    seed: Annotated[int | None, option("--seed", help="Of the questions.")] = None,
    json_file: Annotated[Path | None, option("--json", help="Write the numbers here.")] = None,
    markdown: Annotated[Path | None, option("--markdown", help="Write the tables here.")] = None,
    device: Device = None,
) -> None:
    """Ask a model held-out questions about the small world, and count exact answers, skill by skill."""
    if questions < 1:
        raise InputError(f"--questions should be at least 1, not {questions}")
    if seed is not None and seed < 0:
        raise InputError(f"--seed should be at least 0, not {seed}")
    for file in (json_file, markdown):
        if file is not None and (file.is_dir() or not file.absolute().parent.is_dir()):
            raise InputError(f"{file} cannot be written: it is a folder, or its folder is not there")
    check_device(device)
    import vl3ref
    from vl3ref.checkpoints import read_change
    from vl3ref.tinyworld import SKILLS, examination

    changing = None if change is None else read_change(change)
    names = model or ["vl3-tiny"]
    labels = [Path(name).name for name in names]
    if len(set(labels)) < len(labels):  # as the `final` of several runs
        labels = names
    columns: dict[str, dict[str, examination.Score]] = {}
    for label, name in zip(labels, names, strict=True):
        network, processor = vl3ref.load(name, device, change=changing)
        for kind, settings in examination.EXAMINATIONS.items():
            if kind != "accuracy" and (not controls or name != names[0]):
                continue
            column = columns[f"{label} {kind}" if len(names) > 1 else kind] = {}
            arguments = {"questions": questions, "seed": examination.SEED if seed is None else seed, **settings}
            for skill in arguments.pop("skills", SKILLS):  # one at a time: they take a while
                column |= examination.examine(network, processor, [skill], **arguments)
                note(f"{[*columns][-1]}, {skill}: {column[skill].accuracy:.1%} of {questions}")
    table = Table(*examination.rows(columns)[0])
    for row in examination.rows(columns)[1:]:
        table.add_row(*row)
    Console(width=140).print(table)
    if json_file is not None:
        json_file.write_text(json.dumps(examination.as_json(columns), indent=2) + "\n", encoding="utf-8")
    if markdown is not None:
        tables = [examination.rows(columns), examination.rows_by_candidates(next(iter(columns.values())))]
        markdown.write_text("\n".join(map(examination.as_markdown, tables)), encoding="utf-8")
