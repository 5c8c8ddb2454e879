"""`vl3ref inspect`, `vl3ref download` and `vl3ref convert`."""

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from vl3ref.cli.interrupts import raising
from vl3ref.cli.options import MediaOptions, option, with_options
from vl3ref.cli.printing import note, say, say_table, status
from vl3ref.errors import InputError, quoted
from vl3ref.files import new_file

MOST_SHARE = 1000
"""Of an adapter that is put in: 1 is all of it."""


@with_options(MediaOptions)
def inspect(
    file: Annotated[str, typer.Argument(metavar="FILE", show_default=False)],
    *,
    out: Annotated[Path | None, option("--out", help="The PNG (default: NAME.inspect.png, here).")] = None,
    options: MediaOptions,
) -> None:
    """Show what the model sees of a file: frames, sizes, and the tokens that DiffFP keeps, as a table and a PNG.

    Needs a checkpoint's small files, no weights.
    """
    from vl3ref import inspection, plots
    from vl3ref.checkpoints import load_processor, read_config
    from vl3ref.hub import find_checkpoint

    plots.import_pyplot()
    [part] = options.parts([file])
    options.check_times([part])
    folder = find_checkpoint(options.model)
    with status(f"reading {file}"):
        model, processor = inspection.without_weights(read_config(folder)), load_processor(folder)
        seen = inspection.inspect_part(part, model, processor, options.pruner, **options.overrides)
    say(inspection.headline(seen))
    say_table(inspection.table_of(seen))
    path = Path(f"{Path(file).resolve().stem}.inspect.png") if out is None else out
    with raising(), new_file(path, InputError) as fresh:
        plots.contact_sheet(seen).savefig(fresh, format="png")
    note(f"wrote {path}")


def download(
    name: Annotated[str, typer.Argument(metavar="NAME", help="owner/name on the hub, or 2b, 7b, 2b-image, ...")],
    revision: Annotated[str | None, option("--revision", help="Branch, tag or commit to pin.")] = None,
    to: Annotated[Path | None, option("--to", help="Folder (default: Hugging Face's cache).")] = None,
) -> None:
    """Fetch a checkpoint from the Hugging Face hub, continuing where an earlier try stopped."""
    from vl3ref import hub

    folder = hub.download(name, revision, to)
    say(str(folder))
    note(f"commit {commit_of(folder) or 'unknown'}")


def commit_of(folder: Path) -> str | None:
    """The commit that huggingface_hub fetched a folder from.

    Folders of its cache are named by the commit. In other folders it keeps a record of each file, which begins with it.
    """
    if folder.parent.name == "snapshots":
        return folder.name
    record = folder / ".cache" / "huggingface" / "download" / "config.json.metadata"
    return record.read_text().split("\n")[0] if record.exists() else None


def convert(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A checkpoint of either layout.")],
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="The folder to write.")],
    to: Annotated[
        Literal["hf", "official"] | None,
        option("--to", help="The layout to write (with --merge: default the source's)."),
    ] = None,
    merge: Annotated[
        list[str] | None,
        option("--merge", help="Folder of a LoRA adapter to put into the weights; FOLDER=0.5 for half; repeatable."),
    ] = None,
) -> None:
    """Write a checkpoint in the other layout, or with adapters put in, with its processor and tokenizer files."""
    from vl3ref import checkpoints

    if to is None and not merge:
        raise InputError("say what to convert to: --to hf, --to official, or an adapter that is put in: --merge FOLDER")
    shares = dict(map(_share, merge or ()))
    if len(shares) < len(merge or ()):
        raise InputError("--merge names the same adapter twice; give it once, with its share: FOLDER=2")
    with raising(), status(f"converting {source}"):
        checkpoints.convert(source, target, to, shares)
    note(f"wrote {target}")


def _share(text: str) -> tuple[str, float]:
    """ "FOLDER" or "FOLDER=0.5" -> the adapter's folder, and how much of it is put in."""
    folder, _, number = text.rpartition("=")
    if not folder or os.path.isdir(text):
        return text, 1.0
    try:
        share = float(number)
    except ValueError:
        return text, 1.0  # a folder that is not there, whatever its name
    if not abs(share) <= MOST_SHARE:
        raise InputError(
            f"the share in --merge {quoted(text)} should be a number between -{MOST_SHARE} and {MOST_SHARE}"
        )
    return folder, share
