"""Things to read in the small world: signs, labels, receipts and forms."""

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


def sign(rng: np.random.Generator, easy: bool = False) -> Example:
    """A word or a number on a sheet that lies anywhere in the picture; or two, in different inks. An easy one is in a
    label's letters."""
    two = not easy and rng.random() < 0.4
    inks = shuffle(rng, INKS)[: 1 + two]
    texts = [_text(rng, easy) for _ in inks]
    if len(set(texts)) < len(texts):
        return sign(rng, easy)
    font, size = (None, rng.uniform(15, 18)) if easy else (pick(rng, FONTS), rng.uniform(13, 21))
    sizes = [text_size(text, font, size) for text in texts]
    heights = [height + rng.uniform(6, 12) for _, height in sizes]
    room = rng.uniform(0, 30, 2)
    width = round(max(width for width, _ in sizes) + 14 + room[0])
    height = round(sum(heights) + 8 * len(texts) + room[1])
    canvas = background(rng, width, height)
    paper, top = rng.random() < 0.8, 4.0
    for text, ink, (text_width, _), sheet_height in zip(texts, inks, sizes, heights, strict=True):
        half = text_width / 2 + 4
        x = rng.uniform(half + 1, width - half - 1)
        y = top + sheet_height / 2 + rng.uniform(0, room[1] / len(texts))
        if paper:
            draw_sheet(canvas, (x - half, y - sheet_height / 2, x + half, y + sheet_height / 2))
        canvas.text((x, y), text, font, size, "mm", shade(rng, ink))
        top = y + sheet_height / 2 + 6
    return _read(rng, canvas.frame(), texts, inks)


def label(rng: np.random.Generator, easy: bool = False) -> Example:
    """One word or number in the middle of a small picture, in one font. Letters that hardly move are easier."""
    text, ink = _text(rng, easy), pick(rng, INKS)
    canvas = background(rng, 56, 56)
    draw_sheet(canvas, (3, 17, 53, 39))
    canvas.text((28, 28), text, None, rng.uniform(15, 18), "mm", shade(rng, ink))
    return _read(rng, canvas.frame(), [text], [ink])


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
    font, size = (None, 15.0) if easy else (pick(rng, FONTS), rng.uniform(12, 17))
    width = round(max(text_size(f"{key} {value}", font, size)[0] for key, value in lines) + 16 + rng.uniform(0, 24))
    pitch = size * rng.uniform(1.5, 1.9)
    canvas = sheet(rng, width, round(pitch * len(lines) + 8))
    for index, (key, value) in enumerate(lines):
        y = 4 + (index + 0.5) * pitch + rng.uniform(-1, 1)
        canvas.text((5 + rng.uniform(0, 2), y), key, font, size, "lm", INK)
        canvas.text((width - 5 - rng.uniform(0, 2), y), value, font, size, "rm", INK)
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
