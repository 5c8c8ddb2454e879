"""How a checkpoint wants its inputs, read from the processor's files of either layout."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from vl3ref.config import ModelConfig
from vl3ref.config_json import read_json
from vl3ref.errors import ConfigError, InputError


@dataclass(frozen=True)
class ProcessorConfig:
    """How a checkpoint wants its inputs. Defaults are those of the released checkpoints' files where one is missing.

    Attributes:
        image_token_id, video_token_id: the model's own ids for visual tokens.
        fps, max_frames: how videos are sampled.
        image_merge_size, video_merge_size: patches along the side of one visual token.
        min_tokens, max_tokens: visual tokens of a picture at least, of a conversation at most.
        patch_size: in pixels.
        diff_fp: None leaves DiffFP to the model, False turns it off, a number is its threshold.
    """

    image_token_id: int
    video_token_id: int
    fps: int | float | None = 1
    max_frames: int | None = 180
    image_merge_size: int = 1
    video_merge_size: int = 2
    min_tokens: int = 16
    max_tokens: int = 16384
    patch_size: int = 14
    diff_fp: int | float | bool | None = None

    def __post_init__(self) -> None:
        check_options(vars(self))
        if self.min_tokens > self.max_tokens:
            raise InputError(f"min_tokens ({self.min_tokens}) should not be above max_tokens ({self.max_tokens})")

    def token_id_for(self, modal: str) -> int:
        return self.video_token_id if modal == "video" else self.image_token_id


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse values that `ProcessorConfig` cannot have.

    Raises:
        InputError: an option is not known or out of range; says which.
    """
    known = [field.name for field in fields(ProcessorConfig)]
    for name, value in options.items():
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if name not in known:
            raise InputError(f"the processor has no option {name!r}; there are {', '.join(known)}")
        if name == "diff_fp":
            if not (value is None or isinstance(value, bool) or (number and value >= 0)):
                raise InputError(f"diff_fp should be None, False or a threshold of at least 0, not {value!r}")
        elif name == "fps":
            if not (value is None or (number and value > 0)):
                raise InputError(f"fps should be a number above 0, or None for every frame, not {value!r}")
        elif name.endswith("merge_size"):
            if not (number and isinstance(value, int) and 1 <= value <= 16):
                raise InputError(f"{name} should be a whole number from 1 to 16, not {value!r}")
        elif not (name == "max_frames" and value is None):
            least = 0 if name.endswith("_id") else 1
            if not (number and isinstance(value, int) and value >= least):
                raise InputError(f"{name} should be a whole number of at least {least}, not {value!r}")


def read_processor_config(folder: Path, model: ModelConfig) -> ProcessorConfig:
    """The settings in processor_config.json, preprocessor_config.json and video_preprocessor_config.json, as far as
    they are there, with the model's own ids and patch size.

    Raises:
        ConfigError: a file is damaged, or says what cannot be.
    """
    settings = _hf_settings(folder) if model.layout == "hf" else _official_settings(folder)
    try:
        check_options(settings)
    except InputError as error:
        raise ConfigError(f"the processor's files in {folder} say what cannot be: {error}") from None
    known = ProcessorConfig(image_token_id=model.image_token_id, video_token_id=model.video_token_id)
    return replace(known, patch_size=model.vision.patch_size, **settings)


def _official_settings(folder: Path) -> dict[str, Any]:
    sampling = _read_if_there(folder / "processor_config.json")
    sizes = _read_if_there(folder / "preprocessor_config.json")
    keys = ("fps", "max_frames", "image_merge_size", "video_merge_size")
    return {key: sampling[key] for key in keys if key in sampling} | {
        key: sizes[key] for key in ("min_tokens", "max_tokens") if sizes.get(key) is not None
    }


def _hf_settings(folder: Path) -> dict[str, Any]:
    """transformers 5 nests everything in processor_config.json, transformers 4 has one file per processor.

    hf limits the pixels of one picture or video; what its picture may hold becomes the conversation's budget here,
    since the sizes follow the official rule.
    """
    nested = _read_if_there(folder / "processor_config.json")
    image = nested.get("image_processor") or _read_if_there(folder / "preprocessor_config.json")
    video = nested.get("video_processor") or _read_if_there(folder / "video_preprocessor_config.json")
    settings: dict[str, Any] = {}
    for key, section in (("image_merge_size", image), ("video_merge_size", video)):
        if section.get("merge_size"):
            settings[key] = section["merge_size"]
    for key in ("fps", "max_frames"):
        if video.get(key) is not None:
            settings[key] = video[key]
    if video.get("use_token_compression") is False:
        settings["diff_fp"] = False
    unit = (image.get("patch_size") or 14) * (image.get("merge_size") or 1)
    size = image.get("size") or {}
    for key, edge, old in (("min_tokens", "shortest_edge", "min_pixels"), ("max_tokens", "longest_edge", "max_pixels")):
        pixels = size.get(edge) or image.get(old)
        if pixels:
            settings[key] = max(pixels // unit**2, 1)
    return settings


def _read_if_there(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}
