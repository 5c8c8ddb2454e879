"""Decode: one token after another, which reading memory bounds; alone, and several conversations side by side."""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vl3ref.bench.count import decode_bytes, language_shapes
from vl3ref.bench.limits import Reading, Vectors
from vl3ref.bench.machine import largest_cache
from vl3ref.bench.measure import in_turn, synchronise
from vl3ref.bench.result import TOLERANCE, Check, Row, close
from vl3ref.bench.settings import Pair, drawn_ids
from vl3ref.bench.towers import last_logits, last_logits_theirs
from vl3ref.decoding import Way
from vl3ref.generation import stream
from vl3ref.model.language_model import LanguageModel
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.model_inputs import ModelInputs


class Stopwatch:
    """What transformers' `generate` hands its tokens to: notes when the first and the last one came.

    `put` is called with the prompt first, then with every token, from the loop that makes them.
    """

    def __init__(self) -> None:
        self.times: list[float] = []
        self.ids: list[int] = []

    def put(self, value: Tensor) -> None:
        self.times.append(time.perf_counter())
        self.ids += value.flatten().tolist()

    def end(self) -> None:
        pass

    @property
    def seconds(self) -> float:
        """From the second new token to the last: what a first step has to set up (a captured graph) is not one of the
        many that follow."""
        return self.times[-1] - self.times[2]


class Ours:
    """One decode by `stream`: seconds from every conversation's second token to the last of all.

    Args:
        way: see `vl3ref.decoding`; None for the device's best.
    """

    def __init__(
        self,
        model: VideoLLaMA3 | LanguageModel,
        inputs: Tensor | ModelInputs,
        new_tokens: int,
        way: Way | None = None,
    ) -> None:
        self.model, self.inputs, self.new_tokens, self.way = model, inputs, new_tokens, way
        self.count = len(inputs.lengths) if isinstance(inputs, ModelInputs) else 1

    def __call__(self) -> float:
        self.answers: list[list[int]] = [[] for _ in range(self.count)]
        decoder = self.model if isinstance(self.model, LanguageModel) else self.model.language_model
        decoder.decode = self.way
        second = 0.0
        for conversation, token in stream(self.model, self.inputs, self.new_tokens, min_new_tokens=self.new_tokens):
            self.answers[conversation].append(token)
            if conversation == self.count - 1 and len(self.answers[conversation]) == 2:
                second = time.perf_counter()
        return time.perf_counter() - second


def generate_theirs(reference: Any, inputs: dict[str, Tensor], new_tokens: int, ends: list[int]) -> Stopwatch:
    """transformers' own greedy loop, held to exactly so many tokens as ours is."""
    watch = Stopwatch()
    reference.generate(
        **inputs,
        max_new_tokens=new_tokens,
        min_new_tokens=new_tokens,
        do_sample=False,
        eos_token_id=ends or None,
        pad_token_id=0,
        streamer=watch,
    )
    return watch


def decode(pair: Pair) -> list[Row]:
    """Seconds per token after a context of drawn text: alone beside transformers, then side by side."""
    return [*_alone(pair), *_together(pair)]


def _alone(pair: Pair) -> list[Row]:
    """A row for each way of decoding that is asked for."""
    settings, model = pair.settings, pair.ours
    steps, ends = settings.new_tokens - 2, list(model.config.language.eos_token_ids)
    ids = drawn_ids(model.config, settings.context).to(pair.device)
    layers, held = model.config.language.num_hidden_layers, settings.context + settings.new_tokens / 2
    work = decode_bytes(model.config.language, [held], settings.torch_dtype.itemsize)
    limit = _limit(pair, work)
    ways: dict[str, Way | None] = {"": None, **({", compiled": "compiled"} if settings.compiled else {})}
    ours = {name: Ours(model.language_model, ids, settings.new_tokens, way) for name, way in ways.items()}
    their_ids: list[int] = []

    def theirs() -> float:
        synchronise(pair.device)
        watch = generate_theirs(pair.theirs, {"input_ids": ids[None]}, settings.new_tokens, ends)
        their_ids[:] = watch.ids[len(ids) :]
        return watch.seconds

    samples = in_turn({**ours, "theirs": theirs, **limit.candidates()}, settings.repeats, settings.budget)
    logits = last_logits(model.language_model, ids), last_logits_theirs(pair.theirs, ids)
    return [
        Row(
            "decode",
            f"{settings.new_tokens} tokens after {settings.context}, {layers} layers + head{name}",
            samples[name].divided(steps),
            samples["theirs"].divided(steps),
            work=limit.bytes if isinstance(limit, Vectors) else work,
            limits=limit.limits(samples),
            checks=[close("logits", *logits), same_ids(model.language_model, ids, run.answers[0], their_ids)],
            numbers={"tokens per second": steps / samples[name].median, "bytes per token": work},
        )
        for name, run in ours.items()
    ]


def _limit(pair: Pair, work: int) -> Reading | Vectors:
    """Reading memory, unless a processor's cache holds all that a step reads (`work`, in bytes)."""
    dtype, config = pair.settings.torch_dtype, pair.ours.config.language
    if pair.device.type != "cpu" or work >= largest_cache():
        return Reading(pair.device, dtype)
    head = (1, config.hidden_size, config.vocab_size)
    return Vectors(pair.device, dtype, [*language_shapes(config, 1) * config.num_hidden_layers, head])


def _together(pair: Pair) -> list[Row]:
    """1, 2, 4, ... conversations of different lengths."""
    settings, model = pair.settings, pair.ours
    counts = [1 << n for n in range(settings.batch.bit_length())]
    runs = {count: Ours(model, ragged(pair, count), settings.new_tokens) for count in counts}
    candidates: dict[str, Callable[[], float]] = {str(count): run for count, run in runs.items()}
    samples = in_turn(candidates, settings.repeats, settings.budget)
    steps = settings.new_tokens - 2
    alone = runs[counts[-1]].inputs
    assert isinstance(alone, ModelInputs)
    prompts = [ids.to(pair.device) for ids in alone.input_ids.split(alone.lengths.tolist())]
    expected = [_answer_alone(model, prompt, settings.new_tokens) for prompt in prompts]
    rows = []
    for count in counts:
        seconds = samples[str(count)].divided(steps)
        rate, single = count / seconds.median, steps / samples["1"].median
        checks = [same_ids(model.language_model, prompts[b], runs[count].answers[b], expected[b]) for b in range(count)]
        failed = [check for check in checks if not check.passed]
        rows.append(
            Row(
                "decode",
                f"{count} conversations of different lengths" if count > 1 else "1 conversation",
                seconds,
                checks=failed or [Check("ids as each alone", True)],
                notes=[f"{rate:.0f} tokens/s, {rate / single:.2f} times one conversation's"],
                numbers={"batch": count, "tokens per second": rate, "times batch 1": rate / single},
            )
        )
    return rows


def ragged(pair: Pair, count: int) -> ModelInputs:
    """Conversations of text, each a little shorter than the one before."""
    lengths = [max(pair.settings.context - 5 * b, 1) for b in range(count)]
    texts = [drawn_ids(pair.ours.config, length, seed) for seed, length in enumerate(lengths)]
    return ModelInputs(torch.cat(texts), torch.tensor(lengths)).to(pair.device)


def same_ids(decoder: LanguageModel, prompt: Tensor, ours: list[int], theirs: list[int]) -> Check:
    """Greedy ids are equal, or part where two tokens are as likely as each other up to rounding.

    Where they part first, our logits of the two candidates may differ by no more than the rounding tolerance of the
    largest logit. After that the texts are different ones, and nothing more can be said.

    Args:
        prompt: (tokens,) ids, or (tokens, dim) embeddings.
    """
    if ours == theirs:
        return Check(f"all {len(ours)} ids equal", True)
    if len(ours) != len(theirs):
        return Check(f"ids differ: {len(ours)} and {len(theirs)} of them", False)
    step = next(n for n, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b)
    common = torch.tensor(ours[:step], dtype=torch.int64, device=prompt.device)
    if prompt.is_floating_point():
        common = decoder.embed_tokens(common)
    logits = last_logits(decoder, torch.cat([prompt, common])).double()
    gap = float((logits[ours[step]] - logits[theirs[step]]).abs() / logits.abs().max())
    tie = gap <= TOLERANCE[decoder.embed_tokens.weight.dtype]
    what = f"ids equal up to a tie at {step + 1} of {len(ours)}" if tie else f"ids differ at {step + 1} of {len(ours)}"
    return Check(f"{what} (logits {gap:.0e} apart)", tie)


def _answer_alone(model: VideoLLaMA3, ids: Tensor, new_tokens: int) -> list[int]:
    run = Ours(model.language_model, ids, new_tokens)
    run()
    return run.answers[0]
