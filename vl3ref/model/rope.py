"""Rotary position embeddings: one axis for text, two axes for images.

RoPE rotates pairs of numbers in each query and key by an angle proportional to the position, so that their dot product
depends only on the distance between positions. Both towers pair number i with number i + head_dim/2.

    text    pair j rotates by  position * theta^(-2j / head_dim)                          j < head_dim/2
    image   the first half of the pairs rotates by the patch's row, the second half by its column,
            each by            position * theta^(-2j / (head_dim/2))                      j < head_dim/4

Angles are float32 (bfloat16 cannot tell position 257 from 258) and no buffers, which model.bfloat16() would round.
"""

from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vl3ref.config import LanguageConfig, VisionConfig
from vl3ref.model.rope_scaling import scale_frequencies


class Rotation(NamedTuple):
    """cos and sin of every token's angles, the same for all heads. The first half of sin is negated (see `rotate`)."""

    cos: Float[Tensor, "tokens 1 head_dim"]
    sin: Float[Tensor, "tokens 1 head_dim"]


class TextRotary(nn.Module):
    """Rotation of the decoder: positions (tokens,) -> cos and sin, rounded to the model's dtype as in Qwen2."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, positions: Int[Tensor, " tokens"], dtype: torch.dtype) -> Rotation:
        frequencies = inverse_frequencies(self.config.head_dim, self.config.rope_theta, positions.device)
        frequencies, factor = scale_frequencies(frequencies, self.config)  # as they are, where nothing is scaled
        return rotation(positions[:, None].float() * frequencies, dtype, factor)


class ImageRotary(nn.Module):
    """Rotation of the vision encoder: rows and columns (patches, 2) -> cos and sin, always float32."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, positions: Int[Tensor, "patches 2"]) -> Rotation:
        frequencies = inverse_frequencies(self.config.head_dim // 2, self.config.rope_theta, positions.device)
        return rotation((positions[:, :, None].float() * frequencies).flatten(1), torch.float32)


@lru_cache(maxsize=16)
def inverse_frequencies(dim: int, theta: float, device: torch.device) -> Float[Tensor, " pairs"]:
    """theta^(-2j/dim), computed on the CPU so that every device gets the same bits."""
    with torch.inference_mode(False):  # cached, and used in training too
        return (1.0 / (theta ** (torch.arange(0, dim, 2, dtype=torch.float32, device="cpu") / dim))).to(device)


def rotation(angles: Float[Tensor, "tokens pairs"], dtype: torch.dtype, factor: float = 1.0) -> Rotation:
    """cos and sin of every pair's angle, for `rotate`. YaRN multiplies both by a factor."""
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    if factor != 1:
        cos, sin = cos * factor, sin * factor
    return Rotation(torch.cat([cos, cos], dim=-1).to(dtype), torch.cat([-sin, sin], dim=-1).to(dtype))


def rotate(x: Float[Tensor, "tokens heads head_dim"], rotation: Rotation) -> Float[Tensor, "tokens heads head_dim"]:
    """(a, b) -> (a cos - b sin, b cos + a sin) for every pair, in the wider of the two dtypes; returns x's dtype."""
    cos, sin = rotation
    wide = x.to(torch.promote_types(x.dtype, cos.dtype))
    # In place of its own intermediates: at 16,384 tokens of the 2B each is another 96 MiB.
    return (wide * cos).add_(wide.roll(x.shape[-1] // 2, -1).mul_(sin)).to(x.dtype)
