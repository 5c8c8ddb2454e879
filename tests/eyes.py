"""What a picture of the small world shows, measured from its pixels alone: nothing here knows how it was drawn."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

PALETTE = {
    "red": (220, 40, 40),
    "orange": (245, 145, 25),
    "yellow": (240, 220, 40),
    "green": (40, 160, 70),
    "blue": (40, 80, 220),
    "purple": (145, 60, 185),
    "black": (30, 30, 30),
}
SPECK = 12
"""Pixels below which a blob is a splinter of something that another thing covers."""
ONE = 28
"""Pixels along a side above which a blob is several things of a colour that touch."""


@dataclass(frozen=True)
class Blob:
    """Connected pixels of one colour.

    Attributes:
        box: left, top, right, bottom; the last two are the first pixels outside.
        mask: of the box.
    """

    colour: str
    box: tuple[int, int, int, int]
    mask: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        return self.box[2] - self.box[0], self.box[3] - self.box[1]

    @property
    def centre(self) -> tuple[float, float]:
        return (self.box[0] + self.box[2] - 1) / 2, (self.box[1] + self.box[3] - 1) / 2

    @property
    def shape(self) -> str:
        scores = fits(self.mask)
        return max(scores, key=scores.__getitem__)


def mask_of(picture: np.ndarray, colour: str) -> np.ndarray:
    return (picture == PALETTE[colour]).all(axis=-1)


def blobs(picture: np.ndarray) -> list[Blob]:
    """All things in a picture, in no order."""
    return [blob for colour in PALETTE for blob in connected(mask_of(picture, colour), colour)]


def connected(mask: np.ndarray, colour: str = "") -> list[Blob]:
    left = set(map(tuple, np.argwhere(mask).tolist()))
    found = []
    while left:
        edge = [left.pop()]
        inside = list(edge)
        while edge:
            y, x = edge.pop()
            near = {(y + j, x + i) for j in (-1, 0, 1) for i in (-1, 0, 1)} & left
            left -= near
            edge += near
            inside += near
        if len(inside) >= SPECK:
            (top, low), (bottom, high) = np.min(inside, axis=0).tolist(), (np.max(inside, axis=0) + 1).tolist()
            own = np.zeros((bottom - top, high - low), bool)
            own[tuple((np.array(inside) - (top, low)).T)] = True
            found.append(Blob(colour, (low, top, high, bottom), own))
    return found


@lru_cache
def ideals() -> dict[str, np.ndarray]:
    """Each shape in a box of 24 by 24."""
    y, x = (np.mgrid[0:24, 0:24] + 0.5) / 12 - 1
    radius, angle = np.hypot(x, y - 0.1), np.arctan2(x, 0.1 - y)  # its middle lies below its box's
    beat = np.abs((angle / (2 * np.pi / 5) + 0.5) % 1 - 0.5) * 2  # 0 at a star's points, 1 between them
    return {
        "circle": np.hypot(x, y) <= 1,
        "ring": (np.hypot(x, y) <= 1) & (np.hypot(x, y) >= 0.6),
        "square": np.ones((24, 24), bool),
        "triangle": np.abs(x) <= (y + 1) / 2,
        "cross": (np.abs(x) <= 1 / 3) | (np.abs(y) <= 1 / 3),
        "star": radius <= 1.1 * (1 - beat) + 0.45 * beat,
    }


def fits(mask: np.ndarray) -> dict[str, float]:
    """How well each shape, stretched to the mask's box, covers the mask: intersection over union."""
    rows, columns = ((np.arange(24) * side // 24) for side in mask.shape)
    seen = mask[rows][:, columns]
    return {name: (seen & ideal).sum() / (seen | ideal).sum() for name, ideal in ideals().items()}
