"""config.json -> the dataclasses of `config.py`, for every file of the family.

Four kinds of file describe a VideoLLaMA 3 or a part of it, told apart by `model_type`:

    videollama3_qwen2                          the official release: decoder keys on top, vision_encoder_config inside
    video_llama_3                              Hugging Face's port: text_config and vision_config inside
    videollama3_vision_encoder, siglip, ...    a vision encoder alone
    qwen2                                      a plain Qwen2.5 decoder

Real files carry dozens of keys about training, remote code and caching. Those that cannot change what the model
computes are let through; a key that can, with a value this package does not compute, is refused by name.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vl3ref.config import LanguageConfig, ModelConfig, VisionConfig
from vl3ref.errors import ConfigError

OFFICIAL_MODEL_TYPES = ("videollama3_qwen2",)
HF_MODEL_TYPES = ("video_llama_3",)
QWEN2_MODEL_TYPES = ("qwen2",)
VISION_MODEL_TYPES = ("videollama3_vision_encoder", "video_llama_3_vision")
SIGLIP_MODEL_TYPES = ("siglip", "siglip_vision_model")

DTYPES = ("float32", "bfloat16", "float16", "float64")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        ConfigError: the file is missing, is not JSON, or holds something other than an object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist; a checkpoint folder needs its {path.name}") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path} should hold a JSON object, not a {type(content).__name__}")
    return content


def read_config(source: Mapping[str, Any] | str | Path) -> ModelConfig:
    """A whole model's config from either layout's config.json (a dict, the file, or the folder that holds it).

    Raises:
        ConfigError: a key is missing, or has a value that changes the computation in a way not implemented here.
    """
    raw, where = _open(source)
    match raw.get("model_type"):
        case kind if kind in OFFICIAL_MODEL_TYPES:
            return _official(raw, where)
        case kind if kind in HF_MODEL_TYPES:
            return _hf(raw, where)
        case kind:
            raise ConfigError(
                f"{where}: model_type {kind!r} is not a VideoLLaMA 3 "
                f"(known: {', '.join(OFFICIAL_MODEL_TYPES + HF_MODEL_TYPES)})"
            )


def read_vision_config(source: Mapping[str, Any] | str | Path) -> VisionConfig:
    """The vision encoder's config from a vision-only checkpoint, google's SigLIP, or either layout of a whole model."""
    raw, where = _open(source)
    kind = raw.get("model_type")
    if kind in OFFICIAL_MODEL_TYPES + HF_MODEL_TYPES:
        return read_config(raw).vision
    if kind in SIGLIP_MODEL_TYPES:
        section = _section(raw, "vision_config", where) if kind == "siglip" else raw
        return _vision({**_SIGLIP_DEFAULTS, **section}, where)
    if kind in VISION_MODEL_TYPES:
        return _vision(raw, where)
    raise ConfigError(
        f"{where}: model_type {kind!r} is not a vision encoder "
        f"(known: {', '.join(VISION_MODEL_TYPES + SIGLIP_MODEL_TYPES)})"
    )


def read_language_config(source: Mapping[str, Any] | str | Path) -> LanguageConfig:
    """The decoder's config from a plain Qwen2.5 checkpoint or from either layout of a whole model."""
    raw, where = _open(source)
    kind = raw.get("model_type")
    if kind in OFFICIAL_MODEL_TYPES + HF_MODEL_TYPES:
        return read_config(raw).language
    if kind in QWEN2_MODEL_TYPES:
        return _language(raw, where)
    raise ConfigError(f"{where}: model_type {kind!r} is not a Qwen2 decoder (known: {', '.join(QWEN2_MODEL_TYPES)})")


def _open(source: Mapping[str, Any] | str | Path) -> tuple[dict[str, Any], str]:
    if isinstance(source, Mapping):
        return dict(source), "config"
    path = Path(source)
    path = path / "config.json" if path.is_dir() else path
    return read_json(path), str(path)


def _official(raw: dict[str, Any], where: str) -> ModelConfig:
    language = _language(raw, where)
    image_token_id = _id(raw, "image_token_index", where, language.vocab_size)
    return ModelConfig(
        vision=_vision(_section(raw, "vision_encoder_config", where), f"{where}, vision_encoder_config"),
        language=language,
        image_token_id=image_token_id,
        video_token_id=image_token_id,
        projector_depth=_projector_depth(raw.get("mm_projector_type", "mlp2x_gelu"), where),
        use_token_compression=_flag(raw, "use_token_compression", where),
        dtype=_dtype(raw, where),
        layout="official",
    )


def _hf(raw: dict[str, Any], where: str) -> ModelConfig:
    text = _section(raw, "text_config", where)
    # transformers 5 writes `tie_word_embeddings` beside the text_config as well as in it, and ties if either says so.
    tied = [_flag(section, "tie_word_embeddings", where) for section in (raw, text)]
    text = {**text, "tie_word_embeddings": any(tied)}
    for key in ("bos_token_id", "eos_token_id"):
        if text.get(key) is None:
            text[key] = raw.get(key)
    language = _language(text, f"{where}, text_config")
    return ModelConfig(
        vision=_vision(_section(raw, "vision_config", where), f"{where}, vision_config"),
        language=language,
        image_token_id=_id(raw, "image_token_id", where, language.vocab_size),
        video_token_id=_id(raw, "video_token_id", where, language.vocab_size),
        dtype=_dtype(raw, where, text),
        layout="hf",
    )


def _vision(raw: dict[str, Any], where: str) -> VisionConfig:
    _only(raw, "hidden_act", ("gelu_pytorch_tanh",), where)
    _only(raw, "attention_dropout", (0, 0.0), where)
    return VisionConfig(
        **{key: _whole(raw, key, where) for key in VISION_SIZES},
        patch_size=_whole(raw, "patch_size", where, 14),
        num_channels=_whole(raw, "num_channels", where, 3),
        layer_norm_eps=_number(raw, "layer_norm_eps", where, 1e-6),
        rope_theta=_rope_theta(raw, where, default=10000.0, kinds=("axial", "default")),
    )


def _language(raw: dict[str, Any], where: str) -> LanguageConfig:
    _only(raw, "hidden_act", ("silu",), where)
    _only(raw, "attention_dropout", (0, 0.0), where)
    _only(raw, "use_sliding_window", (False, None), where)
    _only(raw, "quantization_config", (None,), where)
    layer_types = raw.get("layer_types") or []
    for layer_type in layer_types if isinstance(layer_types, list) else [layer_types]:
        _only({"layer_types": layer_type}, "layer_types", ("full_attention",), where)
    sizes = {key: _whole(raw, key, where) for key in LANGUAGE_SIZES}
    _only(raw, "head_dim", (None, sizes["hidden_size"] // sizes["num_attention_heads"]), where)
    return LanguageConfig(
        **sizes,
        num_key_value_heads=_whole(raw, "num_key_value_heads", where, sizes["num_attention_heads"]),
        rms_norm_eps=_number(raw, "rms_norm_eps", where, 1e-6),
        rope_theta=_rope_theta(raw, where, default=10000.0, kinds=("default",)),
        tie_word_embeddings=_flag(raw, "tie_word_embeddings", where),
        max_position_embeddings=_whole(raw, "max_position_embeddings", where, 32768),
        bos_token_id=raw.get("bos_token_id"),
        eos_token_ids=token_ids(raw.get("eos_token_id"), where),
    )


VISION_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
LANGUAGE_SIZES = ("vocab_size", *VISION_SIZES)

# google's files give only what differs from transformers' SiglipVisionConfig, whose defaults these are.
_SIGLIP_DEFAULTS = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "patch_size": 16,
}


def token_ids(value: Any, where: str) -> tuple[int, ...]:
    """End-of-text ids as files write them (one id, a list, or nothing) -> a tuple."""
    ids = () if value is None else tuple(value) if isinstance(value, list | tuple) else (value,)
    for token_id in ids:
        if not isinstance(token_id, int) or isinstance(token_id, bool) or token_id < 0:
            raise ConfigError(f"{where}: eos_token_id should be a token id or a list of them, not {value!r}")
    return ids


def _rope_theta(raw: dict[str, Any], where: str, default: float, kinds: tuple[str, ...]) -> float:
    """`rope_theta` (transformers 4) or `rope_parameters.rope_theta` (transformers 5); any scaling is refused."""
    sections = {key: _section(raw, key, where) for key in ("rope_scaling", "rope_parameters") if raw.get(key)}
    for key, section in sections.items():
        kind = section.get("rope_type", section.get("type", kinds[0]))
        if kind not in kinds:
            raise ConfigError(f"{where}: {key} of type {kind!r} is not implemented (only {' or '.join(kinds)})")
        extra = set(section) - {"rope_type", "type", "rope_theta"}
        if extra:
            raise ConfigError(f"{where}: {key} has {', '.join(sorted(extra))}, which is not implemented")
    inside = sections.get("rope_parameters", {})
    return _number(inside if inside.get("rope_theta") is not None else raw, "rope_theta", where, default)


def _projector_depth(kind: Any, where: str) -> int:
    """`mlpNx_gelu` -> N linear layers with exact GELU between them; `linear` is N = 1."""
    if kind == "linear":
        return 1
    match = re.fullmatch(r"mlp(\d+)x_gelu", str(kind))
    if not match or not 1 <= int(match[1]) <= 16:
        raise ConfigError(f"{where}: mm_projector_type {kind!r} is not implemented (only mlpNx_gelu and linear)")
    return int(match[1])


def _dtype(raw: dict[str, Any], where: str, text: Mapping[str, Any] | None = None) -> str:
    written = [section.get(key) for section in (raw, text or {}) for key in ("dtype", "torch_dtype")]
    name = next(filter(None, written), "float32")
    if name not in DTYPES:
        raise ConfigError(f"{where}: dtype {name!r} is not implemented (only {', '.join(DTYPES)})")
    return name


def _need(raw: Mapping[str, Any], key: str, where: str) -> Any:
    if raw.get(key) is None:
        raise ConfigError(f"{where} has no {key}")
    return raw[key]


def _whole(raw: Mapping[str, Any], key: str, where: str, default: int | None = None) -> int:
    """A size: a whole number above 0."""
    value = default if raw.get(key) is None else raw[key]
    if value is None:
        raise ConfigError(f"{where} has no {key}")
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{where}: {key} should be a whole number above 0, not {value!r}")
    return value


def _number(raw: Mapping[str, Any], key: str, where: str, default: float) -> float:
    """A number above 0."""
    value = default if raw.get(key) is None else raw[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ConfigError(f"{where}: {key} should be a number above 0, not {value!r}")
    return float(value)


def _flag(raw: Mapping[str, Any], key: str, where: str) -> bool:
    """True or false; false where it is not said."""
    value = raw.get(key)
    if value is not None and not isinstance(value, bool):
        raise ConfigError(f"{where}: {key} should be true or false, not {value!r}")
    return bool(value)


def _id(raw: Mapping[str, Any], key: str, where: str, vocab_size: int) -> int:
    """A token id within the vocabulary."""
    value = _need(raw, key, where)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < vocab_size:
        raise ConfigError(f"{where}: {key} should be a token id below {vocab_size}, not {value!r}")
    return value


def _section(raw: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    section = _need(raw, key, where)
    if not isinstance(section, Mapping):
        raise ConfigError(f"{where}: {key} should be an object, not {section!r}")
    return dict(section)


def _only(raw: Mapping[str, Any], key: str, allowed: tuple[Any, ...], where: str) -> None:
    if key in raw and raw[key] not in allowed:
        choices = " or ".join(repr(value) for value in allowed if value is not None)
        raise ConfigError(f"{where}: {key} {raw[key]!r} is not implemented (only {choices})")
