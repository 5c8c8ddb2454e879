"""Checks of notebook 4, packed attention."""

from collections.abc import Callable

import torch
from check import same
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def exercise_1(scores: Callable[[list[int]], tuple[int, int]]) -> None:
    for lengths in ([4], [4, 2, 4], [576] * 8):
        wanted = (sum(n * n for n in lengths), sum(lengths) ** 2)
        same(scores(lengths), wanted, f"scores({lengths})")


def exercise_2(cumulative: Callable[[list[int]], Tensor]) -> None:
    for lengths in ([4, 2, 4], [7], [1, 1, 1, 1]):
        given = cumulative(lengths)
        same(given, torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()]), f"cumulative({lengths})")
        same(given.dtype, torch.int32, "the dtype")


def exercise_3(attend: Callable[[Tensor, Tensor, Tensor, list[int]], Tensor]) -> None:
    generator = torch.Generator().manual_seed(0)
    for lengths in ([5], [4, 4, 4], [2, 6, 3, 3]):
        q, k, v = torch.randn(3, sum(lengths), 2, 8, generator=generator)
        frame = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
        back = frame[:, None] - frame[None, :]
        batch = (x.transpose(0, 1)[None] for x in (q, k, v))
        wanted = scaled_dot_product_attention(*batch, attn_mask=(back == 0) | (back == 1))[0].transpose(0, 1)
        same(attend(q, k, v, lengths), wanted, f"the output for lengths {lengths}")
