"""DiffFP, the Differential Frame Pruner: which video tokens are kept (paper, section 3.1).

A token whose pixels hardly differ from the same place one frame earlier tells the decoder nothing new, and is dropped.
Images, first frames and one-frame videos are kept whole. A frame never loses all its tokens, since its timestamp in the
prompt must be followed by something: its first token is kept.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from vl3ref.model_inputs import ModelInputs

Pruner = Callable[[ModelInputs, Tensor | None], Tensor]
"""(inputs, vision features (tokens, dim)) -> which visual tokens are kept: a bool mask (tokens,), or float scores
(tokens,). Tokens with a score above 0 are kept, and their embeddings are multiplied by it, so that a pruner that learns
gets a gradient. `vl3ref inspect` has no features, and passes None."""


@dataclass(frozen=True)
class DiffFP:
    """The paper's pruner: a token is kept if its mean absolute pixel change, times 255, exceeds `threshold`. Pixels lie
    in [-1, 1], so 1.0 is half of one of 255 grey levels, and the released 0.1 a twentieth of one."""

    threshold: float = 0.1

    def __call__(self, inputs: ModelInputs, features: Tensor | None = None) -> Bool[Tensor, " tokens"]:
        masks = []
        for pixels, (t, h, w), merge, modal in inputs.visuals():
            keep = torch.ones(t, h * w // merge**2, dtype=torch.bool, device=pixels.device)
            if modal == "video" and t > 1:
                keep[1:] = frame_change(pixels, t, merge) > self.threshold
                keep[:, 0] |= ~keep.any(dim=1)
            masks.append(keep.flatten())
        return torch.cat(masks) if masks else keep_all(inputs)


def keep_all(inputs: ModelInputs, features: Tensor | None = None) -> Bool[Tensor, " tokens"]:
    """The pruner that drops nothing."""
    return torch.ones(sum(inputs.tokens_per_visual()), dtype=torch.bool, device=inputs.input_ids.device)


def frame_change(
    pixels: Float[Tensor, "patches values"], frames: int, merge: int
) -> Float[Tensor, "later_frames tokens"]:
    """Mean absolute difference of each token's pixels to the same place one frame earlier, times 255.

    Always in float32 (differences in bfloat16 cannot resolve the threshold), and one pair of frames at a time, so that
    memory does not grow with the clip.
    """
    by_token = rearrange(pixels, "(t n m) c -> t n (m c)", t=frames, m=merge**2)
    return torch.stack([(now.float() - before.float()).abs().mean(-1) for before, now in pairwise(by_token)]) * 255
