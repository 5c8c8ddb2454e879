"""The token merge: features of merge x merge patches -> one visual token (paper, section 3.1: 2 x 2 for videos).

A module without parameters, to be swapped for another (pixel shuffle, say) that takes the same arguments and makes
h * w / m^2 tokens for each frame, in order. Patches come in merge-block order: those of a token are neighbours. The
projector, and a pruner that reads features, see the width that it makes.
"""

from collections.abc import Sequence
from itertools import groupby

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

Frame = tuple[int, int, int]
"""Rows and columns of patches of one frame (or image), and its merge size."""


class TokenMerge(nn.Module):
    """Shrink each frame's grid of features by its merge size, bilinearly (for 2: the mean of each 2 x 2 block)."""

    def forward(self, features: Float[Tensor, "patches dim"], frames: Sequence[Frame]) -> Float[Tensor, "tokens dim"]:
        runs = [(frame, len(list(run))) for frame, run in groupby(frames)]
        tokens = []
        for x, ((h, w, m), t) in zip(features.split([h * w * t for (h, w, _), t in runs]), runs, strict=True):
            if m > 1:
                image = rearrange(x, "(t h w m n) d -> t d (h m) (w n)", t=t, h=h // m, w=w // m, m=m, n=m)
                image = F.interpolate(image, size=(h // m, w // m), mode="bilinear")
                x = rearrange(image, "t d h w -> (t h w) d")
            tokens.append(x)
        return torch.cat(tokens)
