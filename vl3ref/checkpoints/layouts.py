"""What a folder's config.json describes, and what its files call each tensor.

Layouts are told apart by `model_type`. All that is particular to one is in `official.py` or `hf.py`, two modules with
the same functions; the towers, which both hold and which have folders of their own, are in `parts.py`.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vl3ref.checkpoints import hf, official, parts
from vl3ref.checkpoints.values import Section
from vl3ref.config import LanguageConfig, Layout, ModelConfig, VisionConfig
from vl3ref.errors import ConfigError, quoted
from vl3ref.files import read_json

WHOLE_TYPES = (*official.MODEL_TYPES, *hf.MODEL_TYPES)

VISION, PROJECTOR, LANGUAGE = "vision_encoder.", "projector.", "language_model."
"""What names of tensors begin with in our model. Below these, names are the same in every layout."""

HEAD = LANGUAGE + "lm_head."
"""The head lies outside the decoder in every layout's files."""

PREFIXES: dict[str, dict[Layout, str]] = {
    HEAD: {"official": "lm_head.", "hf": "lm_head."},
    VISION: {"official": "model.vision_encoder.", "hf": "model.vision_model."},
    PROJECTOR: {"official": "model.mm_projector.", "hf": "model.projector."},
    LANGUAGE: {"official": "model.", "hf": "model.language_model."},
}
"""What they begin with in the files of each layout."""

IN_FILES = {
    **{theirs: ours for ours, layouts in PREFIXES.items() for theirs in layouts.values()},
    "model.vision_encoder.vision_encoder.": VISION,  # as the official trainer saves it
    "vision_model.": VISION,  # google's SigLIP
}
"""The reverse, for the files of any layout."""


def module_of(layout: Layout) -> Any:
    """`official` or `hf`.

    Raises:
        ConfigError: for any other name.
    """
    if layout not in ("official", "hf"):
        raise ConfigError(f"no layout named {quoted(layout)}; there are official and hf")
    return official if layout == "official" else hf


def our_name(theirs: str) -> str:
    """A tensor's name in our model. Names under no known prefix stay; they are those of a changed model's own parts."""
    known = max((prefix for prefix in IN_FILES if theirs.startswith(prefix)), key=len, default=None)
    return theirs if known is None else IN_FILES[known] + theirs.removeprefix(known)


def file_name(ours: str, layout: Layout) -> str:
    """A tensor's name in the files of a layout."""
    known = next((prefix for prefix in PREFIXES if ours.startswith(prefix)), None)
    return ours if known is None else PREFIXES[known][layout] + ours.removeprefix(known)


def read_config(source: Mapping[str, Any] | str | Path) -> ModelConfig:
    """A whole model's config.

    Args:
        source: a folder, its config.json, or that file's content. Pruning is a setting of the hf layout's processor,
            which is read from the folder; a content alone prunes.

    Raises:
        ConfigError: a key is missing, or has a value that changes the computation in a way not implemented here.
    """
    raw = config_section(source)
    kind = raw.get("model_type")
    if kind not in WHOLE_TYPES:
        raise ConfigError(
            f"{raw.where}: model_type {quoted(kind)} is not a VideoLLaMA 3 (known: {', '.join(WHOLE_TYPES)})"
        )
    if kind in official.MODEL_TYPES:
        return official.read_config(raw)
    return hf.read_config(raw, folder=None if isinstance(source, Mapping) else Path(raw.where).parent)


def read_vision_config(source: Mapping[str, Any] | str | Path) -> VisionConfig:
    """The vision encoder's config from a vision-only checkpoint, google's SigLIP, or either layout of a whole model."""
    raw = config_section(source)
    kind = raw.get("model_type")
    if kind in WHOLE_TYPES:
        return read_config(source).vision
    if kind in parts.SIGLIP_TYPES:
        encoder = raw.section("vision_config") if kind == "siglip" else raw
        return parts.read_vision(Section({**parts.SIGLIP_DEFAULTS, **encoder.values}, encoder.where))
    if kind in parts.VISION_TYPES:
        return parts.read_vision(raw)
    known = ", ".join(parts.VISION_TYPES + parts.SIGLIP_TYPES)
    raise ConfigError(f"{raw.where}: model_type {quoted(kind)} is not a vision encoder (known: {known})")


def read_language_config(source: Mapping[str, Any] | str | Path) -> LanguageConfig:
    """The decoder's config from a plain decoder's checkpoint or from either layout of a whole model."""
    raw = config_section(source)
    kind = raw.get("model_type")
    if kind in WHOLE_TYPES:
        return read_config(source).language
    if kind in tuple(parts.DECODER_TYPES):  # a list could not be looked up in a dict
        return parts.read_decoder(raw, kind)
    raise ConfigError(
        f"{raw.where}: model_type {quoted(kind)} is not a decoder (known: {', '.join(parts.DECODER_TYPES)})"
    )


def config_section(source: Mapping[str, Any] | str | Path) -> Section:
    """A config.json, given as in `read_config`."""
    if isinstance(source, Mapping):
        return Section(source, "config")
    if not isinstance(source, str | Path):
        raise ConfigError(f"a config is a folder, a file or its content, not {quoted(source)}")
    path = Path(source) / "config.json" if os.path.isdir(source) else Path(source)
    if not os.path.lexists(path) and os.path.lexists(path.with_name("adapter_config.json")):
        raise ConfigError(
            f"{path.parent} holds an adapter, not a model: name the model that it was trained on, and give this folder "
            "as its adapter (--adapter, or adapter=)"
        )
    return Section(read_json(path, ConfigError), str(path))
