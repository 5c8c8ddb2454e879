"""Modules and processors -> checkpoint folders, in either layout; and a folder of one layout -> one of the other.

Everything is first written under a temporary name beside the folder, so that a process that is killed leaves what was
there before. A folder appears, or is exchanged, all at once.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend
from torch import Tensor

from vl3ref.checkpoints import hf
from vl3ref.checkpoints.adapters import adapter_names, add_adapter, merge_adapters
from vl3ref.checkpoints.layouts import LANGUAGE, file_name, module_of, our_name, read_config
from vl3ref.checkpoints.loading import load_model, load_processor, saved_tensors, shapes_of, with_settings
from vl3ref.checkpoints.parts import DECODER_TYPES, write_decoder, write_vision
from vl3ref.checkpoints.tensor_files import write_tensors
from vl3ref.config import Layout, ModelConfig
from vl3ref.errors import ChangeError, CheckpointError, quoted
from vl3ref.files import listed, new_folder
from vl3ref.hub import find_checkpoint
from vl3ref.inputs.processor import Processor
from vl3ref.model.language_model import LanguageModel
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.model.vision import VisionEncoder

Saveable = VideoLLaMA3 | VisionEncoder | LanguageModel

SHARD_BYTES = 5_000_000_000
"""Weights beyond this are split over several files with an index, as the hub's are."""

OWN_FILES = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?")
"""Files of an earlier save that the next one removes, if it does not write them itself."""


def save(model: VideoLLaMA3, processor: Processor, folder: str | Path, layout: Layout = "official") -> Path:
    """Write a folder that `vl3ref.load` takes; in the hf layout, one that transformers' AutoProcessor takes as well.

    Returns the folder, which holds what `save_model` writes, the tokenizer and the processor's settings. In another
    layout than the model came in, visual tokens get the ids that the layout's processor looks up by name; a tokenizer
    that lacks those names gets them added in the folder, as long as the embedding table has rows to spare.

    Raises:
        ConfigError, ChangeError, CheckpointError: as in `check_saveable`; or the folder cannot be written.
    """
    return save_model(model, folder, layout, processor=processor)


def save_model(
    model: Saveable,
    folder: str | Path,
    layout: Layout = "official",
    max_shard_bytes: int = SHARD_BYTES,
    processor: Processor | None = None,
) -> Path:
    """Write weights, config.json and generation_config.json; returns the folder.

    What is written, transformers loads, unless the model was changed; then `load_model` with the same change does.

    Args:
        model: a whole model; or a part, which is written as a vision-only or a plain decoder's checkpoint.
        layout: of a whole model.
        processor: of a whole model, to be written as well, as in `save`.

    Raises:
        ConfigError, ChangeError, CheckpointError: as in `check_saveable`; or the folder cannot be written.
    """
    check_saveable(model, layout)
    if not isinstance(folder, str | Path):
        raise CheckpointError(f"a checkpoint's folder should be a path, not {quoted(folder)}")
    if processor is not None and not isinstance(processor, Processor):
        raise CheckpointError(f"processor should be the model's Processor, not {quoted(processor)}")
    folder = Path(folder).absolute()
    with new_folder(folder, CheckpointError, OWN_FILES) as staging:
        write_model(model, staging, layout, max_shard_bytes, processor)
    return folder


def write_model(
    model: Saveable,
    folder: Path,
    layout: Layout = "official",
    max_shard_bytes: int = SHARD_BYTES,
    processor: Processor | None = None,
) -> None:
    """What `save_model` does once the folder is there, which is not protected from being half written."""
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    tensors = saved_tensors(model)
    described: dict[str, Any]
    backend, files = None, {}
    if isinstance(model, VideoLLaMA3):
        config = model.config
        if processor is not None:
            backend, config = _with_visual_tokens(processor.tokenizer.backend, config, layout)
            files = _processor_files(processor, backend, config, layout)
        described = module_of(layout).write_config(config, dtype)
        tensors = {file_name(name, layout): x for name, x in tensors.items()}
    elif isinstance(model, LanguageModel):
        keys = write_decoder(model.config)
        described = {"architectures": [DECODER_TYPES[keys["model_type"]]], **keys, "torch_dtype": dtype}
        tensors = {file_name(LANGUAGE + name, "official"): x for name, x in tensors.items()}
    else:
        keys = write_vision(model.config)
        described = {"architectures": ["Videollama3VisionEncoderModel"], **keys, "torch_dtype": dtype}
    files["config.json"] = described
    if not isinstance(model, VisionEncoder):
        decoder = described.get("text_config", described)
        sampling = model.recommended_sampling if isinstance(model, VideoLLaMA3) else {}
        ids = {key: decoder[key] for key in ("bos_token_id", "eos_token_id")}
        files["generation_config.json"] = {**ids, "do_sample": bool(sampling), **sampling}
    for name, content in files.items():
        write_json(folder / name, content)
    if backend is not None:
        (folder / "tokenizer.json").write_text(backend.to_str(pretty=True), encoding="utf-8")
    if backend is not None and layout == "hf":
        (folder / "chat_template.jinja").write_text(hf.CHAT_TEMPLATE, encoding="utf-8")
    _write_shards(tensors, folder, max_shard_bytes)


def convert(
    source: str | Path,
    target: str | Path,
    layout: Layout | None = None,
    merge: Mapping[Any, float] | None = None,
) -> Path:
    """Rewrite a checkpoint in another layout, its dtype kept: weights, tokenizer, processor settings, chat template.

    A folder without a tokenizer is converted without one. Returns the target folder.

    Args:
        source: a checkpoint folder of either layout, or a name.
        target: a folder that does not exist yet, or is empty.
        layout: default: the source's own.
        merge: folders of LoRA adapters that are put into the weights, each with its share (1 is all of it). The
            processor's settings become those of the first.

    Raises:
        CheckpointError: the target holds files already, or cannot be written; or the tokenizer has no room for the
            layout's visual tokens.
        ConfigError: the layout cannot express the model.
    """
    folder, target = find_checkpoint(source), Path(target).absolute()
    if os.path.lexists(target) and (not os.path.isdir(target) or os.listdir(target)):
        raise CheckpointError(f"{target} exists and is not empty; name a new folder")
    config = read_config(folder)
    has_tokenizer = any((folder / name).exists() for name in ("tokenizer.json", "merges.txt"))
    processor = load_processor(folder) if has_tokenizer else None
    model = load_model(folder, device="cpu", dtype="float32" if merge else config.dtype)
    if merge:
        for number, place in enumerate(merge):
            add_adapter(model, place, f"adapter_{number}")
        merge_adapters(model, dict(zip(adapter_names(model), merge.values(), strict=True)))
        model = model.to(getattr(torch, config.dtype))
        processor = with_settings(processor, next(iter(merge))) if processor else None
    return save_model(model, target, layout or config.layout, processor=processor)


def check_saveable(model: Saveable, layout: Layout = "official", processor: Processor | None = None) -> None:
    """Find out before a training run whether its checkpoints can be written and loaded again.

    Args:
        processor: that `save` will be given.

    Raises:
        ConfigError: the layout cannot express the model.
        ChangeError: lists the tensors of a changed model that would be lost or mistaken for others.
        CheckpointError: it is not a model; or the vocabulary has no room for the layout's visual tokens.
    """
    if not isinstance(model, Saveable):
        raise CheckpointError(f"a {type(model).__name__} is not a model or a part of one; nothing was saved")
    if adapter_names(model):
        raise ChangeError(
            "the model has LoRA adapters: save those (save_adapter), or put them in first (merge_adapters)"
        )
    format_of, problems = module_of(layout), []
    for name, x in model.state_dict(keep_vars=True).items():
        if not isinstance(x, Tensor):
            problems.append(f"{name} is a {type(x).__name__}, and only tensors are saved")
        elif x.is_meta or x.layout != torch.strided or x.is_quantized or x.is_complex():
            problems.append(f"{name} is not a plain tensor of numbers in memory")
        elif isinstance(model, VideoLLaMA3) and (read_as := our_name(file_name(name, layout))) != name:
            problems.append(f"{name} would be taken for {read_as}: give it another name")
    if isinstance(model, VideoLLaMA3):
        one_id = replace(model.config, video_token_id=model.config.image_token_id)  # `save` sets them by the layout
        format_of.write_config(one_id, "float32")
        if processor is not None:
            _with_visual_tokens(processor.tokenizer.backend, model.config, layout)
    else:  # parts are loaded without a change
        make: Any = type(model)
        with torch.device("meta"):
            plain = shapes_of(make(model.config))
        held = shapes_of(model)
        differing = sorted(name for name in plain.keys() | held.keys() if plain.get(name) != held.get(name))
        problems += [f"{name}: {held.get(name, 'none')} instead of {plain.get(name, 'none')}" for name in differing]
    if problems:
        raise ChangeError(f"the model could not be loaded again:{listed(problems)}")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _with_visual_tokens(backend: Backend, config: ModelConfig, layout: Layout) -> tuple[Backend, ModelConfig]:
    """The tokenizer, or a copy with the layout's visual tokens where it lacks them; and the config with their ids."""
    tokens = module_of(layout).VISUAL_TOKENS
    if layout == config.layout and len(config.visual_token_ids) == len(set(tokens)):
        return backend, config
    if lacking := [token for token in dict.fromkeys(tokens) if backend.token_to_id(token) is None]:
        backend = Backend.from_str(backend.to_str())
        backend.add_tokens([AddedToken(token, special=True, normalized=False) for token in lacking])
    image, video = (backend.token_to_id(token) or 0 for token in tokens)
    if max(image, video) >= config.language.vocab_size:
        raise CheckpointError(
            f"the embedding table has {config.language.vocab_size} rows, and the tokenizer leaves none for "
            f"{' and '.join(dict.fromkeys(tokens))}, which the {layout} layout needs"
        )
    return backend, replace(config, image_token_id=image, video_token_id=video)


def _processor_files(processor: Processor, backend: Backend, config: ModelConfig, layout: Layout) -> dict[str, Any]:
    """File name -> content, of the processor's and the tokenizer's settings."""
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": config.language.max_position_embeddings,
    }
    if ends := config.language.eos_token_ids:
        settings |= {"eos_token": backend.id_to_token(ends[0]), "pad_token": backend.id_to_token(ends[-1])}
    return {"tokenizer_config.json": settings, **module_of(layout).write_processor(processor.config, config)}


def _write_shards(tensors: Mapping[str, Tensor], folder: Path, max_shard_bytes: int) -> None:
    """One file, or several with an index; one shard at a time is held on the CPU."""
    from huggingface_hub import split_torch_state_dict_into_shards

    split = split_torch_state_dict_into_shards(dict(tensors), max_shard_size=max_shard_bytes)
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        write_json(folder / "model.safetensors.index.json", index)
    for file, names in split.filename_to_tensors.items():
        shard: dict[str, Tensor] = {}
        seen: set[int] = set()
        for name in names:
            x = tensors[name].detach().cpu().contiguous()
            memory = x.untyped_storage().data_ptr()
            shard[name] = x.clone() if memory in seen else x  # safetensors refuses tensors that share memory
            seen.add(memory)
        write_tensors(shard, folder / file)
