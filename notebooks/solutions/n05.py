"""Solutions of notebook 5, DiffFP."""

import torch
from einops import rearrange
from torch import Tensor

from vl3ref.model_inputs import ModelInputs


def solution_1(levels: float) -> float:
    return 2 * levels  # pixels lie in [-1, 1]: a level is 2/255


def solution_2(change: Tensor, budget: int) -> float:
    largest_first = change.flatten().sort(descending=True).values
    # what is above the next smaller change fits; what is above anything lower does not
    return float(largest_first[budget]) if budget < len(largest_first) else 0.0


def solution_3(inputs: ModelInputs, features: Tensor | None = None, threshold: float = 0.1) -> Tensor:
    masks = []
    for pixels, (frames, _, _), merge, modal in inputs.visuals():
        by_token = rearrange(pixels, "(t n m) c -> t n (m c)", t=frames, m=merge**2)
        keep = torch.ones(by_token.shape[:2], dtype=torch.bool)
        last = by_token[0].clone()
        for frame in range(1, frames if modal == "video" else 1):
            keep[frame] = (by_token[frame] - last).abs().mean(dim=-1) * 255 > threshold
            keep[frame, 0] |= ~keep[frame].any()
            last[keep[frame]] = by_token[frame, keep[frame]]
        masks.append(keep.flatten())
    return torch.cat(masks)
