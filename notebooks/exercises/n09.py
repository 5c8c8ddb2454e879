"""Checks of notebook 9, use cases."""

from collections.abc import Callable

import torch
from check import NotYet, same
from torch import Tensor

from vl3ref.evaluation import metrics


def exercise_1(choose: Callable[[list[Tensor]], tuple[int, float]]) -> None:
    cases = ([[-0.5, -0.5], [-1.5]], [[-3.0], [-1.0, -1.0, -0.5], [-4.0, -0.1]], [[-900.0], [-901.0, -1.0]])
    for case in cases:
        totals = torch.tensor([sum(option) for option in case])
        given = choose([torch.tensor(option) for option in case])
        if not isinstance(given, tuple) or len(given) != 2:
            raise NotYet(f"choose should return a number and a probability, not {given!r}")
        same(int(given[0]), int(totals.argmax()), f"the option chosen of {case}")
        same(torch.tensor(float(given[1])), totals.softmax(0).max(), f"its probability, for {case}")


def exercise_2(anls: Callable[[str, list[str]], float]) -> None:
    for answer, right in (
        ("tea", ["tea"]),
        ("Tea", ["tea", "coffee"]),
        ("sack", ["sock"]),
        ("sockss", ["sock", "socks"]),
        ("on", ["one", "two"]),
        ("salt", ["egg"]),
        ("12.50", ["12.5"]),
        ("kitten", ["sitting"]),
    ):
        given = anls(answer, list(right))
        given = torch.tensor(float(given)) if isinstance(given, int | float) else given
        same(given, torch.tensor(metrics.anls(answer, right)), f"anls({answer!r}, {right})")


def exercise_3(interval: Callable[[list[float], list[float]], tuple[float, float]]) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = [[0.0, 0.0, 5.0, 4.0, 0.0], [3.0, 1.0], [2.0], [9.0, 0.0, 1.0, 8.0, 9.5, 0.0]]
    rows += [torch.rand(12, generator=generator).tolist() for _ in range(4)]
    for values in rows:
        times = [1.5 + 0.5 * n for n in range(len(values))]
        mean = sum(values) / len(values)
        spans = [(first, last) for first in range(len(values)) for last in range(first, len(values))]
        sums = {(a, b): sum(value - mean for value in values[a : b + 1]) for a, b in spans}
        first, last = max(sums, key=lambda span: sums[span])
        given = interval(list(times), list(values))
        wanted = (times[first], times[last])
        same(given, wanted, f"the interval of times {times} and values {[round(value, 2) for value in values]}")
