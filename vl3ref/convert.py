"""A checkpoint folder in one layout -> a complete folder in the other.

Weights and config.json are `checkpoints.save_model`'s; here is what lies beside them: the tokenizer, the processor's
settings and the chat template. Converted to hf, transformers' AutoProcessor and generate work on the folder.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from vl3ref.checkpoints import load_model, save_model
from vl3ref.checkpoints.saving import staged, write_json
from vl3ref.config import Layout, ModelConfig
from vl3ref.config_json import read_config
from vl3ref.errors import CheckpointError
from vl3ref.hub import find_checkpoint
from vl3ref.inputs.chat import SYSTEM_PROMPT
from vl3ref.inputs.processor import load_processor
from vl3ref.inputs.processor_config import ProcessorConfig

VISUAL_TOKENS: dict[Layout, tuple[str, str]] = {
    "official": ("<image>", "<image>"),
    "hf": ("<|image_pad|>", "<|video_pad|>"),
}
"""What stands for a visual token of an image and of a video."""


def convert(source: str | Path, target: str | Path, layout: Layout, max_shard_bytes: int = 5_000_000_000) -> Path:
    """Rewrite a checkpoint in another layout, its dtype kept.

    Visual tokens get the ids that the layout's processor looks up by name; a tokenizer that lacks those names gets them
    added, as long as the embedding table has rows to spare. A folder without a tokenizer is converted without one.

    Args:
        source: a checkpoint folder of either layout, or a name.
        target: a folder that does not exist yet, or is empty.

    Returns:
        The target folder.

    Raises:
        CheckpointError: the target holds files already, or the tokenizer has no room for the layout's visual tokens.
        ConfigError: the layout cannot express the model.
    """
    folder, target = find_checkpoint(source), Path(target).absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise CheckpointError(f"{target} exists and is not empty; name a new folder")
    config = read_config(folder)
    model = load_model(folder, device="cpu", dtype=config.dtype)
    with staged(target) as staging:
        if _has_tokenizer(folder):
            processor = load_processor(folder, config)
            backend = processor.tokenizer.backend
            model.config = with_tokens(model.config, backend, layout)
            backend.save(str(staging / "tokenizer.json"))
            write_json(staging / "tokenizer_config.json", _tokenizer_json(backend, model.config))
            settings = _hf_files if layout == "hf" else official_files
            for name, content in settings(processor.config, model.config).items():
                write_json(staging / name, content)
            if layout == "hf":
                (staging / "chat_template.jinja").write_text(HF_CHAT_TEMPLATE, encoding="utf-8")
        save_model(model, staging, layout, max_shard_bytes)
    return target


def with_tokens(config: ModelConfig, backend: Backend, layout: Layout) -> ModelConfig:
    """The config with the ids of the layout's visual tokens; tokens the tokenizer lacks are added to it."""
    for token in dict.fromkeys(VISUAL_TOKENS[layout]):
        if backend.token_to_id(token) is None:
            backend.add_tokens([AddedToken(token, special=True, normalized=False)])
    image, video = (backend.token_to_id(token) or 0 for token in VISUAL_TOKENS[layout])
    if max(image, video) >= config.language.vocab_size:
        raise CheckpointError(
            f"the embedding table has {config.language.vocab_size} rows, and the tokenizer leaves none for "
            f"{' and '.join(dict.fromkeys(VISUAL_TOKENS[layout]))}, which the {layout} layout needs"
        )
    return replace(config, image_token_id=image, video_token_id=video)


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("tokenizer.json", "merges.txt"))


def _tokenizer_json(backend: Backend, config: ModelConfig) -> dict[str, Any]:
    """What transformers needs beside tokenizer.json."""
    ends = config.language.eos_token_ids
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": config.language.max_position_embeddings,
    }
    if ends:
        settings |= {"eos_token": backend.id_to_token(ends[0]), "pad_token": backend.id_to_token(ends[-1])}
    return settings


NORMALISATION = {
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "resample": 3,
    "rescale_factor": 1 / 255,
}


def official_files(config: ProcessorConfig, model: ModelConfig) -> dict[str, Mapping[str, Any]]:
    return {
        "processor_config.json": {
            "processor_class": "Videollama3Qwen2Processor",
            "fps": config.fps,
            "max_frames": config.max_frames,
            "image_merge_size": config.image_merge_size,
            "video_merge_size": config.video_merge_size,
        },
        "preprocessor_config.json": {
            "image_processor_type": "Videollama3ImageProcessor",
            "processor_class": "Videollama3Qwen2Processor",
            **NORMALISATION,
            "min_tokens": config.min_tokens,
            "max_tokens": config.max_tokens,
            "patch_size": config.patch_size,
        },
    }


def _hf_files(config: ProcessorConfig, model: ModelConfig) -> dict[str, Mapping[str, Any]]:
    """transformers 4 reads a file per processor, transformers 5 prefers them in one; both are written.

    hf has a pixel limit per picture or video where the official rule has a token budget per conversation. For one
    picture, or one video, they are the same.
    """

    def limits(merge: int) -> dict[str, int]:
        unit = (config.patch_size * merge) ** 2
        return {"shortest_edge": config.min_tokens * unit, "longest_edge": config.max_tokens * unit}

    image = {
        "image_processor_type": "VideoLlama3ImageProcessor",
        **NORMALISATION,
        "patch_size": config.patch_size,
        "temporal_patch_size": 1,
        "merge_size": config.image_merge_size,
        "size": limits(config.image_merge_size),
    }
    prunes = model.use_token_compression if config.diff_fp is None else config.diff_fp is not False
    video = {
        "video_processor_type": "VideoLlama3VideoProcessor",
        **NORMALISATION,
        "patch_size": config.patch_size,
        "temporal_patch_size": 1,
        "merge_size": config.video_merge_size,
        "size": limits(config.video_merge_size),
        "do_sample_frames": config.fps is not None,
        "fps": config.fps,
        "max_frames": config.max_frames,
        "use_token_compression": prunes,
    }
    owner = {"processor_class": "VideoLlama3Processor"}
    return {
        "processor_config.json": {**owner, "image_processor": image, "video_processor": video},
        "preprocessor_config.json": {**owner, **image},
        "video_preprocessor_config.json": {**owner, **video},
    }


HF_CHAT_TEMPLATE = (
    """\
{#- The official VideoLLaMA 3 prompt; the processor puts a video's timestamps and tokens in place of <|video_pad|>. -#}
{%- if messages[0].role != "system" and (add_system_prompt is not defined or add_system_prompt) -%}
{{- "<|im_start|>system\\nSYSTEM_PROMPT<|im_end|>\\n" -}}
{%- endif -%}
{%- for message in messages -%}
{{- ("<|stream_start|>stream\\n" if message.role == "stream" else "<|im_start|>" ~ message.role ~ "\\n") -}}
{%- for part in ([message.content] if message.content is string else message.content) -%}
{%- if part is string -%}{{- part -}}
{%- elif part.type == "text" -%}{{- part.text -}}
{%- elif part.type == "image" -%}
{%- if part.timestamp is defined -%}{{- "Time " ~ (part.timestamp | round(1)) ~ "s: " -}}{%- endif -%}
{{- "<|image_pad|>\\n" -}}
{%- elif part.type == "video" -%}{{- "<|video_pad|>\\n" -}}
{%- endif -%}
{%- endfor -%}
{{- ("<|stream_end|>" if message.role == "stream" else "<|im_end|>\\n") -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- "<|im_start|>assistant\\n" -}}{%- endif -%}
"""
).replace("SYSTEM_PROMPT", SYSTEM_PROMPT)
