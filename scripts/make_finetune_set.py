"""A made-up set to fine-tune on: shapes under names that no model knows.

python scripts/make_finetune_set.py [FOLDER]        default: runs/toys

Writes train.jsonl (200 pictures), test.jsonl (50 others), and old.jsonl (200 samples of the small world, to mix in
against forgetting), with their pictures beside them.
"""

import json
import math
import os
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from vl3ref.tinyworld import TinyWorld
from vl3ref.tinyworld.samples import MAKERS, write

NAMES = {"circle": "wug", "square": "dax", "triangle": "blick", "star": "toma", "cross": "fep", "ring": "zav"}
COLOURS = {"red": (220, 40, 40), "green": (40, 160, 70), "blue": (40, 80, 220), "black": (30, 30, 30)}
CELL = 28
"""Side in pixels of the square that a shape lies in."""


def main(folder: Path, old: int = 200) -> None:
    rng = np.random.default_rng(0)
    (folder / "toys").mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(sample(rng, folder, f"toys/{number:03}.png")) + "\n" for number in range(250)]
    (folder / "train.jsonl").write_text("".join(lines[:200]))
    (folder / "test.jsonl").write_text("".join(lines[200:]))
    world = TinyWorld(1, dict.fromkeys(MAKERS, 1.0), turns=1)
    write([world[number] for number in range(old)], folder / "old")
    os.replace(folder / "old" / "annotations.jsonl", folder / "old" / "old.jsonl")
    print(f"wrote {folder}: train.jsonl, test.jsonl, old/old.jsonl")


def sample(rng: np.random.Generator, folder: Path, name: str) -> dict[str, object]:
    """A board of two by two with one to three toys, each of another colour, and a question about one of them."""
    count = int(rng.integers(1, 4))
    colours, cells = rng.permutation([*COLOURS])[:count], rng.permutation(4)[:count]
    shapes = [str(rng.choice([*NAMES])) for _ in range(count)]
    canvas = Image.new("RGB", (2 * CELL, 2 * CELL), (222, 222, 222))
    for colour, shape, cell in zip(colours, shapes, cells, strict=True):
        x, y = CELL * (cell % 2 + 0.5) + rng.uniform(-3, 3), CELL * (cell // 2 + 0.5) + rng.uniform(-3, 3)
        draw(ImageDraw.Draw(canvas), shape, COLOURS[colour], x, y, rng.uniform(8.5, 12))
    canvas.save(folder / name)
    asked = int(rng.integers(count))
    question = {"from": "human", "value": f"<image>\nWhich toy is {colours[asked]}?"}
    answer = {"from": "gpt", "value": NAMES[shapes[asked]]}
    return {"image": name, "conversations": [question, answer], "options": [*NAMES.values()]}


def draw(pen: ImageDraw.ImageDraw, shape: str, colour: tuple[int, int, int], x: float, y: float, half: float) -> None:
    def box(across: float, down: float) -> list[float]:
        return [x - across, y - down, x + across, y + down]

    if shape == "circle":
        pen.ellipse(box(half, half), fill=colour)
    elif shape == "ring":
        pen.ellipse(box(half, half), outline=colour, width=4)
    elif shape == "square":
        pen.rectangle(box(0.85 * half, 0.85 * half), fill=colour)
    elif shape == "cross":
        pen.rectangle(box(half / 3, half), fill=colour)
        pen.rectangle(box(half, half / 3), fill=colour)
    elif shape == "triangle":
        pen.polygon([(x, y - half), (x + half, y + 0.8 * half), (x - half, y + 0.8 * half)], fill=colour)
    else:
        turns = [math.pi * (corner / 5 - 0.5) for corner in range(10)]
        radii = [half * (1.1, 0.45)[corner % 2] for corner in range(10)]
        pen.polygon(
            [(x + r * math.cos(a), y + r * math.sin(a)) for r, a in zip(radii, turns, strict=True)], fill=colour
        )


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/toys"))
