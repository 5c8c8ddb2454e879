"""Modules -> safetensors files, in either layout."""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from vl3ref.checkpoints.names import FROM_OURS, LANGUAGE, translate
from vl3ref.config import LanguageConfig, Layout, ModelConfig
from vl3ref.config_to_json import language_to_json, to_json, vision_to_json
from vl3ref.errors import CheckpointError
from vl3ref.model.language_model import LanguageModel
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.model.vision import VisionEncoder

OWN_FILES = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?")
"""What a save writes beside config files, and what the next one may take away."""

PUBLISHED_HF_IDS = (151655, 151656)
"""<|image_pad|> and <|video_pad|>: what the published hf folders use for the released vocabulary."""


def save_model(
    model: VideoLLaMA3 | VisionEncoder | LanguageModel,
    folder: str | Path,
    layout: Layout = "official",
    max_shard_bytes: int = 5_000_000_000,
) -> Path:
    """Write weights, config.json and generation_config.json. What is written, transformers loads.

    Everything is first written under a temporary name beside the folder, so that a run that is killed leaves what was
    there before. A new folder appears all at once; in one that exists, files are exchanged one by one.

    Args:
        model: a whole model; or a part, which is written as a vision-only or a plain Qwen2 checkpoint.
        layout: of a whole model.
        max_shard_bytes: weights beyond this are split over several files with an index.

    Returns:
        The folder.

    Raises:
        ConfigError: the layout cannot express the model.
        CheckpointError: the model has other parameters than its config says (a part was swapped), so that it could
            not be loaded again; or `folder` is a file.
    """
    folder = Path(folder).absolute()
    _check_saveable(model, folder)
    described = _describe(model, layout)
    tensors = dict(_named_for_file(model, layout))
    with staged(folder) as staging:
        write_json(staging / "config.json", described)
        if not isinstance(model, VisionEncoder):
            decoder = model.language_model if isinstance(model, VideoLLaMA3) else model
            sampling = model.recommended_sampling if isinstance(model, VideoLLaMA3) else {}
            write_json(staging / "generation_config.json", _generation_json(decoder.config, sampling))
        _write_shards(tensors, staging, max_shard_bytes)
    return folder


def _check_saveable(model: Any, folder: Path) -> None:
    if not isinstance(model, VideoLLaMA3 | VisionEncoder | LanguageModel):
        raise CheckpointError(f"a {type(model).__name__} is not a model or a part of one; nothing was saved")
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} is a file; name a folder to save to")
    make: Any = type(model)
    with torch.device("meta"):
        plain = make(model.config)
    wanted = {name: tuple(x.shape) for name, x in plain.state_dict().items()}
    held = {name: tuple(x.shape) for name, x in model.state_dict().items()}
    if differing := sorted(name for name in wanted.keys() | held.keys() if wanted.get(name) != held.get(name)):
        raise CheckpointError(
            "the model's parameters are not those of its config, so it could not be loaded again:\n  "
            + "\n  ".join(
                f"{name}: {held.get(name, 'none')} instead of {wanted.get(name, 'none')}" for name in differing
            )
        )


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder`, whose files take their places there once all of them are written."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        staging.chmod(0o755)  # mkdtemp's are private
        yield staging
        _exchange(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _describe(model: nn.Module, layout: Layout) -> dict[str, Any]:
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    if isinstance(model, VisionEncoder):
        return vision_to_json(model.config, dtype)
    if isinstance(model, LanguageModel):
        return language_to_json(model.config, dtype)
    assert isinstance(model, VideoLLaMA3)
    return to_json(with_layout_ids(model.config, layout), layout, dtype)


def with_layout_ids(config: ModelConfig, layout: Layout) -> ModelConfig:
    """transformers tells pictures from videos by their token ids, so one id for both cannot stay one in the hf layout.

    Which ids stand for visual tokens does not change the numbers (their embeddings are replaced), only which prompts
    fit. With the released vocabulary, the published hf ids are taken; `convert` asks the tokenizer instead.
    """
    released = config.language.vocab_size > 151665 and config.image_token_id == config.video_token_id == 151665
    if layout == "hf" and released:
        return replace(config, image_token_id=PUBLISHED_HF_IDS[0], video_token_id=PUBLISHED_HF_IDS[1])
    return config


def _named_for_file(model: nn.Module, layout: Layout) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in model.state_dict().items():
        if isinstance(model, VisionEncoder):
            yield name, tensor
        elif isinstance(model, LanguageModel):
            yield translate(LANGUAGE + name, FROM_OURS["official"]), tensor
        else:
            yield translate(name, FROM_OURS[layout]), tensor


def _generation_json(config: LanguageConfig, sampling: Mapping[str, Any]) -> dict[str, Any]:
    ends = config.eos_token_ids
    return {
        "bos_token_id": config.bos_token_id,
        "eos_token_id": ends[0] if len(ends) == 1 else (list(ends) or None),
        "do_sample": bool(sampling),
        **sampling,
    }


def _write_shards(tensors: Mapping[str, Tensor], folder: Path, max_shard_bytes: int) -> None:
    """One file, or several with an index; one shard at a time is held on the CPU."""
    shards: list[list[str]] = [[]]
    room = max_shard_bytes
    for name, tensor in tensors.items():
        if shards[-1] and tensor.nbytes > room:
            shards.append([])
            room = max_shard_bytes
        shards[-1].append(name)
        room -= tensor.nbytes
    files = ["model.safetensors"]
    if len(shards) > 1:
        files = [f"model-{n:05}-of-{len(shards):05}.safetensors" for n in range(1, len(shards) + 1)]
        write_json(
            folder / "model.safetensors.index.json",
            {
                "metadata": {"total_size": sum(tensor.nbytes for tensor in tensors.values())},
                "weight_map": {name: file for names, file in zip(shards, files, strict=True) for name in names},
            },
        )
    for names, file in zip(shards, files, strict=True):
        save_file({name: tensors[name].cpu().contiguous() for name in names}, folder / file, metadata={"format": "pt"})
        shutil.copymode(folder / "config.json", folder / file)  # safetensors writes files only their owner can read


def _exchange(staging: Path, folder: Path) -> None:
    """Put what was written in place of what was there."""
    if not folder.exists():
        os.rename(staging, folder)
        return
    new = sorted(staging.iterdir())
    for file in new:
        os.replace(file, folder / file.name)
    fresh = {file.name for file in new}
    for old in folder.iterdir():
        if OWN_FILES.fullmatch(old.name) and old.name not in fresh:
            old.unlink()
