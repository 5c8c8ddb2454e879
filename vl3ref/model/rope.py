"""Rotary positions: one axis for text, two axes for pictures.

RoPE turns pairs of numbers in each query and key by an angle proportional to the position, so that their dot product
depends on the distance between two positions alone. Both towers pair number i with number i + head_dim/2.

    text    pair j turns by  position * theta^(-2j / head_dim)                          j < head_dim/2
    image   the first half of the pairs turns by the patch's row, the second half by its column,
            each by  position * theta^(-2j / (head_dim/2))                              j < head_dim/4

Frequencies and angles are always float32: bfloat16 cannot tell position 257 from 258. They are made when needed rather
than kept as buffers, so that moving a model to another dtype cannot round them.
"""

from functools import lru_cache
from typing import NamedTuple

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor


class Rotation(NamedTuple):
    """Cosine and sine of every angle: the half of head_dim that differs, written twice; all heads turn alike.

    The sine's first half is negative: number i becomes x[i] cos - x[i + head_dim/2] sin, and number i + head_dim/2
    becomes x[i + head_dim/2] cos + x[i] sin, so `rotate` needs only swap the halves.
    """

    cos: Float[Tensor, "tokens 1 head_dim"]
    sin: Float[Tensor, "tokens 1 head_dim"]

    def at(self, tokens: Int[Tensor, " some"]) -> "Rotation":
        """That of some of the tokens."""
        return Rotation(self.cos[tokens], self.sin[tokens])


@lru_cache(maxsize=16)
def inverse_frequencies(dim: int, theta: float, device: torch.device) -> Float[Tensor, " pairs"]:
    """theta^(-2j/dim) for j < dim/2, float32. Made on the CPU, so that every device starts from the same bits."""
    return (1.0 / (theta ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim))).to(device)


def text_rotation(positions: Int[Tensor, " tokens"], head_dim: int, theta: float, dtype: torch.dtype) -> Rotation:
    """Rotation of the decoder. Cosine and sine are rounded to the model's dtype before use, as Qwen2 does."""
    angles = positions[:, None].float() * inverse_frequencies(head_dim, theta, positions.device)
    return _written_twice(angles, dtype)


def image_rotation(
    rows: Int[Tensor, " tokens"], columns: Int[Tensor, " tokens"], head_dim: int, theta: float
) -> Rotation:
    """Rotation of the vision encoder: float32, whatever the model's dtype."""
    frequencies = inverse_frequencies(head_dim // 2, theta, rows.device)
    angles = torch.cat([rows[:, None].float() * frequencies, columns[:, None].float() * frequencies], dim=-1)
    return _written_twice(angles, torch.float32)


def _written_twice(angles: Float[Tensor, "tokens pairs"], dtype: torch.dtype) -> Rotation:
    cos, sin = angles.cos().to(dtype)[:, None], angles.sin().to(dtype)[:, None]
    return Rotation(torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1))


def rotate(x: Float[Tensor, "tokens heads head_dim"], rotation: Rotation) -> Float[Tensor, "tokens heads head_dim"]:
    """Turn every head's pairs. Works in the wider of the two dtypes and returns x's."""
    cos, sin = rotation
    dtype = x.dtype
    x = x.to(torch.promote_types(dtype, cos.dtype))
    # In place of its own intermediate results: at 16,384 tokens of the 2B each is another 96 MiB.
    return (x * cos).add_(x.roll(x.shape[-1] // 2, -1).mul_(sin)).to(dtype)


def patch_positions(
    grid: tuple[int, int, int], merge: int, device: torch.device
) -> tuple[Int[Tensor, " patches"], Int[Tensor, " patches"]]:
    """Row and column of every patch of one video or picture.

    Args:
        grid: frames, rows and columns, in patches.
        merge: patches are listed in merge x merge blocks, the order in which the processor writes them, so that each
            output token's patches lie together.

    Returns:
        Two int64 tensors (frames * rows * columns,). Every frame starts again at 0, 0: time is not a visual axis here,
        it is told to the decoder in words.
    """
    frames, height, width = grid
    rows = repeat(torch.arange(height, device=device), "h -> h w", w=width)
    columns = repeat(torch.arange(width, device=device), "w -> h w", h=height)

    def in_blocks(axis: Tensor) -> Tensor:
        axis = rearrange(axis, "(h m) (w n) -> (h w m n)", m=merge, n=merge)
        return repeat(axis, "patches -> (frames patches)", frames=frames)

    return in_blocks(rows), in_blocks(columns)
