"""Pixels of the small world: backgrounds, shapes, sheets of paper and text, in the variety that pictures have."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

RGB: TypeAlias = tuple[int, int, int]
Frame: TypeAlias = UInt8[np.ndarray, "height width 3"]
Number: TypeAlias = int | float
Point: TypeAlias = tuple[Number, Number]

COLOURS: dict[str, RGB] = {
    "red": (220, 40, 40),
    "orange": (245, 145, 25),
    "yellow": (240, 220, 40),
    "green": (40, 160, 70),
    "blue": (40, 80, 220),
    "purple": (145, 60, 185),
    "black": (30, 30, 30),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
FONTS = ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSerif.ttf", None)
"""Letters, digits and signs of DejaVu's fonts (fonts/LICENSE_DEJAVU); None is the font that Pillow brings."""
INK: RGB = (25, 25, 35)
PAPER: RGB = (252, 252, 250)


@dataclass(frozen=True)
class Thing:
    """A coloured shape.

    Attributes:
        rgb: the shade of its colour.
        x, y: its centre in pixels.
        size: side in pixels of the square around it.
        angle: by which it is turned, in radians.
        stroke: width of a ring's or a cross's line, as a share of the size.
        edge: whether it has a dark outline.
    """

    colour: str
    shape: str
    rgb: RGB
    x: float
    y: float
    size: float
    angle: float = 0.0
    stroke: float = 0.25
    edge: bool = False

    def __str__(self) -> str:
        return f"{self.colour} {self.shape}"


class Canvas:
    """A picture while it is drawn, at twice its size; `frame` reduces it with smooth edges or with hard ones.

    Coordinates and sizes are pixels of the finished picture.
    """

    SCALE = 2

    def __init__(self, pixels: Frame, smooth: bool) -> None:
        height, width, _ = pixels.shape
        self.width, self.height, self.smooth = width, height, smooth
        self.image = Image.fromarray(pixels).resize((width * self.SCALE, height * self.SCALE), Image.Resampling.NEAREST)
        self.pen = ImageDraw.Draw(self.image)

    def copy(self) -> "Canvas":
        other = object.__new__(Canvas)
        other.__dict__ |= self.__dict__ | {"image": self.image.copy()}
        other.pen = ImageDraw.Draw(other.image)
        return other

    def frame(self) -> Frame:
        way = Image.Resampling.BOX if self.smooth else Image.Resampling.NEAREST
        return np.asarray(self.image.resize((self.width, self.height), way))

    def polygon(self, corners: Sequence[Point], fill: RGB, edge: RGB | None = None) -> None:
        self.pen.polygon(self._scaled(corners), fill=fill, outline=edge, width=self.SCALE)

    def rectangle(self, box: Sequence[Number], fill: RGB, edge: RGB | None = None) -> None:
        (left, top), (right, bottom) = self._scaled([(box[0], box[1]), (box[2], box[3])])
        self.pen.rectangle([left, top, right, bottom], fill=fill, outline=edge, width=self.SCALE)

    def circle(self, centre: Point, radius: Number, fill: RGB | None, edge: RGB | None, width: Number) -> None:
        (x, y), r = self._scaled([centre])[0], radius * self.SCALE
        self.pen.ellipse([x - r, y - r, x + r, y + r], fill, edge, max(1, round(width * self.SCALE)))

    def line(self, points: Sequence[Point], colour: RGB, width: Number = 1) -> None:
        self.pen.line(self._scaled(points), colour, max(1, round(width * self.SCALE)), joint="curve")

    def text(self, at: Point, text: str, font: str | None, size: float, anchor: str, colour: RGB) -> None:
        """One line of text. `anchor` is Pillow's: "mm" puts the middle at `at`, "lm" the left edge, "rm" the right."""
        self.pen.text(self._scaled([at])[0], text, colour, _font(font, round(size * self.SCALE)), anchor)

    def _scaled(self, points: Sequence[Point]) -> list[Point]:
        return [(x * self.SCALE, y * self.SCALE) for x, y in points]


def background(rng: np.random.Generator, width: int, height: int, plain: bool = False) -> Canvas:
    """A pale ground: lit from the upper left, of one colour, or striped; with more or less grain. A plain one is lit."""
    tint, across, down = (
        rng.uniform(-14, 14, 3),
        np.linspace(1, -1, width)[None, :, None],
        np.linspace(1, -1, height)[:, None, None],
    )
    match 0 if plain else int(rng.integers(4)):
        case 0:
            ground = 226 + across * np.array([16, 16, 0]) + down * np.array([0, -10, 22])
        case 1:
            ground = np.array(255.0 if rng.random() < 0.5 else 238 + tint)
        case 2:
            ground = 228 + tint + across * rng.uniform(-14, 14, 3) + down * rng.uniform(-14, 14, 3)
        case _:
            stripes = np.arange(max(width, height)) // rng.integers(3, 12) % 2 * rng.uniform(4, 14)
            ground = 230 + tint + (stripes[:height, None, None] if rng.random() < 0.5 else stripes[None, :width, None])
    grain = rng.normal(0, 1, (height, width, 1)) * rng.uniform(0, 2.5)
    pixels = np.broadcast_to(ground + grain, (height, width, 3))
    return Canvas(np.clip(pixels, 0, 255).astype(np.uint8), bool(rng.random() < 0.7))


def shade(rng: np.random.Generator, colour: str) -> RGB:
    """A colour a little lighter, darker or otherwise off its name's."""
    red, green, blue = (int(np.clip(x + rng.uniform(-16, 16), 0, 255)) for x in COLOURS[colour])
    return red, green, blue


def draw_thing(canvas: Canvas, thing: Thing) -> None:
    half, edge = thing.size / 2, (60, 60, 60) if thing.edge else None
    centre = (thing.x, thing.y)
    if thing.shape == "circle":
        canvas.circle(centre, half, thing.rgb, edge, 1)
    elif thing.shape == "ring":
        canvas.circle(centre, half, None, thing.rgb, max(2.5, thing.stroke * thing.size))
    else:
        outline = _outline(thing.shape, thing.stroke) * half
        turn = np.array([[np.cos(thing.angle), np.sin(thing.angle)], [-np.sin(thing.angle), np.cos(thing.angle)]])
        canvas.polygon([(thing.x + x, thing.y + y) for x, y in (outline @ turn).tolist()], thing.rgb, edge)


def _outline(shape: str, stroke: float) -> np.ndarray:
    """Corners of a shape in a square from -1 to 1, (corners, 2)."""
    match shape:
        case "square":
            corners = [(-1, -1), (1, -1), (1, 1), (-1, 1)]
            return 0.85 * np.array(corners, dtype=float)
        case "triangle":
            return np.array([(0, -1), (1, 0.8), (-1, 0.8)], dtype=float)
        case "cross":
            s = stroke + 0.06
            arm = np.array([(-s, -1), (s, -1), (s, -s)])  # the other three arms are turned copies of this one
            return np.concatenate([arm @ np.array([[c, z], [-z, c]]) for c, z in ((1, 0), (0, 1), (-1, 0), (0, -1))])
        case _:
            angles = np.arange(10) * np.pi / 5 - np.pi / 2
            radii = np.where(np.arange(10) % 2 == 0, 1.1, 0.45)
            return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def draw_sheet(canvas: Canvas, box: Sequence[Number], paper: RGB = PAPER) -> None:
    """Paper with a grey edge, from (left, top) to (right, bottom)."""
    canvas.rectangle(box, paper, (120, 120, 120))


def sheet(rng: np.random.Generator, width: int, height: int) -> Canvas:
    """A background that a sheet of paper covers nearly whole."""
    canvas = background(rng, width, height)
    tone = int(rng.integers(236, 256))
    draw_sheet(canvas, (2, 2, width - 3, height - 3), (tone, tone, tone - int(rng.integers(0, 8))))
    return canvas


def text_size(text: str, font: str | None, size: float) -> tuple[float, float]:
    """Width and height of a line of text in pixels."""
    left, top, right, bottom = _font(font, round(size * Canvas.SCALE)).getbbox(text, anchor="mm")
    return (right - left) / Canvas.SCALE, (bottom - top) / Canvas.SCALE


@lru_cache
def _font(name: str | None, size: int) -> ImageFont.FreeTypeFont:
    if name is None:
        font = ImageFont.load_default(size)
        assert isinstance(font, ImageFont.FreeTypeFont)
        return font
    return ImageFont.truetype(str(Path(__file__).parent / "fonts" / name), size)
