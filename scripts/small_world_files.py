"""Pictures and clips of the small world as files: PNG, and H.264 in mp4."""

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from vl3ref.tinyworld.samples import PICTURE_SKILLS, TIME_SKILLS, held_out

RATE = 10
"""Frames a second of a clip."""


def questions(kind: str, count: int, seed: int) -> Iterator[tuple[Mapping[str, Any], str, str]]:
    """(sample, question, answer) about as many different pictures ("image") or clips ("video"), skill after skill."""
    skills = [skill for skill in (PICTURE_SKILLS if kind == "image" else TIME_SKILLS) if "caption" not in skill]
    per_skill = -(-count // len(skills))
    asked = zip(*(held_out(skill, seed, per_skill, encoding=None) for skill in skills), strict=True)
    for _, sample in [pair for group in asked for pair in group][:count]:
        question, answer = (turn["value"] for turn in sample["conversations"])
        yield sample, question.removeprefix(f"<{kind}>\n"), answer


def write_picture(path: Path, sample: Mapping[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sample["image"][0]).save(path)
    return path


def write_clip(path: Path, sample: Mapping[str, Any]) -> Path:
    """Its frames, one a second; sides are cut to even numbers, as H.264 wants."""
    path.parent.mkdir(parents=True, exist_ok=True)
    film(path, sample["video"][0])
    return path


def film(path: Path, frames: Sequence[np.ndarray]) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"crf": "23"})
        stream.height, stream.width = (side - side % 2 for side in frames[0].shape[:2])
        stream.pix_fmt, number = "yuv420p", 0
        for picture in frames:
            even = np.ascontiguousarray(picture[: stream.height, : stream.width])
            for _ in range(RATE):
                frame = av.VideoFrame.from_ndarray(even, format="rgb24")
                frame.time_base, frame.pts = Fraction(1, RATE), number
                container.mux(stream.encode(frame))
                number += 1
        container.mux(stream.encode(None))
