"""Generation: prefill, then one token at a time, for any number of conversations side by side.

    prefill   the whole prompt through the model once, filling the KV cache
    decode    the newest token of every conversation that has not ended through the model, again and again
    sample    the next token from its logits (sampling.py)

The loop exists once (`stream`); `generate` collects what it yields.
"""

import warnings
from collections.abc import Iterator, Sequence, Set
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from vl3ref.errors import CheckpointError, InputError, VL3Error, quoted
from vl3ref.fast import DecodeStep, default_step
from vl3ref.limits import check_positions, check_prompt, memory_errors, trained_positions
from vl3ref.model.diff_fp import Pruner
from vl3ref.model.kv_cache import KVCache
from vl3ref.model.language_model import LanguageModel
from vl3ref.model.videollama3 import Spliced, VideoLLaMA3
from vl3ref.model_inputs import ModelInputs
from vl3ref.sampling import NOT_FINITE, Sampler, Sampling, is_whole

FIRST_ROOM = 512
"""New tokens that the cache has room for at first; it grows as it fills."""


def generate(
    model: VideoLLaMA3 | LanguageModel, inputs: ModelInputs | Int[Tensor, " tokens"], *options: Any, **named: Any
) -> list[Int[Tensor, " new"]]:
    """Answer every conversation.

    Args:
        model, inputs: as in `stream`, and so are the options, by position or by name.

    Returns:
        One int64 tensor on the CPU per conversation: the new ids alone, the end-of-text id included when it came.

    Raises:
        InputError, CheckpointError: see `stream`.
    """
    answers: dict[int, list[int]] = {}
    for conversation, token in stream(model, inputs, *options, **named):
        answers.setdefault(conversation, []).append(token)
    return [torch.tensor(answers[conversation], dtype=torch.int64) for conversation in sorted(answers)]


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
    allow_long: bool = False,
) -> Iterator[tuple[int, int]]:
    """Yield (conversation, token id) as soon as each is known.

    Args:
        model, inputs: a VideoLLaMA3 with ModelInputs, or a LanguageModel with the ids of one text.
        max_new_tokens: stop after this many, or where the positions end that the model was trained on (a warning says
            so beforehand).
        min_new_tokens: do not end before this many.
        temperature, top_p, top_k, repetition_penalty, seed, penalty_scope: see `Sampling`; greedy by default.
        end_token_ids: what ends an answer (default: the checkpoint's).
        pruner: in place of the model's, for this call.
        cache: of earlier turns of one conversation, to continue: `inputs` are then the new tokens alone. It is extended
            in place and afterwards holds everything up to, but not including, the last token yielded.
        step: how a token is computed (see `vl3ref.fast`); None takes the best for the device.
        allow_long: go on past the positions that the model was trained on.

    Raises:
        InputError: an option out of range; inputs that contradict each other, are longer than what the model was
            trained on, or need more memory than there is; pixels that are not finite, or values that overflow.
        CheckpointError: a weight is not finite.
    """
    sampling = Sampling(temperature, top_k, top_p, repetition_penalty, penalty_scope, seed)
    if not is_whole(max_new_tokens) or max_new_tokens < 1:
        raise InputError(f"max_new_tokens should be a whole number of at least 1, not {quoted(max_new_tokens)}")
    if not is_whole(min_new_tokens) or not 0 <= min_new_tokens <= max_new_tokens:
        raise InputError(f"min_new_tokens should be between 0 and max_new_tokens, not {quoted(min_new_tokens)}")
    if step is not None and not callable(step):
        raise InputError(f"step should be a function, as in vl3ref.fast, not {quoted(step)}")
    if cache is not None and not isinstance(cache, KVCache):
        raise InputError(f"cache should be a KVCache, not {quoted(cache)}")
    past = 0 if cache is None else max(cache.lengths)
    with memory_errors():
        decoder, prompt, ids = _prompt(model, inputs, pruner, past, allow_long)
        ends = _ends(decoder, end_token_ids)
        most = _most_new_tokens(decoder, [past + n for n in prompt.lengths], max_new_tokens, allow_long)
        if cache is None:
            cache = decoder.new_cache(len(prompt.lengths))
        elif not len(prompt.lengths) == len(cache.lengths) == 1:
            raise InputError("a cache from earlier turns can be continued by one conversation at a time")
        cache.reserve([n + min(max(most), FIRST_ROOM) for n in prompt.lengths])
        ends_on_device = torch.tensor(sorted(ends), dtype=torch.int64, device=cache.device)
        sampler = Sampler(sampling, decoder.config.vocab_size, ends_on_device, min_new_tokens, ids)
        step = step or default_step(cache.device)
        for conversation, token in _decode(decoder, prompt, cache, sampler, ends, most, step):
            if token == NOT_FINITE:
                raise _not_finite(model, inputs)
            yield conversation, token


def _decode(
    decoder: LanguageModel,
    prompt: Spliced,
    cache: KVCache,
    sampler: Sampler,
    ends: set[int],
    most: Sequence[int],
    step: DecodeStep,
) -> Iterator[tuple[int, int]]:
    """Prefill, then token after token; `most` is the longest answer of each conversation."""
    hidden = decoder.hidden(prompt.embeddings, prompt.lengths, cache, prompt.positions)
    last = torch.tensor(prompt.lengths, device=cache.device).cumsum(0) - 1
    logits = decoder.head(hidden[last])
    rows: list[int | None] = list(range(len(most)))  # the conversation of each row of the cache; None if it has ended
    for new in range(1, max(most) + 1):
        newest = sampler(logits)
        tokens = newest.tolist()  # the one number a step waits for: it is streamed, and may end a conversation
        yield from ((row, token) for row, token in zip(rows, tokens, strict=True) if row is not None)
        rows = [
            None if row is None or token in ends or new == most[row] else row
            for row, token in zip(rows, tokens, strict=True)
        ]
        going = [index for index, row in enumerate(rows) if row is not None]
        if not going:
            return
        # Dropping rows copies the cache, and a CUDA graph is captured again: not before half of them have ended.
        if len(going) <= len(rows) // 2:
            cache.keep(going)
            sampler.keep(going)
            newest, rows = newest[going], [rows[index] for index in going]
        if NOT_FINITE in tokens:  # of a row that has ended: no id to look up
            newest = newest.clamp(min=0)
        cache.reserve([1] * len(rows))
        logits = step(decoder, cache, newest)


def _prompt(
    model: VideoLLaMA3 | LanguageModel, inputs: ModelInputs | Tensor, pruner: Pruner | None, past: int, allow_long: bool
) -> tuple[LanguageModel, Spliced, Sequence[Tensor]]:
    """The decoder, what it reads, and the ids of each conversation."""
    if isinstance(model, LanguageModel):
        whole = isinstance(inputs, Tensor) and inputs.dtype in (torch.int64, torch.int32)
        if not isinstance(inputs, Tensor) or not whole or inputs.ndim != 1 or not len(inputs):
            raise InputError("a LanguageModel generates from a 1-D tensor of at least one token id")
        if int(inputs.min()) < 0 or int(inputs.max()) >= model.config.vocab_size:
            raise InputError(f"token ids should lie between 0 and {model.config.vocab_size - 1}")
        if not allow_long:
            check_positions(model.config, past + len(inputs))
        ids = inputs.to(model.embed_tokens.weight.device)
        all_kept = torch.ones_like(ids, dtype=torch.bool)
        return model, Spliced(model.embed_tokens(ids), [len(ids)], all_kept[:0], all_kept), [ids]
    if not isinstance(model, VideoLLaMA3) or not isinstance(inputs, ModelInputs):
        raise InputError(f"a VideoLLaMA3 generates from ModelInputs, not {quoted(model)} from {quoted(inputs)}")
    inputs.check(model.config)
    check_prompt(model, inputs, pruner, past, allow_long)
    spliced = model.splice(inputs, pruner)
    if not allow_long:
        check_positions(model.config.language, past + max(spliced.lengths), len(spliced.keep_mask) > 0)
    kept_ids = inputs.input_ids.to(model.device)[spliced.kept].split(list(spliced.lengths))
    return model.language_model, spliced, kept_ids


def _ends(decoder: LanguageModel, end_token_ids: Any) -> set[int]:
    ends = decoder.config.eos_token_ids if end_token_ids is None else end_token_ids
    vocab = decoder.config.vocab_size
    if not isinstance(ends, Sequence | Set) or any(not is_whole(token) or not 0 <= token < vocab for token in ends):
        raise InputError(f"end_token_ids should be a list of token ids below {vocab}, not {quoted(end_token_ids)}")
    return set(ends)


def _most_new_tokens(decoder: LanguageModel, lengths: Sequence[int], wanted: int, allow_long: bool) -> list[int]:
    """Of each conversation: as many as wanted, but no more than there are trained positions left. (The last token of an
    answer needs none.)"""
    if allow_long:
        return [wanted] * len(lengths)
    trained = trained_positions(decoder.config)
    left = [trained + 1 - n for n in lengths]
    if min(left) < wanted:
        warnings.warn(
            f"the answer ends after at most {min(left):,} tokens, where the {trained:,} positions end that the model "
            "was trained on (--allow-long, or allow_long=True, goes on)",
            stacklevel=3,
        )
    return [min(wanted, n) for n in left]


def _not_finite(model: VideoLLaMA3 | LanguageModel, inputs: ModelInputs | Tensor) -> VL3Error:
    """Why logits hold NaN or infinity. Only now are all weights looked at."""
    pixels = inputs.pixel_values if isinstance(inputs, ModelInputs) else None
    if pixels is not None and not bool(pixels.isfinite().all()):
        return InputError("pixel_values are not finite: they hold NaN or infinity")
    for name, weight in model.named_parameters():
        if not bool(weight.isfinite().all()):
            return CheckpointError(
                f"the weight {name} is not finite: it holds NaN or infinity, from a damaged checkpoint or a training "
                "that diverged"
            )
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    remedy = "load the model in bfloat16 or float32" if dtype == "float16" else "look at the parts that were changed"
    return InputError(f"the model's values overflow in {dtype}, though its weights and pixels are finite: {remedy}")
