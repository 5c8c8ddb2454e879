"""The name of a checkpoint -> its folder: on disk, shipped with this package, or from the Hugging Face hub."""

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from vl3ref.errors import CheckpointError, quoted

TINY = "vl3-tiny"
"""The checkpoint that comes with the package."""

RELEASED = {
    "2b": "DAMO-NLP-SG/VideoLLaMA3-2B",
    "2b-image": "DAMO-NLP-SG/VideoLLaMA3-2B-Image",
    "7b": "DAMO-NLP-SG/VideoLLaMA3-7B",
    "7b-image": "DAMO-NLP-SG/VideoLLaMA3-7B-Image",
    "vl3-siglip-navit": "DAMO-NLP-SG/VL3-SigLIP-NaViT",
    "siglip-navit": "DAMO-NLP-SG/SigLIP-NaViT",
}
"""Short names of the released checkpoints."""

NEEDED_FILES = ["*.json", "*.safetensors", "merges.txt", "*.jinja"]


def tiny_folder() -> Path:
    """The folder of vl3-tiny: inside an installed package, or beside the package in a clone.

    Raises:
        CheckpointError: the package was installed without it.
    """
    here = Path(__file__).parent
    for folder in (here / "weights" / TINY, here.parent / "weights" / TINY):
        if (folder / "config.json").exists():
            return folder
    raise CheckpointError(f"this installation has no {TINY}; name a checkpoint folder or a hub name instead")


def find_checkpoint(name: str | Path, revision: str | None = None) -> Path:
    """The folder of a checkpoint.

    Args:
        name: a folder; "vl3-tiny"; a short name ("2b", "7b", ...); or a hub name ("owner/name"), which is downloaded
            into Hugging Face's cache unless it is there already.
        revision: branch, tag or commit on the hub.

    Raises:
        CheckpointError: there is no such folder, and the hub has no such name or cannot be reached.
    """
    if not isinstance(name, str | Path) or not str(name):
        raise CheckpointError(f"a checkpoint is a folder or a name, not {quoted(name)}")
    folder = Path(os.path.expanduser(name))  # Path's own raises on users that are not there
    if os.path.isdir(folder):  # Path.is_dir raises on names that are too long
        return folder
    if os.path.isdir(before := folder.parent / f".{folder.name}.old"):  # see files.new_folder
        raise CheckpointError(f"{folder} was being saved when its process ended; rename {before} to {folder.name}")
    if str(name) == TINY:
        return tiny_folder()
    hub_name = RELEASED.get(str(name).lower(), str(name))
    if hub_name.count("/") != 1 or hub_name.startswith((".", "/", "~")) or hub_name.endswith("/"):
        raise CheckpointError(
            f"{quoted(str(name), 300)} is not a folder, and no hub name either "
            f"(owner/name, or {', '.join([TINY, *RELEASED])})"
        )
    return download(hub_name, revision)


def download(hub_name: str, revision: str | None = None, folder: str | Path | None = None) -> Path:
    """Fetch a checkpoint with huggingface_hub, which shows progress, resumes and caches; then check what came.

    Args:
        hub_name: "owner/name", or a short name.
        revision: branch, tag or commit to pin.
        folder: put real files here instead of into Hugging Face's cache.

    Returns:
        The folder that holds the files.

    Raises:
        CheckpointError: the hub has no such name or cannot be reached, or what it sent is not what it promised.
    """
    from huggingface_hub import snapshot_download

    hub_name, began = RELEASED.get(hub_name.lower(), hub_name), time.time()
    try:
        found = Path(snapshot_download(hub_name, revision=revision, local_dir=folder, allow_patterns=NEEDED_FILES))
    except Exception as error:  # its own, those of the library it speaks HTTP with, and the system's
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"there is no folder {hub_name} here, and it could not be fetched from the Hugging Face hub: {reason[:300]}"
        ) from None
    for file, promised in _promises(found):
        blob = Path(os.path.realpath(file))
        if blob.stat().st_mtime >= began - CLOCKS and _hash(blob, sha256=len(promised) == 64) != promised:
            blob.unlink()
            file.unlink(missing_ok=True)
            raise CheckpointError(f"{file} came damaged (its hash is another), and was removed; try again")
    return found


CLOCKS = 60
"""Seconds by which the clocks of a machine and of its disks may differ."""


def _promises(folder: Path) -> Iterator[tuple[Path, str]]:
    """Fetched files, with the hash that the hub gave of each: sha256 of large files, git's sha1 of small ones.

    huggingface_hub compares sizes alone. In its cache, files are named by their hash, and links to them lie in the
    folder; elsewhere it keeps a record of each.
    """
    for file in folder.iterdir():
        record = folder / ".cache" / "huggingface" / "download" / f"{file.name}.metadata"
        lines = record.read_text(encoding="utf-8").split("\n") if record.is_file() else []
        blob = Path(os.path.realpath(file))
        promised = lines[1] if len(lines) > 1 else blob.name
        if blob.is_file() and len(promised) in (40, 64) and not set(promised) - set("0123456789abcdef"):
            yield file, promised


def _hash(file: Path, sha256: bool) -> str:
    found = hashlib.sha256() if sha256 else hashlib.sha1(b"blob %d\0" % file.stat().st_size)
    with file.open("rb") as opened:
        while block := opened.read(1 << 24):
            found.update(block)
    return found.hexdigest()
