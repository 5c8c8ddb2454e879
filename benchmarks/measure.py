"""Calls in turn, whether their outputs are equal, what the machine can do at best, and the line that this makes."""

import gc
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.benchmark import timer  # waits for the accelerator where there is one
from torch.utils.flop_counter import FlopCounterMode

HEAD = """Medians of the turns, quartiles in brackets; a ratio is the median of the turns' ratios.

| row | what | ours | theirs | theirs / ours | of the machine's limit | output |
|---|---|---|---|---|---|---|""".splitlines()

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
"""Relative difference that another order of the same sums may bring."""

SIDE, CACHE, BUFFER = {"cpu": 3072, "cuda": 8192}, 2**25, 2**30
"""Of square matrices; bytes that a processor's last cache is taken to hold, and that none holds."""

Numbers = Sequence[float]
Output = tuple[bool, str]
"""One for each turn; whether both sides computed the same, without which a ratio means nothing, and a note on it."""


def in_child(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns in a fresh process, where nothing else has touched caches and memory."""
    with ProcessPoolExecutor(1, get_context("spawn"), torch.set_grad_enabled, (False,)) as pool:
        return pool.submit(function, *arguments).result()


def print_lines(name: str, measure: Callable[[Namespace], Iterator[str]], options: Namespace) -> list[str]:
    lines = []
    for line in measure(options):
        lines.append(f"| {name} | {line} |")
        print(lines[-1], flush=True)
    return lines


def beside(what: str, repeats: int, runs: dict[str, Any], output: Output, scale: float = 1) -> str:
    """A line of the table. All runs ("ours", "theirs", and by name the limits: the same work at the machine's best)
    return their seconds. They take turns, so that a machine that is slower for a while is slower for all of them; the
    first turn warms up, and no turn begins after a minute once there are three."""
    gc.collect()
    gc.disable()
    start, turns = timer(), list[list[float]]()
    while len(turns) <= repeats and (len(turns) <= 3 or timer() - start < 60):
        turns.append([run() for run in runs.values()])
    gc.enable()
    ours, theirs, *limits = zip(*turns[1:], strict=True)
    reached = [median(a / b for a, b in zip(limit, ours, strict=True)) for limit in limits]
    named = [f"{part:.0%} of {name}" for part, name in zip(reached, [*runs][2:], strict=True)]
    return line(what, ours, theirs, output, "ms", scale, ", ".join(named))


def line(what: str, ours: Numbers, theirs: Numbers, output: Output, unit: str, scale: float = 1, best: str = "") -> str:
    """Numbers are seconds (unit "ms") or bytes ("MiB"). The ratio is `scale` times theirs / ours."""
    equal, note = output
    size = {"ms": 1e-3, "MiB": 2**20}[unit]
    ratios = [scale * b / a for a, b in zip(ours, theirs, strict=True) if equal and a > 0]
    amounts = [f"{spread([value / size for value in values], '.4g')} {unit}" for values in (ours, theirs)]
    note = f"{'' if equal else 'NOT EQUAL: '}{note}; turns: {len(ours)}"
    return " | ".join([what, *amounts, spread(ratios, ".2f"), best if equal else "", note])


def spread(values: Numbers, form: str) -> str:
    """The median and, in brackets, the quartiles."""
    if len(values) < 2:
        return "".join(format(value, form) for value in values)
    low, middle, high = (format(value, form) for value in quantiles(values, method="inclusive"))
    return f"{middle} ({low} to {high})"


def timed(run: Callable[[], object], times: int = 1, scale: float = 1) -> float:
    """Mean seconds of a call over `times` calls, times `scale`."""
    start = timer()
    for _ in range(times):
        run()
    return (timer() - start) / times * scale


def close(ours: Tensor, theirs: Tensor) -> Output:
    """Whether two results are equal up to rounding (relative root mean square), and a note on it."""
    error = float((ours.double() - theirs.double()).norm() / theirs.double().norm())
    return error <= TOLERANCE[ours.dtype], f"relative difference {error:.0e}"  # nan is not equal


def same_ids(ours: list[int], theirs: list[int], dtype: torch.dtype) -> Output:
    """Whether greedy ids are equal. In bfloat16 rounding decides between likely tokens: they are counted only."""
    equal = sum(a == b for a, b in zip(ours, theirs, strict=True))
    return equal == len(ours) or dtype == torch.bfloat16, f"{equal} of {len(ours)} ids equal"


def operations(run: Callable[[], object], causal: int) -> float:
    """Floating-point operations of all matrix products, as torch counts them. Of a causal sequence of n tokens it
    counts n^2 pairs of query and key; n (n + 1) / 2 are left."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # other kernels are not counted
        run()
    found: dict[Any, int] = counter.get_flop_counts()["Global"]
    attention = sum(number for name, number in found.items() if "bmm" in str(name))
    return sum(found.values()) - (attention * (causal - 1) / (2 * causal) if causal else 0)


def product_limits(work: float, layer: nn.Module, rows: int) -> dict[str, Any]:
    """So many operations at the speed of a large square matrix product, and of the layer's own shapes."""
    weights = [part.weight for part in layer.modules() if isinstance(part, nn.Linear)]
    side = SIDE[weights[0].device.type]
    square = weights[0].new_empty(side, side).normal_()
    inputs = {w.shape[1]: w.new_empty(rows, w.shape[1]).normal_() for w in weights}
    own, own_work = lambda: [inputs[w.shape[1]] @ w.t() for w in weights], 2 * rows * sum(w.numel() for w in weights)
    return {
        f"a {side}×{side} matrix product": partial(timed, lambda: square @ square, 2, work / (2 * side**3)),
        "its own shapes' products": partial(timed, own, 2, work / own_work),
    }


def step_limits(decoder: Any) -> dict[str, Any]:
    """A decode step at the speed of memory (the fastest of a sum, a matrix-vector product and a copy) or, where a cache
    holds all weights, of its matrix-vector products alone."""
    weights = [part.weight for part in decoder.modules() if isinstance(part, nn.Linear)]
    weights += [decoder.embed_tokens.weight] * (decoder.lm_head is None)
    size, own = sum(w.nbytes for w in weights), lambda: [torch.mv(w, w[0]) for w in weights]
    if size <= CACHE and not weights[0].is_cuda:
        return {"its own matrix-vector products": partial(timed, own, 16)}
    buffer = weights[0].new_empty(BUFFER // weights[0].itemsize).normal_()
    rows, (low, high) = buffer.view(-1, 1024), buffer.chunk(2)
    passes = (buffer.sum, lambda: torch.mv(rows, rows[0]), lambda: low.copy_(high))
    return {"memory bandwidth": lambda: min(timed(run, 4, size / BUFFER) for run in passes)}
