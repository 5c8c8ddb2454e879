"""Any-resolution Vision Tokenization (AVT): the size an image is resized to, and the order of its patches.

    choose a size (multiple of 14 * merge) -> resize -> scale to [-1, 1] -> cut into 14 x 14 patches, in merge blocks

Sizes and pixels are those of the official processor, bit for bit.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float32, UInt8
from torch import Tensor

from vl3ref.errors import InputError, quoted
from vl3ref.inputs.images import RGB

Size = tuple[int, int]
"""Height and width in pixels."""

PIXEL_TABLE = ((np.arange(256) * (1 / 255)).astype(np.float32) - np.float32(0.5)) / np.float32(0.5)
"""Normalised value of each grey level. As in the official processor, 1/255 multiplies in float64; mean and deviation,
0.5 each, follow in float32."""

PATCH_ORDER = "(h m1 p1) (w m2 p2) c -> (h w m1 m2) (c p1 p2)"
"""The m1 x m2 patches of one visual token follow each other; within a patch: channel, row, column."""


def target_sizes(
    originals: Sequence[tuple[int, int, int]],
    merge_sizes: Sequence[int],
    max_tokens: int = 16384,
    min_tokens: int = 16,
    patch_size: int = 14,
) -> list[Size]:
    """The size each image or video of one conversation is resized to (official `image_processing_videollama3.py`).

    Args:
        originals: frames, height and width in pixels of each; an image has one frame.
        merge_sizes: patches along the side of one visual token, of each.
        max_tokens: visual tokens that the whole conversation may have, before pruning.
        min_tokens: visual tokens of a frame at least; only where all merge sizes are equal.

    Returns:
        Height and width in pixels of each, multiples of patch_size * merge. Every frame gets at least one token, also
        where the official rule rounds a small image among large videos down to nothing; that can exceed max_tokens.
    """
    units = [patch_size * merge for merge in merge_sizes]
    if len(set(units)) == 1:
        sizes = _sizes_of_one_unit(originals, units[0], max_tokens, min_tokens)
    else:
        sizes = _sizes_of_mixed_units(originals, units, max_tokens)
    return [(max(height, unit), max(width, unit)) for (height, width), unit in zip(sizes, units, strict=True)]


def _sizes_of_one_unit(
    originals: Sequence[tuple[int, int, int]], unit: int, max_tokens: int, min_tokens: int
) -> list[Size]:
    """Every frame may have the same number of pixels."""
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


def _sizes_of_mixed_units(
    originals: Sequence[tuple[int, int, int]], units: Sequence[int], max_tokens: int
) -> list[Size]:
    """Everything shrinks by the same factor, if it does not fit."""
    pairs = list(zip(originals, units, strict=True))
    total = sum(t * math.ceil(height / unit) * math.ceil(width / unit) for (t, height, width), unit in pairs)
    if total <= max_tokens:
        return [_rounded(height, width, unit) for (_, height, width), unit in pairs]
    factor = math.sqrt(total / max_tokens)
    return [_shrunk(height, width, factor, unit) for (_, height, width), unit in pairs]


def _rounded(height: int, width: int, unit: int) -> Size:
    return round(height / unit) * unit, round(width / unit) * unit  # Python's round, like the original: half to even


def _shrunk(height: int, width: int, factor: float, unit: int) -> Size:
    return math.floor(height / factor / unit) * unit, math.floor(width / factor / unit) * unit


def patchify(
    frames: Iterable[RGB], count: int, size: Size, merge: int, patch_size: int = 14
) -> Float32[Tensor, "patches values"]:
    """Frames of one video, or one image -> normalised, flattened patches.

    Args:
        frames: (H, W, 3) uint8 each. They are resized one at a time, so a generator never has to hold two.
        count: the number of frames.
        size: height and width in pixels to resize to, multiples of patch_size * merge.
        merge: patches along the side of one visual token.

    Returns:
        (count * rows * columns, 3 * patch_size^2) float32 in [-1, 1], frame by frame in `PATCH_ORDER`.

    Raises:
        InputError: a frame is no such array; sizes do not fit each other.
    """
    numbers = (count, *size, merge, patch_size) if isinstance(size, tuple | list) and len(size) == 2 else ()
    if not numbers or any(type(n) is not int or not 1 <= n < 2**31 for n in numbers):
        given = quoted((count, size, merge, patch_size))
        raise InputError(f"patchify takes whole numbers: count, (height, width), merge, patch_size; not {given}")
    height, width = size
    if height % (patch_size * merge) or width % (patch_size * merge):
        raise InputError(f"{height} x {width} pixels are not multiples of patch_size * merge ({patch_size * merge})")
    per_frame = (height // patch_size) * (width // patch_size)
    patches = np.empty((count, per_frame, 3 * patch_size**2), dtype=np.float32)
    taken = 0
    for taken, frame in enumerate(frames if isinstance(frames, Iterable) else (), start=1):
        if taken > count:
            break
        if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.shape[2:] != (3,) or not frame.size:
            given = f"{frame.dtype} {tuple(frame.shape)}" if hasattr(frame, "dtype") else quoted(frame)
            raise InputError(f"a frame should be an array (height, width, 3) of uint8, not {given}: see load_image")
        levels = rearrange(_resized(frame, size), PATCH_ORDER, m1=merge, m2=merge, p1=patch_size, p2=patch_size)
        np.take(PIXEL_TABLE, levels, out=patches[taken - 1], mode="clip")  # mode="raise" would go through a copy
    if taken != count:
        raise InputError(f"patchify was told of {count} frames, but given {'more' if taken > count else taken}")
    return torch.from_numpy(patches).flatten(0, 1)


def _resized(frame: RGB, size: Size) -> UInt8[np.ndarray, "new_height new_width 3"]:
    """Pillow's bicubic filter, which widens when it shrinks. Neither torch nor OpenCV gives the same pixels."""
    from PIL import Image

    if frame.shape[:2] == size:
        return frame
    return np.asarray(Image.fromarray(frame).resize((size[1], size[0]), Image.Resampling.BICUBIC))
