"""Answers to the small world's questions, measured from pixels and printed times alone.

Nothing here knows how a picture was drawn: colours are counted, blobs compared with ideal shapes, bars and lines
measured, words compared with what Pillow's font makes of them. `answer` is what somebody would say who looks closely.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache, wraps
from itertools import groupby
from typing import Any

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
"""Pixels below which a blob is a splinter of something that another thing covers."""
PRICES, AGES = tuple("123456789"), tuple(str(age) for age in range(10, 90))
FIELDS: dict[str, Sequence[str]] = {**dict.fromkeys(GOODS, PRICES), "name": NAMES, "age": AGES, "town": TOWNS}
NUMBERS = ("no", "one", "two", "three", "four")


class Unclear(Exception):
    """The pixels do not say: two things of one colour touch, or one is half-way between two cells."""


def once(look: Callable[[np.ndarray], Any]) -> Callable[[np.ndarray], Any]:
    """Look at a picture or clip once, however much is asked about it."""

    @lru_cache(maxsize=32)
    def looked(pixels: bytes, shape: tuple[int, ...]) -> Any:
        return look(np.frombuffer(pixels, np.uint8).reshape(shape))

    @wraps(look)
    def again(picture: np.ndarray) -> Any:
        return looked(picture.tobytes(), picture.shape)

    return again


@dataclass(frozen=True)
class Blob:
    """Pixels of one colour.

    Attributes:
        box: left, top, right, bottom; the last two are the first pixels outside.
        mask: of the box.
    """

    colour: str
    box: tuple[int, int, int, int]
    mask: np.ndarray

    @property
    def centre(self) -> tuple[float, float]:
        return (self.box[0] + self.box[2] - 1) / 2, (self.box[1] + self.box[3] - 1) / 2

    @cached_property
    def shape(self) -> str:
        """Of the ideal shapes, stretched to the box, the one that has most in common with the pixels."""
        rows, columns = ((np.arange(24) * side // 24) for side in self.mask.shape)
        seen = self.mask[rows][:, columns]
        common = {name: (seen & ideal).sum() / (seen | ideal).sum() for name, ideal in ideals().items()}
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


@lru_cache
def ideals() -> dict[str, np.ndarray]:
    """Each shape in a box of 24 by 24."""
    y, x = (np.mgrid[0:24, 0:24] + 0.5) / 12 - 1
    radius, angle = np.hypot(x, y - 0.1), np.arctan2(x, 0.1 - y)  # a star's middle lies below its box's
    beat = np.abs((angle / (2 * np.pi / 5) + 0.5) % 1 - 0.5) * 2  # 0 at its points, 1 between them
    return {
        "circle": np.hypot(x, y) <= 1,
        "ring": (np.hypot(x, y) <= 1) & (np.hypot(x, y) >= 0.6),
        "square": np.ones((24, 24), bool),
        "triangle": np.abs(x) <= (y + 1) / 2,
        "cross": (np.abs(x) <= 1 / 3) | (np.abs(y) <= 1 / 3),
        "star": radius <= 1.1 * (1 - beat) + 0.45 * beat,
    }


def answer(frames: np.ndarray, times: Sequence[float] | None, question: str) -> str:
    """The answer to a question about a picture (one frame, no times) or a clip.

    Raises:
        Unclear: the pixels do not say.
    """
    pattern, look = looker(question, times is not None)
    found = re.fullmatch(pattern, question)
    assert found is not None
    return str(look(*((frames[0],) if times is None else (frames, times)), *found.groups()))


def looker(question: str, clip: bool) -> tuple[str, Callable[..., str]]:
    """The pattern of a question, and who answers it."""
    for pattern, look in (CLIP if clip else PICTURE).items():
        if re.fullmatch(pattern, question):
            return pattern, look
    raise AssertionError(f"nobody taught these eyes to answer: {question}")


# -------------------------------------------------------------------------------------------------------------- scenes


@once
def things(picture: np.ndarray) -> list[Blob]:
    """Row by row, as one reads."""
    found = [one for name, rgb in PALETTE.items() for one in connected(name, mask_of(picture, rgb))]
    if any(max(one.mask.shape) > CELL for one in found):
        raise Unclear
    return sorted(found, key=lambda one: cell(one, picture)[::-1])


def cells(picture: np.ndarray) -> tuple[int, int]:
    """Columns and rows."""
    return round(picture.shape[1] / CELL), round(picture.shape[0] / CELL)


def cell(one: Blob, picture: np.ndarray) -> tuple[int, int]:
    """Column and row."""
    (x, y), (columns, rows) = one.centre, cells(picture)
    at = x * columns / picture.shape[1], y * rows / picture.shape[0]
    if any(abs(place - round(place)) < 0.25 for place in at):
        raise Unclear
    return int(at[0]), int(at[1])


def only(found: Sequence[Any]) -> Any:
    assert len(found) == 1, f"the question is about one of {[str(one) for one in found]}"
    return found[0]


def colour_of(picture: np.ndarray, shape: str) -> str:
    return only([one for one in things(picture) if one.shape == shape]).colour


def shape_of(picture: np.ndarray, colour: str) -> str:
    return only([one for one in things(picture) if one.colour == colour]).shape


def number_of(picture: np.ndarray, named: str) -> str:
    what, *of = named.split()[::-1]
    fitting = [one for one in things(picture) if not of or one.colour == of[0]]
    return str(len(fitting) if what in ("shapes", "things") else sum(what.startswith(one.shape) for one in fitting))


def place_of(picture: np.ndarray, name: str) -> str:
    (x, y), (columns, rows) = cell(named(picture, name), picture), cells(picture)
    across, down = ["left", *[""] * (columns - 2), "right"][x], ["top", *[""] * (rows - 2), "bottom"][y]
    return f"{down} {across}".strip() or "middle"


def side_of(picture: np.ndarray, name: str, other: str) -> str:
    (x, y), (u, v) = named(picture, name).centre, named(picture, other).centre
    assert min(abs(x - u), abs(y - v)) < CELL / 2 < max(abs(x - u), abs(y - v)), "they lie askew"
    if abs(x - u) > abs(y - v):
        return "left" if x < u else "right"
    return "above" if y < v else "below"


def side_seen(picture: np.ndarray, other: str, name: str) -> str:
    return side_of(picture, name, other)


def named(picture: np.ndarray, name: str) -> Blob:
    return only([one for one in things(picture) if str(one) == name])


def kind(picture: np.ndarray) -> str:
    if mask_of(picture, RULE).any():
        return "bars"
    if not mask_of(picture, PAPER).any():
        return "scene"
    if sheet(picture).shape[0] < CELL and sheet(picture).shape[1] < 2 * CELL:
        return "sign"
    return "line" if any(mask_of(picture, rgb).any() for rgb in PALETTE.values()) else "document"


def described(picture: np.ndarray) -> str:
    """The answer to "What is in the picture?"."""
    if kind(picture) == "scene":
        text = listed([a(str(one)) for one in things(picture)])
        return f"{text[0].upper()}{text[1:]}."
    if kind(picture) == "bars":
        return f"A chart with {NUMBERS[len(bars(picture))]} bars."
    if kind(picture) == "line":
        return f"{a(line_colour(picture)).capitalize()} line that {line_form(picture)}."
    if kind(picture) == "sign":
        return f'A sign that says "{sign_text(picture)}".'
    keys = list(fields(picture))
    return f"A {'receipt for' if keys[0] in GOODS else 'form with'} {', '.join(keys)}."


def in_words(picture: np.ndarray) -> str:
    """All that the picture shows, as it is told to a decoder that cannot see."""
    if kind(picture) == "scene":
        columns, rows = cells(picture)
        there = {cell(one, picture): str(one) for one in things(picture)}
        return "; ".join(", ".join(there.get((x, y), "empty") for x in range(columns)) for y in range(rows))
    if kind(picture) == "bars":
        return "bars: " + ", ".join(f"{colour} {value}" for colour, value in bars(picture).items())
    if kind(picture) == "line":
        return f"line {line_colour(picture)} {line_form(picture)}"
    if kind(picture) == "sign":
        return f'sign "{sign_text(picture)}", {ink_of(picture)}'
    return "; ".join(f"{key} {value}" for key, value in fields(picture).items())


def a(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


# ------------------------------------------------------------------------------------------------------------- reading


def sheet(picture: np.ndarray) -> np.ndarray:
    """The paper, as far as it is in the picture, without the line around it."""
    edge = mask_of(picture, EDGE)
    left, top, right, bottom = blob("", np.argwhere(edge)).box
    return np.where(edge[..., None], np.array(PAPER, np.uint8), picture)[top:bottom, left:right]


def darkness(paper: np.ndarray, ink: Sequence[int]) -> np.ndarray:
    """0 where the paper is bare, 1 where it is full of ink."""
    way = np.array(ink, float) - PAPER
    return np.clip((paper - np.array(PAPER, float)) @ way / (way @ way), 0, 1)


@cache
def printed(text: str, size: int) -> np.ndarray:
    """Words in Pillow's face, cut out."""
    canvas = Image.new("L", (80, 40))
    ImageDraw.Draw(canvas).text((10, 10), text, fill=255, font=ImageFont.load_default(size))
    box = canvas.getbbox()
    assert box is not None
    return np.asarray(canvas.crop(box)) / 255


def likeness(dark: np.ndarray, text: str, size: int, near: tuple[int, int], by: tuple[int, int]) -> float:
    """How much printed words have in common with what is dark, put (row, column) near a place: 1 is all, 0 nothing."""
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
    """The text with the highest score, or the first that is as good as the same."""
    best = ("", 0.0)
    for text, score in scores:
        if score > best[1]:
            best = text, score
        if score > 0.95:
            break
    return best[0]


@once
def sign_text(picture: np.ndarray) -> str:
    dark = darkness(sheet(picture), PALETTE[ink_of(picture)])
    left, top, right, bottom = blob("", np.argwhere(dark > 0.3)).box

    def misfit(form: tuple[str, int]) -> int:
        height, width = printed(*form).shape
        return max(abs(height - bottom + top), abs(width - right + left))

    forms = [(text, size) for text in (*WORDS, *map(str, range(100))) for size in range(15, 19)]
    near = [form for form in sorted(forms, key=misfit) if misfit(form) < 3]
    return likeliest((text, likeness(dark, text, size, (top, left), (1, 1))) for text, size in near)


@once
def fields(picture: np.ndarray) -> dict[str, str]:
    """What a receipt or a form says, line by line."""
    dark = darkness(sheet(picture), INK)
    read = {}
    for line in np.array_split(dark, cells(picture)[1]):
        columns = np.nonzero((line > 0.3).any(axis=0))[0]
        left, right, high = int(columns[0]), int(columns[-1]) + 1, len(line) // 2 - 5
        key = likeliest((word, likeness(line, word, 15, (high, left), (9, 1))) for word in FIELDS)
        ends = ((word, right - printed(word, 15).shape[1]) for word in FIELDS[key])
        read[key] = likeliest((word, likeness(line, word, 15, (high, column), (9, 1))) for word, column in ends)
    return read


# -------------------------------------------------------------------------------------------------------------- charts


@once
def bars(picture: np.ndarray) -> dict[str, int]:
    """Each bar's value, from left to right: how many ruled lines it reaches."""
    rules = np.nonzero(mask_of(picture, RULE).any(axis=1))[0]
    unit = (rules[-1] - rules[0]) / 6
    found = [
        blob(name, np.argwhere(mask_of(picture, rgb))) for name, rgb in PALETTE.items() if mask_of(picture, rgb).any()
    ]
    tall = {}
    for bar in sorted(found, key=lambda one: one.box[0]):
        assert bar.mask.all(), "something covers a bar"
        value = (len(bar.mask) - 1) / unit
        assert abs(value - round(value)) < 0.2, "a bar ends between the lines"
        tall[bar.colour] = round(value)
    return tall


def bar_height(picture: np.ndarray, colour: str) -> str:
    return str(bars(picture)[colour])


def highest(picture: np.ndarray) -> str:
    return max(bars(picture), key=bars(picture).__getitem__)


def lowest(picture: np.ndarray) -> str:
    return min(bars(picture), key=bars(picture).__getitem__)


def line_colour(picture: np.ndarray) -> str:
    return max(PALETTE, key=lambda name: int(mask_of(picture, PALETTE[name]).sum()))


@once
def line_form(picture: np.ndarray) -> str:
    mask = mask_of(picture, PALETTE[line_colour(picture)])
    columns = np.nonzero(mask.any(axis=0))[0]
    heights = np.array([-np.nonzero(mask[:, x])[0].mean() for x in columns])  # upwards
    turn = len(heights) // 2
    halves = [heights[turn] - heights[:3].mean(), heights[-3:].mean() - heights[turn]]
    ways = ["rises" if half > 0 else "falls" for half in halves]
    return ways[0] if ways[0] == ways[1] else f"{ways[0]}, then {ways[1]}"


# --------------------------------------------------------------------------------------------------------------- clips


class Film:
    """What comes, goes and moves: in a clip, no two things have a colour in common.

    Attributes:
        seen: by colour, for each frame where the thing is, or None.
        shapes: by colour.
    """

    def __init__(self, frames: np.ndarray) -> None:
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

    def runs(self, colour: str) -> list[tuple[int, int]]:
        """First frames of each stretch in which a thing is seen, and the first frames after it."""
        runs, frame = [], 0
        for there, stretch in groupby(self.seen[colour], key=lambda place: place is not None):
            length = len(list(stretch))
            if there:
                runs.append((frame, frame + length))
            frame += length
        return runs

    @property
    def count(self) -> int:
        return len(next(iter(self.seen.values())))

    def way(self, colour: str) -> tuple[float, float]:
        """How far it is from its first place to its last."""
        places = [place for place in self.seen[colour] if place is not None]
        return places[-1][0] - places[0][0], places[-1][1] - places[0][1]

    def mover(self) -> str | None:
        far = {colour: max(map(abs, self.way(colour))) for colour in self.seen}
        colour = max(far, key=far.__getitem__)
        return colour if far[colour] > CELL / 2 else None

    def direction(self, colour: str) -> str:
        x, y = self.way(colour)
        assert max(abs(x), abs(y)) > 2 * min(abs(x), abs(y)), "it goes askew"
        return ("left" if x < 0 else "right") if abs(x) > abs(y) else ("up" if y < 0 else "down")

    def newcomers(self) -> list[str]:
        """Colours of what is not there from the beginning, in the order of their coming."""
        new = [colour for colour in self.seen if self.runs(colour)[0][0] > 0]
        return sorted(new, key=lambda colour: self.runs(colour)[0][0])

    def find(self, name: str) -> str:
        """The colour of a thing that is called by colour, shape or both; the first to be seen, if it turns another."""
        fitting = [colour for colour in self.seen if name in (colour, self.shapes[colour], self.name(colour))]
        assert fitting, f"there is no {name}"
        return min(fitting, key=lambda colour: self.runs(colour)[0][0])

    def change(self) -> tuple[str, str, int]:
        """What turns another colour, appears or disappears for good: its colour, how it is put, and in which frame."""
        for colour in self.seen:
            [(first, end)] = self.runs(colour)
            heirs = [o for o in self.seen if o != colour and self.shapes[o] == self.shapes[colour]]
            if heirs and end < self.count:
                assert self.runs(heirs[0]) == [(end, self.count)]
                return colour, f"turns {heirs[0]}", end
            if not heirs and (first > 0 or end < self.count):
                return (colour, "appears", first) if first else (colour, "disappears", end)
        raise AssertionError("nothing changes")


filmed = once(Film)


def told(frames: np.ndarray, times: Sequence[float]) -> str:
    """All that a clip shows, frame by frame, as it is told to a decoder that cannot see."""
    seen = [in_words(frame) for frame in frames]
    new = [words if n == 0 or words != seen[n - 1] else "same" for n, words in enumerate(seen)]
    return ",".join(f"Time {time}s:{words}" for time, words in zip(times, new, strict=True))


def direction(frames: np.ndarray, times: Sequence[float], name: str) -> str:
    film = filmed(frames)
    return film.direction(film.find(name.removesuffix(" thing")))


def moving(frames: np.ndarray, times: Sequence[float]) -> str:
    film = filmed(frames)
    mover = film.mover()
    assert mover is not None
    return film.name(mover)


def first(frames: np.ndarray, times: Sequence[float]) -> str:
    film = filmed(frames)
    return film.name(film.newcomers()[0])


def last(frames: np.ndarray, times: Sequence[float]) -> str:
    film = filmed(frames)
    return film.name(film.newcomers()[-1])


def after(frames: np.ndarray, times: Sequence[float], name: str) -> str:
    film = filmed(frames)
    order = [film.name(colour) for colour in film.newcomers()]
    return order[order.index(name) + 1]


def moment(frames: np.ndarray, times: Sequence[float], name: str) -> str:
    film = filmed(frames)
    return f"at {times[film.runs(film.find(name))[0][0]]} seconds"


def moment_of_change(frames: np.ndarray, times: Sequence[float], shape: str, what: str) -> str:
    film = filmed(frames)
    colour, put, frame = film.change()
    assert film.shapes[colour] == shape and put.replace("turns", "turn").removesuffix("s") == what
    return f"at {times[frame]} seconds"


def how_often(frames: np.ndarray, times: Sequence[float], name: str) -> str:
    film = filmed(frames)
    return str(len(film.runs(film.find(name.removesuffix(" thing")))))


def blinking(frames: np.ndarray, times: Sequence[float]) -> str:
    film = filmed(frames)
    return film.name(only([c for c in film.seen if film.seen[c][0] is None and film.seen[c][-1] is None]))


def what_happens(frames: np.ndarray, times: Sequence[float], shape: str) -> str:
    film = filmed(frames)
    colour, put, _ = film.change()
    assert film.shapes[colour] == shape
    return f"it {put}"


def what_changes(frames: np.ndarray, times: Sequence[float]) -> str:
    film = filmed(frames)
    return film.shapes[film.change()[0]]


def narrated(frames: np.ndarray, times: Sequence[float]) -> str:
    film = filmed(frames)
    mover, new = film.mover(), film.newcomers()
    gone = [colour for colour in new if film.seen[colour][-1] is None]
    if mover is not None:
        text = f"{a(film.name(mover))} moves {film.direction(mover)}"
    elif gone:
        times_seen = len(film.runs(gone[0]))
        text = f"{a(film.name(gone[0]))} appears {'once' if times_seen == 1 else f'{times_seen} times'}"
    elif len(new) > 1:
        text = f"first {a(film.name(new[0]))} appears, then {' and then '.join(a(film.name(c)) for c in new[1:])}"
    else:
        colour, put, frame = film.change()
        text = f"{a(film.name(colour))} {put} at {times[frame]} seconds"
    return f"{text[0].upper()}{text[1:]}."


# ------------------------------------------------------------------------------------------------ questions, by wording

_SHAPE, _COLOUR, _THING = f"({'|'.join(ideals())})", f"({'|'.join(PALETTE)})", r"(\w+ \w+)"
_FIELD = "(name|age|town)"


def field(picture: np.ndarray, key: str) -> str:
    return fields(picture)[key]


INVENTORY = "Name everything you see\\.|What is in each cell\\?|List it all\\."

PICTURE: dict[str, Callable[..., str]] = {
    INVENTORY: in_words,
    "(?:Describe the picture.|What is in the picture\\?)": described,
    "What colour is the text\\?|Which colour does the text have\\?": ink_of,
    "What colour is the line\\?|Which colour does the line have\\?": line_colour,
    f"What colour is the {_SHAPE}\\?": colour_of,
    f"Which colour does the {_SHAPE} have\\?": colour_of,
    f"The {_SHAPE} is of what colour\\?": colour_of,
    f"What shape is {_COLOUR}\\?": shape_of,
    f"What is the {_COLOUR} thing\\?": shape_of,
    f"Which shape is the {_COLOUR} one\\?": shape_of,
    "How many (.+) are there\\?": number_of,
    "Count the (.+)\\.": number_of,
    f"Where is the {_THING}\\?": place_of,
    f"In which part of the picture is the {_THING}\\?": place_of,
    f"Where is the {_THING}, seen from the {_THING}\\?": side_of,
    f"Seen from the {_THING}, where is the {_THING}\\?": side_seen,
    "What (?:number|word) is written here\\?|Which (?:number|word) do you see\\?": sign_text,
    "Read the (?:number|word|sign)\\.|What does the sign say\\?": sign_text,
    "How much is the (\\w+)\\?": field,
    "What does the (?!line|sign)(\\w+) cost\\?": field,
    "Price of the (\\w+)\\?": field,
    f"What is the {_FIELD}\\?": field,
    f"Which {_FIELD} is given\\?": field,
    f"Read the {_FIELD}\\.": field,
    f"How high is the {_COLOUR} bar\\?": bar_height,
    f"What is the value of the {_COLOUR} bar\\?": bar_height,
    "Which bar is the highest\\?|What colour is the highest bar\\?": highest,
    "Which bar is the lowest\\?|What colour is the lowest bar\\?": lowest,
    "What does the line do\\?|Does the line rise or fall\\?": line_form,
}

CLIP: dict[str, Callable[..., str]] = {
    INVENTORY: told,
    "Describe the clip\\.|What happens in the video\\?|Describe the video\\.": narrated,
    f"In which direction does the {_SHAPE} move\\?": direction,
    f"Which way does the ({_COLOUR[1:-1]}) thing go\\?": direction,
    f"Where does the {_THING} move\\?": direction,
    "What moves\\?|Which thing moves\\?": moving,
    "What comes first\\?|Which thing appears first\\?|What is the first thing to appear\\?": first,
    "What comes last\\?|Which thing appears last\\?|What is the last thing to appear\\?": last,
    f"What (?:comes|appears) after the {_THING}\\?": after,
    f"(?:When|At what time) does the {_THING} appear\\?": moment,
    f"When does the {_SHAPE} appear first\\?": moment,
    f"When is the {_SHAPE} first seen\\?": moment,
    f"(?:When|At what time) does the {_SHAPE} (turn \\w+|appear|disappear)\\?": moment_of_change,
    f"How often does the {_SHAPE} appear\\?": how_often,
    f"How many times does the {_THING} appear\\?": how_often,
    f"How often is the {_COLOUR} thing seen\\?": how_often,
    "What blinks\\?|Which thing comes and goes\\?": blinking,
    f"What happens to the {_SHAPE}\\?": what_happens,
    f"What does the {_SHAPE} do\\?": what_happens,
    "What changes\\?|Which thing changes\\?": what_changes,
}
