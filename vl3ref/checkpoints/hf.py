"""The layout of Hugging Face's port: everything that differs from the official one.

config.json nests `text_config` and `vision_config`. Pictures and videos have a visual token each, by which transformers
tells them apart. Pruning is a setting of the video processor, not of the model. Folders hold what transformers'
AutoProcessor needs, the chat template included.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from vl3ref.checkpoints import parts
from vl3ref.checkpoints.official import NORMALISATION
from vl3ref.checkpoints.values import Section, dtype_of, flag, only, section, token_id
from vl3ref.config import ModelConfig
from vl3ref.errors import ConfigError
from vl3ref.hub import read_json_if_there
from vl3ref.inputs.processor_config import ProcessorConfig
from vl3ref.inputs.template import SYSTEM_PROMPT

MODEL_TYPES = ("video_llama_3",)

PREFIXES = {
    parts.VISION: "model.vision_model.",
    parts.PROJECTOR: "model.projector.",
    parts.HEAD: "lm_head.",
    parts.LANGUAGE: "model.language_model.",
}
"""What names of tensors begin with: in our model, in the files."""

VISUAL_TOKENS = ("<|image_pad|>", "<|video_pad|>")
"""What stands for a visual token of an image, and of a video."""

PUBLISHED_IDS = (151655, 151656)
"""Theirs in the published folders."""


def read_config(raw: Section, where: str, folder: Path | None) -> ModelConfig:
    """
    Args:
        folder: whose video processor says whether tokens are pruned; pruned if nothing is said.
    """
    text = section(raw, "text_config", where)
    # transformers 5 writes `tie_word_embeddings` beside the text_config as well as in it, and ties if either says so.
    text["tie_word_embeddings"] = any(flag(keys, "tie_word_embeddings", where) for keys in (raw, text))
    for key in ("bos_token_id", "eos_token_id"):
        if text.get(key) is None:
            text[key] = raw.get(key)
    text.setdefault("model_type", "qwen2")
    only(text, "model_type", tuple(parts.DECODER_TYPES), f"{where}, text_config")
    language = parts.read_decoder(text, f"{where}, text_config", text["model_type"])
    _, video = _processor_sections(folder) if folder else ({}, {})
    return ModelConfig(
        vision=parts.read_vision(section(raw, "vision_config", where), f"{where}, vision_config"),
        language=language,
        image_token_id=token_id(raw, "image_token_id", where, language.vocab_size),
        video_token_id=token_id(raw, "video_token_id", where, language.vocab_size),
        use_token_compression=flag(video, "use_token_compression", f"{folder}, video processor", default=True),
        dtype=dtype_of(raw if raw.get("dtype") or raw.get("torch_dtype") else text, where),
        layout="hf",
    )


def write_config(config: ModelConfig, dtype: str) -> dict[str, Any]:
    """
    Raises:
        ConfigError: the projector's depth is not 2.
    """
    if config.projector_depth != 2:
        raise ConfigError(f"the hf layout's projector has two layers, this model's has {config.projector_depth}")
    config = with_two_ids(config)
    text = parts.write_decoder(config.language)
    theta = config.language.rope_theta
    return {
        "architectures": ["VideoLlama3ForConditionalGeneration"],
        "model_type": "video_llama_3",
        "image_token_id": config.image_token_id,
        "video_token_id": config.video_token_id,
        "tie_word_embeddings": config.language.tie_word_embeddings,
        # transformers 4 reads rope_theta and rope_scaling, transformers 5 rope_parameters.
        "text_config": {
            **text,
            "rope_parameters": {"rope_type": "default", **(text["rope_scaling"] or {}), "rope_theta": theta},
            "layer_types": ["full_attention"] * config.language.num_hidden_layers,
        },
        "vision_config": {
            **parts.write_vision(config.vision),
            "model_type": "video_llama_3_vision",
            "rope_parameters": {"rope_type": "axial", "rope_theta": config.vision.rope_theta},
        },
        "dtype": dtype,
        "torch_dtype": dtype,
    }


def with_two_ids(config: ModelConfig) -> ModelConfig:
    """transformers tells images from videos by their token ids, so one id for both cannot stay one in this layout.

    Which ids stand for visual tokens does not change the numbers (their embeddings are replaced), only which prompts
    fit. With the released vocabulary, the published ids are taken; `saving.save` asks the tokenizer instead.
    """
    if config.language.vocab_size > 151665 and config.image_token_id == config.video_token_id == 151665:
        return replace(config, image_token_id=PUBLISHED_IDS[0], video_token_id=PUBLISHED_IDS[1])
    return config


def read_processor(folder: Path) -> dict[str, Any]:
    """The fields of ProcessorConfig that the folder's files give.

    hf limits the pixels of one picture or video; what its picture may hold becomes the conversation's budget here,
    since the sizes follow the official rule.
    """
    image, video = _processor_sections(folder)
    size, merge = image.get("size") or {}, image.get("merge_size")
    least = size.get("shortest_edge") or image.get("min_pixels")
    most = size.get("longest_edge") or image.get("max_pixels")
    unit = ((image.get("patch_size") or 14) * (merge or 1)) ** 2
    settings = {
        "fps": video.get("fps"),
        "max_frames": video.get("max_frames"),
        "image_merge_size": merge,
        "video_merge_size": video.get("merge_size"),
        "min_tokens": max(least // unit, 1) if least else None,
        "max_tokens": max(most // unit, 1) if most else None,
    }
    return {name: value for name, value in settings.items() if value is not None}


def write_processor(config: ProcessorConfig, model: ModelConfig) -> dict[str, dict[str, Any]]:
    """File name -> content. transformers 4 reads a file per processor, transformers 5 prefers them in one.

    hf has a pixel limit per picture or video where the official rule has a token budget per conversation. For one
    picture, or one video, they are the same.
    """

    def sizes(merge: int) -> dict[str, Any]:
        token = (config.patch_size * merge) ** 2  # pixels
        return {
            **NORMALISATION,
            "patch_size": config.patch_size,
            "temporal_patch_size": 1,
            "merge_size": merge,
            "size": {"shortest_edge": config.min_tokens * token, "longest_edge": config.max_tokens * token},
        }

    image = {"image_processor_type": "VideoLlama3ImageProcessor", **sizes(config.image_merge_size)}
    video = {
        "video_processor_type": "VideoLlama3VideoProcessor",
        **sizes(config.video_merge_size),
        "do_sample_frames": config.fps is not None,
        "fps": config.fps,
        "max_frames": config.max_frames,
        "use_token_compression": model.use_token_compression,
    }
    owner = {"processor_class": "VideoLlama3Processor"}
    return {
        "processor_config.json": {**owner, "image_processor": image, "video_processor": video},
        "preprocessor_config.json": {**owner, **image},
        "video_preprocessor_config.json": {**owner, **video},
    }


def _processor_sections(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of images and of videos: one file in transformers 5, a file for each in transformers 4."""
    nested = read_json_if_there(folder / "processor_config.json")
    return (
        nested.get("image_processor") or read_json_if_there(folder / "preprocessor_config.json"),
        nested.get("video_processor") or read_json_if_there(folder / "video_preprocessor_config.json"),
    )


CHAT_TEMPLATE = (
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
