"""Values of config.json, each checked as it is read.

Real files carry dozens of keys about training, remote code and caching. Those that cannot change what the model
computes are let through; a key that can, with a value this package does not compute, is refused by name. Every function
raises ConfigError with `where` (the file, and the section in it) in front.
"""

import math
from collections.abc import Mapping
from typing import Any

from vl3ref.errors import ConfigError

Section = Mapping[str, Any]

DTYPES = ("float32", "bfloat16", "float16", "float64")


def section(raw: Section, key: str, where: str) -> dict[str, Any]:
    """An object inside the object."""
    value = _need(raw, key, where)
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: {key} should be an object, not {value!r}")
    return dict(value)


def size(raw: Section, key: str, where: str, default: int | None = None) -> int:
    """A whole number above 0."""
    value = _need(raw if raw.get(key) is not None else {key: default}, key, where)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{where}: {key} should be a whole number above 0, not {value!r}")
    return value


def number(raw: Section, key: str, where: str, default: float | None = None) -> float:
    """A number above 0."""
    value = _need(raw if raw.get(key) is not None else {key: default}, key, where)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ConfigError(f"{where}: {key} should be a number above 0, not {value!r}")
    return float(value)


def flag(raw: Section, key: str, where: str, default: bool = False) -> bool:
    """True or false."""
    value = default if raw.get(key) is None else raw[key]
    if not isinstance(value, bool):
        raise ConfigError(f"{where}: {key} should be true or false, not {value!r}")
    return value


def token_id(raw: Section, key: str, where: str, vocab_size: int) -> int:
    """A token id within the vocabulary."""
    value = _need(raw, key, where)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < vocab_size:
        raise ConfigError(f"{where}: {key} should be a token id below {vocab_size}, not {value!r}")
    return value


def dtype_of(raw: Section, where: str) -> str:
    """`dtype` (transformers 5) or `torch_dtype` (transformers 4); float32 if the file gives none."""
    name = raw.get("dtype") or raw.get("torch_dtype") or "float32"
    if name not in DTYPES:
        raise ConfigError(f"{where}: dtype {name!r} is not implemented (only {', '.join(DTYPES)})")
    return name


def end_ids(raw: Section, where: str) -> tuple[int, ...]:
    """`eos_token_id`, which files write as one id, a list, or nothing, as a tuple."""
    value = raw.get("eos_token_id")
    ids = () if value is None else tuple(value) if isinstance(value, list | tuple) else (value,)
    if not all(isinstance(index, int) and not isinstance(index, bool) and index >= 0 for index in ids):
        raise ConfigError(f"{where}: eos_token_id should be a token id or a list of them, not {value!r}")
    return ids


def only(raw: Section, key: str, allowed: tuple[Any, ...], where: str) -> None:
    """Refuse any value but the allowed ones; the key may be absent."""
    if key in raw and raw[key] not in allowed:
        choices = " or ".join(repr(value) for value in allowed if value is not None)
        raise ConfigError(f"{where}: {key} {raw[key]!r} is not implemented (only {choices})")


def _need(raw: Section, key: str, where: str) -> Any:
    if raw.get(key) is None:
        raise ConfigError(f"{where} has no {key}")
    return raw[key]
