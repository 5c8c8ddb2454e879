"""Which layout a folder has, and what its config.json describes.

Layouts are told apart by `model_type`. All that is particular to one is in `official.py` or `hf.py`, two modules with
the same functions and constants; the towers, which both hold and which have folders of their own, are in `parts.py`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vl3ref.checkpoints import hf, official, parts
from vl3ref.checkpoints.values import section
from vl3ref.config import LanguageConfig, Layout, ModelConfig, VisionConfig
from vl3ref.errors import ConfigError
from vl3ref.hub import read_json

WHOLE_TYPES = (*official.MODEL_TYPES, *hf.MODEL_TYPES)

IN_FILES = {
    **{theirs: ours for layout in (official, hf) for ours, theirs in layout.PREFIXES.items()},
    "model.vision_encoder.vision_encoder.": parts.VISION,  # as the official trainer saves it
    "vision_model.": parts.VISION,  # google's SigLIP
}
"""What names of tensors begin with in the files of any layout, and in our model."""


def module_of(layout: Layout) -> Any:
    """`official` or `hf`.

    Raises:
        ConfigError: for any other name.
    """
    if layout not in ("official", "hf"):
        raise ConfigError(f"no layout named {layout!r}; there are official and hf")
    return official if layout == "official" else hf


def our_name(theirs: str) -> str:
    """A tensor's name in our model. Names under no known prefix stay; they are those of a changed model's own parts."""
    known = max((prefix for prefix in IN_FILES if theirs.startswith(prefix)), key=len, default=None)
    return theirs if known is None else IN_FILES[known] + theirs.removeprefix(known)


def file_name(ours: str, layout: Layout) -> str:
    """A tensor's name in the files of a layout."""
    for prefix, theirs in module_of(layout).PREFIXES.items():
        if ours.startswith(prefix):
            return theirs + ours.removeprefix(prefix)
    return ours


def read_config(source: Mapping[str, Any] | str | Path) -> ModelConfig:
    """A whole model's config.

    Args:
        source: a folder, its config.json, or that file's content. Pruning is a setting of the hf layout's processor,
            which is read from the folder; a content alone prunes.

    Raises:
        ConfigError: a key is missing, or has a value that changes the computation in a way not implemented here.
    """
    raw, where, folder = _open(source)
    kind = raw.get("model_type")
    if kind not in WHOLE_TYPES:
        raise ConfigError(f"{where}: model_type {kind!r} is not a VideoLLaMA 3 (known: {', '.join(WHOLE_TYPES)})")
    layout = official if kind in official.MODEL_TYPES else hf
    return layout.read_config(raw, where, folder)


def read_vision_config(source: Mapping[str, Any] | str | Path) -> VisionConfig:
    """The vision encoder's config from a vision-only checkpoint, google's SigLIP, or either layout of a whole model."""
    raw, where, _ = _open(source)
    kind = raw.get("model_type")
    if kind in WHOLE_TYPES:
        return read_config(raw).vision
    if kind in parts.SIGLIP_TYPES:
        encoder = section(raw, "vision_config", where) if kind == "siglip" else raw
        return parts.read_vision({**parts.SIGLIP_DEFAULTS, **encoder}, where)
    if kind in parts.VISION_TYPES:
        return parts.read_vision(raw, where)
    known = ", ".join(parts.VISION_TYPES + parts.SIGLIP_TYPES)
    raise ConfigError(f"{where}: model_type {kind!r} is not a vision encoder (known: {known})")


def read_language_config(source: Mapping[str, Any] | str | Path) -> LanguageConfig:
    """The decoder's config from a plain decoder's checkpoint or from either layout of a whole model."""
    raw, where, _ = _open(source)
    kind = raw.get("model_type")
    if kind in WHOLE_TYPES:
        return read_config(raw).language
    if kind in parts.DECODER_TYPES:
        return parts.read_decoder(raw, where, kind)
    raise ConfigError(f"{where}: model_type {kind!r} is not a decoder (known: {', '.join(parts.DECODER_TYPES)})")


def _open(source: Mapping[str, Any] | str | Path) -> tuple[Mapping[str, Any], str, Path | None]:
    if isinstance(source, Mapping):
        return source, "config", None
    path = Path(source)
    path = path / "config.json" if path.is_dir() else path
    return read_json(path), str(path), path.parent
