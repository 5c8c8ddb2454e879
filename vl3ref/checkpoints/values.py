"""Values of JSON files, each checked as it is read.

Real files carry dozens of keys about training, remote code and caching. Those that cannot change what the model
computes are let through; a key that can, with a value this package does not compute, is refused by name. A key that is
null is taken for absent.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from vl3ref.config import LIMITS, MOST_REAL
from vl3ref.errors import ConfigError, quoted

DTYPES = ("float32", "bfloat16", "float16", "float64")


class Section(NamedTuple):
    """An object of a JSON file, with its place for error sentences (the file, and the section in it).

    Every method raises ConfigError where a value is not what it should be, or is absent and has no default.
    """

    values: Mapping[str, Any]
    where: str

    def get(self, key: str) -> Any:
        return self.values.get(key)

    def read(self, key: str, what: str, valid: Callable[[Any], bool], default: Any = None) -> Any:
        value = default if self.get(key) is None else self.get(key)
        if value is None:
            raise ConfigError(f"{self.where} has no {key}")
        if not valid(value):
            raise ConfigError(f"{self.where}: {key} should be {what}, not {quoted(value)}")
        return value

    def section(self, key: str) -> "Section":
        return Section(self.read(key, "an object", lambda x: isinstance(x, Mapping)), f"{self.where}, {key}")

    def size(self, key: str, default: int | None = None) -> int:
        """A whole number above 0, and within the limit of a size of that name."""
        most = LIMITS.get(key, LIMITS["max_position_embeddings"])
        return self.read(key, f"a whole number from 1 to {most}", lambda x: type(x) is int and 1 <= x <= most, default)

    def number(self, key: str, default: float | None = None) -> float:
        return float(
            self.read(
                key,
                f"a number above 0 and at most {MOST_REAL:g}",
                lambda x: type(x) in (int, float) and 0 < x <= MOST_REAL,
                default,
            )
        )

    def flag(self, key: str, default: bool = False) -> bool:
        return self.read(key, "true or false", lambda x: type(x) is bool, default)

    def token_id(self, key: str, vocab_size: int) -> int:
        return self.read(key, f"a token id below {vocab_size}", lambda x: type(x) is int and 0 <= x < vocab_size)

    def end_ids(self) -> tuple[int, ...]:
        """`eos_token_id`, which files write as one id, a list, or nothing."""
        value = self.get("eos_token_id")
        ids = () if value is None else tuple(value) if isinstance(value, list | tuple) else (value,)
        if not all(type(token) is int and 0 <= token < LIMITS["vocab_size"] for token in ids):
            raise ConfigError(f"{self.where}: eos_token_id should be a token id or a list of them, not {quoted(value)}")
        return ids

    def dtype(self) -> str:
        """`dtype` (transformers 5) or `torch_dtype` (transformers 4), here or in `text_config`; else float32."""
        sections = (self, self.section("text_config")) if self.get("text_config") else (self,)
        given = [section.get(key) for section in sections for key in ("dtype", "torch_dtype")]
        name = next(filter(None, given), "float32")
        if name not in DTYPES:
            raise ConfigError(f"{self.where}: dtype {quoted(name)} is not implemented (only {', '.join(DTYPES)})")
        return name

    def only(self, key: str, *allowed: Any) -> None:
        """Refuse any value but the allowed ones; the key may be absent."""
        if self.get(key) is not None and self.get(key) not in allowed:
            choices = f" (only {' or '.join(map(repr, allowed))})" if allowed else ""
            raise ConfigError(f"{self.where}: {key} {quoted(self.get(key))} is not implemented{choices}")
