"""Pixels of the small world: a lit background, shapes, sheets of paper and text."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

RGB: TypeAlias = tuple[int, int, int]
Frame: TypeAlias = UInt8[np.ndarray, "height width 3"]

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
CELL = 28
"""Side in pixels of a cell, which has room for one shape. At merge size 2 it is one visual token."""


@dataclass(frozen=True)
class Thing:
    """A coloured shape.

    Attributes:
        x, y: its centre in pixels.
        size: side in pixels of the square around it.
    """

    colour: str
    shape: str
    x: float
    y: float
    size: float

    def __str__(self) -> str:
        return f"{self.colour} {self.shape}"

    def box(self, half_width: float, half_height: float) -> list[float]:
        """Left, top, right and bottom of a box around its centre."""
        return [self.x - half_width, self.y - half_height, self.x + half_width, self.y + half_height]


def canvas_size(rng: np.random.Generator, columns: int, rows: int) -> tuple[int, int]:
    """Width and height in pixels of a grid of cells. A quarter of all pictures is up to 12 % larger or smaller."""
    stretch = rng.uniform(0.88, 1.12, 2) if rng.random() < 0.25 else np.ones(2)
    return round(columns * CELL * stretch[0]), round(rows * CELL * stretch[1])


def background(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """A bluish sky above a greenish ground, with light from the upper left and a little grain.

    The light tells the model where in the picture a patch lies: the encoder's rotary positions are relative.
    """
    across = np.linspace(1, -1, width)[None, :, None]
    down = np.linspace(1, -1, height)[:, None, None]
    light = across * np.array([16, 16, 0]) + down * np.array([0, -10, 22])
    grain = rng.normal(0, rng.uniform(0, 2), (height, width, 1))
    tint = rng.uniform(-6, 6, 3)
    return Image.fromarray(np.clip(222 + light + tint + grain, 0, 255).astype(np.uint8))


def draw_thing(canvas: Image.Image, thing: Thing) -> None:
    pen, colour = ImageDraw.Draw(canvas), COLOURS[thing.colour]
    x, y, half = thing.x, thing.y, thing.size / 2
    match thing.shape:
        case "circle":
            pen.ellipse(thing.box(half, half), fill=colour)
        case "ring":
            pen.ellipse(thing.box(half, half), outline=colour, width=max(3, round(thing.size / 5)))
        case "square":
            pen.rectangle(thing.box(0.85 * half, 0.85 * half), fill=colour)
        case "cross":
            pen.rectangle(thing.box(half / 3, half), fill=colour)
            pen.rectangle(thing.box(half, half / 3), fill=colour)
        case "triangle":
            pen.polygon([(x, y - half), (x + half, y + 0.8 * half), (x - half, y + 0.8 * half)], fill=colour)
        case "star":
            angles = np.arange(10) * np.pi / 5 - np.pi / 2
            radii = np.where(np.arange(10) % 2 == 0, half * 1.1, half * 0.45)
            corners = np.stack([x + radii * np.cos(angles), y + radii * np.sin(angles)], axis=1)
            pen.polygon(list(map(tuple, corners.tolist())), fill=colour)


def draw_sheet(canvas: Image.Image, box: Sequence[int | float]) -> None:
    """White paper with a grey edge, from (left, top) to (right, bottom)."""
    ImageDraw.Draw(canvas).rectangle(list(box), fill=(252, 252, 250), outline=(120, 120, 120))


def sheet(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """A background that a sheet of paper covers nearly whole."""
    canvas = background(rng, width, height)
    draw_sheet(canvas, (2, 2, width - 3, height - 3))
    return canvas


def draw_text(canvas: Image.Image, at: tuple[float, float], text: str, size: int, anchor: str, colour: RGB) -> None:
    """One line of text. `anchor` is Pillow's: "mm" puts the middle at `at`, "lm" the left edge, "rm" the right one."""
    ImageDraw.Draw(canvas).text(at, text, fill=colour, font=_font(size), anchor=anchor)


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font that Pillow brings, so that no file is needed."""
    return ImageFont.load_default(size)


def to_frame(canvas: Image.Image) -> Frame:
    return np.asarray(canvas.convert("RGB"))
