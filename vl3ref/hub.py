"""The name of a checkpoint -> its folder: on disk, shipped with this package, or from the Hugging Face hub."""

import json
import os
from pathlib import Path
from typing import Any

from vl3ref.errors import CheckpointError, ConfigError

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
        raise CheckpointError(f"a checkpoint is a folder or a name, not {name!r}")
    folder = Path(name).expanduser()
    if os.path.isdir(folder):  # Path.is_dir raises on names that are too long
        return folder
    if str(name) == TINY:
        return tiny_folder()
    hub_name = RELEASED.get(str(name).lower(), str(name))
    if hub_name.count("/") != 1 or hub_name.startswith((".", "/", "~")) or hub_name.endswith("/"):
        raise CheckpointError(
            f"{name} is not a folder, and no hub name either (owner/name, or {', '.join([TINY, *RELEASED])})"
        )
    return download(hub_name, revision)


def download(hub_name: str, revision: str | None = None, folder: str | Path | None = None) -> Path:
    """Fetch a checkpoint with huggingface_hub, which shows progress, resumes, verifies and caches.

    Args:
        hub_name: "owner/name", or a short name.
        revision: branch, tag or commit to pin.
        folder: put real files here instead of into Hugging Face's cache.

    Returns:
        The folder that holds the files.

    Raises:
        CheckpointError: the hub has no such name or cannot be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    hub_name = RELEASED.get(hub_name.lower(), hub_name)
    try:
        return Path(snapshot_download(hub_name, revision=revision, local_dir=folder, allow_patterns=NEEDED_FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"there is no folder {hub_name} here, and it could not be fetched from the Hugging Face hub: {reason}"
        ) from None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a checkpoint's file.

    Raises:
        ConfigError: the file is missing, is not JSON, or holds something other than an object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist; a checkpoint folder needs its {path.name}") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path} should hold a JSON object, not a {type(content).__name__}")
    return content


def read_json_if_there(path: Path) -> dict[str, Any]:
    """As `read_json`; an empty dict if there is no such file."""
    return read_json(path) if path.exists() else {}
