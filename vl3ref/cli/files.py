"""`vl3ref inspect`, `vl3ref download` and `vl3ref convert`."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from vl3ref.cli.options import (
    End,
    Fps,
    MaxFrames,
    Merge,
    ModelName,
    NoPrune,
    Start,
    VisualTokens,
    check_times,
    message_parts,
    note,
    option,
    processor_overrides,
    stderr,
)


def inspect(
    file: Annotated[str, typer.Argument(metavar="FILE", show_default=False)],
    out: Annotated[Path | None, option("--out", help="The PNG (default: NAME.inspect.png, here).")] = None,
    model: ModelName = "vl3-tiny",
    fps: Fps = None,
    max_frames: MaxFrames = None,
    start: Start = None,
    end: End = None,
    visual_tokens: VisualTokens = None,
    merge: Merge = None,
    no_prune: NoPrune = False,
) -> None:
    """Show what the model sees of a file: frames, sizes, and the tokens that DiffFP keeps, as a table and a PNG.

    Needs a checkpoint's small files, no weights.
    """
    from vl3ref import inspection, load_processor
    from vl3ref.config_json import read_config
    from vl3ref.hub import find_checkpoint

    [part] = message_parts([file], start, end)
    check_times([part], start, end)
    folder = find_checkpoint(model)
    with stderr.status(f"reading {file}"):
        network = inspection.without_weights(read_config(folder))
        overrides = processor_overrides(fps, max_frames, visual_tokens, merge, no_prune)
        seen, pictures = inspection.inspect_part(part, network, load_processor(folder), **overrides)
    typer.echo(inspection.headline(seen))
    Console().print(inspection.table_of(seen))
    path = Path(f"{Path(file).resolve().stem}.inspect.png") if out is None else out
    inspection.save_sheet(inspection.contact_sheet(seen, pictures), path)
    note(f"wrote {path}")


def download(
    name: Annotated[str, typer.Argument(metavar="NAME", help="owner/name on the hub, or 2b, 7b, 2b-image, ...")],
    revision: Annotated[str | None, option("--revision", help="Branch, tag or commit to pin.")] = None,
    to: Annotated[Path | None, option("--to", help="Folder (default: Hugging Face's cache).")] = None,
) -> None:
    """Fetch a checkpoint from the Hugging Face hub, going on where an earlier try stopped."""
    from vl3ref import hub

    folder = hub.download(name, revision, to)
    typer.echo(folder)
    note(f"commit {commit_of(folder) or 'unknown'}")


def commit_of(folder: Path) -> str | None:
    """The commit that huggingface_hub fetched a folder from.

    Its cache names folders for it; in other folders it keeps a record of each file, whose first line it is.
    """
    if folder.parent.name == "snapshots":
        return folder.name
    record = folder / ".cache" / "huggingface" / "download" / "config.json.metadata"
    return record.read_text().split("\n")[0] if record.exists() else None


class Target(str, Enum):
    """The layouts that `convert` writes."""

    hf = "hf"
    official = "official"


def convert(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A checkpoint of either layout.")],
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="The folder to write.")],
    to: Annotated[Target, typer.Option("--to", help="The layout to write.")],
) -> None:
    """Write a checkpoint in the other layout, with its processor and tokenizer files."""
    from vl3ref import convert as conversion

    with stderr.status(f"converting {source}"):
        conversion.convert(source, target, to.value)
    note(f"wrote {target}")
