"""Small pictures, videos and processors for the tests of vl3ref.inputs."""

import struct
from collections.abc import Iterator, Sequence
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

ROTATIONS = {
    0: (1, 0, 0, 1),
    90: (0, 1, -1, 0),
    180: (-1, 0, 0, -1),
    270: (0, -1, 1, 0),
    "mirrored": (-1, 0, 0, 1),
}
"""Display matrices (a, b, c, d) for a clockwise turn, by its degrees, and for a mirror."""


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


def numbered(count: int) -> Iterator[np.ndarray]:
    """Frames of 64 x 64 that carry their number, as `frame_number` reads it."""
    for number in range(count):
        bits = np.array([number >> bit & 1 for bit in range(16)], np.uint8).reshape(4, 4)
        yield np.repeat(np.kron(bits * 180 + 40, np.ones((16, 16), np.uint8))[:, :, None], 3, axis=2)


def write_numbered(path: Path, codec: str, pixels: str = "yuv420p", count: int = 60, **options: str) -> Path:
    """A clip of 25 frames a second, with the given codec and its options."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width = stream.height = 64
        stream.pix_fmt, stream.bit_rate = pixels, 2_000_000
        for image in numbered(count):
            if pixels == "pal8":
                greys = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 4, axis=1)
                frame = av.VideoFrame.from_ndarray((image[:, :, 0].copy(), greys), format="pal8")
            else:
                frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pixels)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def cut_without_decoding(source: Path, path: Path, first: int) -> Path:
    """What `ffmpeg -ss first/25 -c copy` makes: packets from the key frame before it on, shown from there on."""
    with av.open(str(source)) as given, av.open(str(path), "w", options={"avoid_negative_ts": "disabled"}) as container:
        stream = container.add_stream_from_template(given.streams.video[0])
        time = round(first / 25 / given.streams.video[0].time_base)
        given.seek(time, stream=given.streams.video[0])
        for packet in given.demux(video=0):
            if packet.dts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts - time, packet.dts - time, stream
                container.mux(packet)
    return path


def decode_all(path: Path) -> np.ndarray:
    """Every frame by PyAV, which brings an ffmpeg of its own."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def write_video(path: Path, frames: Sequence[np.ndarray], times: Sequence[float], rotate: int | str = 0) -> Path:
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
