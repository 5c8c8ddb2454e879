"""Charts of the small world: bars and lines."""

import numpy as np
from PIL import ImageDraw

from vl3ref.tinyworld.drawing import COLOURS, canvas_size, sheet, to_frame
from vl3ref.tinyworld.questions import Example, Question, pick, picture_caption, sentence, shuffle, with_article


def chart(rng: np.random.Generator, easy: bool = False) -> Example:
    return _bars(rng, easy) if rng.random() < 0.6 else _line(rng, easy)


def _bars(rng: np.random.Generator, easy: bool) -> Example:
    """Two to four bars of different colours and heights on a ruled sheet."""
    colours = [list(COLOURS)[int(i)] for i in rng.permutation(len(COLOURS))[: int(rng.integers(2, 3 if easy else 5))]]
    values = rng.permutation(np.arange(1, 7))[: len(colours)].tolist()
    bars = list(zip(colours, values, strict=True))
    width, height = canvas_size(rng, 3, 3)
    canvas = sheet(rng, width, height)
    pen = ImageDraw.Draw(canvas)
    floor, unit, step = height - 8, (height - 20) / 6, (width - 12) / len(bars)
    for value in range(7):
        pen.line([(4, floor - value * unit), (width - 5, floor - value * unit)], fill=(190, 190, 190))
    for index, (colour, value) in enumerate(bars):
        left = 6 + step * index + step * 0.15
        pen.rectangle([left, floor - value * unit, left + step * 0.7, floor], fill=COLOURS[colour])
    questions = [
        Question("chart", (f"How high is the {colour} bar?", f"What is the value of the {colour} bar?"), str(value))
        for colour, value in bars
    ]
    by_value = [colour for _, colour in sorted(zip(values, colours, strict=True))]
    questions += [
        Question("chart", ("Which bar is the highest?", "What colour is the highest bar?"), by_value[-1]),
        Question("chart", ("Which bar is the lowest?", "What colour is the lowest bar?"), by_value[0]),
    ]
    caption = picture_caption(f"A chart with {('two', 'three', 'four')[len(bars) - 2]} bars.")
    text = "bars: " + ", ".join(f"{colour} {value}" for colour, value in bars)
    return Example([to_frame(canvas)], [*shuffle(rng, questions), caption], [text])


def _line(rng: np.random.Generator, easy: bool) -> Example:
    """A line through five points that rises, falls, or turns in the middle."""
    form = pick(rng, ("rises", "falls", "rises, then falls", "falls, then rises")[: 2 if easy else None])
    rising = np.sort(rng.uniform(0, 1, 5))
    rising = (rising - rising[0]) / (rising[-1] - rising[0] + 1e-9) * rng.uniform(0.6, 1)
    peak = rising[[0, 2, 4, 2, 0]]
    heights = {
        "rises": rising,
        "falls": rising[::-1],
        "rises, then falls": peak,
        "falls, then rises": rising[-1] - peak,
    }[form]
    width, height = canvas_size(rng, 3, 2 if rng.random() < 0.5 else 3)
    canvas = sheet(rng, width, height)
    colour = pick(rng, list(COLOURS))
    points = [
        (8 + i * (width - 16) / 4, height - 8 - value * (height - 16)) for i, value in enumerate(heights.tolist())
    ]
    ImageDraw.Draw(canvas).line(points, fill=COLOURS[colour], width=3)
    questions = [
        Question("chart", ("What does the line do?", "Does the line rise or fall?"), form),
        Question("colour", ("What colour is the line?", "Which colour does the line have?"), colour),
    ]
    caption = picture_caption(sentence(f"{with_article(colour)} line that {form}"))
    return Example([to_frame(canvas)], [*shuffle(rng, questions), caption], [f"line {colour} {form}"])
