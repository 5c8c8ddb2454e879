"""Clips through a video encoder, at the qualities that people's files have."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np

from vl3ref.tinyworld.drawing import Frame

PRESETS = ("ultrafast", "superfast", "veryfast", "faster")


@dataclass(frozen=True)
class Encoding:
    """How x264 compresses a clip.

    Attributes:
        crf: quality; 0 is lossless, 18 good, 23 ffmpeg's default, 28 poor.
        preset: of `PRESETS`.
        repeats: pictures of the file for each frame, which is shown for all of them.
    """

    crf: int
    preset: str = "medium"
    repeats: int = 4


def random_encoding(rng: np.random.Generator) -> Encoding:
    """Qualities from 18 to 28."""
    return Encoding(int(rng.integers(18, 29)), PRESETS[int(rng.integers(len(PRESETS)))], int(rng.integers(1, 4)))


def encoded(frames: Sequence[Frame], encoding: Encoding) -> list[Frame]:
    """What a player shows of the frames after they were written to an mp4 file: the last picture of each."""
    memory = io.BytesIO()
    height, width, _ = frames[0].shape
    with av.open(memory, "w", format="mp4") as file:
        # Without its assembler: with it, x264 reads past the end of so small pictures, and what it writes varies.
        options = {"crf": str(encoding.crf), "preset": encoding.preset, "threads": "1", "x264-params": "asm=0"}
        stream = file.add_stream("libx264", rate=8, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(len(frames) * encoding.repeats):
            picture = av.VideoFrame.from_ndarray(frames[number // encoding.repeats], format="rgb24")
            picture.pts, picture.time_base = number, Fraction(1, 8)
            file.mux(stream.encode(picture))
        file.mux(stream.encode())
    memory.seek(0)
    with av.open(memory, "r") as film:
        pictures = [picture.to_ndarray(format="rgb24") for picture in film.decode(video=0)]
    return pictures[encoding.repeats - 1 :: encoding.repeats]
