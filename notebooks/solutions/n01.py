"""Solutions of notebook 1, from file to words."""

import torch
from einops import rearrange
from torch import Tensor


def solution_1(frames: int, height: int, width: int, merge: int) -> tuple[int, int]:
    patches = frames * (height // 14) * (width // 14)
    return patches, patches // merge**2


def solution_2(pixel_values: Tensor, grid: tuple[int, int, int], merge: int) -> Tensor:
    frames, rows, columns = grid
    levels = ((pixel_values / 2 + 0.5) * 255).round().to(torch.uint8)
    axes = {"t": frames, "h": rows // merge, "w": columns // merge, "m": merge, "n": merge, "p": 14, "q": 14}
    return rearrange(levels, "(t h w m n) (c p q) -> t (h m p) (w n q) c", **axes)


def solution_3(visual: Tensor, tokens_per_frame: int, keep: Tensor) -> Tensor:
    frame = torch.full(visual.shape, -1)
    frame[visual] = torch.arange(len(keep)) // tokens_per_frame
    kept = ~visual
    kept[visual] = keep
    return frame[kept]
