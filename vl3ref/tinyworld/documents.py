"""Sheets of the small world, to be read: signs, receipts and forms, charts."""

import numpy as np
from PIL import ImageDraw

from vl3ref.tinyworld.drawing import CELL, COLOURS, background, draw_text, paper, pixels
from vl3ref.tinyworld.pictures import (
    Question,
    Shown,
    article,
    canvas_size,
    in_any_order,
    pick,
    picture_caption,
)

WORDS = (  # noqa: SIM905 (a list of so many would take a line for each)
    "ant bag bed bird boat book box bus cake car cat corn cup dog door duck egg fish frog goat hat hill ice key king "
    "lamp leaf lion map milk moon nest nut owl park pen pig rain road rose salt sea ship shop snow sock star sun tea "
    "tree wolf zoo"
).split()
GOODS = ("tea", "milk", "egg", "rice", "soap", "cake", "corn", "salt")
NAMES = ("Ann", "Bob", "Eva", "Max", "Tom", "Ida", "Leo", "Zoe")
TOWNS = ("Rome", "Oslo", "Paris", "Lima", "Bonn", "Cairo")
INK = (25, 25, 35)


def label(rng: np.random.Generator, easy: bool = False) -> Shown:
    """A sign that fills a small picture: its letters stand where they always do, and so are learnt first."""
    return sign(rng, easy, fixed=True)


def sign(rng: np.random.Generator, easy: bool = False, fixed: bool = False) -> Shown:
    """A word or a number on a sheet, which lies anywhere unless it is fixed."""
    number = rng.random() < 0.5
    text = str(rng.integers(10 if easy else 100)) if number else pick(rng, WORDS[: 12 if easy else None])
    cells = ((2, 2), (3, 2), (3, 3))[int(rng.integers(3))]
    width, height = (2 * CELL, 2 * CELL) if fixed else canvas_size(rng, cells)
    canvas = background(rng, width, height)
    x, y = width / 2, height / 2
    if not fixed:
        x += rng.uniform(-1, 1) * (width - 54) / 2
        y += rng.uniform(-1, 1) * (height - 26) / 2
    paper(canvas, (x - 25, y - 11, x + 25, y + 11))
    ink = pick(rng, ("black", "blue", "red", "green"))
    draw_text(canvas, (x, y), text, int(rng.integers(15, 19)), "mm", COLOURS[ink])
    kind = "number" if number else "word"
    wordings = (
        *(f"What {kind} is written here?", f"Which {kind} do you see?", f"Read the {kind}."),
        *("What does the sign say?", "Read the sign."),
    )
    colour = Question("colour", ("What colour is the text?", "Which colour does the text have?"), ink)
    caption = picture_caption(f'A sign that says "{text}".')
    return Shown([pixels(canvas)], [Question("reading", wordings, text), colour, caption], [f'sign "{text}", {ink}'])


def document(rng: np.random.Generator, easy: bool = False) -> Shown:
    """A receipt of goods and prices, or a filled-in form."""
    receipt = rng.random() < 0.5
    if receipt:
        goods = [GOODS[int(i)] for i in rng.permutation(len(GOODS))[: int(rng.integers(2, 3 if easy else 4))]]
        lines = [(good, str(rng.integers(1, 10))) for good in goods]
    else:
        fields = {"name": pick(rng, NAMES), "age": str(rng.integers(10, 90)), "town": pick(rng, TOWNS)}
        kept = sorted(rng.permutation(3)[: int(rng.integers(2, 3 if easy else 4))].tolist())
        lines = [list(fields.items())[i] for i in kept]
    width, height = canvas_size(rng, (3, len(lines)))
    width = max(width, 3 * CELL)  # the longest line needs it
    canvas = background(rng, width, height)
    paper(canvas, (2, 2, width - 3, height - 3))
    for index, (key, value) in enumerate(lines):
        y = (index + 0.5) * height / len(lines) + rng.uniform(-2, 2)
        draw_text(canvas, (4 + rng.uniform(-1, 1), y), key, 15, "lm", INK)
        draw_text(canvas, (width - 4 - rng.uniform(-1, 1), y), value, 15, "rm", INK)
    questions = [_field_question(receipt, key, value) for key, value in lines]
    kind = (
        f"A receipt for {', '.join(key for key, _ in lines)}."
        if receipt
        else f"A form with {', '.join(k for k, _ in lines)}."
    )
    caption = picture_caption(kind)
    words = "; ".join(f"{key} {value}" for key, value in lines)
    return Shown([pixels(canvas)], [*in_any_order(rng, questions), caption], [words])


def _field_question(receipt: bool, key: str, value: str) -> Question:
    if receipt:
        return Question(
            "document", (f"How much is the {key}?", f"What does the {key} cost?", f"Price of the {key}?"), value
        )
    return Question("document", (f"What is the {key}?", f"Which {key} is given?", f"Read the {key}."), value)


def chart(rng: np.random.Generator, easy: bool = False) -> Shown:
    return _bars(rng, easy) if rng.random() < 0.6 else _line(rng, easy)


def _bars(rng: np.random.Generator, easy: bool) -> Shown:
    """Bars of different colours on a ruled sheet: a unit is about ten pixels."""
    colours = [list(COLOURS)[int(i)] for i in rng.permutation(len(COLOURS))[: int(rng.integers(2, 3 if easy else 5))]]
    values = rng.permutation(np.arange(1, 7))[: len(colours)].tolist()
    width, height = canvas_size(rng, (3, 3))
    canvas = background(rng, width, height)
    paper(canvas, (2, 2, width - 3, height - 3))
    pen = ImageDraw.Draw(canvas)
    floor, unit, step = height - 8, (height - 20) / 6, (width - 12) / len(colours)
    for level in range(7):
        pen.line([(4, floor - level * unit), (width - 5, floor - level * unit)], fill=(190, 190, 190))
    for index, (colour, value) in enumerate(zip(colours, values, strict=True)):
        left = 6 + step * index + step * 0.15
        pen.rectangle([left, floor - value * unit, left + step * 0.7, floor], fill=COLOURS[colour])
    questions = [
        Question("chart", (f"How high is the {colour} bar?", f"What is the value of the {colour} bar?"), str(value))
        for colour, value in zip(colours, values, strict=True)
    ]
    ranked = [colour for _, colour in sorted(zip(values, colours, strict=True))]
    questions.append(Question("chart", ("Which bar is the highest?", "What colour is the highest bar?"), ranked[-1]))
    questions.append(Question("chart", ("Which bar is the lowest?", "What colour is the lowest bar?"), ranked[0]))
    number = ("two", "three", "four")[len(colours) - 2]
    caption = picture_caption(f"A chart with {number} bars.")
    words = "bars: " + ", ".join(f"{colour} {value}" for colour, value in zip(colours, values, strict=True))
    return Shown([pixels(canvas)], [*in_any_order(rng, questions), caption], [words])


def _line(rng: np.random.Generator, easy: bool) -> Shown:
    """A line over five points that rises, falls, or has a top or a bottom in the middle."""
    form = pick(rng, ("rises", "falls", "rises, then falls", "falls, then rises")[: 2 if easy else None])
    climb = np.sort(rng.uniform(0, 1, 5))
    climb = (climb - climb[0]) / (climb[-1] - climb[0] + 1e-9) * rng.uniform(0.6, 1)
    bend = np.concatenate([climb[[0, 2, 4]], climb[[2, 0]]])
    heights = {
        "rises": climb,
        "falls": climb[::-1],
        "rises, then falls": bend,
        "falls, then rises": climb[-1] - bend,
    }[form]
    width, height = canvas_size(rng, (3, 2) if rng.random() < 0.5 else (3, 3))
    canvas = background(rng, width, height)
    paper(canvas, (2, 2, width - 3, height - 3))
    colour = pick(rng, list(COLOURS))
    points = [
        (8 + i * (width - 16) / 4, height - 8 - value * (height - 16)) for i, value in enumerate(heights.tolist())
    ]
    ImageDraw.Draw(canvas).line(points, fill=COLOURS[colour], width=3)
    questions = [
        Question("chart", ("What does the line do?", "Does the line rise or fall?"), form),
        Question("colour", ("What colour is the line?", "Which colour does the line have?"), colour),
    ]
    caption = picture_caption(f"{article(colour).capitalize()} {colour} line that {form}.")
    return Shown([pixels(canvas)], [*in_any_order(rng, questions), caption], [f"line {colour} {form}"])
