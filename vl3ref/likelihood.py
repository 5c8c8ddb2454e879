"""How likely given answers are: multiple choice without generating anything."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vl3ref.errors import InputError, quoted
from vl3ref.limits import check_positions, memory_errors
from vl3ref.model.diff_fp import Pruner
from vl3ref.model.kv_cache import KVCache
from vl3ref.model.language_model import LanguageModel
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.model_inputs import ModelInputs
from vl3ref.prefill import not_finite, prefill, read_prompt
from vl3ref.sampling import is_whole

SCORED_TOGETHER = 16
"""Answers whose forks of the cache are held at a time."""


@torch.inference_mode()
def score(
    model: VideoLLaMA3 | LanguageModel,
    inputs: ModelInputs | Int[Tensor, " tokens"],
    answers: Sequence[str | Sequence[int] | Int[Tensor, " _"]],
    processor: Any = None,
    per_token: bool = False,
    pruner: Pruner | None = None,
    allow_long: bool = False,
    cache: KVCache | None = None,
) -> Float[Tensor, " answers"] | list[Float[Tensor, " _"]]:
    """How likely the model is to give each of some answers: multiple choice without generating anything.

    The prompt is computed once; its cache is forked for the answers, which are computed together.

        letters = score(model, inputs, ["A", "B", "C"], processor)
        print("ABC"[letters.argmax()])

    Args:
        inputs: of one conversation, that ends where the answer begins.
        answers: texts, or token ids. Nothing is added to them: to count the end of an answer, end it with
            "<|im_end|>" as an id.
        processor: the model's, for texts.
        per_token: return every token's log-probability, in place of their sum.
        cache: of what comes before `inputs`, one conversation. It stays as it is.

    Returns:
        log P(answer | prompt), (answers,) float32 on the CPU; or a tensor of log P(token | prompt, tokens before) for
        each answer. Longer answers are less likely: divide by their number of tokens to compare them.

    Raises:
        InputError: there are several conversations, no answers, an empty one, or ids outside the vocabulary.
        CheckpointError: a weight is not finite.
    """
    past = 0 if cache is None else cache.lengths[0]
    with memory_errors():
        decoder, prompt, _ = read_prompt(model, inputs, pruner, past, allow_long)
        if (conversations := max(len(prompt.lengths), 1 if cache is None else len(cache.lengths))) != 1:
            raise InputError(f"answers are scored for one conversation at a time, not for {conversations}")
        ids = [_answer_ids(answer, processor, decoder.config.vocab_size) for answer in _as_list(answers)]
        if not allow_long:
            check_positions(decoder.config, past + prompt.lengths[0] + max(map(len, ids)) - 1)
        cache = decoder.new_cache(1, prompt.lengths[0]) if cache is None else cache.fork(prompt.lengths[0])
        first = prefill(decoder, prompt, cache)
        scored: list[Tensor] = []
        for start in range(0, len(ids), SCORED_TOGETHER):
            scored += _score(decoder, cache, first, ids[start : start + SCORED_TOGETHER])
    if not all(bool(log_probs.isfinite().all()) for log_probs in scored):
        raise not_finite(model, inputs)
    return scored if per_token else torch.stack([log_probs.sum() for log_probs in scored])


def _score(decoder: LanguageModel, cache: KVCache, first: Tensor, answers: Sequence[list[int]]) -> list[Tensor]:
    """Log-probabilities of every answer's tokens. `first`: logits (1, vocab) after the prompt, which `cache` holds."""
    before = [len(answer) - 1 for answer in answers]  # tokens that others follow
    logits = first.expand(len(answers), -1).split(1)
    if any(before):
        forks = cache.fork(max(before))
        forks.keep([0] * len(answers))
        read = torch.tensor([token for answer in answers for token in answer[:-1]], device=cache.device)
        rest = decoder.head(decoder.hidden(read, before, forks)).split(before)
        logits = tuple(torch.cat(pair) for pair in zip(logits, rest, strict=True))
    targets = [torch.tensor(answer, device=cache.device)[:, None] for answer in answers]
    return [x.float().log_softmax(-1).gather(1, t)[:, 0].cpu() for x, t in zip(logits, targets, strict=True)]


def _as_list(answers: Any) -> Sequence[Any]:
    if isinstance(answers, str | Tensor) or not isinstance(answers, Sequence) or not answers:
        raise InputError(f"answers should be a list of texts or of token ids, not {quoted(answers)}")
    return answers


def _answer_ids(answer: Any, processor: Any, vocab_size: int) -> list[int]:
    if isinstance(answer, str):
        if processor is None:
            raise InputError("answers that are texts need a processor, which knows their tokens: processor=processor")
        answer = processor.tokenizer.encode(answer)[0]
    ids = answer.tolist() if isinstance(answer, Tensor) else answer
    whole = isinstance(ids, Sequence) and all(is_whole(token) and 0 <= token < vocab_size for token in ids)
    if not whole or not ids:
        raise InputError(f"an answer should be a text, or token ids from 0 to {vocab_size - 1}, not {quoted(answer)}")
    return list(ids)
