"""How the next token is chosen from its logits, in transformers' order and meaning:

repetition penalty -> minimum length -> temperature -> top-k -> top-p -> sample
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vl3ref.errors import InputError, quoted

NOT_FINITE = -1
"""In place of a token whose logits hold NaN or infinity: Python sees it where it reads the token."""

LEAST, MOST = 1e-3, 1e6
"""Temperatures and repetition penalties: far beyond all use, and no logit divided by one overflows float32."""


@dataclass(frozen=True)
class Sampling:
    """The rule. The default is greedy: always the likeliest token.

    Attributes:
        temperature: 0 for greedy; else logits are divided by it and a token is sampled.
        top_k: sample among the k likeliest (None: all).
        top_p: sample among the likeliest that together reach this probability (None: all).
        repetition_penalty: logits of seen tokens are divided by it where positive, multiplied where negative.
        penalty_scope: what counts as seen: "new" tokens (as in the official model, which generates from embeddings), or
            the "prompt" as well (as in transformers' port).
        seed: conversation b samples with seed + b, so that one alone gets the same as the first of several. None takes
            a seed from the operating system. The same seed gives the same answer in every run, thread and batch on a
            CPU in float32, where no two tokens are likelier by less than rounding (1e-6); on a GPU, and in bfloat16,
            the kernels that torch picks for another batch size round otherwise, and answers can part.

    Raises:
        InputError: a value out of range.
    """

    temperature: int | float = 0.0
    top_k: int | None = None
    top_p: int | float | None = None
    repetition_penalty: int | float = 1.0
    penalty_scope: Literal["new", "prompt"] = "new"
    seed: int | None = None

    def __post_init__(self) -> None:
        if not _is_number(self.temperature) or not (self.temperature == 0 or self.temperature >= LEAST):
            given = quoted(self.temperature)
            raise InputError(f"temperature should be 0 (greedy), or from {LEAST} to {MOST:,.0f}, not {given}")
        if self.top_k is not None and not (is_whole(self.top_k) and self.top_k >= 1):
            raise InputError(f"top_k should be a whole number of at least 1, or None, not {quoted(self.top_k)}")
        if self.top_p is not None and not (_is_number(self.top_p) and 0 < self.top_p <= 1):
            raise InputError(f"top_p should be above 0 and at most 1, or None, not {quoted(self.top_p)}")
        if not (_is_number(self.repetition_penalty) and self.repetition_penalty >= LEAST):
            given = quoted(self.repetition_penalty)
            raise InputError(f"repetition_penalty should be a number from {LEAST} to {MOST:,.0f}, not {given}")
        if self.seed is not None and not (is_whole(self.seed) and 0 <= self.seed < 2**62):
            raise InputError(f"seed should be a whole number from 0 to 2^62, or None, not {quoted(self.seed)}")
        if not isinstance(self.penalty_scope, str) or self.penalty_scope not in ("new", "prompt"):
            raise InputError(f"penalty_scope should be 'new' or 'prompt', not {quoted(self.penalty_scope)}")


class Sampler:
    """Chooses the next token of every conversation, and remembers what it chose.

    Args:
        ends: (ends,) int64, tokens that end an answer; not chosen before `min_new_tokens`.
        prompts: ids of each conversation, for the penalty's "prompt" scope.
    """

    def __init__(
        self,
        sampling: Sampling,
        vocab_size: int,
        ends: Int[Tensor, " ends"],
        min_new_tokens: int,
        prompts: Sequence[Int[Tensor, " _"]],
    ) -> None:
        self.sampling, self.ends, self.min_new_tokens = sampling, ends, min_new_tokens
        self.new = 0
        self.seen: Tensor | None = None
        if sampling.repetition_penalty != 1:
            self.seen = torch.zeros(len(prompts), vocab_size, dtype=torch.bool, device=ends.device)
            if sampling.penalty_scope == "prompt":
                for row, ids in zip(self.seen, prompts, strict=True):
                    row[ids] = True
        self.generators: list[torch.Generator] = []
        if sampling.temperature:
            self.generators = [torch.Generator(ends.device) for _ in prompts]
        for conversation, generator in enumerate(self.generators):
            if sampling.seed is None:
                generator.seed()
            else:
                generator.manual_seed(sampling.seed + conversation)

    def __call__(self, logits: Float[Tensor, "conversations vocab"]) -> Int[Tensor, " conversations"]:
        """The next token of each conversation, or `NOT_FINITE`."""
        logits = logits.float()
        finite = logits.sum(dim=-1).isfinite()  # NaN and infinity stay what they are in a sum; one pass
        logits = self.adjust(logits)
        if self.sampling.temperature == 0:
            tokens = logits.argmax(-1)
        else:
            rows = zip(logits.softmax(-1), self.generators, strict=True)
            tokens = torch.stack([sample(row, generator) for row, generator in rows])
        if self.seen is not None:
            self.seen.scatter_(1, tokens[:, None], True)
        self.new += 1
        return torch.where(finite, tokens, NOT_FINITE)

    def adjust(self, logits: Float[Tensor, "conversations vocab"]) -> Float[Tensor, "conversations vocab"]:
        """Everything before the token is sampled."""
        rule = self.sampling
        if self.seen is not None:
            logits = penalise(logits, self.seen, rule.repetition_penalty)
        if self.new < self.min_new_tokens:
            logits = logits.index_fill(-1, self.ends, -math.inf)
        if rule.temperature:
            logits = logits / rule.temperature
            if rule.top_k is not None:
                logits = keep_top_k(logits, rule.top_k)
            if rule.top_p is not None:
                logits = keep_top_p(logits, rule.top_p)
        return logits

    def keep(self, rows: Sequence[int]) -> None:
        """Forget all conversations but these."""
        self.generators = [self.generators[row] for row in rows] if self.generators else []
        if self.seen is not None:
            self.seen = self.seen[list(rows)]


class Ending:
    """Whether an answer has ended: by an end-of-text token, or because its text holds a stop string.

    Args:
        ids: tokens that end an answer.
        strings: texts that end one.
        decode: ids -> text; needed for strings.

    Raises:
        InputError: strings are not a list of non-empty strings, or come without `decode`.
    """

    def __init__(self, ids: set[int], strings: Any, decode: Callable[[Sequence[int]], str] | None) -> None:
        if isinstance(strings, str) or not isinstance(strings, Sequence) or not all(_is_stop(x) for x in strings):
            raise InputError(f"stop should be a list of strings, none of them empty, not {quoted(strings)}")
        if strings and decode is None:
            raise InputError("stop needs a processor, which knows the tokens' texts: processor=processor")
        self.ids, self.strings, self.decode = ids, strings, decode
        # A token has at least a byte, so these many reach back over a stop string, and a character begun before it.
        self.reach = max((len(string.encode()) for string in strings), default=0) + 4
        self.latest: dict[int, deque[int]] = {}

    def __call__(self, conversation: int, token: int) -> bool:
        """Whether this token of a conversation is the last of its answer."""
        if token in self.ids:
            return True
        if not self.strings or self.decode is None or token == NOT_FINITE:
            return False
        latest = self.latest.setdefault(conversation, deque(maxlen=self.reach))
        latest.append(token)
        text = self.decode(list(latest))
        return any(string in text for string in self.strings)


def _is_stop(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def sample(probabilities: Float[Tensor, " vocab"], generator: torch.Generator) -> Int[Tensor, ""]:
    """One token, each as likely as its probability: the smallest of exponential variables with these rates.

    `torch.multinomial` gives the same from the same seed, but checks the probabilities first, which makes Python wait
    for a GPU.
    """
    return (probabilities / torch.empty_like(probabilities).exponential_(generator=generator)).argmax()


def penalise(
    logits: Float[Tensor, "*rows vocab"], seen: Bool[Tensor, "*rows vocab"], penalty: float
) -> Float[Tensor, "*rows vocab"]:
    """Make tokens that were seen less likely (CTRL, arXiv 1909.05858): towards minus infinity from either sign."""
    return torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)


def keep_top_k(logits: Float[Tensor, "*rows vocab"], k: int) -> Float[Tensor, "*rows vocab"]:
    """Only the k likeliest stay possible (more where the k-th is tied)."""
    least = logits.topk(min(k, logits.shape[-1])).values[..., -1:]
    return logits.masked_fill(logits < least, -math.inf)


def keep_top_p(logits: Float[Tensor, "*rows vocab"], p: float) -> Float[Tensor, "*rows vocab"]:
    """Only the fewest likeliest tokens that together reach probability p stay possible; always at least one.

    Summed from the unlikeliest upwards, as transformers does, so that rounding falls the same way.
    """
    if p >= 1:
        return logits
    ascending, order = logits.sort()
    dropped = ascending.softmax(-1).cumsum(-1) <= 1 - p
    dropped[..., -1] = False
    return logits.masked_fill(torch.zeros_like(dropped).scatter(-1, order, dropped), -math.inf)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -MOST <= value <= MOST


def is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
