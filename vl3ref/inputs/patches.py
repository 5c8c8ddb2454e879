"""Any-resolution Vision Tokenization (AVT): how large a picture becomes, and the order of its patches.

    choose a size (multiple of 14 * merge) -> resize -> scale to [-1, 1] -> cut into 14 x 14 patches, in merge blocks

Sizes and pixels are those of the official processor bit for bit.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from vl3ref.inputs.images import RGB

Size = tuple[int, int]
"""Height and width in pixels."""

PIXEL_TABLE = ((np.arange(256) * (1 / 255)).astype(np.float32) - np.float32(0.5)) / np.float32(0.5)
"""Normalised value of each grey level: scaled in float64, rounded, then mean 0.5 and deviation 0.5 in float32."""


def target_sizes(
    originals: Sequence[tuple[int, int, int]],
    merge_sizes: Sequence[int],
    max_tokens: int = 16384,
    min_tokens: int = 16,
    patch_size: int = 14,
) -> list[Size]:
    """The size each picture or video of one conversation is resized to (official `image_processing_videollama3`).

    Args:
        originals: frames, height and width in pixels of each (a picture has one frame).
        merge_sizes: of each.
        max_tokens: budget of visual tokens of the whole conversation, before DiffFP.
        min_tokens: of one frame; only where all merge sizes agree.

    Returns:
        Height and width of each, multiples of patch_size * merge. Every frame gets at least one token, also where the
        official rule rounds a small picture among large videos to nothing; that can pass the budget.
    """
    units = [patch_size * merge for merge in merge_sizes]
    if len(set(units)) == 1:
        sizes = _one_merge_size(originals, units[0], max_tokens, min_tokens)
    else:
        sizes = _mixed_merge_sizes(originals, units, max_tokens)
    return [(max(height, unit), max(width, unit)) for (height, width), unit in zip(sizes, units, strict=True)]


def _one_merge_size(
    originals: Sequence[tuple[int, int, int]], unit: int, max_tokens: int, min_tokens: int
) -> list[Size]:
    """Every frame gets the same share of the budget."""
    frames = sum(count for count, _, _ in originals)
    most, least = max(max_tokens * unit**2 // frames, 1), min_tokens * unit**2
    sizes = []
    for _, height, width in originals:
        size = _rounded(height, width, unit)
        if size[0] * size[1] > most:
            size = _shrunk(height, width, math.sqrt(height * width / most), unit)
        if size[0] * size[1] < least:
            grow = math.sqrt(least / (height * width))
            size = (math.ceil(height * grow / unit) * unit, math.ceil(width * grow / unit) * unit)
        sizes.append(size)
    return sizes


def _mixed_merge_sizes(originals: Sequence[tuple[int, int, int]], units: Sequence[int], max_tokens: int) -> list[Size]:
    """Everything shrinks by the same factor until all of it fits."""
    pairs = list(zip(originals, units, strict=True))
    total = sum(t * math.ceil(height / unit) * math.ceil(width / unit) for (t, height, width), unit in pairs)
    if total <= max_tokens:
        return [_rounded(height, width, unit) for (_, height, width), unit in pairs]
    shrink = math.sqrt(total / max_tokens)
    return [_shrunk(height, width, shrink, unit) for (_, height, width), unit in pairs]


def _rounded(height: int, width: int, unit: int) -> Size:
    return round(height / unit) * unit, round(width / unit) * unit  # Python's round: halves to even, as the original


def _shrunk(height: int, width: int, by: float, unit: int) -> Size:
    return math.floor(height / by / unit) * unit, math.floor(width / by / unit) * unit


def patchify(
    frames: Iterable[RGB], count: int, size: Size, merge: int, patch_size: int = 14
) -> Float[Tensor, "patches values"]:
    """Frames of one video (or one picture) -> normalised flattened patches.

    Frames are resized one at a time, so that a generator of frames never holds two of them.

    Args:
        frames: (H, W, 3) uint8 each.
        count: how many there are.
        size: height and width to resize to (Pillow's bicubic on uint8).

    Returns:
        (count * rows * columns, 3 * patch_size^2) float32 in [-1, 1]. Patches are listed in merge x merge blocks, each
        block the patches of one visual token; within a patch: channel, row, column.
    """
    height, width = size
    per_frame = (height // patch_size) * (width // patch_size)
    patches = np.empty((count, per_frame, 3 * patch_size**2), dtype=np.float32)
    index = -1
    for index, frame in enumerate(frames):
        blocks = rearrange(
            resize(frame, size),
            "(h m p) (w n q) c -> (h w m n) (c p q)",
            m=merge,
            n=merge,
            p=patch_size,
            q=patch_size,
        )
        np.take(PIXEL_TABLE, blocks, out=patches[index], mode="clip")  # "raise" would go through a copy of `out`
    assert index == count - 1
    return torch.from_numpy(patches).flatten(0, 1)


def resize(frame: RGB, size: Size) -> UInt8[np.ndarray, "new_height new_width 3"]:
    """Bicubic, by Pillow: its filter widens when it shrinks, which torch's and OpenCV's do not do the same way."""
    from PIL import Image

    if frame.shape[:2] == size:
        return frame
    return np.asarray(Image.fromarray(frame).resize((size[1], size[0]), Image.Resampling.BICUBIC))
