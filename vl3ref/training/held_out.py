"""How well a model answers annotations of one's own, which it should not have been trained on.

    result = evaluate(*vl3ref.load("runs/mine/final"), "test.jsonl")
    print(result.score, [answer for answer in result.answers if answer.score < 1])

The last turn of every sample is the right answer; the model gets what comes before it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vl3ref.errors import InputError, VL3Error, quoted
from vl3ref.inputs.processor import Processor
from vl3ref.likelihood import score
from vl3ref.model.diff_fp import Pruner
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.training.annotations import Annotations

Metric = Callable[[str, str, Mapping[str, Any]], bool | int | float]
"""(answer, right answer, sample as it stands in its file) -> how good the answer is; True and 1 are perfect."""

BATCH = 16
"""Samples answered at once."""

MORE = 4
"""New tokens, beyond those of the longest right answer, after which an answer is wrong anyway."""

FOR_METRIC = 128
"""Most new tokens of an answer that a function of one's own judges."""


@dataclass(frozen=True)
class Answer:
    """What a model answered to one sample, and how good that is."""

    name: str
    question: str
    expected: str
    given: str
    score: float


@dataclass(frozen=True)
class Result:
    answers: Sequence[Answer]

    @property
    def score(self) -> float:
        """The mean over all samples: the share of right answers, for the metrics that know right and wrong."""
        return sum(answer.score for answer in self.answers) / len(self.answers)


def evaluate(
    model: VideoLLaMA3,
    processor: Processor,
    data: Annotations | str | Path | Sequence[str | Path],
    metric: Metric | Literal["exact", "options"] = "exact",
    media: str | Path | None = None,
    max_new_tokens: int | None = None,
    pruner: Pruner | None = None,
) -> Result:
    """Ask a model what annotations ask, greedily, and compare its answers with theirs.

    Args:
        data: annotation files, as for training. Every sample has to be usable, or results could not be compared.
        metric: "exact": the same letters, but for spaces around them. "options": each sample has "options", a list of
            texts, of which the model gives the likeliest (see `vl3ref.generation.score`) and one is right. Or a
            function.
        media: the folder of relative paths in the data; default: each annotation file's own.
        max_new_tokens: of an answer. Default: a few more than the longest right one has; 128 for a function.
        pruner: in place of the model's.

    Raises:
        InputError: a sample cannot be used, or the metric fails; says which sample.
    """
    samples = data if isinstance(data, Annotations) else Annotations(data, media)
    answers: list[Answer] = []
    for start in range(0, len(samples), 1 if metric == "options" else BATCH):
        batch = range(start, min(start + (1 if metric == "options" else BATCH), len(samples)))
        asked = [_read(samples, index) for index in batch]
        expected = [turns[-1]["content"].strip() for turns in asked]
        prompts = processor([turns[:-1] for turns in asked])
        if metric == "options":
            options = _options(samples[start], expected[0], samples.name(start))
            end = processor.tokenizer.special("<|im_end|>")
            ids = [[*processor.tokenizer.encode(option)[0], end] for option in options]
            likelihoods: Any = score(model, prompts, ids, pruner=pruner)
            given = [options[int(likelihoods.argmax())]]
        else:
            longest = max(len(processor.tokenizer.encode(answer)[0]) for answer in expected) + MORE
            most = max_new_tokens or (longest if metric == "exact" else FOR_METRIC)
            given = [processor.decode(ids) for ids in model.generate(prompts, max_new_tokens=most, pruner=pruner)]
        for index, turns, right, answer in zip(batch, asked, expected, given, strict=True):
            name = samples.name(index)
            good = _judge(metric, answer, right, samples[index], name) if callable(metric) else answer.strip() == right
            answers.append(Answer(name, _question(turns), right, answer, float(good)))
    return Result(answers)


def _read(samples: Annotations, index: int) -> list[dict[str, Any]]:
    name = samples.name(index)
    try:
        turns = samples.conversation(index)
    except VL3Error as error:
        raise InputError(str(error) if str(error).startswith(name) else f"{name}: {error}") from None
    if any(turn["role"] == "stream" for turn in turns):
        raise InputError(f"{name}: a streaming sample has no single answer to be judged")
    if turns[-1]["role"] != "assistant" or not turns[-1]["content"].strip():
        raise InputError(f"{name}: its last turn should be the right answer, from gpt")
    return turns


def _options(sample: Mapping[str, Any], expected: str, name: str) -> list[str]:
    options = sample.get("options")
    texts = isinstance(options, list) and len(options) > 1 and all(isinstance(x, str) and x.strip() for x in options)
    if not texts or len(set(options or ())) < len(options or ()):
        raise InputError(f'{name}: "options" should be a list of at least two different texts, not {quoted(options)}')
    assert isinstance(options, list)
    if expected not in (stripped := [option.strip() for option in options]):
        raise InputError(f"{name}: the right answer {quoted(expected)} is none of its options")
    return stripped


def _judge(metric: Metric, given: str, expected: str, sample: Mapping[str, Any], name: str) -> float:
    try:
        good = metric(given, expected, sample)
    except Exception as error:  # somebody else's code
        raise InputError(f"the metric failed on {name}: {type(error).__name__}: {error}") from error
    if not isinstance(good, bool | int | float) or good != good:
        raise InputError(f"the metric should return a number or True or False, not {quoted(good)} for {name}")
    return float(good)


def _question(turns: Sequence[Mapping[str, Any]]) -> str:
    """The words of the last question."""
    content = turns[-2]["content"] if len(turns) > 1 else ""
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    return " ".join(part["text"] for part in parts if part["type"] == "text")
