"""Pictures of the small world, each with what can be asked about it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import ImageDraw

from vl3ref.training.tinyworld.drawing import (
    CELL,
    COLOURS,
    SHAPES,
    Thing,
    background,
    draw_text,
    draw_thing,
    paper,
    pixels,
)

WORDS = [
    "ant",
    "bag",
    "bed",
    "bird",
    "boat",
    "book",
    "box",
    "bus",
    "cake",
    "car",
    "cat",
    "corn",
    "cup",
    "dog",
    "door",
    "duck",
    "egg",
    "fish",
    "frog",
    "goat",
    "hat",
    "hill",
    "ice",
    "key",
    "king",
    "lamp",
    "leaf",
    "lion",
    "map",
    "milk",
    "moon",
    "nest",
    "nut",
    "owl",
    "park",
    "pen",
    "pig",
    "rain",
    "road",
    "rose",
    "salt",
    "sea",
    "ship",
    "shop",
    "snow",
    "sock",
    "star",
    "sun",
    "tea",
    "tree",
    "wolf",
    "zoo",
]
GOODS = ("tea", "milk", "egg", "rice", "soap", "cake", "corn", "salt")
NAMES = ("Ann", "Bob", "Eva", "Max", "Tom", "Ida", "Leo", "Zoe")
TOWNS = ("Rome", "Oslo", "Paris", "Lima", "Bonn", "Cairo")
INK = (25, 25, 35)


@dataclass(frozen=True)
class Question:
    """One thing to ask, in several wordings, and the one answer."""

    skill: str
    wordings: Sequence[str]
    answer: str


@dataclass
class Shown:
    """A picture or a clip, and all that can be asked about it.

    Attributes:
        frames: one (H, W, 3) uint8 array, or several of the same size.
        questions: the first ones are about details, the last one asks for a description.
        words: what each frame shows, cell by cell, in words: what visual tokens say to whoever understands them.
        times: seconds of the frames of a clip; None for a picture.
    """

    frames: list[np.ndarray]
    questions: list[Question]
    words: list[str]
    times: list[float] | None = None

    def inventory(self) -> Question:
        """All that is shown, cell by cell: the dense description that teaches to see, or, told in words, to repeat."""
        return Question(
            "inventory", ("Name everything you see.", "What is in each cell?", "List it all."), self.in_words()
        )

    def in_words(self) -> str:
        """All of it told, with a clip's times, and with no frame told twice."""
        if self.times is None:
            return self.words[0]
        told = [words if n == 0 or words != self.words[n - 1] else "same" for n, words in enumerate(self.words)]
        return ",".join(f"Time {time}s:{words}" for time, words in zip(self.times, told, strict=True))


def pick(rng: np.random.Generator, choices: Sequence[str]) -> str:
    return str(choices[int(rng.integers(len(choices)))])


def canvas_size(rng: np.random.Generator, cells: tuple[int, int]) -> tuple[int, int]:
    """Width and height of so many columns and rows of cells; in a quarter of all pictures only nearly."""
    stretch = rng.uniform(0.88, 1.12, 2) if rng.random() < 0.25 else np.ones(2)
    return round(cells[0] * CELL * stretch[0]), round(cells[1] * CELL * stretch[1])


@dataclass
class Board:
    """Cells of a canvas, in rows and columns, some with a thing in them."""

    columns: int
    rows: int
    width: int
    height: int
    things: dict[tuple[int, int], Thing] = field(default_factory=dict)

    def place(self, rng: np.random.Generator, cell: tuple[int, int], colour: str, shape: str) -> Thing:
        """A thing of some size, somewhere near the middle of a (column, row) cell; not put there yet."""
        x, y = ((cell[0] + 0.5) * self.width / self.columns, (cell[1] + 0.5) * self.height / self.rows)
        return Thing(colour, shape, x + rng.uniform(-3, 3), y + rng.uniform(-3, 3), rng.uniform(17, 24))

    def cells(self) -> list[tuple[int, int]]:
        return [(column, row) for row in range(self.rows) for column in range(self.columns)]

    def free(self, rng: np.random.Generator) -> tuple[int, int]:
        """A cell with nothing in it."""
        empty = [cell for cell in self.cells() if cell not in self.things]
        return empty[int(rng.integers(len(empty)))]

    def words(self) -> str:
        """What each cell holds, row by row."""
        rows = [
            ", ".join(str(self.things.get((column, row), "empty")) for column in range(self.columns))
            for row in range(self.rows)
        ]
        return "; ".join(rows)


def new_board(rng: np.random.Generator, shapes: Sequence[tuple[int, int]]) -> Board:
    columns, rows = shapes[int(rng.integers(len(shapes)))]
    width, height = canvas_size(rng, (columns, rows))
    return Board(columns, rows, width, height)


BOARDS = ((2, 2), (3, 2), (2, 3), (3, 3))


# -------------------------------------------------------------------------------------------------------------- scenes


def scene(rng: np.random.Generator, easy: bool = False) -> Shown:
    """One to four coloured shapes; two at most where it is to be easy."""
    board = new_board(rng, BOARDS[: 1 if easy else None])
    few = rng.random() < 0.3
    colours = [pick(rng, list(COLOURS)) for _ in range(2)] if few else list(COLOURS)
    shapes = [pick(rng, SHAPES) for _ in range(2)] if few else list(SHAPES)
    for _ in range(int(rng.integers(1, 3 if easy else min(5, board.columns * board.rows)))):
        cell = board.free(rng)
        board.things[cell] = board.place(rng, cell, pick(rng, colours), pick(rng, shapes))
    canvas = background(rng, board.width, board.height)
    for thing in board.things.values():
        draw_thing(canvas, thing)
    questions = [*_identity_questions(board), *_count_questions(rng, board), *_position_questions(board)]
    things = [str(board.things[cell]) for cell in board.cells() if cell in board.things]
    caption = _caption(f"{listed(things)}.")
    return Shown([pixels(canvas)], [*in_any_order(rng, questions), caption], [board.words()])


def _identity_questions(board: Board) -> list[Question]:
    things = list(board.things.values())
    questions = []
    for thing in things:
        if sum(other.shape == thing.shape for other in things) == 1:
            wordings = (
                f"What colour is the {thing.shape}?",
                f"Which colour does the {thing.shape} have?",
                f"The {thing.shape} is of what colour?",
            )
            questions.append(Question("colour", wordings, thing.colour))
        if sum(other.colour == thing.colour for other in things) == 1:
            wordings = (
                f"What shape is {thing.colour}?",
                f"What is the {thing.colour} thing?",
                f"Which shape is the {thing.colour} one?",
            )
            questions.append(Question("shape", wordings, thing.shape))
    return questions


def _count_questions(rng: np.random.Generator, board: Board) -> list[Question]:
    things = list(board.things.values())
    shape = pick(rng, [thing.shape for thing in things] if rng.random() < 0.8 else SHAPES)
    colour = pick(rng, [thing.colour for thing in things] if rng.random() < 0.8 else list(COLOURS))
    counted = {
        ("shapes", "things"): len(things),
        (plural(shape),): sum(thing.shape == shape for thing in things),
        (f"{colour} shapes", f"{colour} things"): sum(thing.colour == colour for thing in things),
    }
    return [
        Question(
            "count",
            [form.format(name) for name in names for form in ("How many {} are there?", "Count the {}.")],
            str(number),
        )
        for names, number in counted.items()
    ]


def plural(shape: str) -> str:
    return f"{shape}es" if shape == "cross" else f"{shape}s"


def _position_questions(board: Board) -> list[Question]:
    """Where one thing lies, and how two lie to each other."""
    questions = []
    cells = {str(thing): cell for cell, thing in board.things.items()}
    if len(cells) != len(board.things):
        return []
    for name, cell in cells.items():
        if place := _place(cell, board):
            wordings = (f"Where is the {name}?", f"In which part of the picture is the {name}?")
            questions.append(Question("position", wordings, place))
    for one, (x, y) in cells.items():
        for other, (u, v) in cells.items():
            if one != other and (x == u or y == v):
                side = ("left" if x < u else "right") if y == v else ("above" if y < v else "below")
                wordings = (
                    f"Where is the {one}, seen from the {other}?",
                    f"Seen from the {other}, where is the {one}?",
                )
                questions.append(Question("position", wordings, side))
    return questions


def _place(cell: tuple[int, int], board: Board) -> str:
    """The cell's place in words."""
    across = {0: "left", board.columns - 1: "right"}.get(cell[0], "")
    down = {0: "top", board.rows - 1: "bottom"}.get(cell[1], "")
    return " ".join(word for word in (down, across) if word) or "middle"


def _caption(answer: str) -> Question:
    return Question("picture caption", ("Describe the picture.", "What is in the picture?"), answer)


def in_any_order(rng: np.random.Generator, questions: Sequence[Question]) -> list[Question]:
    return [questions[int(i)] for i in rng.permutation(len(questions))]


def article(thing: str) -> str:
    return "an" if thing[0] in "aeiou" else "a"


def listed(things: Sequence[str]) -> str:
    """A red circle, a blue star and an orange ring"""
    named = [f"{article(thing)} {thing}" for thing in things]
    text = named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"
    return text[0].upper() + text[1:]


# ------------------------------------------------------------------------------------------------------------- reading


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
    caption = _caption(f'A sign that says "{text}".')
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
    caption = _caption(kind)
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
    caption = _caption(f"A chart with {number} bars.")
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
    caption = _caption(f"{article(colour).capitalize()} {colour} line that {form}.")
    return Shown([pixels(canvas)], [*in_any_order(rng, questions), caption], [f"line {colour} {form}"])
