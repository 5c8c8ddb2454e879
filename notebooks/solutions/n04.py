"""Solutions of notebook 4, packed attention."""

import torch
from torch import Tensor


def solution_1(lengths: list[int]) -> tuple[int, int]:
    return sum(n * n for n in lengths), sum(lengths) ** 2


def solution_2(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)


def solution_3(q: Tensor, k: Tensor, v: Tensor, lengths: list[int]) -> Tensor:
    queries, keys, values = (x.split(lengths) for x in (q, k, v))
    out = []
    for frame, query in enumerate(queries):
        window = slice(max(0, frame - 1), frame + 1)
        key, value = torch.cat(keys[window]), torch.cat(values[window])
        scores = torch.einsum("n h d, m h d -> h n m", query, key) / q.shape[-1] ** 0.5
        out.append(torch.einsum("h n m, m h d -> n h d", scores.softmax(-1), value))
    return torch.cat(out)
