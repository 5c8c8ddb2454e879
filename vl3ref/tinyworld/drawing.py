"""Pixels of the small world: a lit background, shapes and words."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFont

RGB: TypeAlias = tuple[int, int, int]
Points: TypeAlias = list[tuple[float, float]]

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
"""Pixels along the side of a cell, the room of one shape: also one visual token's at merge size 2."""


@dataclass(frozen=True)
class Thing:
    """A coloured shape.

    Attributes:
        x, y: of its centre, in pixels.
        size: of the square around it, in pixels.
    """

    colour: str
    shape: str
    x: float
    y: float
    size: float

    def __str__(self) -> str:
        return f"{self.colour} {self.shape}"


def background(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Light falls from the upper left on a bluish sky and a greenish ground, with a little grain.

    Nothing else tells a patch where in the picture it lies: the encoder's rotary positions are relative.
    """
    across = np.linspace(1, -1, width)[None, :, None]
    down = np.linspace(1, -1, height)[:, None, None]
    light = across * np.array([16, 16, 0]) + down * np.array([0, -10, 22])
    grain = rng.normal(0, rng.uniform(0, 2), (height, width, 1))
    tint = rng.uniform(-6, 6, 3)
    return Image.fromarray(np.clip(222 + light + tint + grain, 0, 255).astype(np.uint8))


def draw_thing(canvas: Image.Image, thing: Thing) -> None:
    pen, half = ImageDraw.Draw(canvas), thing.size / 2
    box = [thing.x - half, thing.y - half, thing.x + half, thing.y + half]
    colour = COLOURS[thing.colour]
    if thing.shape == "circle":
        pen.ellipse(box, fill=colour)
    elif thing.shape == "square":
        pen.rectangle(
            [thing.x - 0.85 * half, thing.y - 0.85 * half, thing.x + 0.85 * half, thing.y + 0.85 * half], colour
        )
    elif thing.shape == "ring":
        pen.ellipse(box, outline=colour, width=max(3, round(thing.size / 5)))
    elif thing.shape == "cross":
        arm = half / 3
        pen.rectangle([thing.x - arm, thing.y - half, thing.x + arm, thing.y + half], colour)
        pen.rectangle([thing.x - half, thing.y - arm, thing.x + half, thing.y + arm], colour)
    else:
        pen.polygon(OUTLINES[thing.shape](thing.x, thing.y, half), fill=colour)


def _triangle(x: float, y: float, half: float) -> Points:
    return [(x, y - half), (x + half, y + 0.8 * half), (x - half, y + 0.8 * half)]


def _star(x: float, y: float, half: float) -> Points:
    angles = np.arange(10) * np.pi / 5 - np.pi / 2
    radii = np.where(np.arange(10) % 2 == 0, half * 1.1, half * 0.45)
    return list(zip((x + radii * np.cos(angles)).tolist(), (y + radii * np.sin(angles)).tolist(), strict=True))


OUTLINES: dict[str, Callable[[float, float, float], Points]] = {"triangle": _triangle, "star": _star}


@lru_cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The face that Pillow carries, so that no file is needed."""
    return ImageFont.load_default(size)


def draw_text(canvas: Image.Image, at: tuple[float, float], text: str, size: int, anchor: str, colour: RGB) -> None:
    """One line. `anchor` is Pillow's: "mm" puts the middle at `at`, "lm" the left edge, "rm" the right one."""
    ImageDraw.Draw(canvas).text(at, text, fill=colour, font=font(size), anchor=anchor)


def paper(canvas: Image.Image, box: Sequence[int | float]) -> None:
    """A white sheet with a grey edge."""
    ImageDraw.Draw(canvas).rectangle(list(box), fill=(252, 252, 250), outline=(120, 120, 120))


def pixels(canvas: Image.Image) -> np.ndarray:
    return np.asarray(canvas.convert("RGB"))
