"""Generation: prefill, then one token at a time, for any number of conversations side by side.

    prefill   the whole prompt through the model once, filling the KV cache
    decode    the newest token of every conversation that has not ended through the model, again and again
    sample    the next token from its logits (sampling.py)

The loop exists once (`stream`); `generate` collects what it yields.
"""

import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from vl3ref.errors import InputError
from vl3ref.fast import DecodeStep, default_step
from vl3ref.model.diff_fp import Pruner
from vl3ref.model.kv_cache import KVCache
from vl3ref.model.language_model import LanguageModel
from vl3ref.model.videollama3 import Spliced, VideoLLaMA3
from vl3ref.model_inputs import ModelInputs
from vl3ref.sampling import Sampler, Sampling, is_whole


def generate(
    model: VideoLLaMA3 | LanguageModel, inputs: ModelInputs | Int[Tensor, " tokens"], *options: Any, **named: Any
) -> list[Int[Tensor, " new"]]:
    """Answer every conversation.

    Args:
        model, inputs: as in `stream`, and so are the options, by position or by name.

    Returns:
        One int64 tensor on the CPU per conversation: the new ids alone, the end-of-text id included when it came.

    Raises:
        InputError: an option out of range, or inputs that contradict each other.
    """
    answers: list[list[int]] = [[] for _ in range(len(inputs.lengths) if isinstance(inputs, ModelInputs) else 1)]
    for conversation, token in stream(model, inputs, *options, **named):
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
    pruner: Pruner | None = None,
    cache: KVCache | None = None,
    step: DecodeStep | None = None,
) -> Iterator[tuple[int, int]]:
    """Yield (conversation, token id) as soon as each is known.

    Args:
        model, inputs: a VideoLLaMA3 with ModelInputs, or a LanguageModel with the ids of one text.
        max_new_tokens: stop after this many.
        min_new_tokens: do not end before this many.
        temperature, top_p, top_k, repetition_penalty, seed, penalty_scope: see `Sampling`; greedy by default.
        end_token_ids: what ends an answer (default: the checkpoint's).
        pruner: in place of the model's, for this call.
        cache: of earlier turns of one conversation, to continue: `inputs` are then the new tokens alone. It is extended
            in place and afterwards holds everything up to, but not including, the last token yielded.
        step: how a token is computed (see `vl3ref.fast`); None takes the best for the device.

    Raises:
        InputError: an option out of range, or inputs that contradict each other.
    """
    sampling = Sampling(temperature, top_k, top_p, repetition_penalty, penalty_scope, seed)
    if not is_whole(max_new_tokens) or max_new_tokens < 1:
        raise InputError(f"max_new_tokens should be a whole number of at least 1, not {max_new_tokens!r}")
    if not is_whole(min_new_tokens) or not 0 <= min_new_tokens <= max_new_tokens:
        raise InputError(f"min_new_tokens should be between 0 and max_new_tokens, not {min_new_tokens}")
    decoder, prompt, ids = _prompt(model, inputs, pruner)
    count, room = len(prompt.lengths), max(prompt.lengths) + max_new_tokens
    if cache is None:
        cache = decoder.new_cache(count, room)
    elif count != 1 or len(cache.lengths) != 1:
        raise InputError("a cache from earlier turns can be continued by one conversation at a time")
    cache.reserve([room] * count)
    _warn_if_long(decoder, max(cache.lengths) + room)
    ends = _ends(decoder, end_token_ids)
    ends_on_device = torch.tensor(sorted(ends), dtype=torch.int64, device=cache.device)
    sampler = Sampler(sampling, decoder.config.vocab_size, ends_on_device, min_new_tokens, ids)
    step = step or default_step(cache.device)

    hidden = decoder.hidden(prompt.embeddings, prompt.lengths, cache, prompt.positions)
    last = torch.tensor(prompt.lengths, device=cache.device).cumsum(0) - 1
    logits = decoder.head(hidden[last])
    rows: list[int | None] = list(range(count))  # the conversation of each row of the cache; None where it has ended
    for new in range(1, max_new_tokens + 1):
        newest = sampler(logits)
        tokens = newest.tolist()  # the one number a step waits for: it is streamed, and may end a conversation
        yield from ((row, token) for row, token in zip(rows, tokens, strict=True) if row is not None)
        rows = [None if token in ends else row for row, token in zip(rows, tokens, strict=True)]
        going = [index for index, row in enumerate(rows) if row is not None]
        if not going or new == max_new_tokens:
            return
        # Dropping rows copies the cache, and a CUDA graph is captured again: not before half of them have ended.
        if len(going) <= len(rows) // 2:
            cache.keep(going)
            sampler.keep(going)
            newest, rows = newest[going], [rows[index] for index in going]
        logits = step(decoder, cache, newest)


def _prompt(
    model: VideoLLaMA3 | LanguageModel, inputs: ModelInputs | Tensor, pruner: Pruner | None
) -> tuple[LanguageModel, Spliced, Sequence[Tensor]]:
    """The decoder, what it reads, and the ids of each conversation."""
    if isinstance(model, LanguageModel):
        if not isinstance(inputs, Tensor) or inputs.ndim != 1 or not len(inputs) or inputs.is_floating_point():
            raise InputError("a LanguageModel generates from a 1-D tensor of at least one token id")
        if int(inputs.min()) < 0 or int(inputs.max()) >= model.config.vocab_size:
            raise InputError(f"token ids should lie between 0 and {model.config.vocab_size - 1}")
        ids = inputs.to(model.embed_tokens.weight.device)
        all_kept = torch.ones_like(ids, dtype=torch.bool)
        return model, Spliced(model.embed_tokens(ids), [len(ids)], all_kept[:0], all_kept), [ids]
    if not isinstance(inputs, ModelInputs):
        raise InputError(f"a VideoLLaMA3 generates from ModelInputs, not from a {type(inputs).__name__}")
    spliced = model.splice(inputs, pruner)
    kept_ids = inputs.input_ids.to(model.device)[spliced.kept].split(list(spliced.lengths))
    return model.language_model, spliced, kept_ids


def _ends(decoder: LanguageModel, end_token_ids: Sequence[int] | None) -> set[int]:
    ends = set(decoder.config.eos_token_ids if end_token_ids is None else end_token_ids)
    if any(not is_whole(token) or not 0 <= token < decoder.config.vocab_size for token in ends):
        raise InputError(f"end_token_ids should be token ids below {decoder.config.vocab_size}, not {end_token_ids!r}")
    return ends


def _warn_if_long(decoder: LanguageModel, tokens: int) -> None:
    trained = decoder.config.max_position_embeddings
    if tokens > trained:
        warnings.warn(f"prompt and answer may reach {tokens} tokens; the model was trained on {trained}", stacklevel=3)
