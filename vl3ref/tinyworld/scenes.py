"""Scenes of the small world: coloured shapes in the cells of a board, and questions about them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from vl3ref.tinyworld.drawing import COLOURS, SHAPES, Thing, background, canvas_size, draw_thing, to_frame
from vl3ref.tinyworld.questions import Example, Question, pick, picture_caption, sentence, shuffle, with_article

Cell: TypeAlias = tuple[int, int]
"""Column and row."""

BOARDS = ((2, 2), (3, 2), (2, 3), (3, 3))
"""Columns and rows."""


@dataclass
class Board:
    """A canvas divided into cells, and the things in them."""

    columns: int
    rows: int
    width: int
    height: int
    things: dict[Cell, Thing] = field(default_factory=dict)

    @property
    def cells(self) -> list[Cell]:
        """Row by row."""
        return [(column, row) for row in range(self.rows) for column in range(self.columns)]

    def free_cell(self, rng: np.random.Generator) -> Cell:
        return pick(rng, [cell for cell in self.cells if cell not in self.things])

    def thing_in(self, rng: np.random.Generator, cell: Cell, colour: str, shape: str) -> Thing:
        """A thing of random size near the middle of a cell. It is not put on the board."""
        x, y = (cell[0] + 0.5) * self.width / self.columns, (cell[1] + 0.5) * self.height / self.rows
        return Thing(colour, shape, x + rng.uniform(-3, 3), y + rng.uniform(-3, 3), rng.uniform(17, 24))

    def add(self, rng: np.random.Generator, colour: str, shape: str) -> Cell:
        """Put a thing into a free cell, which is returned."""
        cell = self.free_cell(rng)
        self.things[cell] = self.thing_in(rng, cell, colour, shape)
        return cell

    def place(self, cell: Cell) -> str:
        """Where a cell lies on the board: "top left", "bottom", "middle"."""
        across = {0: "left", self.columns - 1: "right"}.get(cell[0], "")
        down = {0: "top", self.rows - 1: "bottom"}.get(cell[1], "")
        return f"{down} {across}".strip() or "middle"


def new_board(rng: np.random.Generator, sizes: Sequence[tuple[int, int]]) -> Board:
    columns, rows = pick(rng, sizes)
    return Board(columns, rows, *canvas_size(rng, columns, rows))


def board_text(board: Board, things: Mapping[Cell, Thing]) -> str:
    """What each cell holds, as text: "red circle, empty; empty, blue star"."""
    cells = [str(things.get(cell, "empty")) for cell in board.cells]
    rows = [cells[start : start + board.columns] for start in range(0, len(cells), board.columns)]
    return "; ".join(", ".join(row) for row in rows)


def scene(rng: np.random.Generator, easy: bool = False) -> Example:
    """One to four coloured shapes; at most two on a small board if `easy`."""
    board = new_board(rng, BOARDS[: 1 if easy else None])
    alike = rng.random() < 0.3  # only two colours and shapes, so that there is something to count
    colours = [pick(rng, list(COLOURS)) for _ in range(2)] if alike else list(COLOURS)
    shapes = [pick(rng, SHAPES) for _ in range(2)] if alike else list(SHAPES)
    for _ in range(int(rng.integers(1, 3 if easy else min(5, board.columns * board.rows)))):
        cell = board.free_cell(rng)
        thing = board.thing_in(rng, cell, pick(rng, colours), pick(rng, shapes))
        board.things[cell] = thing
    canvas = background(rng, board.width, board.height)
    for thing in board.things.values():
        draw_thing(canvas, thing)
    questions = [*_identity_questions(board), *_count_questions(rng, board), *_position_questions(board)]
    *names, last = [with_article(str(board.things[cell])) for cell in board.cells if cell in board.things]
    caption = picture_caption(sentence(f"{', '.join(names)} and {last}" if names else last))
    return Example([to_frame(canvas)], [*shuffle(rng, questions), caption], [board_text(board, board.things)])


def _identity_questions(board: Board) -> list[Question]:
    """The colour of a shape and the shape of a colour, where there is only one such thing."""
    things = list(board.things.values())
    shapes, colours = [thing.shape for thing in things], [thing.colour for thing in things]
    questions = []
    for colour, shape in zip(colours, shapes, strict=True):
        if shapes.count(shape) == 1:
            wordings = (
                f"What colour is the {shape}?",
                f"Which colour does the {shape} have?",
                f"The {shape} is of what colour?",
            )
            questions.append(Question("colour", wordings, colour))
        if colours.count(colour) == 1:
            wordings = (
                f"What shape is {colour}?",
                f"What is the {colour} thing?",
                f"Which shape is the {colour} one?",
            )
            questions.append(Question("shape", wordings, shape))
    return questions


def _count_questions(rng: np.random.Generator, board: Board) -> list[Question]:
    """The number of all things, of one shape and of one colour. It may be 0."""
    things = list(board.things.values())
    shape = pick(rng, [thing.shape for thing in things] if rng.random() < 0.8 else SHAPES)
    colour = pick(rng, [thing.colour for thing in things] if rng.random() < 0.8 else list(COLOURS))
    numbers = {
        ("shapes", "things"): len(things),
        ("crosses" if shape == "cross" else f"{shape}s",): sum(thing.shape == shape for thing in things),
        (f"{colour} shapes", f"{colour} things"): sum(thing.colour == colour for thing in things),
    }
    return [
        Question("count", [w for name in names for w in (f"How many {name} are there?", f"Count the {name}.")], str(n))
        for names, n in numbers.items()
    ]


def _position_questions(board: Board) -> list[Question]:
    """Where each thing lies on the board, and relative to the others in its row and column."""
    cells = {str(thing): cell for cell, thing in board.things.items()}
    if len(cells) < len(board.things):  # two things have the same name
        return []
    questions = []
    for name, cell in cells.items():
        wordings = (f"Where is the {name}?", f"In which part of the picture is the {name}?")
        questions.append(Question("position", wordings, board.place(cell)))
    for name, (x, y) in cells.items():
        for other, (u, v) in cells.items():
            if name != other and (x == u or y == v):
                side = ("left" if x < u else "right") if y == v else ("above" if y < v else "below")
                wordings = (
                    f"Where is the {name}, seen from the {other}?",
                    f"Seen from the {other}, where is the {name}?",
                )
                questions.append(Question("position", wordings, side))
    return questions
