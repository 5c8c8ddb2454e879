"""Images of any kind -> (height, width, 3) uint8.

Any mode that Pillow reads: the camera's rotation (EXIF) is applied, grey becomes RGB, 16 bits become 8 by scaling
(Pillow's own conversion clips them to white), CMYK and palettes are converted. Alpha is dropped, as the official
processor and transformers do.
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from einops import repeat
from jaxtyping import Integer, Shaped, UInt8

from vl3ref.errors import InputError
from vl3ref.files import check_regular

if TYPE_CHECKING:
    from PIL.Image import Image

RGB: TypeAlias = UInt8[np.ndarray, "height width 3"]

MOST_PIXELS = 178_956_970
"""Of one picture or frame, as Pillow has it. 8K has 33 million."""

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".avif")


def load_image(source: Any) -> RGB:
    """An image as an array.

    Args:
        source: a path, a PIL image, or an array or tensor (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of uint8, uint16 or
            bool.

    Returns:
        (H, W, 3) uint8 RGB, at the original's size.

    Raises:
        InputError: the file is missing, is no picture or is damaged; the array has another shape or dtype.
    """
    from PIL import Image

    if isinstance(source, str | Path):
        if os.path.isdir(source):
            raise InputError(f"{source} is a folder; name one picture in it (or pass the folder as a video)")
        check_regular(source, InputError)
        if not os.path.getsize(source):  # the files of /proc, too, which may never end
            raise InputError(f"{source} is not a picture: it is empty")
        with _as_input_errors(str(source)), Image.open(source) as image:
            if getattr(image, "is_animated", False) and image.format != "MPO":  # a photo with previews beside it
                warnings.warn(f"{source} holds several pictures: the first is shown; a video shows all", stacklevel=2)
            return _from_pil(image, str(source))
    if isinstance(source, Image.Image):
        with _as_input_errors("the picture"):  # Pillow decodes an opened file when its pixels are asked for
            return _from_pil(source, "the picture")
    if hasattr(source, "__array__"):
        return image_from_array(as_array(source))
    raise InputError(f"a picture should be a path, a PIL image or an array, not a {type(source).__name__}")


def _from_pil(image: "Image", name: str) -> RGB:
    from PIL import ImageOps

    if 0 in image.size:
        raise InputError(f"{name} is {image.height} x {image.width} pixels: there is nothing to see")
    with suppress(SyntaxError, ValueError, KeyError, TypeError):  # unreadable EXIF does not spoil the pixels
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise InputError(f"{name} has values outside 16 bits; scale it to 8 bits first")
        return image_from_array(_to_8_bits(values))
    if image.mode == "F":
        raise InputError(f"{name} holds floating-point values; scale it to 8 bits first")
    if image.mode in ("P", "La"):  # Pillow warns of, or lacks, their direct conversion to RGB
        image = image.convert("RGBA" if image.mode == "P" else "LA")
    return np.array(image.convert("RGB"))


def image_from_array(array: Shaped[np.ndarray, "..."]) -> RGB:
    """Grey, RGB or RGBA values of 1, 8 or 16 bits -> RGB of 8 bits.

    Raises:
        InputError: the array has another shape or dtype.
    """
    if array.ndim not in (2, 3) or array.shape[2:] not in ((), (1,), (3,), (4,)) or 0 in array.shape:
        raise InputError(
            f"a picture's array should be (height, width), or (height, width, 1, 3 or 4), not {array.shape}"
        )
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    elif array.dtype.kind == "u" and array.dtype.itemsize == 2:  # of either byte order
        array = _to_8_bits(array)
    elif array.dtype != np.uint8:
        raise InputError(f"a picture's array should hold uint8 (0 to 255), uint16 or bool, not {array.dtype}")
    if array.ndim == 2 or array.shape[2] == 1:
        array = repeat(array.reshape(array.shape[:2]), "h w -> h w 3")
    return np.ascontiguousarray(array[:, :, :3])


def as_array(source: Any) -> Shaped[np.ndarray, "..."]:
    """An array, or a tensor on any device, as a numpy array.

    Raises:
        InputError: it has no numpy dtype, as bfloat16 tensors have none.
    """
    try:
        return np.asarray(source.detach().cpu() if isinstance(source, torch.Tensor) else source)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"a {type(source).__name__} cannot be read as an array of uint8 pixels: {error}") from None


def _to_8_bits(values: Integer[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    """0..65535 -> 0..255, rounded to the nearest."""
    return ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)


@contextmanager
def _as_input_errors(name: str) -> Iterator[None]:
    """Turn the many kinds of error that Pillow's decoders raise on damaged files into one."""
    from PIL import UnidentifiedImageError

    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if isinstance(error, UnidentifiedImageError):
            raise InputError(f"{name} is not a picture of a kind that Pillow reads") from None
        raise InputError(f"{name} cannot be read as a picture: {error}") from None
