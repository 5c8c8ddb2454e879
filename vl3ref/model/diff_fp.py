"""DiffFP, the Differential Frame Pruner: which video tokens stay (paper, section 3.1).

A video repeats itself. A token whose pixels hardly differ from the same place one frame earlier tells the decoder
nothing, and is dropped from its sequence. Pictures, first frames and one-frame videos stay whole, and so does the first
token of a frame that would vanish: its timestamp keeps something to stand before.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

Pruner = Callable[[Tensor, Tensor, Tensor, Sequence[str]], Tensor]
"""pixel_values (patches, values), grid_sizes (visuals, 3), merge_sizes (visuals,), modals -> keep mask (tokens,)."""


@dataclass(frozen=True)
class DiffFP:
    """The paper's pruner. Any callable of the same form can stand in its place (`model.pruner = ...`).

    Args:
        threshold: a token is kept if its mean absolute change exceeds this. Normalised pixels span 2 and are counted
            times 255, so the unit is half a grey level and the paper's 0.1 a twentieth of one.
    """

    threshold: float = 0.1

    def __call__(
        self,
        pixel_values: Float[Tensor, "patches values"],
        grid_sizes: Int[Tensor, "visuals 3"],
        merge_sizes: Int[Tensor, " visuals"],
        modals: Sequence[str],
    ) -> Bool[Tensor, " tokens"]:
        grids, merges = grid_sizes.tolist(), merge_sizes.tolist()
        videos = pixel_values.split([t * h * w for t, h, w in grids])
        masks = []
        for pixels, (t, h, w), merge, modal in zip(videos, grids, merges, modals, strict=True):
            if modal == "video" and t > 1:
                keep = frame_change(pixels, t, merge) > self.threshold
                keep[:, 0] |= ~keep.any(dim=1)
                first = keep.new_ones(1, keep.shape[1])
                masks.append(torch.cat([first, keep]).flatten())
            else:
                masks.append(torch.ones(t * h * w // merge**2, dtype=torch.bool, device=pixels.device))
        return torch.cat(masks) if masks else torch.ones(0, dtype=torch.bool, device=pixel_values.device)


def frame_change(
    pixels: Float[Tensor, "patches values"], frames: int, merge: int
) -> Float[Tensor, "later_frames tokens"]:
    """How much each token of frames 1, 2, ... differs from the same place one frame earlier.

    Computed in float32 from the processor's pixels: the threshold lies below what bfloat16 resolves. One pair of frames
    at a time, so that memory does not grow with the clip.

    Returns:
        (frames - 1, tokens per frame): mean absolute difference over the token's merge^2 patches, times 255.
    """
    by_token = rearrange(pixels, "(t n m) c -> t n (m c)", t=frames, m=merge * merge)
    changes = [(later.float() - earlier.float()).abs().mean(dim=-1) for earlier, later in pairwise(by_token)]
    return torch.stack(changes) * 255


def keep_all(
    pixel_values: Float[Tensor, "patches values"],
    grid_sizes: Int[Tensor, "visuals 3"],
    merge_sizes: Int[Tensor, " visuals"],
    modals: Sequence[str],
) -> Bool[Tensor, " tokens"]:
    """The pruner that drops nothing."""
    tokens = (grid_sizes.prod(dim=1) // merge_sizes**2).sum()
    return torch.ones(int(tokens), dtype=torch.bool, device=pixel_values.device)
