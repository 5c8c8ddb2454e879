"""Generation: prefill, then one token at a time, for any number of conversations side by side.

    prefill   the whole prompt through the model once, filling the KV cache
    decode    the newest token of every conversation that has not ended through the model, again and again
    choose    penalty -> minimum length -> temperature -> top-k -> top-p -> draw, in transformers' order and meaning

The loop exists once (`stream`); `generate` collects what it yields.
"""

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vl3ref.config import LanguageConfig
from vl3ref.decoding import Captured, Decode, decoding
from vl3ref.errors import InputError
from vl3ref.model.kv_cache import KVCache
from vl3ref.model.language_model import LanguageModel
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.model_inputs import ModelInputs


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. The default is greedy: the likeliest token, always.

    Attributes:
        temperature: 0 for greedy; else logits are divided by it and a token is drawn.
        top_k: draw among the k likeliest (None: all).
        top_p: draw among the likeliest that together reach this probability (None: all).
        repetition_penalty: logits of tokens seen before are divided by it where positive, multiplied where negative.
        penalty_scope: what counts as seen: "new" tokens (as the official model, which generates from embeddings), or
            the "prompt" as well (as transformers' port).
        seed: of the draws. Conversation b draws from seed + b, so one alone gives the same as the first of several.
            None seeds from the operating system.
    """

    temperature: int | float = 0.0
    top_k: int | None = None
    top_p: int | float | None = None
    repetition_penalty: int | float = 1.0
    penalty_scope: Literal["new", "prompt"] = "new"
    seed: int | None = None

    def __post_init__(self) -> None:
        if not _is_number(self.temperature) or not (self.temperature == 0 or self.temperature >= 1e-3):
            raise InputError(f"temperature should be 0 (greedy), or at least 0.001, not {self.temperature!r}")
        if self.top_k is not None and not (_is_whole(self.top_k) and self.top_k >= 1):
            raise InputError(f"top_k should be a whole number of at least 1, or None, not {self.top_k!r}")
        if self.top_p is not None and not (_is_number(self.top_p) and 0 < self.top_p <= 1):
            raise InputError(f"top_p should be above 0 and at most 1, or None, not {self.top_p!r}")
        if not (_is_number(self.repetition_penalty) and self.repetition_penalty > 0):
            raise InputError(f"repetition_penalty should be above 0, not {self.repetition_penalty!r}")
        if self.seed is not None and not (_is_whole(self.seed) and 0 <= self.seed < 2**62):
            raise InputError(f"seed should be a whole number from 0 to 2^62, or None, not {self.seed!r}")
        if self.penalty_scope not in ("new", "prompt"):
            raise InputError(f"penalty_scope should be 'new' or 'prompt', not {self.penalty_scope!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def generate(
    model: VideoLLaMA3 | LanguageModel,
    inputs: ModelInputs | Int[Tensor, " tokens"],
    max_new_tokens: int = 128,
    min_new_tokens: int = 0,
    temperature: int | float = 0.0,
    top_p: int | float | None = None,
    top_k: int | None = None,
    repetition_penalty: int | float = 1.0,
    seed: int | None = None,
    penalty_scope: Literal["new", "prompt"] = "new",
    end_token_ids: Sequence[int] | None = None,
) -> list[Int[Tensor, " new"]]:
    """Answer every conversation.

    Args:
        model, inputs: a VideoLLaMA3 with ModelInputs, or a LanguageModel with the ids of one text.
        max_new_tokens: stop after this many.
        min_new_tokens: do not end before this many.
        temperature, top_p, top_k, repetition_penalty, seed, penalty_scope: see `Sampling`; greedy by default.
        end_token_ids: what ends an answer (default: the checkpoint's).

    Returns:
        One int64 tensor on the CPU per conversation: the new ids alone, the end-of-text id included when it came.

    Raises:
        InputError: an option out of range, or inputs that contradict each other.
    """
    answers: list[list[int]] = [[] for _ in range(len(inputs.lengths) if isinstance(inputs, ModelInputs) else 1)]
    tokens = stream(
        *(model, inputs, max_new_tokens, min_new_tokens, temperature, top_p, top_k, repetition_penalty, seed),
        penalty_scope=penalty_scope,
        end_token_ids=end_token_ids,
    )
    for conversation, token in tokens:
        answers[conversation].append(token)
    return [torch.tensor(answer, dtype=torch.int64) for answer in answers]


@torch.inference_mode()
def stream(
    model: VideoLLaMA3 | LanguageModel,
    inputs: ModelInputs | Int[Tensor, " tokens"],
    max_new_tokens: int = 128,
    min_new_tokens: int = 0,
    temperature: int | float = 0.0,
    top_p: int | float | None = None,
    top_k: int | None = None,
    repetition_penalty: int | float = 1.0,
    seed: int | None = None,
    penalty_scope: Literal["new", "prompt"] = "new",
    end_token_ids: Sequence[int] | None = None,
    cache: KVCache | None = None,
) -> Iterator[tuple[int, int]]:
    """Like `generate`, but yields (conversation, token id) as soon as each is known.

    Args:
        cache: what earlier turns left, to go on from: `inputs` are then the new tokens alone. It is extended in place
            and afterwards holds everything up to, but not including, the last token yielded. One conversation only;
            what is done with it in between has to run in inference mode, as this does.
    """
    sampling = Sampling(temperature, top_k, top_p, repetition_penalty, penalty_scope, seed)
    if not _is_whole(max_new_tokens) or max_new_tokens < 1:
        raise InputError(f"max_new_tokens should be a whole number of at least 1, not {max_new_tokens!r}")
    if not _is_whole(min_new_tokens) or not 0 <= min_new_tokens <= max_new_tokens:
        raise InputError(f"min_new_tokens should be between 0 and max_new_tokens, not {min_new_tokens}")
    prompt = _prompt(model, inputs)
    decoder = prompt.decoder
    count = len(prompt.lengths)
    if cache is None:
        cache = KVCache(
            decoder.config, count, max(prompt.lengths) + max_new_tokens, decoder_dtype(decoder), prompt.device
        )
    elif count != 1 or len(cache.lengths) != 1:
        raise InputError("a cache from earlier turns can be continued by one conversation at a time")
    cache.reserve(max(prompt.lengths) + max_new_tokens)
    _warn_if_long(decoder.config, max(cache.lengths) + max(prompt.lengths) + max_new_tokens)
    end_ids = set(decoder_ends(decoder) if end_token_ids is None else end_token_ids)
    if any(not _is_whole(token) or not 0 <= token < decoder.config.vocab_size for token in end_ids):
        raise InputError(f"end_token_ids should be token ids below {decoder.config.vocab_size}, not {end_token_ids!r}")
    ends = torch.tensor(sorted(end_ids), dtype=torch.int64, device=prompt.device)
    choose = Chooser(sampling, decoder.config.vocab_size, ends, min_new_tokens, prompt.ids)

    logits = decoder.prefill(prompt.embeddings, prompt.lengths, cache)
    decode: Decode | None = None
    rows: list[int | None] = list(range(count))  # the conversation of each; None where it has ended
    for step in range(max_new_tokens):
        newest = choose(logits)
        tokens = newest.tolist()  # the one number a step waits for: it is streamed, and may end a conversation
        yield from ((b, token) for b, token in zip(rows, tokens, strict=True) if b is not None)
        rows = [None if token in end_ids else b for b, token in zip(rows, tokens, strict=True)]
        going = [row for row, b in enumerate(rows) if b is not None]
        if not going or step == max_new_tokens - 1:
            return
        # A graph is captured for so many rows: a few may be computed for nobody before it is worth capturing anew.
        enough = len(rows) // 2 if isinstance(decode, Captured) else len(rows) - 1
        if len(going) <= enough:
            cache.keep(going)
            choose.keep(going)
            newest, rows, decode = newest[going], [rows[row] for row in going], None
        decode = decode or decoding(decoder, cache, decoder.decode)
        logits = decode(newest)


class Chooser:
    """Chooses the next token of every conversation, remembering what it has chosen.

    Args:
        sampling: the rule.
        vocab_size: length of a row of logits.
        ends: (ends,) int64, tokens that end the text.
        min_new_tokens: until then `ends` cannot be chosen.
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
        self.generators = [torch.Generator(ends.device) for _ in prompts]
        for conversation, generator in enumerate(self.generators):
            if sampling.seed is None:
                generator.seed()
            else:
                generator.manual_seed(sampling.seed + conversation)

    def __call__(self, logits: Float[Tensor, "conversations vocab"]) -> Int[Tensor, " conversations"]:
        logits = self.adjust(logits.float())
        if self.sampling.temperature == 0:
            tokens = logits.argmax(-1)
        else:
            rows = zip(logits.softmax(-1), self.generators, strict=True)
            tokens = torch.stack([draw(row, generator) for row, generator in rows])
        if self.seen is not None:
            self.seen.scatter_(1, tokens[:, None], True)
        self.new += 1
        return tokens

    def adjust(self, logits: Float[Tensor, "conversations vocab"]) -> Float[Tensor, "conversations vocab"]:
        """Every rule but the draw, in transformers' order."""
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

    def keep(self, slots: Sequence[int]) -> None:
        """Forget all conversations but these."""
        self.generators = [self.generators[slot] for slot in slots]
        if self.seen is not None:
            self.seen = self.seen[list(slots)]


def draw(probabilities: Float[Tensor, " vocab"], generator: torch.Generator) -> Int[Tensor, ""]:
    """One token, each as likely as it says: the first of exponential clocks that run as fast as the probabilities.

    `torch.multinomial` draws the same from the same seed, but looks at the probabilities first, and a GPU would have to
    be waited for.
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


@dataclass
class _Prompt:
    decoder: LanguageModel
    embeddings: Tensor
    lengths: list[int]
    ids: Sequence[Tensor]
    device: torch.device


def _prompt(model: VideoLLaMA3 | LanguageModel, inputs: ModelInputs | Tensor) -> _Prompt:
    """Either kind of model and input -> embeddings for its decoder."""
    if isinstance(model, LanguageModel):
        if not isinstance(inputs, Tensor) or inputs.ndim != 1 or not len(inputs) or inputs.is_floating_point():
            raise InputError("a LanguageModel generates from a 1-D tensor of at least one token id")
        ids = inputs.to(model.embed_tokens.weight.device)
        if int(ids.min()) < 0 or int(ids.max()) >= model.config.vocab_size:
            raise InputError(f"token ids should lie between 0 and {model.config.vocab_size - 1}")
        return _Prompt(model, model.embed_tokens(ids), [len(ids)], [ids], ids.device)
    if not isinstance(inputs, ModelInputs):
        raise InputError(f"a VideoLLaMA3 generates from ModelInputs, not from a {type(inputs).__name__}")
    spliced = model.splice(inputs)
    kept_ids = inputs.input_ids.to(model.device)[spliced.kept].split(spliced.lengths)
    return _Prompt(model.language_model, spliced.embeddings, spliced.lengths, kept_ids, model.device)


def decoder_dtype(decoder: LanguageModel) -> torch.dtype:
    return decoder.embed_tokens.weight.dtype


def decoder_ends(decoder: LanguageModel) -> list[int]:
    return list(decoder.config.eos_token_ids)


def _warn_if_long(config: LanguageConfig, tokens: int) -> None:
    if tokens > config.max_position_embeddings:
        warnings.warn(
            f"prompt and answer may reach {tokens} tokens; the model was trained on {config.max_position_embeddings}",
            stacklevel=3,
        )
