"""Charts of the small world: bars and lines."""

import numpy as np

from vl3ref.tinyworld.drawing import COLOURS, shade, sheet
from vl3ref.tinyworld.questions import (
    NONE,
    Example,
    Question,
    listed,
    pick,
    picture_caption,
    sentence,
    shuffle,
    with_article,
)

COURSES = ("rises", "falls", "rises, then falls", "falls, then rises")


def chart(rng: np.random.Generator, easy: bool = False) -> Example:
    return _bars(rng, easy) if rng.random() < 0.6 else _lines(rng, easy)


def _bars(rng: np.random.Generator, easy: bool) -> Example:
    """Two to five bars of different colours and heights on a ruled sheet."""
    colours = shuffle(rng, list(COLOURS))[: int(rng.integers(2, 3 if easy else 6))]
    values = shuffle(rng, range(1, 7))[: len(colours)]
    bars = dict(zip(colours, map(str, values), strict=True))
    width, height = (round(x) for x in rng.uniform(78, 120, 2))
    canvas = sheet(rng, width, height)
    floor, unit, step, share = height - 8, (height - 20) / 6, (width - 12) / len(bars), rng.uniform(0.5, 0.85)
    for ruled in range(7):
        canvas.line([(4, floor - ruled * unit), (width - 5, floor - ruled * unit)], (190, 190, 190))
    for index, (colour, value) in enumerate(bars.items()):
        left = 6 + step * (index + (1 - share) / 2)
        canvas.rectangle([left, floor - int(value) * unit, left + step * share, floor], shade(rng, colour))
    by_value = sorted(bars, key=lambda colour: bars[colour])
    heights = list(bars.values())
    questions = [Question("highest", by_value[-1], colours), Question("lowest", by_value[0], colours)]
    for colour, value in bars.items():
        questions.append(Question("height", value, heights, {"colour": colour}))
        questions.append(Question("bar", colour, colours, {"value": value}))
    absent = [
        Question("height", NONE, [], {"colour": pick(rng, [x for x in COLOURS if x not in bars])}),
        Question("bar", NONE, [], {"value": pick(rng, [str(n) for n in range(1, 7) if str(n) not in heights])}),
    ]
    number = ("two", "three", "four", "five")[len(bars) - 2]
    caption = picture_caption(f"A chart with {number} bars.", len(bars))
    text = "bars: " + ", ".join(f"{{{colour}|{value}}}" for colour, value in bars.items())
    return Example([canvas.frame()], questions, absent, caption, [text])


def _lines(rng: np.random.Generator, easy: bool) -> Example:
    """One or two lines through five points, each of which rises, falls, or turns in the middle."""
    number = 1 if easy else int(rng.integers(1, 3))
    courses = shuffle(rng, COURSES[: 2 if easy else None])[:number]
    colours = sorted(shuffle(rng, list(COLOURS))[:number], key=list(COLOURS).index)  # the order in which they are told
    lines = dict(zip(colours, courses, strict=True))
    width, height, stroke = round(rng.uniform(78, 110)), round(rng.uniform(56, 90)), rng.uniform(2, 4)
    canvas = sheet(rng, width, height)
    for colour, course in lines.items():
        points = [
            (8 + i * (width - 16) / 4, height - 8 - value * (height - 16))
            for i, value in enumerate(_heights(rng, course).tolist())
        ]
        canvas.line(points, shade(rng, colour), stroke)
    questions = []
    for colour, course in lines.items():
        questions.append(Question("course", course, courses, {"colour": colour}))
        if not any(course in other for other in courses if other != course):
            questions.append(Question("line", colour, colours, {"course": course}))
    absent = [Question("course", NONE, [], {"colour": pick(rng, [x for x in COLOURS if x not in lines])})]
    if unseen := [x for x in COURSES if not any(x in course for course in courses)]:  # what turns rises and falls, too
        absent.append(Question("line", NONE, [], {"course": pick(rng, unseen)}))
    told = [f"{with_article(f'{colour} line')} that {course}" for colour, course in lines.items()]
    text = "; ".join(f"line {{{colour}|{course}}}" for colour, course in lines.items())
    return Example([canvas.frame()], questions, absent, picture_caption(sentence(listed(told)), number), [text])


def _heights(rng: np.random.Generator, course: str) -> np.ndarray:
    """Five heights from 0 to 1."""
    rising = np.sort(rng.uniform(0, 1, 5))
    rising = (rising - rising[0]) / (rising[-1] - rising[0] + 1e-9) * rng.uniform(0.6, 1)
    peak = rising[[0, 2, 4, 2, 0]]
    match course:
        case "rises":
            return rising
        case "falls":
            return rising[::-1]
        case "rises, then falls":
            return peak
        case _:
            return rising[-1] - peak
