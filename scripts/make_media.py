"""Write docs/media/tinyworld: clips and pictures that vl3-tiny is asked about, as H.264 and PNG.

python scripts/make_media.py [FOLDER]
"""

import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from vl3ref.tinyworld.charts import chart
from vl3ref.tinyworld.documents import document, sign
from vl3ref.tinyworld.drawing import COLOURS, Thing, background, draw_thing
from vl3ref.tinyworld.scenes import scene

ROOT = Path(__file__).parents[1]
RATE = 10
"""Frames a second."""


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, (size, seconds, script) in CLIPS.items():
        film(folder / f"{name}.mp4", size, seconds, script)
    for name, (make, seed) in PICTURES.items():
        Image.fromarray(make(np.random.default_rng(seed)).frames[0]).save(folder / f"{name}.png")


def film(path: Path, size: tuple[int, int], seconds: int, script: Callable[[float], list[Thing]]) -> None:
    """A clip of what the script says is there at each second."""
    backdrop = background(np.random.default_rng(1), *size)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"crf": "23"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for number in range(seconds * RATE):
            canvas = backdrop.copy()
            for thing in script(number / RATE):
                draw_thing(canvas, thing)
            frame = av.VideoFrame.from_ndarray(canvas.frame(), format="rgb24")
            frame.time_base, frame.pts = Fraction(1, RATE), number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def thing(colour: str, shape: str, x: float, y: float, size: float) -> Thing:
    return Thing(colour, shape, COLOURS[colour], x, y, size)


def moves(time: float) -> list[Thing]:
    """A red circle crosses from left to right; a blue star stays below it."""
    share = min(time / 4, 1)
    return [thing("blue", "star", 42, 42, 20), thing("red", "circle", 14 + 56 * share, 14, 20)]


def appears(time: float) -> list[Thing]:
    """A green square, later a blue ring."""
    arrivals = [(2, thing("green", "square", 14, 14, 22)), (4, thing("blue", "ring", 70, 42, 22))]
    return [one for second, one in arrivals if time >= second]


def blinks(time: float) -> list[Thing]:
    """A purple triangle, seen three times."""
    return [thing("purple", "triangle", 42, 14, 22)] if int(time) in (1, 3, 6) else []


def turns(time: float) -> list[Thing]:
    """A black cross turns yellow beside a green star."""
    return [
        thing("black" if time < 3 else "yellow", "cross", 14, 42, 22),
        thing("green", "star", 42, 14, 22),
    ]


CLIPS: dict[str, tuple[tuple[int, int], int, Callable[[float], list[Thing]]]] = {
    "moves": ((84, 56), 6, moves),
    "appears": ((84, 56), 6, appears),
    "blinks": ((84, 56), 8, blinks),
    "turns": ((56, 56), 6, turns),
}
PICTURES = {"scene": (scene, 5), "sign": (sign, 4), "form": (document, 2), "chart": (chart, 3)}

if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "media" / "tinyworld")
