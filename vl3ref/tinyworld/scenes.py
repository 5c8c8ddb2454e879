"""Scenes of the small world: coloured shapes in the cells of a board, and questions about them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from vl3ref.tinyworld.drawing import COLOURS, SHAPES, Thing, background, draw_thing, shade
from vl3ref.tinyworld.questions import (
    NONE,
    Example,
    Question,
    absent_name,
    listed,
    pick,
    picture_caption,
    sentence,
    shuffle,
    with_article,
)

Cell: TypeAlias = tuple[int, int]
"""Column and row."""

BOARDS = ((2, 2), (3, 2), (2, 3), (3, 3))
"""Columns and rows."""
CELL = 28.0
"""Side in pixels of the smallest cell. At merge size 2 it is one visual token."""
SIDES = {(-1, 0): "left of", (1, 0): "right of", (0, -1): "above", (0, 1): "below"}


@dataclass
class Board:
    """A picture divided into square cells, and the things in them.

    Attributes:
        cell: side of a cell in pixels.
        plain: pure colours, upright, on a ground that is lit from one side: nothing to tell things apart by but what
            they are.
    """

    columns: int
    rows: int
    cell: float
    plain: bool = False
    things: dict[Cell, Thing] = field(default_factory=dict)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels; even, as video encoders want it."""
        return 2 * round(self.columns * self.cell / 2), 2 * round(self.rows * self.cell / 2)

    @property
    def cells(self) -> list[Cell]:
        """Row by row."""
        return [(column, row) for row in range(self.rows) for column in range(self.columns)]

    @property
    def names(self) -> dict[Cell, str]:
        return {cell: str(self.things[cell]) for cell in self.cells if cell in self.things}

    def free_cell(self, rng: np.random.Generator) -> Cell:
        return pick(rng, [cell for cell in self.cells if cell not in self.things])

    def thing_in(self, rng: np.random.Generator, cell: Cell, colour: str, shape: str) -> Thing:
        """A thing of random size near the middle of a cell. It is not put on the board."""
        size = self.cell * rng.uniform(0.55, 0.86)
        slack = (self.cell - size) / 2 * 0.8
        x, y = ((place + 0.5) * self.cell + rng.uniform(-slack, slack) for place in cell)
        if self.plain:
            return Thing(colour, shape, COLOURS[colour], x, y, size)
        angle, stroke, edge = rng.uniform(-0.25, 0.25), rng.uniform(0.15, 0.3), bool(rng.random() < 0.15)
        return Thing(colour, shape, shade(rng, colour), x, y, size, angle, stroke, edge)

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


def new_board(rng: np.random.Generator, sizes: Sequence[tuple[int, int]], easy: bool = False) -> Board:
    """Half of all boards have the smallest cells, the others larger ones up to half as large again. An easy one is the
    first of the sizes, plain, and of the smallest cells."""
    if easy:
        return Board(*sizes[0], CELL, plain=True)
    return Board(*pick(rng, sizes), CELL if rng.random() < 0.5 else CELL * rng.uniform(0.95, 1.5))


def board_text(board: Board, things: Mapping[Cell, Thing]) -> str:
    """What each cell holds, as text: "{red|circle}, empty; empty, {blue|star}"."""
    cells = [f"{{{x.colour}|{x.shape}}}" if (x := things.get(cell)) else "empty" for cell in board.cells]
    rows = [cells[start : start + board.columns] for start in range(0, len(cells), board.columns)]
    return "; ".join(", ".join(row) for row in rows)


def scene(rng: np.random.Generator, easy: bool = False) -> Example:
    """Two to five coloured shapes, or one; at most two on a small board if `easy`."""
    board = new_board(rng, BOARDS, easy)
    number = int(rng.integers(1, 3)) if easy else min(pick(rng, (1, 2, 2, 3, 3, 4, 4, 5)), board.columns * board.rows)
    if rng.random() < 0.65:  # nothing alike, so that what is asked about has to be told from all the others
        colours, shapes = shuffle(rng, list(COLOURS))[:number], shuffle(rng, SHAPES)[:number]
    else:
        few = rng.random() < 0.6  # two colours and shapes, so that there is something to count
        palette, forms = shuffle(rng, list(COLOURS)), shuffle(rng, SHAPES)
        colours = [pick(rng, palette[: 2 if few else None]) for _ in range(number)]
        shapes = [pick(rng, forms[: 2 if few else None]) for _ in range(number)]
    for colour, shape in zip(colours, shapes, strict=True):
        board.add(rng, colour, shape)
    canvas = background(rng, *board.size, easy)
    for thing in board.things.values():
        draw_thing(canvas, thing)
    questions = [*_identity_questions(board), *_count_questions(rng, board), *_position_questions(board)]
    caption = picture_caption(sentence(listed([with_article(name) for name in board.names.values()])), number)
    return Example([canvas.frame()], questions, _absent(rng, board), caption, [board_text(board, board.things)])


def _identity_questions(board: Board) -> list[Question]:
    """The colour of a shape and the shape of a colour, where there is only one such thing; and what lies where."""
    things = list(board.things.values())
    shapes, colours = [thing.shape for thing in things], [thing.colour for thing in things]
    questions = []
    for cell, thing in board.things.items():
        if shapes.count(thing.shape) == 1:
            questions.append(Question("colour of shape", thing.colour, colours, {"shape": thing.shape}))
        if colours.count(thing.colour) == 1:
            questions.append(Question("shape of colour", thing.shape, shapes, {"colour": thing.colour}))
        if _alone_at(board, cell):
            place = {"place": board.place(cell)}
            questions.append(Question("colour at place", thing.colour, colours, place))
            questions.append(Question("shape at place", thing.shape, shapes, place))
    return questions


def _alone_at(board: Board, cell: Cell) -> bool:
    """Whether nothing else is where a cell is: what lies at the top left lies at the top, too."""
    place = board.place(cell)
    return not any(place in board.place(other) for other in board.things if other != cell)


def _count_questions(rng: np.random.Generator, board: Board) -> list[Question]:
    """The number of all things, of one shape and of one colour. It may be 0."""
    things = list(board.things.values())
    shape = pick(rng, [thing.shape for thing in things] if rng.random() < 0.85 else SHAPES)
    colour = pick(rng, [thing.colour for thing in things] if rng.random() < 0.85 else list(COLOURS))
    numbers = [str(n) for n in range(len(things) + 1)]
    plural = "crosses" if shape == "cross" else f"{shape}s"
    same_shape, same_colour = sum(x.shape == shape for x in things), sum(x.colour == colour for x in things)
    return [
        Question("count all", str(len(things)), numbers[1:]),
        Question("count shape", str(same_shape), numbers, {"shapes": plural}),
        Question("count colour", str(same_colour), numbers, {"colour": colour}),
    ]


def _position_questions(board: Board) -> list[Question]:
    """Where each thing lies on the board, and how two things in one row or column lie to each other."""
    names = board.names
    if len(set(names.values())) < len(names):  # two things have the same name
        return []
    places = [board.place(cell) for cell in names]
    questions = []
    for cell, name in names.items():
        for called in _ways_to_call(board, cell):
            questions.append(Question("place of thing", board.place(cell), places, {"thing": called}))
        for step, side in SIDES.items():
            beside = [other for other in names if _lies(other, step, cell)]
            about = {"side": "to the " * (side[0] in "lr") + side, "other": name}
            if len(beside) == 1:
                questions.append(Question("neighbour", names[beside[0]], list(names.values()), about))
            for other in beside:
                side_word = side.removesuffix(" of")
                about = {"thing": names[other], "other": name}
                sides = ["left", "right", "above", "below"] if _both_axes(names) else [side_word, "the other"]
                questions.append(Question("side", side_word, sides, about))
    return questions


def _lies(cell: Cell, step: tuple[int, int], other: Cell) -> bool:
    """Whether a cell lies on one side of another, in the same row or column."""
    (dx, dy), (across, down) = (cell[0] - other[0], cell[1] - other[1]), step
    return (down == dy == 0 and dx * across > 0) or (across == dx == 0 and dy * down > 0)


def _beyond(cell: Cell, step: tuple[int, int], other: Cell) -> bool:
    """Whether a cell lies on one side of another, in whichever row or column."""
    return (cell[0] - other[0]) * step[0] + (cell[1] - other[1]) * step[1] > 0


def _both_axes(cells: Mapping[Cell, str]) -> bool:
    """Whether there are things beside and things above each other: the axis alone does not give the answer away."""
    return len({x for x, _ in cells}) < len(cells) and len({y for _, y in cells}) < len(cells)


def _ways_to_call(board: Board, cell: Cell) -> list[str]:
    """ "red circle"; or "circle" alone where there is only one."""
    thing = board.things[cell]
    unique = sum(other.shape == thing.shape for other in board.things.values()) == 1
    return [str(thing), thing.shape] if unique else [str(thing)]


def _absent(rng: np.random.Generator, board: Board) -> list[Question]:
    """Questions about a colour, a shape, a place and a thing that are not there."""
    shapes, colours = [x.shape for x in board.things.values()], [x.colour for x in board.things.values()]
    names = list(board.names.values())
    mixed = [f"{x} {y}" for x in colours for y in shapes if f"{x} {y}" not in names]  # both are there, but not together
    thing = pick(rng, mixed) if mixed and rng.random() < 0.5 else absent_name(rng, names, _all_things())
    shape, colour = absent_name(rng, shapes, SHAPES), pick(rng, [x for x in COLOURS if x not in colours])
    questions = [
        Question("colour of shape", NONE, [], {"shape": shape}),
        Question("shape of colour", NONE, [], {"colour": colour}),
        Question("place of thing", NONE, [], {"thing": thing}),
        Question("place of thing", NONE, [], {"thing": shape}),
    ]
    if free := [cell for cell in board.cells if cell not in board.things and _alone_at(board, cell)]:
        place = {"place": board.place(pick(rng, free))}
        questions += [Question("colour at place", NONE, [], place), Question("shape at place", NONE, [], place)]
    edges = [
        {"side": "to the " * (side[0] in "lr") + side, "other": name}
        for cell, name in board.names.items()
        for step, side in SIDES.items()
        if names.count(name) == 1 and not any(_beyond(other, step, cell) for other in board.things)
    ]
    return [*questions, *(Question("neighbour", NONE, [], about) for about in shuffle(rng, edges)[:2])]


def _all_things() -> list[str]:
    return [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
