"""Videos that are drawn on the spot, with PyAV, which brings an encoder."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vl3ref.errors import InputError

RATE = 25
"""Frames a second."""

SHORT_GOP = RATE
"""Frames from one key frame to the next: a second, as streaming services cut."""

MARGIN = 320
"""Pixels by which the drawn picture is larger than a frame, for the view to move in."""


def write_clip(path: Path, seconds: int, height: int, gop: int = SHORT_GOP) -> Path:
    """An H.264 file of a view that moves over a drawn picture, 16:9, 25 frames a second.

    Args:
        gop: frames from one key frame to the next; as many as there are frames for one key frame in all.

    Raises:
        InputError: PyAV is not installed.
    """
    av = _av()
    width = round(height * 16 / 9 / 2) * 2
    picture = _picture(height + MARGIN, width + MARGIN)
    options = {"preset": "veryfast", "g": str(gop), "keyint_min": str(gop), "sc_threshold": "0"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options=options)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for index in range(seconds * RATE):
            top, left = (round(MARGIN / 2 * (1 + wave)) for wave in (np.sin(index / 41), np.cos(index / 29)))
            view = np.ascontiguousarray(picture[top : top + height, left : left + width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(view, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def screen_frames(count: int, height: int, width: int, every: int = 6) -> np.ndarray:
    """(count, height, width, 3) uint8: a page of drawn text-like blocks on which one line changes every so many frames;
    in between, pixels are identical."""
    draw = np.random.default_rng(0)
    lines, letters = height // 14, width // 7
    page = np.full((height, width, 3), 245, dtype=np.uint8)
    frames = np.empty((count, height, width, 3), dtype=np.uint8)
    for index in range(count):
        if index % every == 0:
            line = index // every % lines
            strokes = draw.random(letters) < 0.8
            row = np.repeat(np.where(strokes, draw.integers(0, 200, letters), 245), 7).astype(np.uint8)
            page[line * 14 + 3 : line * 14 + 11, : len(row)] = row[None, :, None]
        frames[index] = page
    return frames


def _picture(height: int, width: int) -> np.ndarray:
    """Smooth noise: it costs an encoder about what a real view does, unlike noise from pixel to pixel."""
    coarse = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def _av() -> Any:
    try:
        import av
    except ImportError:
        raise InputError("drawing a clip needs PyAV: pip install 'av>=13'") from None
    return av
