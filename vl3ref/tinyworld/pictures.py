"""What the small world shows and asks; and its scenes, coloured shapes on a board."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from vl3ref.tinyworld.drawing import (
    CELL,
    COLOURS,
    SHAPES,
    Thing,
    background,
    draw_thing,
    pixels,
)


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
    caption = picture_caption(f"{listed(things)}.")
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


def picture_caption(answer: str) -> Question:
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
