"""Checks of notebook 8, training."""

import math
from collections.abc import Callable

import torch
from check import same
from torch import Tensor
from torch.nn.functional import cross_entropy


def exercise_1(loss_of_step: Callable[[list[float], list[int]], float]) -> None:
    for means, targets in (([2.0], [7]), ([2.0, 1.0], [30, 10]), ([1.5, math.nan, 3.0], [4, 0, 2])):
        summed = sum(mean * count for mean, count in zip(means, targets, strict=True) if count)
        given = loss_of_step(list(means), list(targets))
        given = torch.tensor(float(given)) if isinstance(given, int | float | Tensor) else given
        same(given, torch.tensor(summed / sum(targets)), f"loss_of_step({means}, {targets})")


def exercise_2(rows_with_targets: Callable[[Tensor, list[int]], Tensor]) -> None:
    for labels, lengths in _packs():
        wanted, start = torch.zeros(len(labels), dtype=torch.bool), 0
        for length in lengths:
            for row in range(start, start + length - 1):
                wanted[row] = labels[row + 1] != -100
            start += length
        given = rows_with_targets(labels.clone(), list(lengths))
        same(given, wanted, f"the mask for labels {labels.tolist()} and lengths {lengths}")
        same(given.dtype, torch.bool, "the dtype")


def exercise_3(balanced_loss: Callable[[Tensor, Tensor, list[int]], Tensor]) -> None:
    generator = torch.Generator().manual_seed(0)
    for labels, lengths in _packs():
        logits = torch.randn(len(labels), 12, generator=generator)
        means = []
        for rows, own in zip(logits.split(lengths), labels.split(lengths), strict=True):
            if bool((own[1:] != -100).any()):
                means.append(cross_entropy(rows[:-1], own[1:], ignore_index=-100))
        given = balanced_loss(logits.clone(), labels.clone(), list(lengths))
        same(given, torch.stack(means).mean(), f"the loss for labels {labels.tolist()} and lengths {lengths}")


def _packs() -> list[tuple[Tensor, list[int]]]:
    """The first token of a conversation is a label in some, and one conversation has no target."""
    return [
        (torch.tensor([-100, -100, 3, 4]), [4]),
        (torch.tensor([-100, 5, 6, 7, 8, -100, 9]), [3, 4]),
        (torch.tensor([-100, 1, 2, 3, 4, 5, -100, -100, 6, -100, 7]), [6, 2, 3]),
        (torch.tensor([2, -100, -100, 1, 10]), [1, 2, 2]),
    ]
