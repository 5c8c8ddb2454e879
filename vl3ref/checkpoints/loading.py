"""safetensors files -> modules.

The headers are looked at first: every missing, unexpected and mis-shaped tensor is known, and listed, before a single
number is read. The model is built without memory (the meta device), and each tensor then goes from the mapped file to
its place once, in its final device and dtype.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vl3ref.checkpoints.names import LANGUAGE, PROJECTOR, TO_OURS, VISION, translate
from vl3ref.config_json import DTYPES, read_config, read_json, read_language_config, read_vision_config, token_ids
from vl3ref.errors import CheckpointError, ConfigError
from vl3ref.hub import find_checkpoint
from vl3ref.model.language_model import LanguageModel
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.model.vision import VisionEncoder

logger = logging.getLogger(__name__)

SIGLIP_DROPPED = ("embeddings.position_embedding.", "embeddings.position_ids", "head.")
"""Below the vision prefix: what google's SigLIP has and a NaViT has not (any resolution needs no position table)."""

SIGLIP_TEXT = ("text_model.", "logit_scale", "logit_bias")


def load_model(
    source: str | Path, device: torch.device | str | None = None, dtype: torch.dtype | str | None = None
) -> VideoLLaMA3:
    """A whole VideoLLaMA 3, in eval mode, with gradients possible.

    Args:
        source: a checkpoint folder of either layout, or a name (see `hub.find_checkpoint`).
        device: default: the GPU if there is one.
        dtype: default: float32 on a CPU, the checkpoint's own elsewhere.

    Raises:
        CheckpointError: lists every tensor that is missing, unexpected or of the wrong shape; or says which file is
            damaged.
        ConfigError: config.json describes something else.
    """
    folder = find_checkpoint(source)
    config = read_config(folder)
    settings = _generation_settings(folder)
    if ends := settings.pop("eos_token_id", ()):
        config = replace(config, language=replace(config.language, eos_token_ids=ends))
    device, dtype = _placement(device, dtype, config.dtype)
    model = _fill(lambda: VideoLLaMA3(config), TensorFiles(folder), device, dtype, part="")
    model.recommended_sampling = settings
    return model


def load_vision_encoder(
    source: str | Path, device: torch.device | str | None = None, dtype: torch.dtype | str | None = None
) -> VisionEncoder:
    """The vision encoder alone: from a vision-only checkpoint, from google's SigLIP, or out of a whole model.

    SigLIP's position table and pooling head (and, in its full checkpoint, its text tower) have no place here and are
    dropped, with a log message that says so.
    """
    folder = find_checkpoint(source)
    config = read_vision_config(folder)
    device, dtype = _placement(device, dtype, _file_dtype(folder))
    return _fill(lambda: VisionEncoder(config), TensorFiles(folder), device, dtype, part=VISION)


def load_language_model(
    source: str | Path, device: torch.device | str | None = None, dtype: torch.dtype | str | None = None
) -> LanguageModel:
    """The decoder alone: from a plain Qwen2.5 checkpoint, or out of a whole model."""
    folder = find_checkpoint(source)
    config = read_language_config(folder)
    if ends := _generation_settings(folder).get("eos_token_id", ()):
        config = replace(config, eos_token_ids=ends)
    device, dtype = _placement(device, dtype, _file_dtype(folder))
    return _fill(lambda: LanguageModel(config), TensorFiles(folder), device, dtype, part=LANGUAGE)


class TensorFiles:
    """The safetensors files of a checkpoint folder, by tensor name. Opened by mapping; nothing is read until asked for.

    Raises:
        CheckpointError: there are none; the index points outside the folder, at a missing file or at a tensor that is
            not there; a file is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, Any] = {}
        self.where: dict[str, str] = {}
        index = folder / "model.safetensors.index.json"
        if (folder / "model.safetensors").exists() or not index.exists():
            self._add("model.safetensors")
        else:
            self._add_indexed(index)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(self.files[file].get_slice(name).get_shape()) for name, file in self.where.items()}

    def read(self, name: str) -> Tensor:
        tensor = self.files[self.where[name]].get_tensor(name)
        if not tensor.is_floating_point() or tensor.element_size() < 2:
            raise CheckpointError(f"{self.folder}: {name} is {tensor.dtype}; quantised checkpoints are not read")
        return tensor

    def _add(self, file: str) -> None:
        path = self.folder / file
        if not path.exists():
            pickled = any(self.folder.glob("*.bin")) or any(self.folder.glob("*.pt*"))
            hint = "; it has pickled weights, which can run code and are not read: convert them to safetensors"
            raise CheckpointError(f"{self.folder} has no {file}{hint if pickled else ''}")
        try:
            opened = safe_open(path, framework="pt", device="cpu")
            names = list(opened.keys())
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} is damaged or not a safetensors file: {error}") from None
        self.files[file] = opened
        self.where |= dict.fromkeys(names, file)

    def _add_indexed(self, index: Path) -> None:
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
            raise CheckpointError(f"{index} has no weight_map of tensor names to files")
        for file in sorted(set(weight_map.values())):
            if Path(file).name != file or file in ("", ".", ".."):
                raise CheckpointError(f"{index} points outside its folder: {file}")
            self._add(file)
        lost = sorted(name for name, file in weight_map.items() if self.where.get(name) != file)
        if lost:
            raise CheckpointError(f"{index} names tensors that are not in the files it gives:\n  " + "\n  ".join(lost))


def _fill(make: Any, files: TensorFiles, device: torch.device, dtype: torch.dtype, part: str) -> Any:
    """Build a module on the meta device and give every parameter its tensor.

    Args:
        part: our prefix of what the module is ("" for the whole model).
    """
    with torch.device("meta"):
        module = make()
    shapes = files.shapes()
    names = _our_names(shapes, part)
    wanted = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    head = (LANGUAGE + "lm_head.weight").removeprefix(part)
    if part != VISION and head not in wanted:  # tied: transformers may still have written the head, as a copy
        names = {theirs: ours for theirs, ours in names.items() if ours != head}
    _check_fit(files.folder, wanted, names, shapes)
    module.to(dtype).to_empty(device=device)
    parameters = dict(module.named_parameters())
    with torch.no_grad():
        for theirs, ours in names.items():
            # A copy, not the mapped pages themselves: a file that is overwritten later must not change a loaded model.
            parameters[ours].copy_(files.read(theirs))
    return module.eval()


def _our_names(shapes: Mapping[str, Any], part: str) -> dict[str, str]:
    """Name in the files -> name within our module, for what belongs to the part."""
    bare = part == VISION and not any(name.startswith(("model.", "vision_model.")) for name in shapes)
    names, dropped = {}, []
    for theirs in shapes:
        ours = VISION + theirs if bare else translate(theirs, TO_OURS)
        below = ours.removeprefix(VISION)
        if theirs.startswith(SIGLIP_TEXT) or (ours != below and below.startswith(SIGLIP_DROPPED)):
            dropped.append(theirs)
        elif not theirs.endswith("rotary_emb.inv_freq") and (ours.startswith(part) or not _in_other_part(ours)):
            names[theirs] = ours.removeprefix(part)
    if dropped:
        logger.warning("dropped (2D RoPE replaces SigLIP's position table, and there is no pooling): %s", dropped)
    return names


def _in_other_part(ours: str) -> bool:
    return ours.startswith((VISION, PROJECTOR, LANGUAGE))


def _check_fit(
    folder: Path,
    wanted: Mapping[str, tuple[int, ...]],
    names: Mapping[str, str],
    shapes: Mapping[str, tuple[int, ...]],
) -> None:
    """Compare what the model needs with what the files hold, and list all that differs at once."""
    theirs_of = {ours: theirs for theirs, ours in names.items()}
    problems = [f"missing: {name} {shape}" for name, shape in wanted.items() if name not in theirs_of]
    problems += [f"unexpected: {theirs} {shapes[theirs]}" for theirs, ours in names.items() if ours not in wanted]
    problems += [
        f"wrong shape: {theirs} is {shapes[theirs]}, the config asks for {wanted[ours]}"
        for theirs, ours in names.items()
        if ours in wanted and shapes[theirs] != wanted[ours]
    ]
    problems += [f"twice: {ours}" for ours in theirs_of if list(names.values()).count(ours) > 1]
    if problems:
        raise CheckpointError(f"the weights in {folder} do not fit its config.json:\n  " + "\n  ".join(problems))


def _placement(
    device: torch.device | str | None, dtype: torch.dtype | str | None, file_dtype: str
) -> tuple[torch.device, torch.dtype]:
    name = device if device is not None else "cuda" if torch.cuda.is_available() else "cpu"
    try:
        place = torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, TypeError) as error:  # an unknown name; a kind this torch was built without
        raise CheckpointError(f"device {name} cannot be used: {str(error).splitlines()[0]}") from None
    if place.type == "meta":
        raise CheckpointError("the meta device holds no weights; name one that computes")
    wanted = ("float32" if place.type == "cpu" else file_dtype) if dtype is None else str(dtype)
    wanted = wanted.removeprefix("torch.")
    if wanted not in DTYPES:
        raise CheckpointError(f"dtype {wanted} cannot be computed with; there are {', '.join(DTYPES)}")
    return place, getattr(torch, wanted)


def _file_dtype(folder: Path) -> str:
    raw = read_json(folder / "config.json")
    return raw.get("dtype") or raw.get("torch_dtype") or "float32"


SAMPLING_KEYS = ("temperature", "top_k", "top_p", "repetition_penalty")


def _generation_settings(folder: Path) -> dict[str, Any]:
    """The end-of-text ids and the recommended sampling of generation_config.json, if it is there.

    Values that mean "off" in transformers (top_k 0, top_p 1, a penalty of 1) are left out; sampling without a
    temperature is sampling at 1, its default.
    """
    path = folder / "generation_config.json"
    if not path.exists():
        return {}
    raw = read_json(path)
    settings: dict[str, Any] = {"temperature": 1.0} if raw.get("do_sample") else {}
    for key in SAMPLING_KEYS if raw.get("do_sample") else ():
        value = raw.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ConfigError(f"{path}: {key} should be a number, not {value!r}")
        if value is not None and (key, value) not in (("top_k", 0), ("top_p", 1), ("repetition_penalty", 1)):
            settings[key] = value
    ends = token_ids(raw.get("eos_token_id"), str(path))
    return settings | ({"eos_token_id": ends} if ends else {})
