"""Generation: prefill, then one token at a time, for any number of conversations side by side.

    prefill   the whole prompt through the model once, filling the KV cache
    decode    the newest token of every conversation that has not ended through the model, again and again
    sample    the next token from its logits (sampling.py)

The loop exists once (`stream`); `generate` collects what it yields. The first half of it stands in prefill.py; how
likely given answers are (`score`) in likelihood.py; beam search in beam_search.py.
"""

from collections.abc import Iterator, Sequence, Set
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vl3ref.errors import InputError, quoted
from vl3ref.fast import DecodeStep, default_step
from vl3ref.likelihood import score as score
from vl3ref.limits import memory_errors
from vl3ref.model.diff_fp import Pruner
from vl3ref.model.kv_cache import KVCache
from vl3ref.model.language_model import LanguageModel
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.model_inputs import ModelInputs
from vl3ref.prefill import most_new_tokens, not_finite, prefill, read_prompt
from vl3ref.sampling import NOT_FINITE, Ending, Sampler, Sampling, is_whole

FIRST_ROOM = 512
"""New tokens that the cache has room for at first; it grows as it fills."""


def generate(
    model: VideoLLaMA3 | LanguageModel,
    inputs: ModelInputs | Int[Tensor, " tokens"],
    *options: Any,
    best_of: int = 1,
    return_log_probs: bool = False,
    **named: Any,
) -> Any:
    """Answer every conversation.

    Args:
        model, inputs: as in `stream`, and so are the options, by position or by name.
        best_of: sample as many answers to each conversation (see `copies` there; it takes a temperature), and return
            the one whose tokens are the likeliest on average.
        return_log_probs: return the tokens' log-probabilities as well (see `log_probs` there).

    Returns:
        One int64 tensor on the CPU per conversation: the new ids alone, the end-of-text id included when it came. With
        `return_log_probs`, a pair: this list, and one of float32 tensors of the same lengths.

    Raises:
        InputError, CheckpointError: see `stream`.
    """
    if not is_whole(best_of) or best_of < 1:
        raise InputError(f"best_of should be a whole number of at least 1, not {quoted(best_of)}")
    if best_of > 1 and not named.get("temperature"):
        raise InputError(f"best_of samples {best_of} answers, which takes a temperature; without one all are alike")
    if best_of > 1:
        named["copies"] = best_of
    log_probs: list[float] | None = [] if return_log_probs or best_of > 1 else None
    answers: dict[int, list[tuple[int, float]]] = {}
    named["log_probs"] = log_probs
    for conversation, token in stream(model, inputs, *options, **named):
        answers.setdefault(conversation, []).append((token, log_probs[-1] if log_probs else 0.0))
    sampled = [list(zip(*answers[conversation], strict=True)) for conversation in sorted(answers)]
    groups = (sampled[start : start + best_of] for start in range(0, len(sampled), best_of))
    best = [max(group, key=lambda answer: sum(answer[1]) / len(answer[1])) for group in groups]
    ids = [torch.tensor(tokens, dtype=torch.int64) for tokens, _ in best]
    return (ids, [torch.tensor(log_probs) for _, log_probs in best]) if return_log_probs else ids


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
    stop: Sequence[str] = (),
    processor: Any = None,
    log_probs: list[float] | None = None,
    copies: int = 1,
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
        cache: of earlier turns, to continue: `inputs` are then the new tokens alone, and as many conversations as the
            cache holds. It is extended in place. Of one conversation it afterwards holds everything up to, but not
            including, the last token yielded; of several, those that ended early may have left it.
        step: how a token is computed (see `vl3ref.fast`); None takes the best for the device.
        allow_long: go on past the positions that the model was trained on.
        stop: strings that end an answer whose text holds one; the token that completes it is the last.
        processor: the model's, for `stop`.
        log_probs: a list that gets the log-probability of every token yielded, before it is: of the model's own logits,
            whatever temperature, penalty, top-k and top-p made of them.
        copies: answers to each conversation, sampled apart. Answer i to conversation c is yielded as c x copies + i.

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
    if not is_whole(copies) or copies < 1 or (copies > 1 and cache is not None):
        raise InputError(f"copies should be a whole number of at least 1, and 1 with a cache, not {quoted(copies)}")
    past = 0 if cache is None else max(cache.lengths)
    with memory_errors():
        decoder, prompt, ids = read_prompt(model, inputs, pruner, past, allow_long)
        ends = check_end_ids(decoder, end_token_ids)
        ending = Ending(ends, stop, None if processor is None else processor.decode)
        most = most_new_tokens(decoder, [past + n for n in prompt.lengths], max_new_tokens, allow_long)
        if cache is None:
            cache = decoder.new_cache(len(prompt.lengths))
        elif len(prompt.lengths) != len(cache.lengths):
            held, new = len(cache.lengths), len(prompt.lengths)
            raise InputError(f"a cache that holds {held} conversations is continued by as many, not by {new}")
        cache.reserve([n + min(max(most), FIRST_ROOM) for n in prompt.lengths])
        ends_on_device = torch.tensor(sorted(ends), dtype=torch.int64, device=cache.device)
        ids, most = ([x for x in ids for _ in range(copies)], [n for n in most for _ in range(copies)])
        sampler = Sampler(sampling, decoder.config.vocab_size, ends_on_device, min_new_tokens, ids)
        step = step or default_step(cache.device)
        logits = prefill(decoder, prompt, cache)
        if copies > 1:
            cache.keep([row for row in range(len(cache.lengths)) for _ in range(copies)])
            logits = logits.repeat_interleave(copies, dim=0)
        for conversation, token, log_prob in _decode(
            decoder, cache, logits, sampler, ending, most, step, log_probs is not None
        ):
            if token == NOT_FINITE:
                raise not_finite(model, inputs)
            if log_probs is not None:
                log_probs.append(log_prob)
            yield conversation, token


def _decode(
    decoder: LanguageModel,
    cache: KVCache,
    logits: Float[Tensor, "conversations vocab"],
    sampler: Sampler,
    ending: Ending,
    most: Sequence[int],
    step: DecodeStep,
    with_log_probs: bool,
) -> Iterator[tuple[int, int, float]]:
    """Token after token, each with its conversation and log-probability (0 if they are not asked for). `most` is the
    longest answer of each conversation."""
    rows: list[int | None] = list(range(len(most)))  # the conversation of each row of the cache; None if it has ended
    for new in range(1, max(most) + 1):
        newest = sampler(logits)
        # What a step waits for: the token is streamed, and may end a conversation.
        tokens, chosen = _read(newest, logits) if with_log_probs else (newest.tolist(), [0.0] * len(rows))
        yield from ((row, *pair) for row, *pair in zip(rows, tokens, chosen, strict=True) if row is not None)
        rows = [
            None if row is None or ending(row, token) or new == most[row] else row
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


def _read(tokens: Int[Tensor, " rows"], logits: Float[Tensor, "rows vocab"]) -> tuple[list[int], list[float]]:
    """Tokens and their log-probabilities, in one transfer (float64 holds every id)."""
    all_log_probs = logits.float().log_softmax(-1)
    both = torch.stack([tokens.double(), all_log_probs.gather(1, tokens[:, None].clamp(min=0))[:, 0].double()])
    ids, log_probs = both.tolist()
    return [int(token) for token in ids], log_probs


def check_end_ids(decoder: LanguageModel, end_token_ids: Any) -> set[int]:
    ends = decoder.config.eos_token_ids if end_token_ids is None else end_token_ids
    vocab = decoder.config.vocab_size
    if not isinstance(ends, Sequence | Set) or any(not is_whole(token) or not 0 <= token < vocab for token in ends):
        raise InputError(f"end_token_ids should be a list of token ids below {vocab}, not {quoted(end_token_ids)}")
    return set(ends)
