"""Time and peak memory against one size at a time: frames, visual tokens, conversations, generated tokens.

Times are taken in turn in this process, at every size; peaks in a process of their own for every point.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from vl3ref.bench.decoding import Ours, generate_theirs, ragged, same_ids
from vl3ref.bench.measure import Samples, in_turn, timed
from vl3ref.bench.processes import Job, in_process
from vl3ref.bench.result import Check, close, verdict
from vl3ref.bench.settings import Pair, Settings, drawn_ids, drawn_pixels
from vl3ref.bench.towers import encode, encode_theirs, last_logits, last_logits_theirs, prefill, prefill_theirs

LARGEST = {"frames": 180, "tokens": 16384, "batch": 16, "new_tokens": 256}
"""Where the curves end unless told otherwise."""


@dataclass(frozen=True)
class Point:
    """One size. Seconds and bytes of either side; None where it is not measured."""

    size: int
    seconds: Samples
    their_seconds: Samples | None
    peak: float | None
    their_peak: float | None


@dataclass
class Curve:
    """What a size costs.

    Attributes:
        name: of the curve.
        size: what the sizes count.
        points: in growing order.
        checks: of equal output, at the smallest size.
        memory: what the peaks are above.
    """

    name: str
    size: str
    memory: str
    points: list[Point] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)

    def cells(self) -> list[tuple[str, ...]]:
        """Rows of the report's table."""
        return [self._cells(point, index == 0) for index, point in enumerate(self.points)]

    def _cells(self, point: Point, first: bool) -> tuple[str, ...]:
        theirs = point.their_seconds
        equal = all(check.passed for check in self.checks)
        return (
            self.name,
            f"{point.size} {self.size}",
            _both(point.seconds.median, point.peak),
            "" if theirs is None else _both(theirs.median, point.their_peak),
            "" if theirs is None or not equal else f"{theirs.median / point.seconds.median:.2f}",
            "",
            verdict(self.checks) if first else "",
        )


def curves(pair: Pair, memory: bool = True) -> list[Curve]:
    """All four, up to the settings' frames, tokens, batch and new_tokens.

    Args:
        memory: whether to start a process for every point and side to see its peak.
    """
    found = [_frames(pair), _tokens(pair), _batch(pair), _new_tokens(pair)]
    return [_with_peaks(curve, jobs) if memory else curve for curve, jobs in found]


Jobs = dict[str, Callable[[int], Job]]
"""Per side, what measures the peak at a size."""


def _frames(pair: Pair) -> tuple[Curve, Jobs]:
    settings = pair.settings
    curve = Curve("vision", "frames", "weights and pixels")
    for count in sizes(settings.frames):
        pixels, grid_sizes, merge_sizes = drawn_pixels(pair.ours.config, count, settings.rows, settings.columns)
        video = (pixels.to(pair.device), grid_sizes, merge_sizes)
        if not curve.checks:
            curve.checks = [close("features", encode(pair.ours, video), encode_theirs(pair.theirs, video))]
        curve.points.append(
            _point(pair, count, partial(encode, pair.ours, video), partial(encode_theirs, pair.theirs, video))
        )
    return curve, _jobs(lambda side, n: Job("vision", side, settings, frames=n))


def _tokens(pair: Pair) -> tuple[Curve, Jobs]:
    settings, decoder = pair.settings, pair.ours.language_model
    curve = Curve("prefill", "tokens", "weights and cache")
    for count in sizes(settings.tokens, first=64):
        ids = drawn_ids(pair.ours.config, count).to(pair.device)
        if not curve.checks:
            curve.checks = [close("logits", last_logits(decoder, ids), last_logits_theirs(pair.theirs, ids))]
        curve.points.append(
            _point(pair, count, partial(prefill, decoder, ids), partial(prefill_theirs, pair.theirs, ids))
        )
    return curve, _jobs(lambda side, n: Job("prefill", side, settings, tokens=n))


def _batch(pair: Pair) -> tuple[Curve, Jobs]:
    """Ours alone: conversations of different lengths, from prompts to the last token."""
    settings = pair.settings
    curve = Curve("decode side by side", f"conversations, {settings.new_tokens} tokens each", "weights and cache")
    for count in sizes(settings.batch):
        inputs = ragged(pair, count)
        curve.points.append(_point(pair, count, Ours(pair.ours, inputs, settings.new_tokens), None))
    return curve, {"ours": lambda n: Job("decode", "ours", settings, batch=n, new_tokens=settings.new_tokens)}


def _new_tokens(pair: Pair) -> tuple[Curve, Jobs]:
    """From the prompt to the last token."""
    settings, ends = pair.settings, list(pair.ours.config.language.eos_token_ids)
    curve = Curve("generate", f"new tokens after {settings.context}", "weights and cache")
    inputs = ragged(pair, 1)
    given = {"input_ids": inputs.input_ids[None]}
    for count in sizes(settings.new_tokens, first=2):
        ours = Ours(pair.ours, inputs, count)
        if not curve.checks:
            ours()
            theirs = generate_theirs(pair.theirs, given, count, ends).ids[len(inputs.input_ids) :]
            curve.checks = [same_ids(pair.ours.language_model, inputs.input_ids, ours.answers[0], theirs)]
        curve.points.append(_point(pair, count, ours, partial(generate_theirs, pair.theirs, given, count, ends)))
    return curve, _jobs(lambda side, n: Job("decode", side, settings, new_tokens=n))


def sizes(most: int, first: int = 1) -> list[int]:
    """first, 2 first, 4 first, ... and `most` itself."""
    found = []
    while first < most:
        found.append(first)
        first *= 2
    return [*found, most]


def for_curves(settings: Settings, given: dict[str, Any]) -> Settings:
    """The settings with the curves' own ends, where none was given."""
    ends: dict[str, Any] = {name: most for name, most in LARGEST.items() if given.get(name) is None}
    return replace(settings, **ends)


def _point(pair: Pair, size: int, ours: Callable[[], object], theirs: Callable[[], object] | None) -> Point:
    candidates = {"ours": timed(ours, pair.device)}
    if theirs is not None:
        candidates["theirs"] = timed(theirs, pair.device)
    samples = in_turn(candidates, pair.settings.repeats, pair.settings.budget)
    return Point(size, samples["ours"], samples.get("theirs"), None, None)


def _with_peaks(curve: Curve, jobs: Jobs) -> Curve:
    def peak(side: str, size: int) -> float | None:
        return in_process(jobs[side](size)).peak if side in jobs else None

    points = [replace(p, peak=peak("ours", p.size), their_peak=peak("theirs", p.size)) for p in curve.points]
    return replace(curve, points=points)


def _jobs(job: Callable[[Any, int], Job]) -> Jobs:
    return {"ours": lambda n: job("ours", n), "theirs": lambda n: job("theirs", n)}


def _both(seconds: float, peak: float | None) -> str:
    return f"{seconds:.4g} s" + ("" if peak is None else f", {max(peak, 0) / 2**20:.0f} MiB")
