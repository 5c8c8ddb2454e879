"""Checks of notebook 7, generation."""

from collections.abc import Callable, Iterable

import torch
from check import same
from torch import Tensor

from vl3ref.chat import until as ours

STREAMS = [
    (["It is ", "red.", " Or", " not."], "."),
    (["a", "ST", "OP", "b"], "STOP"),
    (["a", "ST", "O", "re"], "STOP"),
    (["aSTO", "STOP"], "STOP"),
    (["ab", "aab", "aac"], "aabaac"),
    (["no end ST"], "STOP"),
    (["STOP at once"], "STOP"),
]


def exercise_1(min_p: Callable[[Tensor, float], Tensor]) -> None:
    generator = torch.Generator().manual_seed(0)
    for shape, p in (((50,), 0.1), ((3, 50), 0.05), ((2, 3, 7), 0.6), ((9,), 1.0)):
        logits = 3 * torch.randn(shape, generator=generator)
        wanted = logits.softmax(-1) * (logits.softmax(-1) >= p * logits.softmax(-1).amax(-1, keepdim=True))
        given = min_p(logits.clone(), p)
        what = f"softmax(min_p(logits of the shape {shape}, {p}))"
        same(None if given is None else given.softmax(-1), wanted / wanted.sum(-1, keepdim=True), what)


def exercise_2(until: Callable[[list[str], str], Iterable[str]]) -> None:
    for pieces, stop in STREAMS:
        given = until(list(pieces), stop)
        same(None if given is None else list(given), list(ours(pieces, [stop])), f"until({pieces}, {stop!r})")


def exercise_3(rollout: Callable[[list[Tensor]], Tensor]) -> None:
    generator = torch.Generator().manual_seed(0)
    for blocks in (1, 2, 4):
        maps = [torch.randn(2, 5, 5, generator=generator).tril().exp().tril() for _ in range(blocks)]
        maps = [x / x.sum(-1, keepdim=True) for x in maps]
        wanted = torch.eye(5)  # what each token holds, as shares of the inputs
        for x in maps:
            wanted = torch.stack([(row + sum(w * h for w, h in zip(by, wanted, strict=True))) / 2 for row, by in zip(wanted, x.mean(0), strict=True)])  # fmt: skip
        same(rollout(maps), wanted, f"the rollout of {blocks} block{'s' if blocks > 1 else ''}")
