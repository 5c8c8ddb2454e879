"""Things to read in the small world: signs, labels, receipts and forms."""

import numpy as np

from vl3ref.tinyworld.drawing import CELL, COLOURS, background, canvas_size, draw_sheet, draw_text, sheet, to_frame
from vl3ref.tinyworld.questions import Example, Question, pick, picture_caption, shuffle

WORDS = (  # noqa: SIM905 (as a list, each word would take a line)
    "ant bag bed bird boat book box bus cake car cat corn cup dog door duck egg fish frog goat hat hill ice key king "
    "lamp leaf lion map milk moon nest nut owl park pen pig rain road rose salt sea ship shop snow sock star sun tea "
    "tree wolf zoo"
).split()
GOODS = ("tea", "milk", "egg", "rice", "soap", "cake", "corn", "salt")
NAMES = ("Ann", "Bob", "Eva", "Max", "Tom", "Ida", "Leo", "Zoe")
TOWNS = ("Rome", "Oslo", "Paris", "Lima", "Bonn", "Cairo")
INK = (25, 25, 35)


def sign(rng: np.random.Generator, easy: bool = False) -> Example:
    """A word or number on a small sheet that lies anywhere in the picture."""
    return _sign(rng, easy, fixed=False)


def label(rng: np.random.Generator, easy: bool = False) -> Example:
    """A sign that fills a small picture. Its letters always have the same place, so it is easier to learn."""
    return _sign(rng, easy, fixed=True)


def _sign(rng: np.random.Generator, easy: bool, fixed: bool) -> Example:
    number = rng.random() < 0.5
    text = str(rng.integers(10 if easy else 100)) if number else pick(rng, WORDS[: 12 if easy else None])
    columns, rows = pick(rng, ((2, 2), (3, 2), (3, 3)))
    width, height = (2 * CELL, 2 * CELL) if fixed else canvas_size(rng, columns, rows)
    canvas = background(rng, width, height)
    x, y = width / 2, height / 2
    if not fixed:
        x += rng.uniform(-1, 1) * (width - 54) / 2
        y += rng.uniform(-1, 1) * (height - 26) / 2
    draw_sheet(canvas, (x - 25, y - 11, x + 25, y + 11))
    ink = pick(rng, ("black", "blue", "red", "green"))
    draw_text(canvas, (x, y), text, int(rng.integers(15, 19)), "mm", COLOURS[ink])
    kind = "number" if number else "word"
    wordings = (
        *(f"What {kind} is written here?", f"Which {kind} do you see?", f"Read the {kind}."),
        *("What does the sign say?", "Read the sign."),
    )
    questions = [
        Question("reading", wordings, text),
        Question("colour", ("What colour is the text?", "Which colour does the text have?"), ink),
        picture_caption(f'A sign that says "{text}".'),
    ]
    return Example([to_frame(canvas)], questions, [f'sign "{text}", {ink}'])


def document(rng: np.random.Generator, easy: bool = False) -> Example:
    """Two or three lines, each with a key on the left and its value on the right: a receipt or a form."""
    most = 2 if easy else 3
    receipt = rng.random() < 0.5
    if receipt:
        goods = rng.permutation(len(GOODS))[: int(rng.integers(2, most + 1))]
        lines = [(GOODS[int(i)], str(rng.integers(1, 10))) for i in goods]
    else:
        fields = [("name", pick(rng, NAMES)), ("age", str(rng.integers(10, 90))), ("town", pick(rng, TOWNS))]
        lines = [fields[i] for i in sorted(rng.permutation(3)[: int(rng.integers(2, most + 1))].tolist())]
    width, height = canvas_size(rng, 3, len(lines))
    width = max(width, 3 * CELL)  # the longest line needs it
    canvas = sheet(rng, width, height)
    for index, (key, value) in enumerate(lines):
        y = (index + 0.5) * height / len(lines) + rng.uniform(-2, 2)
        draw_text(canvas, (4 + rng.uniform(-1, 1), y), key, 15, "lm", INK)
        draw_text(canvas, (width - 4 - rng.uniform(-1, 1), y), value, 15, "rm", INK)
    wordings = (
        ("How much is the {}?", "What does the {} cost?", "Price of the {}?")
        if receipt
        else ("What is the {}?", "Which {} is given?", "Read the {}.")
    )
    questions = [Question("document", [w.format(key) for w in wordings], value) for key, value in lines]
    keys = ", ".join(key for key, _ in lines)
    caption = picture_caption(f"A receipt for {keys}." if receipt else f"A form with {keys}.")
    text = "; ".join(f"{key} {value}" for key, value in lines)
    return Example([to_frame(canvas)], [*shuffle(rng, questions), caption], [text])
