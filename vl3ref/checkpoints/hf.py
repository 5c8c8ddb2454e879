"""The layout of Hugging Face's port: everything that differs from the official one.

config.json nests `text_config` and `vision_config`. Pictures and videos have a visual token each, by which transformers
tells them apart. Pruning is a setting of the video processor, not of the model. Folders hold what transformers'
AutoProcessor needs, the chat template included.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from vl3ref.checkpoints import parts
from vl3ref.checkpoints.official import NORMALISATION, check_normalisation
from vl3ref.checkpoints.values import Section
from vl3ref.config import ModelConfig
from vl3ref.errors import ConfigError
from vl3ref.files import read_json_if_there
from vl3ref.inputs.processor_config import ProcessorConfig
from vl3ref.inputs.template import SYSTEM_PROMPT

MODEL_TYPES = ("video_llama_3",)

VISUAL_TOKENS = ("<|image_pad|>", "<|video_pad|>")
"""What stands for a visual token of an image, and of a video."""

_TEMPLATE = Path(__file__).parent / "chat_template.jinja"
CHAT_TEMPLATE = _TEMPLATE.read_text(encoding="utf-8").replace("SYSTEM_PROMPT", SYSTEM_PROMPT)


def read_config(raw: Section, folder: Path | None) -> ModelConfig:
    """
    Args:
        folder: whose video processor says whether tokens are pruned; pruned if nothing is said.
    """
    nested = raw.section("text_config")
    nested.only("model_type", *parts.DECODER_TYPES)
    # transformers 5 writes `tie_word_embeddings` beside the text_config as well as in it, and ties if either says so.
    tied = raw.flag("tie_word_embeddings") or nested.flag("tie_word_embeddings")
    ids = {key: raw.get(key) for key in ("bos_token_id", "eos_token_id") if nested.get(key) is None}
    text = Section({**nested.values, **ids, "tie_word_embeddings": tied}, nested.where)
    language = parts.read_decoder(text, text.get("model_type") or "qwen2")
    video = _processor_sections(folder)[1] if folder else Section({}, "video processor")
    return ModelConfig(
        vision=parts.read_vision(raw.section("vision_config")),
        language=language,
        image_token_id=raw.token_id("image_token_id", language.vocab_size),
        video_token_id=raw.token_id("video_token_id", language.vocab_size),
        use_token_compression=video.flag("use_token_compression", default=True),
        dtype=raw.dtype(),
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
        return replace(config, image_token_id=151655, video_token_id=151656)
    return config


def read_processor(folder: Path) -> dict[str, Any]:
    """The fields of ProcessorConfig that the folder's files give.

    hf limits the pixels of one picture or video; what its picture may hold becomes the conversation's budget here,
    since the sizes follow the official rule.
    """
    image, video = _processor_sections(folder)
    for section in (image, video):
        check_normalisation(section)
    size = image.section("size") if image.get("size") else Section({}, image.where)
    unit = (image.size("patch_size", 14) * image.size("merge_size", 1)) ** 2
    found = {
        "fps": video.get("fps"),
        "max_frames": video.get("max_frames"),
        "image_merge_size": image.get("merge_size"),
        "video_merge_size": video.get("merge_size"),
    }
    for end, edge in (("min", "shortest_edge"), ("max", "longest_edge")):
        section, key = (size, edge) if size.get(edge) else (image, f"{end}_pixels")
        found[f"{end}_tokens"] = max(section.size(key) // unit, 1) if section.get(key) else None
    return {name: value for name, value in found.items() if value is not None}


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


def _processor_sections(folder: Path) -> tuple[Section, Section]:
    """Of images and of videos: one file in transformers 5, a file for each in transformers 4."""
    path = folder / "processor_config.json"
    nested = Section(read_json_if_there(path, ConfigError), str(path))

    def section(key: str, file: str) -> Section:
        if nested.get(key):
            return nested.section(key)
        return Section(read_json_if_there(folder / file, ConfigError), str(folder / file))

    return (
        section("image_processor", "preprocessor_config.json"),
        section("video_processor", "video_preprocessor_config.json"),
    )
