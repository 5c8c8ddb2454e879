"""The two towers in config.json, as sections of a whole model's or on their own.

    videollama3_vision_encoder, video_llama_3_vision    the encoder alone
    siglip, siglip_vision_model                         google's SigLIP, which it was made from
    qwen2, qwen3, llama                                 a plain decoder

A decoder's `model_type` follows from what it computes: norms of queries and keys are Qwen3's, biases on q, k and v
alone are Qwen2's, the rest is Llama's.
"""

from typing import Any

from vl3ref.checkpoints.values import Section, end_ids, flag, number, only, section, size
from vl3ref.config import LanguageConfig, RopeScaling, VisionConfig
from vl3ref.errors import ConfigError

VISION, PROJECTOR, LANGUAGE = "vision_encoder.", "projector.", "language_model."
"""What names of tensors begin with in our model. Below these, names are the same in every layout."""

HEAD = LANGUAGE + "lm_head."
"""The head lies outside the decoder in every layout's files."""

VISION_TYPES = ("videollama3_vision_encoder", "video_llama_3_vision")
SIGLIP_TYPES = ("siglip", "siglip_vision_model")
DECODER_TYPES = {"qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM", "llama": "LlamaForCausalLM"}
"""`model_type` of a decoder, and transformers' class for it."""

SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")

SIGLIP_DEFAULTS = {**dict(zip(SIZES, (768, 3072, 12, 12), strict=True)), "patch_size": 16}
"""Of transformers' SiglipVisionConfig; google's files give only what differs."""

ROPE_KEYS = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": ("factor", "beta_fast", "beta_slow", "original_max_position_embeddings", "attention_factor"),
}
"""The numbers of each kind of rope scaling, named as in `RopeScaling`."""


def read_vision(raw: Section, where: str) -> VisionConfig:
    only(raw, "hidden_act", ("gelu_pytorch_tanh",), where)
    only(raw, "attention_dropout", (0, 0.0), where)
    return VisionConfig(
        **{key: size(raw, key, where) for key in SIZES},
        patch_size=size(raw, "patch_size", where, 14),
        num_channels=size(raw, "num_channels", where, 3),
        layer_norm_eps=number(raw, "layer_norm_eps", where, 1e-6),
        rope_theta=_read_rope(raw, where, kinds=("axial", "default"))[0],
    )


def write_vision(config: VisionConfig) -> dict[str, Any]:
    return {
        "model_type": "videollama3_vision_encoder",
        **{key: getattr(config, key) for key in SIZES},
        "patch_size": config.patch_size,
        "num_channels": config.num_channels,
        "layer_norm_eps": config.layer_norm_eps,
        "hidden_act": "gelu_pytorch_tanh",
        "attention_dropout": 0.0,
        **({} if config.rope_theta == 10000.0 else {"rope_theta": config.rope_theta}),
    }


def read_decoder(raw: Section, where: str, kind: str) -> LanguageConfig:
    """
    Args:
        kind: a `model_type` of DECODER_TYPES. What its file leaves out means what transformers' class takes it for.
    """
    only(raw, "hidden_act", ("silu",), where)
    only(raw, "attention_dropout", (0, 0.0), where)
    only(raw, "use_sliding_window", (False, None), where)
    only(raw, "quantization_config", (None,), where)
    only(raw, "partial_rotary_factor", (None, 1), where)
    layer_types = raw.get("layer_types") or []
    for layer_type in layer_types if isinstance(layer_types, list) else [layer_types]:
        only({"layer_types": layer_type}, "layer_types", ("full_attention",), where)
    sizes = {key: size(raw, key, where) for key in ("vocab_size", *SIZES)}
    head_dim = size(raw, "head_dim", where) if raw.get("head_dim") is not None else 128 if kind == "qwen3" else 0
    bias = kind != "qwen2" and flag(raw, "attention_bias", where)
    rope_theta, rope_scaling = _read_rope(raw, where, kinds=tuple(ROPE_KEYS))
    return LanguageConfig(
        **sizes,
        num_key_value_heads=size(raw, "num_key_value_heads", where, sizes["num_attention_heads"]),
        rms_norm_eps=number(raw, "rms_norm_eps", where, 1e-6),
        rope_theta=rope_theta,
        tie_word_embeddings=flag(raw, "tie_word_embeddings", where),
        max_position_embeddings=size(raw, "max_position_embeddings", where, 32768),
        bos_token_id=raw.get("bos_token_id"),
        eos_token_ids=end_ids(raw, where),
        head_dim=head_dim,
        qk_norm=kind == "qwen3",
        qkv_bias=bias or kind == "qwen2",
        output_bias=bias,
        mlp_bias=kind == "llama" and flag(raw, "mlp_bias", where),
        rope_scaling=rope_scaling,
    )


def write_decoder(config: LanguageConfig) -> dict[str, Any]:
    """The keys of a decoder, the same in every layout. Those of the scaling are transformers 4's.

    Raises:
        ConfigError: no decoder of transformers computes the same.
    """
    kind = "qwen3" if config.qk_norm else "llama"
    if config.qkv_bias and not (config.qk_norm or config.output_bias or config.mlp_bias):
        kind = "qwen2"
    elif config.qkv_bias != config.output_bias or (config.qk_norm and config.mlp_bias):
        raise ConfigError(
            f"no decoder of {', '.join(DECODER_TYPES)} has these biases "
            f"(qkv_bias {config.qkv_bias}, output_bias {config.output_bias}, mlp_bias {config.mlp_bias})"
        )
    ends, scaling = config.eos_token_ids, config.rope_scaling
    keys: dict[str, Any] = {
        "model_type": kind,
        **{key: getattr(config, key) for key in ("vocab_size", *SIZES, "num_key_value_heads", "rms_norm_eps")},
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "use_sliding_window": False,
        "sliding_window": None,
        "tie_word_embeddings": config.tie_word_embeddings,
        "max_position_embeddings": config.max_position_embeddings,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": ends[0] if len(ends) == 1 else (list(ends) or None),
        "rope_theta": config.rope_theta,
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


def _read_rope(raw: Section, where: str, kinds: tuple[str, ...]) -> tuple[float, RopeScaling | None]:
    """Theta and the scaling, from transformers 4's `rope_theta` and `rope_scaling` or 5's `rope_parameters`."""
    key = "rope_scaling" if raw.get("rope_scaling") else "rope_parameters"
    rope = section(raw, key, where) if raw.get(key) else {}
    theta = number(rope if rope.get("rope_theta") is not None else raw, "rope_theta", where, 10000.0)
    kind: Any = rope.get("rope_type") or rope.get("type") or kinds[0]
    if kind not in kinds:
        raise ConfigError(f"{where}: {key} of type {kind!r} is not implemented (only {', '.join(kinds)})")
    where = f"{where}, {key}"
    only(rope, "partial_rotary_factor", (None, 1), where)
    only(rope, "truncate", (None, True), where)
    names = ROPE_KEYS.get(kind, ())
    if unknown := rope.keys() - {"rope_type", "type", "rope_theta", "partial_rotary_factor", "truncate", *names}:
        raise ConfigError(f"{where} has {', '.join(sorted(unknown))}, which is not implemented")
    if not names:
        return theta, None
    numbers: dict[str, Any] = {"factor": number(rope, "factor", where)}
    numbers |= {name: number(rope, name, where) for name in names if rope.get(name) is not None}
    if "original_max_position_embeddings" in names:
        default = raw.get("max_position_embeddings") or 32768
        numbers["original_max_position_embeddings"] = size(rope, "original_max_position_embeddings", where, default)
    return theta, RopeScaling(kind, **numbers)
