"""Clips of the small world: something moves, appears, blinks or changes in front of things that stay.

Most of every frame repeats the one before, so DiffFP drops most tokens. When something happens can only be read from
the times in the prompt: clips have different frame rates and begin at different seconds.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from vl3ref.tinyworld.drawing import COLOURS, SHAPES, Thing, background, draw_thing, to_frame
from vl3ref.tinyworld.questions import Example, Question, pick, sentence, shuffle, with_article
from vl3ref.tinyworld.scenes import Board, Cell, board_text, new_board

BOARDS = ((2, 2), (3, 2), (2, 3))
"""Columns and rows."""


def clip(rng: np.random.Generator, easy: bool = False) -> Example:
    return pick(rng, (_motion, _arrivals, _blinking, _change))(rng, easy)


def _motion(rng: np.random.Generator, easy: bool) -> Example:
    """One thing crosses the board in a straight line, and may rest before or after."""
    board = new_board(rng, BOARDS[: 1 if easy else None])
    (colour, shape), *others = _distinct_things(rng)
    direction = pick(rng, ("left", "right", "up", "down"))
    across, forwards = direction in ("left", "right"), direction in ("right", "down")
    lane = int(rng.integers(board.rows if across else board.columns))
    size = board.columns if across else board.rows
    path = [(i, lane) if across else (lane, i) for i in range(size)][:: 1 if forwards else -1]
    start, end = (board.thing_in(rng, cell, colour, shape) for cell in (path[0], path[-1]))
    steps = int(rng.integers(3, 6))
    before, after = rng.integers(0, 1 if easy else 3, 2)
    shares = np.concatenate([np.zeros(before), np.linspace(0, 1, steps), np.ones(after)])
    board.things = dict.fromkeys(path, start)  # keeps the path free of bystanders
    _add_bystanders(rng, board, others, 0 if easy else 1)
    still = {cell: thing for cell, thing in board.things.items() if cell not in path}
    frames = []
    for share in shares.tolist():
        x, y = (1 - share) * start.x + share * end.x, (1 - share) * start.y + share * end.y
        frames.append({**still, path[round(share * (size - 1))]: Thing(colour, shape, x, y, start.size)})
    wordings = (
        f"In which direction does the {shape} move?",
        f"Which way does the {colour} thing go?",
        f"Where does the {colour} {shape} move?",
    )
    questions = [
        Question("motion", wordings, direction),
        Question("motion", ("What moves?", "Which thing moves?"), f"{colour} {shape}"),
    ]
    return _film(rng, board, frames, questions, f"{with_article(colour)} {shape} moves {direction}")


def _arrivals(rng: np.random.Generator, easy: bool) -> Example:
    """Two or three things appear one after another, and stay."""
    board = new_board(rng, BOARDS[: 1 if easy else None])
    things = _distinct_things(rng)[: int(rng.integers(2, 3 if easy else 4))]
    count = int(rng.integers(len(things) + 2, 6 if easy else 8))
    arrivals = sorted(int(i) + 1 for i in rng.permutation(count - 1)[: len(things)])
    cells = [board.add(rng, colour, shape) for colour, shape in things]
    frames = [
        {cell: board.things[cell] for arrival, cell in zip(arrivals, cells, strict=True) if arrival <= n}
        for n in range(count)
    ]
    names = [f"{colour} {shape}" for colour, shape in things]
    first = ("What comes first?", "Which thing appears first?", "What is the first thing to appear?")
    last = ("What comes last?", "Which thing appears last?", "What is the last thing to appear?")
    questions = [Question("order", first, names[0]), Question("order", last, names[-1])]
    for name, following in pairwise(names):
        questions.append(
            Question("order", (f"What comes after the {name}?", f"What appears after the {name}?"), following)
        )
    for arrival, name in zip(arrivals, names, strict=True):
        wordings = (f"When does the {name} appear?", f"At what time does the {name} appear?")
        questions.append(Question("time", wordings, f"at {{{arrival}}} seconds"))
    opening, *rest = map(with_article, names)
    return _film(rng, board, frames, questions, f"first {opening} appears, then {' and then '.join(rest)}")


def _blinking(rng: np.random.Generator, easy: bool) -> Example:
    """One thing appears for one frame, one to four times."""
    board = new_board(rng, BOARDS[: 1 if easy else None])
    (colour, shape), *others = _distinct_things(rng)
    number = int(rng.integers(1, 3 if easy else 5))
    hidden = rng.integers(1, 3, number)  # frames without it before each appearance
    seen = np.cumsum(hidden + np.r_[0, np.ones(number - 1, int)])
    count = int(seen[-1] + rng.integers(2, 4))  # it is gone again at the end
    cell = board.add(rng, colour, shape)
    _add_bystanders(rng, board, others, 0 if easy else 1)
    without = {key: thing for key, thing in board.things.items() if key != cell}
    frames = [board.things if n in seen else without for n in range(count)]
    how_often = (
        f"How often does the {shape} appear?",
        f"How many times does the {colour} {shape} appear?",
        f"How often is the {colour} thing seen?",
    )
    when = (f"When does the {shape} appear first?", f"When is the {shape} first seen?")
    questions = [
        Question("frequency", how_often, str(number)),
        Question("change", ("What blinks?", "Which thing comes and goes?"), f"{colour} {shape}"),
        Question("time", when, f"at {{{seen[0]}}} seconds"),
    ]
    times = "once" if number == 1 else f"{number} times"
    return _film(rng, board, frames, questions, f"{with_article(colour)} {shape} appears {times}")


def _change(rng: np.random.Generator, easy: bool) -> Example:
    """One thing turns another colour, appears, or disappears. The others stay."""
    board = new_board(rng, BOARDS[: 1 if easy else None])
    (colour, shape), (new_colour, _), *others = _distinct_things(rng)
    cell = board.add(rng, colour, shape)
    _add_bystanders(rng, board, others, 0 if easy else 2)
    count = int(rng.integers(3, 5) if easy else rng.integers(4, 8))
    moment = int(rng.integers(1, count))
    kind = pick(rng, ("turns", "appears", "disappears"))
    thing = board.things[cell]
    without = {key: other for key, other in board.things.items() if key != cell}
    turned = {**board.things, cell: Thing(new_colour, shape, thing.x, thing.y, thing.size)}
    before = without if kind == "appears" else board.things
    after = {"turns": turned, "appears": board.things, "disappears": without}[kind]
    frames = [before if n < moment else after for n in range(count)]
    event = f"turns {new_colour}" if kind == "turns" else kind
    infinitive = event.replace("turns", "turn").removesuffix("s")
    when = (f"When does the {shape} {infinitive}?", f"At what time does the {shape} {infinitive}?")
    questions = [
        Question("change", (f"What happens to the {shape}?", f"What does the {shape} do?"), f"it {event}"),
        Question("change", ("What changes?", "Which thing changes?"), shape),
        Question("time", when, f"at {{{moment}}} seconds"),
    ]
    return _film(rng, board, frames, questions, f"{with_article(colour)} {shape} {event} at {{{moment}}} seconds")


# -------------------------------------------------------------------------------------------------------- common parts


def _distinct_things(rng: np.random.Generator) -> list[tuple[str, str]]:
    """Colours and shapes of four things; no two have the same colour or shape."""
    colours, shapes = rng.permutation(len(COLOURS)), rng.permutation(len(SHAPES))
    return [(list(COLOURS)[int(c)], SHAPES[int(s)]) for c, s in zip(colours[:4], shapes[:4], strict=True)]


def _add_bystanders(rng: np.random.Generator, board: Board, things: Sequence[tuple[str, str]], most: int) -> None:
    for colour, shape in things[: int(rng.integers(0, most + 1))]:
        board.add(rng, colour, shape)


def _film(
    rng: np.random.Generator,
    board: Board,
    frames: Sequence[Mapping[Cell, Thing]],
    questions: Sequence[Question],
    story: str,
) -> Example:
    """Draw the things of each frame on one background and shuffle the questions.

    Frame numbers in answers and in the story, like {3}, become the frames' seconds.
    """
    questions = [*shuffle(rng, questions), Question("video caption", STORY_WORDINGS, sentence(story))]
    times = _times(rng, len(frames))
    backdrop = background(rng, board.width, board.height)
    pictures = []
    for things in frames:
        canvas = backdrop.copy()
        for thing in things.values():
            draw_thing(canvas, thing)
        pictures.append(to_frame(canvas))
    dated = [Question(question.skill, question.wordings, question.answer.format(*times)) for question in questions]
    return Example(pictures, dated, [board_text(board, things) for things in frames], times)


STORY_WORDINGS = ("Describe the clip.", "What happens in the video?", "Describe the video.")


def _times(rng: np.random.Generator, count: int) -> list[float]:
    """Seconds of the frames: one or two a second, from second 0 or, in three of ten clips, from a later one."""
    start = float(rng.integers(0, 20)) if rng.random() < 0.3 else 0.0
    frames_per_second = int(rng.integers(1, 3))
    return [start + n / frames_per_second for n in range(count)]
