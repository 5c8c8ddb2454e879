"""Answers to the small world's questions, measured from pixels and printed times alone.

Nothing here knows how a picture was made. Colours are counted, blobs compared with ideal shapes, bars and lines
measured, words compared with what Pillow's font makes of them. `answer` is what a careful person would say.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache, wraps
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vl3ref.tinyworld.documents import GOODS, NAMES, TOWNS, WORDS

PALETTE = {
    "red": (220, 40, 40),
    "orange": (245, 145, 25),
    "yellow": (240, 220, 40),
    "green": (40, 160, 70),
    "blue": (40, 80, 220),
    "purple": (145, 60, 185),
    "black": (30, 30, 30),
}
PAPER, EDGE, RULE, INK = (252, 252, 250), (120, 120, 120), (190, 190, 190), (25, 25, 35)
CELL = 28
SPECK = 12
"""A blob of fewer pixels is a splinter of something that another thing covers."""
PRICES, AGES = tuple("123456789"), tuple(str(age) for age in range(10, 90))
FIELDS: dict[str, Sequence[str]] = {**dict.fromkeys(GOODS, PRICES), "name": NAMES, "age": AGES, "town": TOWNS}


class Unclear(Exception):
    """The pixels do not say: two things of one colour touch, or one lies between two cells."""


def answer(frames: np.ndarray, times: Sequence[float] | None, question: str) -> str:
    """The answer to a question about a picture (one frame, no times) or a clip.

    Raises:
        Unclear: the pixels do not say.
    """
    reader = find_reader(question, times is not None)
    found = re.fullmatch(reader.pattern, question)
    assert found is not None
    return str(reader.read(*((frames[0],) if times is None else (film(frames), times)), *found.groups()))


class Reader(NamedTuple):
    """Who answers which questions, and the skill that they ask for."""

    skill: str
    pattern: str
    read: Callable[..., Any]


def find_reader(question: str, is_clip: bool) -> Reader:
    for reader in CLIP_READERS if is_clip else PICTURE_READERS:
        if re.fullmatch(reader.pattern, question):
            return reader
    raise AssertionError(f"no reader knows this question: {question}")


def cached(read: Callable[[np.ndarray], Any]) -> Callable[[np.ndarray], Any]:
    """Read a picture or clip once, however many questions there are about it."""

    @lru_cache(maxsize=32)
    def from_bytes(pixels: bytes, shape: tuple[int, ...]) -> Any:
        return read(np.frombuffer(pixels, np.uint8).reshape(shape))

    return wraps(read)(lambda picture: from_bytes(picture.tobytes(), picture.shape))


# --------------------------------------------------------------------------------------------------------------- blobs


@dataclass(frozen=True)
class Blob:
    """Pixels of one colour.

    Attributes:
        box: left, top, right, bottom; the last two are the first pixels outside.
        mask: which pixels of the box.
    """

    colour: str
    box: tuple[int, int, int, int]
    mask: np.ndarray

    @property
    def centre(self) -> tuple[float, float]:
        return (self.box[0] + self.box[2] - 1) / 2, (self.box[1] + self.box[3] - 1) / 2

    @cached_property
    def shape(self) -> str:
        """The ideal shape, stretched to the box, that has most in common with the pixels."""
        rows, columns = ((np.arange(24) * side // 24) for side in self.mask.shape)
        seen = self.mask[rows][:, columns]
        common = {name: (seen & ideal).sum() / (seen | ideal).sum() for name, ideal in ideal_shapes().items()}
        return max(common, key=common.__getitem__)

    def __str__(self) -> str:
        return f"{self.colour} {self.shape}"


def mask_of(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return (picture == np.array(colour, np.uint8)).all(axis=-1)


def blob(colour: str, places: np.ndarray) -> Blob:
    """From (row, column) of its pixels."""
    (top, left), (bottom, right) = places.min(axis=0).tolist(), (places.max(axis=0) + 1).tolist()
    mask = np.zeros((bottom - top, right - left), bool)
    mask[tuple((places - (top, left)).T)] = True
    return Blob(colour, (left, top, right, bottom), mask)


def connected(colour: str, mask: np.ndarray) -> Iterator[Blob]:
    left = set(map(tuple, np.argwhere(mask).tolist()))
    while left:
        edge = [left.pop()]
        inside = list(edge)
        while edge:
            y, x = edge.pop()
            near = {(y + j, x + i) for j in (-1, 0, 1) for i in (-1, 0, 1)} & left
            left -= near
            edge += near
            inside += near
        if len(inside) >= SPECK:
            yield blob(colour, np.array(inside))


@cache
def ideal_shapes() -> dict[str, np.ndarray]:
    """Each shape in a box of 24 by 24."""
    y, x = (np.mgrid[0:24, 0:24] + 0.5) / 12 - 1
    radius, angle = np.hypot(x, y - 0.1), np.arctan2(x, 0.1 - y)  # a star's middle lies below its box's
    phase = np.abs((angle / (2 * np.pi / 5) + 0.5) % 1 - 0.5) * 2  # 0 at its points, 1 between them
    return {
        "circle": np.hypot(x, y) <= 1,
        "ring": (np.hypot(x, y) <= 1) & (np.hypot(x, y) >= 0.6),
        "square": np.ones((24, 24), bool),
        "triangle": np.abs(x) <= (y + 1) / 2,
        "cross": (np.abs(x) <= 1 / 3) | (np.abs(y) <= 1 / 3),
        "star": radius <= 1.1 * (1 - phase) + 0.45 * phase,
    }


# -------------------------------------------------------------------------------------------------------------- scenes


@cached
def things(picture: np.ndarray) -> list[Blob]:
    """Row by row."""
    found = [one for name, rgb in PALETTE.items() for one in connected(name, mask_of(picture, rgb))]
    if any(max(one.mask.shape) > CELL for one in found):
        raise Unclear
    return sorted(found, key=lambda one: cell(one, picture)[::-1])


def board_size(picture: np.ndarray) -> tuple[int, int]:
    """Columns and rows."""
    return round(picture.shape[1] / CELL), round(picture.shape[0] / CELL)


def cell(one: Blob, picture: np.ndarray) -> tuple[int, int]:
    """Column and row."""
    (x, y), (columns, rows) = one.centre, board_size(picture)
    at = x * columns / picture.shape[1], y * rows / picture.shape[0]
    if any(abs(place - round(place)) < 0.25 for place in at):
        raise Unclear
    return int(at[0]), int(at[1])


def only_thing(picture: np.ndarray, name: str) -> Blob:
    """The only one of this colour, shape, or both."""
    [found] = [one for one in things(picture) if name in (one.colour, one.shape, str(one))]
    return found


def colour_of(picture: np.ndarray, shape: str) -> str:
    return only_thing(picture, shape).colour


def shape_of(picture: np.ndarray, colour: str) -> str:
    return only_thing(picture, colour).shape


def number_of(picture: np.ndarray, name: str) -> int:
    noun, *colour = name.split()[::-1]
    fitting = [one for one in things(picture) if not colour or one.colour == colour[0]]
    return len(fitting) if noun in ("shapes", "things") else sum(noun.startswith(one.shape) for one in fitting)


def place_of(picture: np.ndarray, name: str) -> str:
    (x, y), (columns, rows) = cell(only_thing(picture, name), picture), board_size(picture)
    across, down = ["left", *[""] * (columns - 2), "right"][x], ["top", *[""] * (rows - 2), "bottom"][y]
    return f"{down} {across}".strip() or "middle"


def side_of(picture: np.ndarray, name: str, other: str) -> str:
    (x, y), (u, v) = only_thing(picture, name).centre, only_thing(picture, other).centre
    assert min(abs(x - u), abs(y - v)) < CELL / 2 < max(abs(x - u), abs(y - v)), "not in one row or column"
    if abs(x - u) > abs(y - v):
        return "left" if x < u else "right"
    return "above" if y < v else "below"


def kind(picture: np.ndarray) -> str:
    if mask_of(picture, RULE).any():
        return "bars"
    if not mask_of(picture, PAPER).any():
        return "scene"
    if sheet(picture).shape[0] < CELL and sheet(picture).shape[1] < 2 * CELL:
        return "sign"
    return "line" if any(mask_of(picture, rgb).any() for rgb in PALETTE.values()) else "document"


def caption(picture: np.ndarray) -> str:
    match kind(picture):
        case "scene":
            *names, last = [with_article(str(one)) for one in things(picture)]
            text = f"{', '.join(names)} and {last}" if names else last
            return f"{text[0].upper()}{text[1:]}."
        case "bars":
            return f"A chart with {('no', 'one', 'two', 'three', 'four')[len(bars(picture))]} bars."
        case "line":
            return f"{with_article(line_colour(picture)).capitalize()} line that {line_form(picture)}."
        case "sign":
            return f'A sign that says "{sign_text(picture)}".'
    keys = list(fields(picture))
    return f"A {'receipt for' if keys[0] in GOODS else 'form with'} {', '.join(keys)}."


def as_text(picture: np.ndarray) -> str:
    """What the picture shows, as text for a decoder that cannot see."""
    match kind(picture):
        case "scene":
            columns, rows = board_size(picture)
            there = {cell(one, picture): str(one) for one in things(picture)}
            return "; ".join(", ".join(there.get((x, y), "empty") for x in range(columns)) for y in range(rows))
        case "bars":
            return "bars: " + ", ".join(f"{colour} {value}" for colour, value in bars(picture).items())
        case "line":
            return f"line {line_colour(picture)} {line_form(picture)}"
        case "sign":
            return f'sign "{sign_text(picture)}", {ink_of(picture)}'
    return "; ".join(f"{key} {value}" for key, value in fields(picture).items())


def with_article(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


# ------------------------------------------------------------------------------------------------------------- reading


def sheet(picture: np.ndarray) -> np.ndarray:
    """The paper, as far as it is in the picture, without the line around it."""
    edge = mask_of(picture, EDGE)
    left, top, right, bottom = blob("", np.argwhere(edge)).box
    return np.where(edge[..., None], np.array(PAPER, np.uint8), picture)[top:bottom, left:right]


def darkness(paper: np.ndarray, ink: Sequence[int]) -> np.ndarray:
    """0 where the paper is bare, 1 where it is full of ink."""
    difference = np.array(ink, float) - PAPER
    return np.clip((paper - np.array(PAPER, float)) @ difference / (difference @ difference), 0, 1)


@cache
def printed(text: str, size: int) -> np.ndarray:
    """Words in Pillow's font, cut out."""
    canvas = Image.new("L", (80, 40))
    ImageDraw.Draw(canvas).text((10, 10), text, fill=255, font=ImageFont.load_default(size))
    box = canvas.getbbox()
    assert box is not None
    return np.asarray(canvas.crop(box)) / 255


def likeness(dark: np.ndarray, text: str, size: int, near: tuple[int, int], by: tuple[int, int]) -> float:
    """How much printed words have in common with what is dark near a place (row, column): 1 is all, 0 nothing."""
    form = printed(text, size)
    room = np.pad(dark, 30)
    top, left = near[0] - by[0] + 30, near[1] - by[1] + 30
    room = room[top : top + form.shape[0] + 2 * by[0], left : left + form.shape[1] + 2 * by[1]]
    parts = np.lib.stride_tricks.sliding_window_view(room, form.shape)
    return float((np.minimum(parts, form).sum(axis=(2, 3)) / np.maximum(parts, form).sum(axis=(2, 3))).max())


def ink_of(picture: np.ndarray) -> str:
    """The colour that comes nearest to the darkest pixels of a sheet."""
    paper = sheet(picture).reshape(-1, 3).astype(float)
    far = paper[np.argsort(np.abs(paper - PAPER).sum(axis=-1))[-8:]]
    return min(PALETTE, key=lambda name: float(np.abs(far - PALETTE[name]).sum()))


def likeliest(scores: Iterable[tuple[str, float]]) -> str:
    """The text with the highest score, or the first with nearly 1."""
    best = ("", 0.0)
    for text, score in scores:
        if score > best[1]:
            best = text, score
        if score > 0.95:
            break
    return best[0]


@cached
def sign_text(picture: np.ndarray) -> str:
    dark = darkness(sheet(picture), PALETTE[ink_of(picture)])
    left, top, right, bottom = blob("", np.argwhere(dark > 0.3)).box

    def misfit(form: tuple[str, int]) -> int:
        height, width = printed(*form).shape
        return max(abs(height - bottom + top), abs(width - right + left))

    forms = [(text, size) for text in (*WORDS, *map(str, range(100))) for size in range(15, 19)]
    near = [form for form in sorted(forms, key=misfit) if misfit(form) < 3]
    return likeliest((text, likeness(dark, text, size, (top, left), (1, 1))) for text, size in near)


@cached
def fields(picture: np.ndarray) -> dict[str, str]:
    """What a receipt or a form says, line by line."""
    dark = darkness(sheet(picture), INK)
    read = {}
    for line in np.array_split(dark, board_size(picture)[1]):
        columns = np.nonzero((line > 0.3).any(axis=0))[0]
        left, right, high = int(columns[0]), int(columns[-1]) + 1, len(line) // 2 - 5
        key = likeliest((word, likeness(line, word, 15, (high, left), (9, 1))) for word in FIELDS)
        ends = ((word, right - printed(word, 15).shape[1]) for word in FIELDS[key])
        read[key] = likeliest((word, likeness(line, word, 15, (high, column), (9, 1))) for word, column in ends)
    return read


def field(picture: np.ndarray, key: str) -> str:
    return fields(picture)[key]


# -------------------------------------------------------------------------------------------------------------- charts


@cached
def bars(picture: np.ndarray) -> dict[str, int]:
    """Each bar's value, from left to right: how many ruled lines it reaches."""
    rules = np.nonzero(mask_of(picture, RULE).any(axis=1))[0]
    unit = (rules[-1] - rules[0]) / 6
    masks = {name: mask_of(picture, rgb) for name, rgb in PALETTE.items()}
    found = [blob(name, np.argwhere(mask)) for name, mask in masks.items() if mask.any()]
    values = {}
    for bar in sorted(found, key=lambda one: one.box[0]):
        assert bar.mask.all(), "something covers a bar"
        value = (len(bar.mask) - 1) / unit
        assert abs(value - round(value)) < 0.2, "a bar ends between the lines"
        values[bar.colour] = round(value)
    return values


def bar_height(picture: np.ndarray, colour: str) -> int:
    return bars(picture)[colour]


def highest(picture: np.ndarray) -> str:
    return max(bars(picture), key=bars(picture).__getitem__)


def lowest(picture: np.ndarray) -> str:
    return min(bars(picture), key=bars(picture).__getitem__)


def line_colour(picture: np.ndarray) -> str:
    return max(PALETTE, key=lambda name: int(mask_of(picture, PALETTE[name]).sum()))


@cached
def line_form(picture: np.ndarray) -> str:
    mask = mask_of(picture, PALETTE[line_colour(picture)])
    columns = np.nonzero(mask.any(axis=0))[0]
    heights = np.array([-np.nonzero(mask[:, x])[0].mean() for x in columns])  # upwards
    turn = len(heights) // 2
    first, second = (
        "rises" if half > 0 else "falls"
        for half in (heights[turn] - heights[:3].mean(), heights[-3:].mean() - heights[turn])
    )
    return first if first == second else f"{first}, then {second}"


# --------------------------------------------------------------------------------------------------------------- clips


class Film:
    """What comes, goes and moves. In a clip, no two things have a colour in common.

    Attributes:
        seen: for each colour, where the thing is in each frame, or None.
        shapes: the shape of each colour.
    """

    def __init__(self, frames: np.ndarray) -> None:
        self.frames = frames
        self.seen: dict[str, list[tuple[float, float] | None]] = {}
        self.shapes: dict[str, str] = {}
        for colour, rgb in PALETTE.items():
            places = [np.argwhere(mask_of(frame, rgb)) for frame in frames]
            there = [blob(colour, place) if len(place) >= SPECK else None for place in places]
            if any(there):
                self.seen[colour] = [None if one is None else one.centre for one in there]
                names = [one.shape for one in there if one is not None]
                self.shapes[colour] = max(names, key=names.count)

    def name(self, colour: str) -> str:
        return f"{colour} {self.shapes[colour]}"

    def find(self, name: str) -> str:
        """The colour of a thing by its colour, shape or both; the first to be seen, if it turns another colour."""
        fitting = [colour for colour in self.seen if name in (colour, self.shapes[colour], self.name(colour))]
        return min(fitting, key=lambda colour: self.runs(colour)[0][0])

    def runs(self, colour: str) -> list[tuple[int, int]]:
        """First frames of each stretch in which a thing is seen, and the first frames after it."""
        runs, frame = [], 0
        for there, stretch in groupby(self.seen[colour], key=lambda place: place is not None):
            length = len(list(stretch))
            if there:
                runs.append((frame, frame + length))
            frame += length
        return runs

    def displacement(self, colour: str) -> tuple[float, float]:
        """From its first place to its last."""
        places = [place for place in self.seen[colour] if place is not None]
        return places[-1][0] - places[0][0], places[-1][1] - places[0][1]

    def mover(self) -> str | None:
        far = {colour: max(map(abs, self.displacement(colour))) for colour in self.seen}
        colour = max(far, key=far.__getitem__)
        return colour if far[colour] > CELL / 2 else None

    def direction(self, colour: str) -> str:
        x, y = self.displacement(colour)
        assert max(abs(x), abs(y)) > 2 * min(abs(x), abs(y)), "it moves diagonally"
        return ("left" if x < 0 else "right") if abs(x) > abs(y) else ("up" if y < 0 else "down")

    def arrivals(self) -> list[str]:
        """Colours of what is not there from the beginning, in the order of their coming."""
        new = [colour for colour in self.seen if self.runs(colour)[0][0] > 0]
        return sorted(new, key=lambda colour: self.runs(colour)[0][0])

    def change(self) -> tuple[str, str, int]:
        """What turns another colour, appears or disappears for good: its colour, what it does, and in which frame."""
        for colour in self.seen:
            [(first, end)] = self.runs(colour)
            turned = [o for o in self.seen if o != colour and self.shapes[o] == self.shapes[colour]]
            if turned and end < len(self.frames):
                assert self.runs(turned[0]) == [(end, len(self.frames))]
                return colour, f"turns {turned[0]}", end
            if not turned and (first > 0 or end < len(self.frames)):
                return (colour, "appears", first) if first else (colour, "disappears", end)
        raise AssertionError("nothing changes")


Times = Sequence[float]
film = cached(Film)


def clip_as_text(film: Film, times: Times) -> str:
    """What the clip shows, frame by frame, as text for a decoder that cannot see."""
    seen = [as_text(frame) for frame in film.frames]
    texts = [text if n == 0 or text != seen[n - 1] else "same" for n, text in enumerate(seen)]
    return ",".join(f"Time {time}s:{text}" for time, text in zip(times, texts, strict=True))


def direction(film: Film, times: Times, name: str) -> str:
    return film.direction(film.find(name))


def moving(film: Film, times: Times) -> str:
    mover = film.mover()
    assert mover is not None
    return film.name(mover)


def first(film: Film, times: Times) -> str:
    return film.name(film.arrivals()[0])


def last(film: Film, times: Times) -> str:
    return film.name(film.arrivals()[-1])


def after(film: Film, times: Times, name: str) -> str:
    order = [film.name(colour) for colour in film.arrivals()]
    return order[order.index(name) + 1]


def time_of_arrival(film: Film, times: Times, name: str) -> str:
    return f"at {times[film.runs(film.find(name))[0][0]]} seconds"


def time_of_change(film: Film, times: Times, shape: str, verb: str) -> str:
    colour, event, frame = film.change()
    assert film.shapes[colour] == shape and event.replace("turns", "turn").removesuffix("s") == verb
    return f"at {times[frame]} seconds"


def how_often(film: Film, times: Times, name: str) -> int:
    return len(film.runs(film.find(name)))


def blinking(film: Film, times: Times) -> str:
    [colour] = [colour for colour, places in film.seen.items() if places[0] is None and places[-1] is None]
    return film.name(colour)


def what_happens(film: Film, times: Times, shape: str) -> str:
    colour, event, _ = film.change()
    assert film.shapes[colour] == shape
    return f"it {event}"


def what_changes(film: Film, times: Times) -> str:
    return film.shapes[film.change()[0]]


def story(film: Film, times: Times) -> str:
    mover, new = film.mover(), film.arrivals()
    gone = [colour for colour in new if film.seen[colour][-1] is None]
    if mover is not None:
        text = f"{with_article(film.name(mover))} moves {film.direction(mover)}"
    elif gone:
        number = len(film.runs(gone[0]))
        text = f"{with_article(film.name(gone[0]))} appears {'once' if number == 1 else f'{number} times'}"
    elif len(new) > 1:
        opening, *rest = [with_article(film.name(colour)) for colour in new]
        text = f"first {opening} appears, then {' and then '.join(rest)}"
    else:
        colour, event, frame = film.change()
        text = f"{with_article(film.name(colour))} {event} at {times[frame]} seconds"
    return f"{text[0].upper()}{text[1:]}."


# ------------------------------------------------------------------------------------------------ questions, by wording

S, C, T = f"({'|'.join(ideal_shapes())})", f"({'|'.join(PALETTE)})", r"(\w+ \w+)"
"""A shape, a colour, a thing."""
KEY = "(name|age|town)"
INVENTORY = r"Name everything you see\.|What is in each cell\?|List it all\."

PICTURE_READERS = [
    Reader("inventory", INVENTORY, as_text),
    Reader("picture caption", r"Describe the picture\.|What is in the picture\?", caption),
    Reader("colour", r"What colour is the text\?|Which colour does the text have\?", ink_of),
    Reader("colour", r"What colour is the line\?|Which colour does the line have\?", line_colour),
    Reader("colour", rf"What colour is the {S}\?", colour_of),
    Reader("colour", rf"Which colour does the {S} have\?", colour_of),
    Reader("colour", rf"The {S} is of what colour\?", colour_of),
    Reader("shape", rf"What shape is {C}\?", shape_of),
    Reader("shape", rf"What is the {C} thing\?", shape_of),
    Reader("shape", rf"Which shape is the {C} one\?", shape_of),
    Reader("count", r"How many (.+) are there\?", number_of),
    Reader("count", r"Count the (.+)\.", number_of),
    Reader("position", rf"Where is the {T}\?", place_of),
    Reader("position", rf"In which part of the picture is the {T}\?", place_of),
    Reader("position", rf"Where is the {T}, seen from the {T}\?", side_of),
    Reader("position", rf"Seen from the {T}, where is the {T}\?", lambda p, other, name: side_of(p, name, other)),
    Reader("reading", r"What (?:number|word) is written here\?|Which (?:number|word) do you see\?", sign_text),
    Reader("reading", r"Read the (?:number|word|sign)\.|What does the sign say\?", sign_text),
    Reader("document", r"How much is the (\w+)\?", field),
    Reader("document", r"What does the (?!line|sign)(\w+) cost\?", field),
    Reader("document", r"Price of the (\w+)\?", field),
    Reader("document", rf"What is the {KEY}\?", field),
    Reader("document", rf"Which {KEY} is given\?", field),
    Reader("document", rf"Read the {KEY}\.", field),
    Reader("chart", rf"How high is the {C} bar\?", bar_height),
    Reader("chart", rf"What is the value of the {C} bar\?", bar_height),
    Reader("chart", r"Which bar is the highest\?|What colour is the highest bar\?", highest),
    Reader("chart", r"Which bar is the lowest\?|What colour is the lowest bar\?", lowest),
    Reader("chart", r"What does the line do\?|Does the line rise or fall\?", line_form),
]

CLIP_READERS = [
    Reader("inventory", INVENTORY, clip_as_text),
    Reader("video caption", r"Describe the clip\.|What happens in the video\?|Describe the video\.", story),
    Reader("motion", rf"In which direction does the {S} move\?", direction),
    Reader("motion", rf"Which way does the {C} thing go\?", direction),
    Reader("motion", rf"Where does the {T} move\?", direction),
    Reader("motion", r"What moves\?|Which thing moves\?", moving),
    Reader("order", r"What comes first\?|Which thing appears first\?|What is the first thing to appear\?", first),
    Reader("order", r"What comes last\?|Which thing appears last\?|What is the last thing to appear\?", last),
    Reader("order", rf"What (?:comes|appears) after the {T}\?", after),
    Reader("time", rf"(?:When|At what time) does the {T} appear\?", time_of_arrival),
    Reader("time", rf"When does the {S} appear first\?", time_of_arrival),
    Reader("time", rf"When is the {S} first seen\?", time_of_arrival),
    Reader("time", rf"(?:When|At what time) does the {S} (turn \w+|appear|disappear)\?", time_of_change),
    Reader("frequency", rf"How often does the {S} appear\?", how_often),
    Reader("frequency", rf"How many times does the {T} appear\?", how_often),
    Reader("frequency", rf"How often is the {C} thing seen\?", how_often),
    Reader("change", r"What blinks\?|Which thing comes and goes\?", blinking),
    Reader("change", rf"What happens to the {S}\?", what_happens),
    Reader("change", rf"What does the {S} do\?", what_happens),
    Reader("change", r"What changes\?|Which thing changes\?", what_changes),
]
