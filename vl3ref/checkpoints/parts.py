"""The two towers in config.json, as sections of a whole model's or on their own.

    videollama3_vision_encoder, video_llama_3_vision    the encoder alone
    siglip, siglip_vision_model                         google's SigLIP, which it was made from
    qwen2, qwen3, llama                                 a plain decoder

A decoder's `model_type` follows from what it computes: norms of queries and keys are Qwen3's, biases on q, k and v
alone are Qwen2's, the rest is Llama's.
"""

from typing import Any

from vl3ref.checkpoints.values import Section
from vl3ref.config import LIMITS, LanguageConfig, RopeScaling, VisionConfig
from vl3ref.errors import ConfigError, quoted

VISION_TYPES = ("videollama3_vision_encoder", "video_llama_3_vision")
SIGLIP_TYPES = ("siglip", "siglip_vision_model")
DECODER_TYPES = {"qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM", "llama": "LlamaForCausalLM"}
"""`model_type` of a decoder, and transformers' class for it."""

SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")

DECODER_KEYS = (
    *("vocab_size", *SIZES, "num_key_value_heads", "rms_norm_eps", "rope_theta"),
    *("tie_word_embeddings", "max_position_embeddings", "bos_token_id"),
)
"""Written as `LanguageConfig` has them."""

SIGLIP_DEFAULTS = {**dict(zip(SIZES, (768, 3072, 12, 12), strict=True)), "patch_size": 16}
"""Of transformers' SiglipVisionConfig; google's files give only what differs."""

ROPE_KEYS = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": ("factor", "beta_fast", "beta_slow", "original_max_position_embeddings", "attention_factor"),
}
"""The numbers of each kind of rope scaling, named as in `RopeScaling`."""


def read_vision(raw: Section) -> VisionConfig:
    raw.only("hidden_act", "gelu_pytorch_tanh")
    raw.only("attention_dropout", 0)
    return VisionConfig(
        **{key: raw.size(key) for key in SIZES},
        patch_size=raw.size("patch_size", 14),
        num_channels=raw.size("num_channels", 3),
        layer_norm_eps=raw.number("layer_norm_eps", 1e-6),
        rope_theta=_read_rope(raw, kinds=("axial", "default"))[0],
    )


def write_vision(config: VisionConfig) -> dict[str, Any]:
    return {
        "model_type": "videollama3_vision_encoder",
        **{key: getattr(config, key) for key in (*SIZES, "patch_size", "num_channels", "layer_norm_eps")},
        "hidden_act": "gelu_pytorch_tanh",
        "attention_dropout": 0.0,
        **({} if config.rope_theta == 10000.0 else {"rope_theta": config.rope_theta}),
    }


def read_decoder(raw: Section, kind: str) -> LanguageConfig:
    """
    Args:
        kind: a `model_type` of DECODER_TYPES. What its file leaves out means what transformers' class takes it for.
    """
    raw.only("hidden_act", "silu")
    raw.only("attention_dropout", 0)
    raw.only("use_sliding_window", False)
    raw.only("quantization_config")
    raw.only("partial_rotary_factor", 1)
    layer_types = raw.get("layer_types") or []
    for layer_type in layer_types if isinstance(layer_types, list) else [layer_types]:
        Section({"layer_types": layer_type}, raw.where).only("layer_types", "full_attention")
    sizes = {key: raw.size(key) for key in ("vocab_size", *SIZES)}
    bias = kind != "qwen2" and raw.flag("attention_bias")
    rope_theta, rope_scaling = _read_rope(raw, kinds=tuple(ROPE_KEYS))
    return LanguageConfig(
        **sizes,
        num_key_value_heads=raw.size("num_key_value_heads", sizes["num_attention_heads"]),
        rms_norm_eps=raw.number("rms_norm_eps", 1e-6),
        rope_theta=rope_theta,
        tie_word_embeddings=raw.flag("tie_word_embeddings"),
        max_position_embeddings=raw.size("max_position_embeddings", 32768),
        bos_token_id=None if raw.get("bos_token_id") is None else raw.token_id("bos_token_id", LIMITS["vocab_size"]),
        eos_token_ids=raw.end_ids(),
        head_dim=0 if raw.get("head_dim") is None and kind != "qwen3" else raw.size("head_dim", 128),
        qk_norm=kind == "qwen3",
        qkv_bias=bias or kind == "qwen2",
        output_bias=bias,
        mlp_bias=kind == "llama" and raw.flag("mlp_bias"),
        rope_scaling=rope_scaling,
    )


def write_decoder(config: LanguageConfig) -> dict[str, Any]:
    """The keys of a decoder, the same in every layout. Those of the scaling are transformers 4's.

    Raises:
        ConfigError: no decoder of transformers computes the same.
    """
    plain = config.qkv_bias and not (config.output_bias or config.mlp_bias)
    kind = "qwen3" if config.qk_norm else "qwen2" if plain else "llama"
    if kind != "qwen2" and (config.qkv_bias != config.output_bias or (kind == "qwen3" and config.mlp_bias)):
        raise ConfigError(
            f"no decoder of {', '.join(DECODER_TYPES)} has these biases "
            f"(qkv_bias {config.qkv_bias}, output_bias {config.output_bias}, mlp_bias {config.mlp_bias})"
        )
    ends, scaling = config.eos_token_ids, config.rope_scaling
    keys: dict[str, Any] = {
        "model_type": kind,
        **{key: getattr(config, key) for key in DECODER_KEYS},
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "use_sliding_window": False,
        "sliding_window": None,
        "eos_token_id": ends[0] if len(ends) == 1 else (list(ends) or None),
        "rope_scaling": None,
    }
    if kind == "qwen3" or config.head_dim * config.num_attention_heads != config.hidden_size:
        keys["head_dim"] = config.head_dim
    if kind != "qwen2":
        keys["attention_bias"] = config.qkv_bias
    if kind == "llama":
        keys["mlp_bias"] = config.mlp_bias
    if scaling:
        numbers = {key: getattr(scaling, key) for key in ROPE_KEYS[scaling.kind]}
        keys["rope_scaling"] = {"rope_type": scaling.kind, **{k: v for k, v in numbers.items() if v is not None}}
    return keys


def _read_rope(raw: Section, kinds: tuple[str, ...]) -> tuple[float, RopeScaling | None]:
    """Theta and the scaling, from transformers 4's `rope_theta` and `rope_scaling` or 5's `rope_parameters`."""
    key = "rope_scaling" if raw.get("rope_scaling") else "rope_parameters"
    rope = raw.section(key) if raw.get(key) else Section({}, raw.where)
    theta = (raw if rope.get("rope_theta") is None else rope).number("rope_theta", 10000.0)
    kind: Any = rope.get("rope_type") or rope.get("type") or kinds[0]
    if kind not in kinds:
        raise ConfigError(f"{raw.where}: {key} of type {quoted(kind)} is not implemented (only {', '.join(kinds)})")
    rope.only("partial_rotary_factor", 1)
    rope.only("truncate", True)
    names = ROPE_KEYS.get(kind, ())
    if unknown := rope.values.keys() - {"rope_type", "type", "rope_theta", "partial_rotary_factor", "truncate", *names}:
        raise ConfigError(f"{rope.where} has {', '.join(sorted(unknown))}, which is not implemented")
    if not names:
        return theta, None
    numbers: dict[str, Any] = {"factor": rope.number("factor")}
    numbers |= {name: rope.number(name) for name in names if rope.get(name) is not None}
    if "original_max_position_embeddings" in names:
        default = raw.get("max_position_embeddings") or 32768
        numbers["original_max_position_embeddings"] = rope.size("original_max_position_embeddings", default)
    return theta, RopeScaling(kind, **numbers)
