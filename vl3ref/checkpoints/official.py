"""The layout of the official release: everything that differs from Hugging Face's.

config.json has the decoder's keys on top and the encoder's in `vision_encoder_config`. One visual token, `<image>`,
stands for pictures and videos. `model_type` is videollama3_qwen2; for another decoder we write videollama3_qwen3 or
videollama3_llama, which the official code, made for Qwen2, refuses to load.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np

from vl3ref.checkpoints import parts
from vl3ref.checkpoints.values import Section
from vl3ref.config import ModelConfig
from vl3ref.errors import ConfigError, quoted
from vl3ref.files import read_json_if_there
from vl3ref.inputs.processor_config import ProcessorConfig

MODEL_TYPES = {f"videollama3_{kind}": kind for kind in parts.DECODER_TYPES}

SAMPLING = ("fps", "max_frames", "image_merge_size", "video_merge_size")
BUDGET = ("min_tokens", "max_tokens")
"""Fields of ProcessorConfig in processor_config.json and in preprocessor_config.json."""

VISUAL_TOKENS = ("<image>", "<image>")
"""What stands for a visual token of an image, and of a video."""


def read_config(raw: Section) -> ModelConfig:
    language = parts.read_decoder(raw, MODEL_TYPES[raw.get("model_type")])
    image_token_id = raw.token_id("image_token_index", language.vocab_size)
    return ModelConfig(
        vision=parts.read_vision(raw.section("vision_encoder_config")),
        language=language,
        image_token_id=image_token_id,
        video_token_id=image_token_id,
        projector_depth=_projector_depth(raw),
        use_token_compression=raw.flag("use_token_compression"),
        dtype=raw.dtype(),
        layout="official",
    )


def write_config(config: ModelConfig, dtype: str) -> dict[str, Any]:
    """
    Raises:
        ConfigError: the model has two visual token ids.
    """
    if config.image_token_id != config.video_token_id:
        raise ConfigError(
            "the official layout has one visual token id, this model has two "
            f"({config.image_token_id} for images, {config.video_token_id} for videos); "
            "replace both by one id that its tokenizer holds"
        )
    decoder = parts.write_decoder(config.language)
    kind = decoder["model_type"]
    return {
        "architectures": [f"Videollama3{kind.capitalize()}ForCausalLM"],
        **decoder,
        "model_type": f"videollama3_{kind}",
        "image_token_index": config.image_token_id,
        "mm_projector_type": f"mlp{config.projector_depth}x_gelu",
        "use_token_compression": config.use_token_compression,
        "vision_encoder": None,
        "vision_encoder_config": parts.write_vision(config.vision),
        "torch_dtype": dtype,
    }


def read_processor(folder: Path) -> dict[str, Any]:
    """The fields of ProcessorConfig that the folder's files give."""
    sampling = read_json_if_there(folder / "processor_config.json", ConfigError)
    sizes = read_json_if_there(folder / "preprocessor_config.json", ConfigError)
    check_normalisation(Section(sizes, str(folder / "preprocessor_config.json")))
    return {
        **{key: sampling[key] for key in SAMPLING if key in sampling},
        **{key: sizes[key] for key in BUDGET if sizes.get(key) is not None},
    }


def write_processor(config: ProcessorConfig, model: ModelConfig) -> dict[str, dict[str, Any]]:
    """File name -> content."""
    return {
        "processor_config.json": {
            "processor_class": "Videollama3Qwen2Processor",
            **{key: getattr(config, key) for key in SAMPLING},
        },
        "preprocessor_config.json": {
            "image_processor_type": "Videollama3ImageProcessor",
            "processor_class": "Videollama3Qwen2Processor",
            **NORMALISATION,
            **{key: getattr(config, key) for key in BUDGET},
            "patch_size": config.patch_size,
        },
    }


NORMALISATION: dict[str, Any] = {
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "resample": 3,
    "rescale_factor": 1 / 255,
}
"""What happens to pixels, the same in both layouts. `resample` 3 is Pillow's bicubic."""


def check_normalisation(settings: Section) -> None:
    """
    Raises:
        ConfigError: pixels were prepared in another way when the model was trained; answers would be wrong.
    """
    for key, ours in NORMALISATION.items():
        given = ours if settings.get(key) is None else settings.get(key)
        try:
            same = bool(np.allclose(np.broadcast_to(given, np.shape(ours)), ours, rtol=1e-3))
        except (TypeError, ValueError, OverflowError):  # text, a list of another length, 400 digits
            same = False
        if not same:
            raise ConfigError(f"{settings.where}: {key} is {quoted(given)}, and pixels are prepared with {ours} alone")


def _projector_depth(raw: Section) -> int:
    """`mlpNx_gelu` -> N linear layers with exact GELU between them; `linear` is N = 1."""
    kind = raw.get("mm_projector_type") or "mlp2x_gelu"
    match = re.fullmatch(r"mlp(\d{1,2})x_gelu", "mlp1x_gelu" if kind == "linear" else str(kind))
    if not match or not 1 <= int(match[1]) <= 16:
        raise ConfigError(
            f"{raw.where}: mm_projector_type {quoted(kind)} is not implemented (only mlpNx_gelu and linear)"
        )
    return int(match[1])
