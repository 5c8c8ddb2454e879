"""Solutions of notebook 3, two-dimensional rotary positions."""

import torch
from torch import Tensor


def solution_1(row: int, column: int, head_dim: int, base: float) -> Tensor:
    speeds = base ** (-torch.arange(head_dim // 4) / (head_dim // 4))
    return torch.cat([row * speeds, column * speeds])


def solution_2(x: Tensor, angles: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    turned = torch.complex(a, b) * torch.polar(torch.ones_like(angles), angles)[:, None]
    return torch.cat([turned.real, turned.imag], dim=-1)


def solution_3(x: Tensor, positions: Tensor, shares: tuple[int, ...], base: float) -> Tensor:
    speeds = torch.cat([base ** (-torch.arange(share) / max(share, 1)) for share in shares])
    axes = torch.repeat_interleave(torch.arange(len(shares)), torch.tensor(shares))
    return solution_2(x, positions.float()[:, axes] * speeds)
