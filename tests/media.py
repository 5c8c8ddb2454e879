"""Small pictures, videos and processors for the tests of vl3ref.inputs."""

import struct
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import av
import numpy as np

from tests.helpers import GOLDENS
from vl3ref.inputs.processor import Processor
from vl3ref.inputs.processor_config import ProcessorConfig
from vl3ref.inputs.tokenizer import Tokenizer

IMAGE_ID = 151665

ROTATIONS = {0: (1, 0, 0, 1), 90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}
"""Display matrices (a, b, c, d) for a clockwise turn, by its degrees."""


@lru_cache
def qwen_tokenizer() -> Tokenizer:
    return Tokenizer.from_folder(GOLDENS / "tokenizer")


def qwen_processor(**options: object) -> Processor:
    return Processor(qwen_tokenizer(), ProcessorConfig(IMAGE_ID, IMAGE_ID, **options))


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def frame_number(frame: np.ndarray) -> int:
    """The number that a frame of tests/goldens/frames carries in its 4 x 4 blocks."""
    blocks = frame.mean(axis=-1).reshape(4, 16, 4, 16).mean(axis=(1, 3)).flatten()
    return sum(1 << bit for bit in range(16) if blocks[bit] > 128)


def decode_all(path: Path) -> np.ndarray:
    """Every frame by PyAV, which brings an ffmpeg of its own."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def write_video(path: Path, frames: Sequence[np.ndarray], times: Sequence[float], rotate: int = 0) -> Path:
    """An H.264 file whose frames are shown from the given seconds on; `rotate` is what a phone held upright writes."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for pixels, time in zip(frames, times, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.time_base, frame.pts = Fraction(1, 1000), round(time * 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    if rotate:
        data = bytearray(path.read_bytes())
        straight = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
        place = data.find(straight, data.find(b"tkhd"))
        a, b, c, d = (x << 16 for x in ROTATIONS[rotate])
        data[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
        path.write_bytes(data)
    return path


def write_sound(path: Path) -> Path:
    """A file with a sound track alone."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        for index in range(5):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, index * 1024
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
