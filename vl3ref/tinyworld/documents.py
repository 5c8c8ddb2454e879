"""Things to read in the small world: signs, receipts and forms."""

import math
from collections.abc import Sequence

import numpy as np

from vl3ref.tinyworld.drawing import FONTS, INK, background, draw_sheet, shade, sheet, text_size
from vl3ref.tinyworld.questions import NONE, Example, Question, pick, picture_caption, shuffle

WORDS = (  # noqa: SIM905 (as a list, each word would take a line)
    "ant bag bed bird boat book box bus cake car cat corn cup dog door duck egg fish frog goat hat hill ice key king "
    "lamp leaf lion map milk moon nest nut owl park pen pig rain road rose salt sea ship shop snow sock star sun tea "
    "tree wolf zoo"
).split()
GOODS = ("tea", "milk", "egg", "rice", "soap", "cake", "corn", "salt")
NAMES = ("Ann", "Bob", "Eva", "Max", "Tom", "Ida", "Leo", "Zoe")
TOWNS = ("Rome", "Oslo", "Paris", "Lima", "Bonn", "Cairo")
INKS = ("black", "blue", "red", "green")
LINE = 28
"""Height of a line of text, and what the width of paper is a multiple of: a visual token of vl3-tiny. An encoder learns
to read letters that lie anywhere among its patches from millions of words, which is more than a small run has."""
SIZES = (14.0, 16.0, 18.0)
"""Of letters, in pixels."""


def sign(rng: np.random.Generator, easy: bool = False) -> Example:
    """A word or a number in one of two lines; or one in each, in different inks. Easy ones are in one font and size."""
    two = not easy and rng.random() < 0.4
    inks = shuffle(rng, INKS)[: 1 + two]
    texts = [_text(rng, easy) for _ in inks]
    if len(set(texts)) < len(texts):
        return sign(rng, easy)
    font, size = (None, 16.0) if easy else (pick(rng, FONTS), pick(rng, SIZES))
    width = LINE * max(2, math.ceil((max(text_size(text, font, size)[0] for text in texts) + 8) / LINE))
    canvas, paper = background(rng, width, 2 * LINE), rng.random() < 0.8
    for line, text, ink in zip((0, 1) if two else [pick(rng, (0, 1))], texts, inks, strict=True):
        middle = LINE * (line + 0.5)
        if paper:
            draw_sheet(canvas, (3, middle - 12, width - 4, middle + 11))
        canvas.text((width / 2, middle), text, font, size, "mm", shade(rng, ink))
    return _read(rng, canvas.frame(), texts, inks)


def _text(rng: np.random.Generator, easy: bool) -> str:
    return str(rng.integers(10 if easy else 100)) if rng.random() < 0.5 else pick(rng, WORDS[: 12 if easy else None])


def _read(rng: np.random.Generator, frame: np.ndarray, texts: Sequence[str], inks: Sequence[str]) -> Example:
    questions = []
    if len(texts) == 1:
        about = {"sort": "number" if texts[0].isdigit() else "word"}
        questions += [Question("text", texts[0], texts, about), Question("ink", inks[0], inks, about)]
    for text, ink in zip(texts, inks, strict=True):
        about = {"colour": ink, "sort": "number" if text.isdigit() else "word"}
        questions.append(Question("text in ink", text, texts, about))
        questions.append(Question("ink of text", ink, inks, {"text": text}))
    absent = [
        Question("text in ink", NONE, [], {"colour": pick(rng, [x for x in INKS if x not in inks]), "sort": "word"}),
        Question("ink of text", NONE, [], {"text": pick(rng, [x for x in WORDS if x not in texts])}),
    ]
    quoted = [f'"{text}"' for text in texts]
    caption = picture_caption(
        f"{'A sign says' if len(texts) == 1 else 'Two signs say'} {' and '.join(quoted)}.", len(texts)
    )
    shown = "; ".join(f"sign {{{text},|{ink}}}" for text, ink in zip(quoted, inks, strict=True))
    return Example([frame], questions, absent, caption, [shown])


def document(rng: np.random.Generator, easy: bool = False) -> Example:
    """Two to four lines, each with a key on the left and its value on the right: a receipt or a form. A value may be
    missing."""
    receipt = rng.random() < 0.5
    if receipt:
        keys = shuffle(rng, GOODS)[: int(rng.integers(2, 3 if easy else 5))]
        values = [str(n) for n in shuffle(rng, range(1, 10))[: len(keys)]]
        lines = list(zip(keys, values, strict=True))
    else:
        fields = [("name", pick(rng, NAMES)), ("age", str(rng.integers(10, 90))), ("town", pick(rng, TOWNS))]
        lines = [fields[i] for i in sorted(rng.permutation(3)[: int(rng.integers(2, 3 if easy else 4))].tolist())]
    empty = int(rng.integers(len(lines))) if rng.random() < 0.15 else -1
    lines = [(key, "" if n == empty else value) for n, (key, value) in enumerate(lines)]
    font, size = (None, 16.0) if easy else (pick(rng, FONTS), pick(rng, SIZES))
    width = LINE * math.ceil((max(text_size(f"{key}  {value}", font, size)[0] for key, value in lines) + 12) / LINE)
    canvas = sheet(rng, width, LINE * len(lines))
    for index, (key, value) in enumerate(lines):
        middle = LINE * (index + 0.5)
        canvas.text((6, middle), key, font, size, "lm", INK)
        canvas.text((width - 6, middle), value, font, size, "rm", INK)
    given = [(key, value) for key, value in lines if value]
    values, kind = [value for _, value in given], "price" if receipt else "field"
    questions = [Question(kind, value, values, {"key": key}) for key, value in given]
    if receipt:
        questions += [Question("goods", key, [key for key, _ in given], {"value": value}) for key, value in given]
    keys = [key for key, _ in lines]
    unknown = [x for x in (GOODS if receipt else ("name", "age", "town", "street", "job")) if x not in keys]
    absent = [Question(kind, NONE, [], {"key": pick(rng, unknown)})]
    absent += [Question(kind, NONE, [], {"key": key}) for key, value in lines if not value]
    listing = ", ".join(keys)
    caption = picture_caption(f"A receipt for {listing}." if receipt else f"A form with {listing}.", len(lines))
    text = "; ".join(f"{{{key}|{value}}}" if value else key for key, value in lines)
    return Example([canvas.frame()], questions, absent, caption, [text])
