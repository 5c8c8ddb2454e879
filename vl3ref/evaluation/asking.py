"""All questions about one image or video: it is decoded and encoded once; what prompts share is computed once.

    <video> This was said: ...  Who speaks?  (A) ...        one pass over the video's tokens; its KV cache is forked
    <video> This was said: ...  Who is silent?  (A) ...     for the subtitles, and again for the questions, which are
    <video> Who speaks?  (A) ...                            answered side by side

Answers are those of asking one at a time, up to ties that rounding decides.
"""

import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from vl3ref.errors import InputError
from vl3ref.evaluation.benchmark import OFFICIAL, Item
from vl3ref.generation import FIRST_ROOM
from vl3ref.inputs.processor import Processor, encode_pieces
from vl3ref.inputs.template import is_visual, render
from vl3ref.likelihood import score
from vl3ref.limits import check_prompt, memory_errors
from vl3ref.model.diff_fp import DiffFP, keep_all
from vl3ref.model.kv_cache import KVCache
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.model_inputs import ModelInputs

MAX_NEW_TOKENS = 2048

TOGETHER = 8
"""Questions answered side by side. Each holds a copy of the video's cache: 0.5 GB for 16,384 tokens of the 2B."""


@dataclass(frozen=True)
class Reply:
    """What a model said to one question.

    Attributes:
        text: without special tokens, and stripped.
        letters, options: log-likelihood of each option as an answer: of its label ("A"), and of its text up to the end
            of the turn. Empty for items without options.
    """

    text: str
    letters: Sequence[float] = ()
    options: Sequence[float] = ()


@dataclass(frozen=True)
class Questions:
    """Items that see the very same images or video.

    Attributes:
        ids: prompt of each.
        inputs: of the first item, with the pixels that all see.
    """

    items: Sequence[Item]
    ids: Sequence[list[int]]
    inputs: ModelInputs

    def alone(self) -> Iterator["Questions"]:
        """One item at a time."""
        for item, ids in zip(self.items, self.ids, strict=True):
            own = replace(self.inputs, input_ids=torch.tensor(ids), lengths=torch.tensor([len(ids)]))
            yield Questions([item], [ids], own)


def same_visuals(items: Sequence[Item]) -> list[list[Item]]:
    """Items in groups that see the same files (or the same pictures in memory)."""
    groups: dict[tuple[Any, ...], list[Item]] = {}
    for item in items:
        values = [value for part in item.content or () if is_visual(part) for value in part.values()]
        key = tuple(value if isinstance(value, str | Path | int | float) else id(value) for value in values)
        groups.setdefault(key, []).append(item)
    return [*groups.values()]


def prepare(model: VideoLLaMA3, processor: Processor, items: Sequence[Item]) -> Questions:
    """Decode what items see, once, and encode their prompts: without a system prompt, as the authors' evaluation does.

    Raises:
        InputError: a file cannot be read, or the first prompt is too long.
    """
    contents = [[*(item.content or ())] for item in items]
    first = [{"role": "user", "content": contents[0]}]
    inputs = processor(first, add_system_prompt=False, check=lambda x: check_prompt(model, x), **OFFICIAL)
    counts = [] if inputs.grid_sizes is None else inputs.grid_sizes[:, 0].tolist()
    sources = inputs.sources or []
    visuals = zip(sources, counts, inputs.tokens_per_visual(), strict=True)
    frame_tokens = [(source.token_id or 0, tokens // n) for source, n, tokens in visuals for _ in range(n)]
    ids = [inputs.input_ids.tolist()]
    for content in contents[1:]:
        seen = iter(sources)
        for index, part in enumerate(content):
            if is_visual(part) and (times := next(seen).timestamps) and part["type"] == "video":
                content[index] = {**part, "timestamps": times}
        prompt = render([{"role": "user", "content": content}], add_system_prompt=False)
        ids.append(encode_pieces(prompt, processor.tokenizer, frame_tokens)[0])
    return Questions(items, ids, inputs)


# ------------------------------------------------------------------------------------------------------------ controls


def blank(questions: Questions) -> Questions:
    """Grey images, or a video of grey frames, of the same sizes and times."""
    pixels = questions.inputs.pixel_values
    return questions if pixels is None else _with_pixels(questions, torch.zeros_like(pixels))


def shuffled(questions: Questions) -> Questions | None:
    """The frames of videos in another order, at the same times; None where nothing can be shuffled. The order is
    the same in every run, wherever the file lies."""
    name = Path(questions.items[0].media).name
    rng = np.random.default_rng(crc32(name.encode(errors="surrogatepass")))
    pixels = []
    for patches, (frames, rows, columns), _, _ in questions.inputs.visuals():
        order = np.arange(frames)
        while frames > 1 and (order == np.arange(frames)).all():
            order = rng.permutation(frames)
        pixels.append(patches.view(frames, rows * columns, -1)[torch.from_numpy(order)].flatten(0, 1))
    several = any(frames > 1 for _, (frames, _, _), _, _ in questions.inputs.visuals())
    return _with_pixels(questions, torch.cat(pixels)) if several else None


def _with_pixels(questions: Questions, pixels: Tensor) -> Questions:
    return replace(questions, inputs=replace(questions.inputs, pixel_values=pixels))


# -------------------------------------------------------------------------------------------------------------- asking


def ask(
    model: VideoLLaMA3, processor: Processor, questions: Questions, max_new_tokens: int = MAX_NEW_TOKENS
) -> list[Reply | InputError]:
    """Answer all questions, greedily, under the checkpoint's own repetition penalty.

    Returns:
        What was said to each, in order; or why one cannot be answered: it is too long, or memory is short.
    """
    pruner = model.pruner
    reads_no_text = (pruner is keep_all or isinstance(pruner, DiffFP)) and model.positions is None
    visual = questions.inputs.is_visual(model.config.visual_token_ids).nonzero()
    shared = _shared(questions.ids)
    if len(questions.items) > 1 and (not reads_no_text or (len(visual) and shared <= int(visual[-1]))):
        return [reply for one in questions.alone() for reply in ask(model, processor, one, max_new_tokens)]
    try:
        return [*_ask(model, processor, questions, shared, max_new_tokens)]
    except InputError as error:
        if len(questions.items) == 1:
            return [error]
    return [reply for one in questions.alone() for reply in ask(model, processor, one, max_new_tokens)]


@torch.inference_mode()
def _ask(
    model: VideoLLaMA3, processor: Processor, questions: Questions, shared: int, max_new_tokens: int
) -> list[Reply]:
    check_prompt(model, questions.inputs)
    with memory_errors():
        spliced = model.splice(questions.inputs)
        held = int(spliced.kept[:shared].sum())
        cache = model.language_model.new_cache(1, held)
        positions = None if spliced.positions is None else spliced.positions[:held]
        model.language_model.hidden(spliced.embeddings[:held], [held], cache, positions)
    del spliced
    replies: dict[int, Reply] = {}
    tables: dict[str, list[int]] = {}
    for index, item in enumerate(questions.items):
        tables.setdefault(item.subset, []).append(index)
    for rows in tables.values():
        own = _shared([questions.ids[row] for row in rows])
        started = _continued(model, cache, questions.ids[rows[0]][shared:own])
        for batch in (rows[start : start + TOGETHER] for start in range(0, len(rows), TOGETHER)):
            rest = [questions.ids[row][own:] for row in batch]
            items = [questions.items[row] for row in batch]
            replies |= zip(batch, _batch(model, processor, items, rest, started, max_new_tokens), strict=True)
    return [replies[index] for index in range(len(questions.items))]


def _batch(
    model: VideoLLaMA3,
    processor: Processor,
    items: Sequence[Item],
    rest: Sequence[list[int]],
    cache: KVCache,
    max_new_tokens: int,
) -> Iterator[Reply]:
    """Replies to questions side by side. `rest`: what each prompt adds to the cache."""
    likelihoods: list[list[float]] = []
    for item, ids in zip(items, rest, strict=True):
        scores: Any = score(model, _text([ids]), _option_ids(processor, item), cache=cache) if item.options else None
        likelihoods.append([] if scores is None else scores.tolist())
    with memory_errors():
        forks = cache.fork(max(map(len, rest)) + min(max_new_tokens, FIRST_ROOM))
        forks.keep([0] * len(rest))
    said = model.generate(_text(rest), max_new_tokens, repetition_penalty=penalty(model), cache=forks)
    for item, ids, scores in zip(items, said, likelihoods, strict=True):
        options = len(item.options)
        yield Reply(processor.decode(ids).strip(), scores[:options], scores[options:])


def penalty(model: VideoLLaMA3) -> float:
    """The checkpoint's repetition penalty, over new tokens: it stays on under the authors' greedy decoding."""
    return float(model.recommended_sampling.get("repetition_penalty", 1.0))


def labels(item: Item) -> Sequence[str]:
    """What its options are called in its question: letters, but for benchmarks that say otherwise."""
    named: Sequence[str] = item.more.get("labels") or string.ascii_uppercase
    return named[: len(item.options)]


def _option_ids(processor: Processor, item: Item) -> list[list[int]]:
    """Letters first, then texts, which end there."""
    encode, end = processor.tokenizer.encode, processor.tokenizer.special("<|im_end|>")
    return [*(encode(label)[0] for label in labels(item)), *([*encode(option)[0], end] for option in item.options)]


def _continued(model: VideoLLaMA3, cache: KVCache, ids: list[int]) -> KVCache:
    """A cache that holds more text; the same one for no text."""
    if not ids:
        return cache
    with memory_errors():
        fork = cache.fork(len(ids))
        model.language_model.hidden(torch.tensor(ids, device=model.device), [len(ids)], fork)
    return fork


def _shared(prompts: Sequence[list[int]]) -> int:
    """Tokens that all prompts begin with. Each has one more at least, from which its answer goes on."""
    shortest = min(map(len, prompts)) - 1
    first = prompts[0]
    return next((n for n in range(shortest) if any(ids[n] != first[n] for ids in prompts)), shortest)


def _text(prompts: Sequence[list[int]]) -> ModelInputs:
    ids = [token for prompt in prompts for token in prompt]
    return ModelInputs(torch.tensor(ids), torch.tensor([len(prompt) for prompt in prompts]))
