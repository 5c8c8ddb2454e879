"""Clips of the small world: something moves, appears, changes or blinks, in front of things that stay.

Most of every frame repeats the one before, so DiffFP has much to drop. What happened when can only be told from the
printed times: clips have different frame rates and begin at different seconds.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import numpy as np

from vl3ref.tinyworld.drawing import COLOURS, SHAPES, Thing, background, draw_thing, pixels
from vl3ref.tinyworld.pictures import Board, Question, Shown, article, in_any_order, new_board, pick

Cell = tuple[int, int]

BOARDS = ((2, 2), (3, 2), (2, 3))
ASK_FOR_ALL = ("Describe the clip.", "What happens in the video?", "Describe the video.")


def clip(rng: np.random.Generator, easy: bool = False) -> Shown:
    makers: Sequence[Callable[[np.random.Generator, bool], Shown]] = (_motion, _arrivals, _blinking, _change)
    return makers[int(rng.integers(len(makers)))](rng, easy)


def _times(rng: np.random.Generator, count: int) -> list[float]:
    """Seconds of the frames: one or two a second, from the beginning or from later on."""
    start = float(rng.integers(0, 20)) if rng.random() < 0.3 else 0.0
    rate = int(rng.integers(1, 3))
    return [start + n / rate for n in range(count)]


def _filmed(
    rng: np.random.Generator, board: Board, frames: Sequence[Mapping[Cell, Thing]], questions: list[Question]
) -> Shown:
    """Draw each frame's things on one background, and put into words what each cell of each frame holds."""
    times = _times(rng, len(frames))
    backdrop = background(rng, board.width, board.height)
    drawn, words = [], []
    for things in frames:
        canvas = backdrop.copy()
        for thing in things.values():
            draw_thing(canvas, thing)
        drawn.append(pixels(canvas))
        words.append(Board(board.columns, board.rows, board.width, board.height, dict(things)).words())
    asked = [_dated(question, times) for question in questions]
    return Shown(drawn, asked, words, times)


def _dated(question: Question, times: Sequence[float]) -> Question:
    """Fill in the seconds of frame numbers like {3}."""
    return Question(question.skill, question.wordings, question.answer.format(*times))


def _two_names(rng: np.random.Generator) -> list[tuple[str, str]]:
    """Four (colour, shape) pairs, all colours and all shapes different."""
    colours, shapes = rng.permutation(len(COLOURS)), rng.permutation(len(SHAPES))
    return [(list(COLOURS)[int(c)], SHAPES[int(s)]) for c, s in zip(colours[:4], shapes[:4], strict=True)]


def _bystanders(rng: np.random.Generator, board: Board, names: Sequence[tuple[str, str]], most: int) -> None:
    for colour, shape in names[: int(rng.integers(0, most + 1))]:
        cell = board.free(rng)
        board.things[cell] = board.place(rng, cell, colour, shape)


def _narration(answer: str) -> Question:
    return Question("video caption", ASK_FOR_ALL, answer)


# ---------------------------------------------------------------------------------------------------- what can happen


def _motion(rng: np.random.Generator, easy: bool) -> Shown:
    """One thing crosses the board in a straight line, perhaps resting before or after."""
    board = new_board(rng, BOARDS[: 1 if easy else None])
    mover, *others = _two_names(rng)
    direction = pick(rng, ("left", "right", "up", "down"))
    dx, dy = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}[direction]
    lane = int(rng.integers(board.rows if dx else board.columns))
    size = board.columns if dx else board.rows
    path = [(i, lane) if dx else (lane, i) for i in range(size)][:: 1 if dx + dy > 0 else -1]
    ends = [board.place(rng, cell, *mover) for cell in (path[0], path[-1])]
    steps = int(rng.integers(3, 6))
    before, after = rng.integers(0, 1 if easy else 3, 2)
    along = np.concatenate([np.zeros(before), np.linspace(0, 1, steps), np.ones(after)])
    board.things = dict.fromkeys(path, ends[0])  # keeps bystanders out of the lane
    _bystanders(rng, board, others, 0 if easy else 1)
    still = {cell: thing for cell, thing in board.things.items() if cell not in path}
    frames = []
    for share in along.tolist():
        x, y = ((1 - share) * ends[0].x + share * ends[1].x, (1 - share) * ends[0].y + share * ends[1].y)
        at = path[round(share * (size - 1))]
        frames.append({**still, at: Thing(*mover, x, y, ends[0].size)})
    colour, shape = mover
    wordings = (
        f"In which direction does the {shape} move?",
        f"Which way does the {colour} thing go?",
        f"Where does the {colour} {shape} move?",
    )
    questions = [
        Question("motion", wordings, direction),
        Question("motion", ("What moves?", "Which thing moves?"), f"{colour} {shape}"),
    ]
    told = f"{article(colour).capitalize()} {colour} {shape} moves {direction}."
    return _filmed(rng, board, frames, [*in_any_order(rng, questions), _narration(told)])


def _arrivals(rng: np.random.Generator, easy: bool) -> Shown:
    """Two or three things appear one after another, and stay."""
    board = new_board(rng, BOARDS[: 1 if easy else None])
    names = _two_names(rng)[: int(rng.integers(2, 3 if easy else 4))]
    count = int(rng.integers(len(names) + 2, 6 if easy else 8))
    moments = sorted(int(i) + 1 for i in rng.permutation(count - 1)[: len(names)])
    arrivals = []
    for moment, name in zip(moments, names, strict=True):
        cell = board.free(rng)
        board.things[cell] = board.place(rng, cell, *name)
        arrivals.append((moment, cell))
    frames = [{cell: board.things[cell] for moment, cell in arrivals if moment <= n} for n in range(count)]
    full = [f"{colour} {shape}" for colour, shape in names]
    questions = [
        Question(
            "order", ("What comes first?", "Which thing appears first?", "What is the first thing to appear?"), full[0]
        ),
        Question(
            "order", ("What comes last?", "Which thing appears last?", "What is the last thing to appear?"), full[-1]
        ),
    ]
    for one, two in pairwise(full):
        questions.append(Question("order", (f"What comes after the {one}?", f"What appears after the {one}?"), two))
    for (moment, _), what in zip(arrivals, full, strict=True):
        wordings = (f"When does the {what} appear?", f"At what time does the {what} appear?")
        questions.append(Question("time", wordings, f"at {{{moment}}} seconds"))
    story = [f"{article(name)} {name}" for name in full]
    told = f"First {story[0]} appears, then {' and then '.join(story[1:])}."
    return _filmed(rng, board, frames, [*in_any_order(rng, questions), _narration(told)])


def _blinking(rng: np.random.Generator, easy: bool) -> Shown:
    """One thing appears for a moment, one to four times."""
    board = new_board(rng, BOARDS[: 1 if easy else None])
    (colour, shape), *others = _two_names(rng)
    number = int(rng.integers(1, 3 if easy else 5))
    gaps = rng.integers(1, 3, number)
    seen = np.cumsum(gaps + np.r_[0, np.ones(number - 1, int)])
    count = int(seen[-1] + rng.integers(2, 4))  # it is gone again at the end
    cell = board.free(rng)
    board.things[cell] = board.place(rng, cell, colour, shape)
    _bystanders(rng, board, others, 0 if easy else 1)
    hidden = {key: thing for key, thing in board.things.items() if key != cell}
    frames = [board.things if n in seen else hidden for n in range(count)]
    wordings = (
        f"How often does the {shape} appear?",
        f"How many times does the {colour} {shape} appear?",
        f"How often is the {colour} thing seen?",
    )
    questions = [
        Question("frequency", wordings, str(number)),
        Question("change", ("What blinks?", "Which thing comes and goes?"), f"{colour} {shape}"),
        Question(
            "time",
            (f"When does the {shape} appear first?", f"When is the {shape} first seen?"),
            f"at {{{seen[0]}}} seconds",
        ),
    ]
    times = "once" if number == 1 else f"{number} times"
    told = f"{article(colour).capitalize()} {colour} {shape} appears {times}."
    return _filmed(rng, board, frames, [*in_any_order(rng, questions), _narration(told)])


def _change(rng: np.random.Generator, easy: bool) -> Shown:
    """Among things that stay, one turns another colour, appears, or disappears."""
    board = new_board(rng, BOARDS[: 1 if easy else None])
    (colour, shape), second, *others = _two_names(rng)
    cell = board.free(rng)
    thing = board.things[cell] = board.place(rng, cell, colour, shape)
    _bystanders(rng, board, others, 0 if easy else 2)
    count = int(rng.integers(3, 5) if easy else rng.integers(4, 8))
    moment = int(rng.integers(1, count))
    kind = pick(rng, ("turns", "appears", "disappears"))
    without = {key: other for key, other in board.things.items() if key != cell}
    turned = {**board.things, cell: Thing(second[0], shape, thing.x, thing.y, thing.size)}
    before = without if kind == "appears" else board.things
    after = {"turns": turned, "appears": board.things, "disappears": without}[kind]
    frames = [before if n < moment else after for n in range(count)]
    what = f"turns {second[0]}" if kind == "turns" else kind
    asked = f"turn {second[0]}" if kind == "turns" else kind[:-1]
    questions = [
        Question("change", (f"What happens to the {shape}?", f"What does the {shape} do?"), f"it {what}"),
        Question("change", ("What changes?", "Which thing changes?"), shape),
        Question(
            "time",
            (f"When does the {shape} {asked}?", f"At what time does the {shape} {asked}?"),
            f"at {{{moment}}} seconds",
        ),
    ]
    told = f"{article(colour).capitalize()} {colour} {shape} {what} at {{{moment}}} seconds."
    return _filmed(rng, board, frames, [*in_any_order(rng, questions), _narration(told)])
