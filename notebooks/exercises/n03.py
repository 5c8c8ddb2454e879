"""Checks of notebook 3, two-dimensional rotary positions."""

import math
from collections.abc import Callable

import torch
from check import same
from torch import Tensor


def exercise_1(angles_of_patch: Callable[[int, int, int, float], Tensor]) -> None:
    for row, column, head_dim, base in ((1, 0, 8, 100.0), (0, 1, 8, 100.0), (5, 7, 32, 10000.0), (30, 2, 72, 10000.0)):
        speeds = [base ** (-4 * j / head_dim) for j in range(head_dim // 4)]
        wanted = torch.tensor([row * speed for speed in speeds] + [column * speed for speed in speeds])
        what = f"angles_of_patch({row}, {column}, {head_dim}, {base:g})"
        same(angles_of_patch(row, column, head_dim, base), wanted, what)


def exercise_2(rotate_complex: Callable[[Tensor, Tensor], Tensor]) -> None:
    generator = torch.Generator().manual_seed(0)
    for tokens, heads, head_dim in ((1, 1, 2), (3, 1, 8), (4, 2, 16)):
        x = torch.randn(tokens, heads, head_dim, generator=generator)
        angles = torch.randn(tokens, head_dim // 2, generator=generator) * 3
        what = f"the rotation of {tokens} tokens with {heads} heads of {head_dim} (token, head, number)"
        same(rotate_complex(x, angles), _rotated(x, angles), what)


def exercise_3(rotate_axes: Callable[[Tensor, Tensor, tuple[int, ...], float], Tensor]) -> None:
    generator = torch.Generator().manual_seed(0)
    for shares in ((0, 4, 4), (2, 3, 3), (8, 0, 0), (5, 3), (1, 2, 3, 2)):
        x = torch.randn(6, 2, 16, generator=generator)
        positions = torch.randint(0, 20, (6, len(shares)), generator=generator)
        angles = torch.tensor(
            [
                [place[axis] * 100.0 ** (-j / share) for axis, share in enumerate(shares) for j in range(share)]
                for place in positions.tolist()
            ]
        )
        what = f"the rotation with shares {shares} (token, head, number)"
        same(rotate_axes(x, positions, shares, 100.0), _rotated(x, angles), what, tolerance=1e-4)


def _rotated(x: Tensor, angles: Tensor) -> Tensor:
    """Number by number."""
    out, half = torch.empty_like(x), x.shape[-1] // 2
    for token in range(len(x)):
        for pair in range(half):
            cos, sin = math.cos(float(angles[token, pair])), math.sin(float(angles[token, pair]))
            a, b = x[token, :, pair], x[token, :, pair + half]
            out[token, :, pair], out[token, :, pair + half] = a * cos - b * sin, b * cos + a * sin
    return out
