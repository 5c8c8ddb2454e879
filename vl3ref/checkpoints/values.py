"""Values of config.json, each checked as it is read.

Real files carry dozens of keys about training, remote code and caching. Those that cannot change what the model
computes are let through; a key that can, with a value this package does not compute, is refused by name. Every function
raises ConfigError, with `where` (the file, and the section in it) in front.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from vl3ref.errors import ConfigError

Section = Mapping[str, Any]

DTYPES = ("float32", "bfloat16", "float16", "float64")


def section(raw: Section, key: str, where: str) -> dict[str, Any]:
    return dict(_value(raw, key, where, None, "an object", lambda value: isinstance(value, Mapping)))


def size(raw: Section, key: str, where: str, default: int | None = None) -> int:
    return _value(raw, key, where, default, "a whole number above 0", lambda value: type(value) is int and value > 0)


def number(raw: Section, key: str, where: str, default: float | None = None) -> float:
    def valid(value: Any) -> bool:
        return type(value) in (int, float) and 0 < value < math.inf

    return float(_value(raw, key, where, default, "a number above 0", valid))


def flag(raw: Section, key: str, where: str, default: bool = False) -> bool:
    return _value(raw, key, where, default, "true or false", lambda value: type(value) is bool)


def token_id(raw: Section, key: str, where: str, vocab_size: int) -> int:
    def valid(value: Any) -> bool:
        return type(value) is int and 0 <= value < vocab_size

    return _value(raw, key, where, None, f"a token id below {vocab_size}", valid)


def end_ids(raw: Section, where: str) -> tuple[int, ...]:
    """`eos_token_id`, which files write as one id, a list, or nothing, as a tuple."""
    value = raw.get("eos_token_id")
    ids = () if value is None else tuple(value) if isinstance(value, list | tuple) else (value,)
    if not all(type(index) is int and index >= 0 for index in ids):
        raise ConfigError(f"{where}: eos_token_id should be a token id or a list of them, not {value!r}")
    return ids


def dtype_of(raw: Section, where: str) -> str:
    """`dtype` (transformers 5) or `torch_dtype` (transformers 4); float32 if the file gives none."""
    name = raw.get("dtype") or raw.get("torch_dtype") or "float32"
    if name not in DTYPES:
        raise ConfigError(f"{where}: dtype {name!r} is not implemented (only {', '.join(DTYPES)})")
    return name


def only(raw: Section, key: str, allowed: tuple[Any, ...], where: str) -> None:
    """Refuse any value but the allowed ones; the key may be absent."""
    if key in raw and raw[key] not in allowed:
        choices = " or ".join(repr(value) for value in allowed if value is not None)
        raise ConfigError(f"{where}: {key} {raw[key]!r} is not implemented (only {choices})")


def _value(raw: Section, key: str, where: str, default: Any, what: str, valid: Callable[[Any], bool]) -> Any:
    value = default if raw.get(key) is None else raw[key]
    if value is None:
        raise ConfigError(f"{where} has no {key}")
    if not valid(value):
        raise ConfigError(f"{where}: {key} should be {what}, not {value!r}")
    return value
