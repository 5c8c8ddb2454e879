"""The dataclasses of `config.py` -> config.json, in either layout; `config_json.py` reads it back."""

from typing import Any

from vl3ref.config import LanguageConfig, Layout, ModelConfig, VisionConfig
from vl3ref.config_json import LANGUAGE_SIZES, VISION_SIZES
from vl3ref.errors import ConfigError


def to_json(config: ModelConfig, layout: Layout, dtype: str) -> dict[str, Any]:
    """The config.json that the official code or transformers reads back as `config`.

    Args:
        layout: whose keys to write.
        dtype: of the weights that lie beside it ("float32", "bfloat16", ...).

    Raises:
        ConfigError: the layout cannot say what the config says (a projector of other depth than 2 in hf; two visual
            token ids in the official one).
    """
    if layout == "official":
        return _to_official(config, dtype)
    if layout == "hf":
        return _to_hf(config, dtype)
    raise ConfigError(f"no layout named {layout!r}; there are official and hf")


def vision_to_json(config: VisionConfig, dtype: str) -> dict[str, Any]:
    """The config.json of a vision-only checkpoint (as DAMO-NLP-SG/VL3-SigLIP-NaViT has it)."""
    return {
        "architectures": ["Videollama3VisionEncoderModel"],
        "model_type": "videollama3_vision_encoder",
        **_vision_keys(config),
        "torch_dtype": dtype,
    }


def language_to_json(config: LanguageConfig, dtype: str) -> dict[str, Any]:
    """The config.json of a plain Qwen2 checkpoint."""
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        **_language_keys(config),
        "rope_theta": config.rope_theta,
        "torch_dtype": dtype,
    }


def _to_official(config: ModelConfig, dtype: str) -> dict[str, Any]:
    if config.image_token_id != config.video_token_id:
        raise ConfigError(
            "the official layout has one visual token id, this model has two "
            f"({config.image_token_id} for images, {config.video_token_id} for videos); "
            "replace both by one id that its tokenizer holds"
        )
    return {
        "architectures": ["Videollama3Qwen2ForCausalLM"],
        "model_type": "videollama3_qwen2",
        **_language_keys(config.language),
        "rope_scaling": None,
        "rope_theta": config.language.rope_theta,
        "image_token_index": config.image_token_id,
        "mm_projector_type": f"mlp{config.projector_depth}x_gelu",
        "use_token_compression": config.use_token_compression,
        "vision_encoder": None,
        "vision_encoder_config": {"model_type": "videollama3_vision_encoder", **_vision_keys(config.vision)},
        "torch_dtype": dtype,
    }


def _to_hf(config: ModelConfig, dtype: str) -> dict[str, Any]:
    if config.projector_depth != 2:
        raise ConfigError(f"the hf layout's projector has two layers, this model's has {config.projector_depth}")
    theta = config.language.rope_theta
    return {
        "architectures": ["VideoLlama3ForConditionalGeneration"],
        "model_type": "video_llama_3",
        "image_token_id": config.image_token_id,
        "video_token_id": config.video_token_id,
        "tie_word_embeddings": config.language.tie_word_embeddings,
        # transformers 4 reads the flat keys, transformers 5 the rope_parameters.
        "text_config": {
            "model_type": "qwen2",
            **_language_keys(config.language),
            "rope_theta": theta,
            "rope_parameters": {"rope_type": "default", "rope_theta": theta},
            "layer_types": ["full_attention"] * config.language.num_hidden_layers,
        },
        "vision_config": {
            "model_type": "video_llama_3_vision",
            **_vision_keys(config.vision),
            "rope_parameters": {"rope_type": "axial", "rope_theta": config.vision.rope_theta},
        },
        "dtype": dtype,
        "torch_dtype": dtype,
    }


def _vision_keys(config: VisionConfig) -> dict[str, Any]:
    return {
        **{key: getattr(config, key) for key in VISION_SIZES},
        "patch_size": config.patch_size,
        "num_channels": config.num_channels,
        "layer_norm_eps": config.layer_norm_eps,
        "hidden_act": "gelu_pytorch_tanh",
        "attention_dropout": 0.0,
        **({} if config.rope_theta == 10000.0 else {"rope_theta": config.rope_theta}),
    }


def _language_keys(config: LanguageConfig) -> dict[str, Any]:
    ends = config.eos_token_ids
    return {
        **{key: getattr(config, key) for key in LANGUAGE_SIZES},
        "num_key_value_heads": config.num_key_value_heads,
        "rms_norm_eps": config.rms_norm_eps,
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "use_sliding_window": False,
        "sliding_window": None,
        "tie_word_embeddings": config.tie_word_embeddings,
        "max_position_embeddings": config.max_position_embeddings,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": ends[0] if len(ends) == 1 else (list(ends) or None),
    }
