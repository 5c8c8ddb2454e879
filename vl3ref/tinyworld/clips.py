"""Clips of the small world: things move, appear, blink or change in front of others that stay.

Most of every frame repeats the one before, so DiffFP drops most tokens. When something happens can only be read from
the times in the prompt: clips have different frame rates and begin at different seconds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from vl3ref.tinyworld.drawing import COLOURS, SHAPES, Thing, background, draw_thing, shade
from vl3ref.tinyworld.questions import (
    NONE,
    Example,
    Question,
    absent_name,
    listed,
    pick,
    sentence,
    shuffle,
    with_article,
)
from vl3ref.tinyworld.scenes import Board, Cell, board_text, new_board

BOARDS = ((2, 2), (3, 2), (2, 3))
"""Columns and rows."""
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
STAYS = "it stays"
Shown = Mapping[Cell, Thing]
"""What a frame shows."""


def clip(rng: np.random.Generator, easy: bool = False) -> Example:
    return pick(rng, (_motion, _arrivals, _blinking, _change))(rng, easy)


def _motion(rng: np.random.Generator, easy: bool) -> Example:
    """One or two things cross the board in straight lines, and may rest before or after; others stay."""
    board = new_board(rng, BOARDS, easy)
    things = _distinct_things(rng)
    axis = int(rng.integers(2))  # 0: left and right, 1: up and down; two things move in lanes side by side
    lanes = shuffle(rng, range((board.rows, board.columns)[axis]))[: 1 if easy else int(rng.integers(1, 3))]
    lanes.sort()  # the story tells them from the top or from the left
    length = (board.columns, board.rows)[axis]
    steps, before, after = int(rng.integers(3, 6)), int(rng.integers(3)), int(rng.integers(3))
    shares = np.concatenate([np.zeros(before), np.linspace(0, 1, steps), np.ones(after)])
    moving: list[tuple[Thing, Thing, str]] = []
    for lane, (colour, shape) in zip(lanes, things, strict=False):
        forwards = bool(rng.random() < 0.5)
        ends = [(i, lane) if axis == 0 else (lane, i) for i in ((0, length - 1) if forwards else (length - 1, 0))]
        start, end = (board.thing_in(rng, cell, colour, shape) for cell in ends)
        direction = (("left", "right"), ("up", "down"))[axis][forwards]
        moving.append((start, end, direction))
        board.things |= {(i, lane) if axis == 0 else (lane, i): start for i in range(length)}  # keeps its path free
    taken = set(board.things)
    bystanders = _add_bystanders(rng, board, things[len(lanes) :], 0 if easy else 2)
    still = {cell: thing for cell, thing in board.things.items() if cell not in taken}
    frames = []
    for share in shares.tolist():
        shown = dict(still)
        for start, end, _ in moving:
            x, y = (1 - share) * start.x + share * end.x, (1 - share) * start.y + share * end.y
            shown[int(x / board.cell), int(y / board.cell)] = replace(start, x=x, y=y)
        frames.append(shown)
    courses = {str(start): direction for start, _, direction in moving} | dict.fromkeys(bystanders, STAYS)
    questions = [
        Question("direction", course, list(courses.values()), {"thing": called})
        for name, course in courses.items()
        for called in _called(name)
    ]
    for name, course in courses.items():
        if course != STAYS and list(courses.values()).count(course) == 1:
            questions.append(Question("moves to", name, list(courses), {"direction": course}))
    absent = [Question("direction", NONE, [], {"thing": name}) for name in _absent_things(rng, list(courses))]
    unseen = [direction for direction in DIRECTIONS if direction not in courses.values()]
    absent.append(Question("moves to", NONE, [], {"direction": pick(rng, unseen)}))
    story = listed([f"{with_article(str(start))} moves {direction}" for start, _, direction in moving])
    return _film(rng, board, frames, _times(rng, len(frames)), questions, absent, story, len(courses))


def _arrivals(rng: np.random.Generator, easy: bool) -> Example:
    """Two to four things appear one after another, and stay."""
    board = new_board(rng, BOARDS, easy)
    things = _distinct_things(rng)[: 2 if easy else min(int(rng.integers(2, 5)), board.columns * board.rows)]
    count = int(rng.integers(len(things) + 2, 6 if easy else 9))
    arrivals = sorted(int(i) + 1 for i in rng.permutation(count - 1)[: len(things)])
    cells = [board.add(rng, colour, shape) for colour, shape in things]
    frames = [
        {cell: board.things[cell] for arrival, cell in zip(arrivals, cells, strict=True) if arrival <= n}
        for n in range(count)
    ]
    times = _times(rng, count)
    names = [f"{colour} {shape}" for colour, shape in things]
    questions = [Question("first", names[0], names), Question("last", names[-1], names)]
    for name, following in pairwise(names):
        questions += [Question("after", following, names, {"thing": called}) for called in _called(name)]
        questions += [Question("before", name, names, {"thing": called}) for called in _called(following)]
    questions += _when(names, "appear", [times[arrival] for arrival in arrivals])
    absent = [
        Question("after", NONE, [], {"thing": names[-1]}),
        Question("before", NONE, [], {"thing": names[0]}),
        *(Question("when", NONE, [], _event(name, "appear")) for name in _absent_things(rng, names)),
    ]
    opening, *rest = map(with_article, names)
    story = f"first {opening} appears, then {' and then '.join(rest)}"
    return _film(rng, board, frames, times, questions, absent, story, len(names))


def _blinking(rng: np.random.Generator, easy: bool) -> Example:
    """One or two things appear for a frame, one to four times; others stay."""
    board = new_board(rng, BOARDS, easy)
    things = _distinct_things(rng)
    number = 1 if easy else int(rng.integers(1, 3))
    count = int(rng.integers(4, 7)) if easy else int(rng.integers(6, 10))
    most = (count - 1) // 2
    times_seen = shuffle(rng, range(1, 1 + min(4, most)))[:number]
    blinkers: dict[Cell, list[int]] = {}
    for (colour, shape), times_shown in zip(things, times_seen, strict=False):
        # Moments with a frame between them: pick them from a clip without those frames, then put them back.
        moments = np.sort(rng.permutation(count - 1 - times_shown)[:times_shown]) + np.arange(times_shown) + 1
        blinkers[board.add(rng, colour, shape)] = moments.tolist()
    bystanders = _add_bystanders(rng, board, things[number:], 0 if easy else 2)
    frames = [
        {cell: thing for cell, thing in board.things.items() if n in blinkers.get(cell, [n])} for n in range(count)
    ]
    times = _times(rng, count)
    blinkers = {
        cell: blinkers[cell] for cell in board.cells if cell in blinkers
    }  # the order in which the story tells them
    names = [str(board.things[cell]) for cell in blinkers]
    numbers = [str(len(moments)) for moments in blinkers.values()]
    questions = [
        Question("how often", often, numbers, {"thing": called})
        for name, often in zip(names, numbers, strict=True)
        for called in _called(name)
    ]
    for name, often in zip(names, numbers, strict=True):
        about = {"number": _so_often(int(often))}
        questions.append(Question("so often", name, [*names, *bystanders], about))
    if number == 1:
        questions += [
            Question("what changes", names[0], [*names, *bystanders], {"event_s": event})
            for event in ("blinks", "comes and goes")
        ]
    seen_first = [times[moments[0]] for moments in blinkers.values()]
    questions += [
        Question(
            "when",
            _at(second),
            [_at(s) for s in seen_first],
            {"thing": called, "event": "appear first", "event_s": "appears first"},
        )
        for name, second in zip(names, seen_first, strict=True)
        for called in _called(name)
    ]
    absent = [Question("how often", NONE, [], {"thing": name}) for name in _absent_things(rng, [*names, *bystanders])]
    unseen = [n for n in range(1, 5) if str(n) not in numbers]
    absent.append(Question("so often", NONE, [], {"number": _so_often(pick(rng, unseen))}))
    story = listed(
        [f"{with_article(name)} appears {_so_often(int(n))}" for name, n in zip(names, numbers, strict=True)]
    )
    return _film(rng, board, frames, times, questions, absent, story, len(names))


def _change(rng: np.random.Generator, easy: bool) -> Example:
    """One or two things turn another colour, appear, or disappear; others stay."""
    board = new_board(rng, BOARDS, easy)
    things = _distinct_things(rng)
    colours = [colour for colour in COLOURS if colour not in dict(things)]
    count = int(rng.integers(3, 5) if easy else rng.integers(4, 9))
    events = shuffle(rng, ["appear", "disappear", *(f"turn {colour}" for colour in shuffle(rng, colours)[:1])])
    events = events[: 1 if easy else int(rng.integers(1, 3))]
    moments = sorted(int(moment) + 1 for moment in rng.permutation(count - 1)[: len(events)])
    cells = [board.add(rng, colour, shape) for (colour, shape), _ in zip(things, events, strict=False)]
    bystanders = _add_bystanders(rng, board, things[len(events) :], 0 if easy else 2)
    frames: list[dict[Cell, Thing]] = [dict(board.things) for _ in range(count)]
    for cell, event, moment in zip(cells, events, moments, strict=True):
        kind, _, colour = event.partition(" ")
        turned = replace(board.things[cell], colour=colour, rgb=shade(rng, colour)) if colour else None
        for n, frame in enumerate(frames):
            if turned and n >= moment:
                frame[cell] = turned
            elif kind == ("appear" if n < moment else "disappear"):
                del frame[cell]
    times = _times(rng, count)
    names = [str(board.things[cell]) for cell in cells]
    happened = [f"it {_third_person(event)}" for event in events]
    choices = [*happened, *[STAYS] * len(bystanders)]
    questions = [
        Question("happens", event, choices, {"thing": called})
        for name, event in zip([*names, *bystanders], choices, strict=True)
        for called in _called(name)
    ]
    seconds = [times[moment] for moment in moments]
    for name, event, second in zip(names, events, seconds, strict=True):
        about = {"event_s": _third_person(event)}
        questions.append(Question("what changes", name, [*names, *bystanders], about))
        questions.append(Question("at", name, names, {"time": str(second), **about}))
        questions += [
            Question("when", _at(second), [_at(s) for s in seconds], _event(called, event)) for called in _called(name)
        ]
    shown = {str(thing) for frame in frames for thing in frame.values()}
    absent = [Question("happens", NONE, [], {"thing": name}) for name in _absent_things(rng, sorted(shown))]
    unseen = [event for event in ("appears", "disappears", "moves") if f"it {event}" not in happened]
    absent.append(Question("what changes", NONE, [], {"event_s": pick(rng, unseen)}))
    told = zip(names, events, seconds, strict=True)
    story = listed([f"{with_article(name)} {_third_person(event)} {_at(second)}" for name, event, second in told])
    return _film(rng, board, frames, times, questions, absent, story, len(names))


# -------------------------------------------------------------------------------------------------------- common parts


def _distinct_things(rng: np.random.Generator) -> list[tuple[str, str]]:
    """Colours and shapes of four things; no two have the same colour or shape."""
    return list(zip(shuffle(rng, list(COLOURS))[:4], shuffle(rng, SHAPES)[:4], strict=True))


def _add_bystanders(rng: np.random.Generator, board: Board, things: Sequence[tuple[str, str]], most: int) -> list[str]:
    """Names of up to `most` things that are put into free cells."""
    number = min(int(rng.integers(0, most + 1)), len(things), len(board.cells) - len(board.things))
    return [str(board.things[board.add(rng, colour, shape)]) for colour, shape in things[:number]]


def _called(name: str) -> list[str]:
    """All things of a clip differ in colour and shape, so either will do: "red circle", "circle", "red thing"."""
    colour, shape = name.split()
    return [name, shape, f"{colour} thing"]


def _absent_things(rng: np.random.Generator, names: Sequence[str]) -> list[str]:
    """A thing and a shape that are not in the clip."""
    shapes = [name.split()[1] for name in names]
    every = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
    return [absent_name(rng, names, every), absent_name(rng, shapes, SHAPES)]


def _when(names: Sequence[str], event: str, seconds: Sequence[float]) -> list[Question]:
    """When it happened to which thing, and what it happened to at which second."""
    questions = []
    for name, second in zip(names, seconds, strict=True):
        about = {"time": str(second), "event_s": _third_person(event)}
        questions.append(Question("at", name, names, about))
        for called in _called(name):
            questions.append(Question("when", _at(second), [_at(s) for s in seconds], _event(called, event)))
    return questions


def _event(thing: str, event: str) -> dict[str, str]:
    return {"thing": thing, "event": event, "event_s": _third_person(event)}


def _third_person(event: str) -> str:
    verb, *rest = event.split()
    return " ".join([f"{verb}s", *rest])


def _at(second: float) -> str:
    return f"at {second} seconds"


def _so_often(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


def _film(
    rng: np.random.Generator,
    board: Board,
    frames: Sequence[Shown],
    times: list[float],
    questions: list[Question],
    absent: list[Question],
    story: str,
    things: int,
) -> Example:
    """Draw the things of each frame on one background. `things` are those that the story has to keep apart."""
    backdrop = background(rng, *board.size, board.plain)
    pictures = []
    for shown in frames:
        canvas = backdrop.copy()
        for thing in shown.values():
            draw_thing(canvas, thing)
        pictures.append(canvas.frame())
    caption = Question("video caption", sentence(story), [str(n) for n in range(things)])
    return Example(pictures, questions, absent, caption, [board_text(board, shown) for shown in frames], times)


def _times(rng: np.random.Generator, count: int) -> list[float]:
    """Seconds of the frames: one or two a second, from second 0 or, in three of ten clips, from a later one."""
    start = float(rng.integers(0, 20)) if rng.random() < 0.3 else 0.0
    frames_per_second = int(rng.integers(1, 3))
    return [start + n / frames_per_second for n in range(count)]
