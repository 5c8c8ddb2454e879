"""Solutions of notebook 9, use cases."""

import torch
from torch import Tensor


def solution_1(options: list[Tensor]) -> tuple[int, float]:
    totals = torch.stack([option.sum() for option in options])
    best = int(totals.argmax())
    return best, float(totals.softmax(0)[best])


def _distance(a: str, b: str) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        above, row = row, [i]
        for j, y in enumerate(b):
            row.append(min(above[j] + (x != y), above[j + 1] + 1, row[j] + 1))
    return row[-1]


def solution_2(answer: str, right: list[str]) -> float:
    pairs = [(answer.lower(), one.lower()) for one in right]
    best = max(1 - _distance(a, b) / max(len(a), len(b)) for a, b in pairs)
    return best if best >= 0.5 else 0.0


def solution_3(times: list[float], values: list[float]) -> tuple[float, float]:
    """Values that are never negative only gain by a longer interval: it would always be the whole clip."""
    mean = sum(values) / len(values)
    best, span = float("-inf"), (0, 0)
    total, start = 0.0, 0
    for place, value in enumerate(values):
        if total < 0:
            total, start = 0.0, place
        total += value - mean
        if total > best:
            best, span = total, (start, place)
    return times[span[0]], times[span[1]]
