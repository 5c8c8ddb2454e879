"""The small world seen and thought about a second time, by code that does not know how it was made.

`see` measures pixels: blobs, their colours and shapes, bars against ruled lines, lines from end to end. `answers`
takes what each frame shows, as text, and a clip's times, and finds everything that would be a true answer.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby, product
from typing import Any

import numpy as np

from vl3ref.tinyworld.questions import Question

PALETTE = {
    "red": (220, 40, 40),
    "orange": (245, 145, 25),
    "yellow": (240, 220, 40),
    "green": (40, 160, 70),
    "blue": (40, 80, 220),
    "purple": (145, 60, 185),
    "black": (30, 30, 30),
}


class Unclear(Exception):
    """The pixels do not say: two things touch, or one lies between two cells."""


# ------------------------------------------------------------------------------------------------------------- seeing


@dataclass(frozen=True)
class Blob:
    """Connected pixels that are not ground: their box (left, top, right, bottom), which pixels of it, their colours."""

    box: tuple[int, int, int, int]
    mask: np.ndarray
    pixels: np.ndarray

    @property
    def colour(self) -> str:
        """Of most that is not grey, as an outline is."""
        vivid = self.pixels[np.ptp(self.pixels, axis=1) > 75]
        return nearest(np.median(vivid, axis=0)) if len(vivid) > 0.08 * len(self.pixels) else "black"

    @property
    def shape(self) -> str:
        """The ideal shape, turned a little and stretched to the box, that has most in common with the pixels."""
        seen = resized(self.mask)
        return max(ideals(), key=lambda ideal: float((seen & ideal[1]).sum() / (seen | ideal[1]).sum()))[0]

    def __str__(self) -> str:
        return f"{self.colour} {self.shape}"


def nearest(rgb: np.ndarray) -> str:
    return min(PALETTE, key=lambda name: float(np.abs(rgb - PALETTE[name]).sum()))


def resized(mask: np.ndarray) -> np.ndarray:
    rows, columns = ((np.arange(24) + 0.5) * side // 24 for side in mask.shape)
    return mask[rows.astype(int)][:, columns.astype(int)]


@cache
def ideals() -> list[tuple[str, np.ndarray]]:
    found = []
    for turn, stroke in product((-0.25, -0.12, 0, 0.12, 0.25), (0.15, 0.22, 0.3)):
        y, x = (np.mgrid[0:120, 0:120] - 59.5) / 40
        x, y = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
        radius = np.hypot(x, y)
        phase = np.abs((np.arctan2(x, -y) / (2 * np.pi / 5) + 0.5) % 1 - 0.5) * 2  # 0 at a star's points, 1 between
        arm = stroke + 0.06
        forms = {
            "circle": radius <= 1,
            "ring": (radius <= 1) & (radius >= 1 - 2 * stroke),
            "square": (np.abs(x) <= 1) & (np.abs(y) <= 1),
            "triangle": (np.abs(x) <= (y + 1) / 1.8) & (y <= 0.8),
            "cross": (np.minimum(np.abs(x), np.abs(y)) <= arm) & (np.maximum(np.abs(x), np.abs(y)) <= 1),
            "star": radius <= 1.1 * (1 - phase) + 0.45 * phase,
        }
        for name, form in forms.items():
            rows, columns = (np.nonzero(form.any(axis=axis))[0] for axis in (1, 0))
            found.append((name, resized(form[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])))
    return found


def blobs(picture: np.ndarray) -> Iterator[Blob]:
    left = set(map(tuple, np.argwhere(picture.min(axis=2) < 110).tolist()))
    while left:
        edge = [left.pop()]
        inside = list(edge)
        while edge:
            y, x = edge.pop()
            near = {(y + j, x + i) for j in (-1, 0, 1) for i in (-1, 0, 1)} & left
            left -= near
            edge += near
            inside += near
        places = np.array(inside)
        (top, first), (bottom, last) = places.min(axis=0).tolist(), (places.max(axis=0) + 1).tolist()
        mask = np.zeros((bottom - top, last - first), bool)
        mask[tuple((places - (top, first)).T)] = True
        yield Blob((first, top, last, bottom), mask, picture[tuple(places.T)].astype(float))


def see(picture: np.ndarray, said: str) -> str:
    """What a picture shows, in the words of `said`, which tells what to look for but not what is found.

    Raises:
        Unclear: the pixels do not say.
    """
    if said.startswith("bars"):
        return "bars: " + ", ".join(f"{colour} {value}" for colour, value in bars(picture))
    if said.startswith("line"):
        return "; ".join(f"line {colour} {course}" for colour, course in lines(picture, said.count("line")))
    columns, rows = len(said.split("; ")[0].split(", ")), len(said.split("; "))
    height, width, _ = picture.shape
    cells: dict[tuple[int, int], str] = {}
    for one in blobs(picture):
        across, down = (one.box[0] + one.box[2]) / 2 * columns / width, (one.box[1] + one.box[3]) / 2 * rows / height
        sides = (one.box[2] - one.box[0]) * columns / width, (one.box[3] - one.box[1]) * rows / height
        off = max(abs(place % 1 - 0.5) for place in (across, down))
        if max(sides) > 1.1 or max(sides) < 0.45 or off > 0.3 or (int(across), int(down)) in cells:
            raise Unclear
        cells[int(across), int(down)] = str(one)
    return "; ".join(", ".join(cells.get((x, y), "empty") for x in range(columns)) for y in range(rows))


def bars(picture: np.ndarray) -> list[tuple[str, int]]:
    """From left to right: colours, and how many ruled lines each bar reaches."""
    strip = picture[4:-5, 4:6].mean(axis=(1, 2))  # inside the sheet's edge, left of the bars
    dark = np.nonzero(strip < np.median(strip) - 15)[0]
    edges = np.nonzero(np.diff(dark) > 1)[0] + 1
    rules = [rows.mean() for rows in np.split(dark, edges)]
    assert len(rules) == 7
    found = sorted(blobs(picture), key=lambda one: one.box)
    return [(one.colour, round((one.box[3] - one.box[1] - 1) / (rules[-1] - rules[0]) * 6)) for one in found]


def lines(picture: np.ndarray, number: int) -> list[tuple[str, str]]:
    places = np.argwhere(picture.min(axis=2) < 110)
    colours = np.array([nearest(picture[tuple(place)].astype(float)) for place in places])
    names, counts = np.unique(colours, return_counts=True)
    chosen = set(names[np.argsort(counts)[-number:]].tolist())
    found = []
    for colour in filter(chosen.__contains__, PALETTE):
        heights, x = -places[colours == colour, 0], places[colours == colour, 1]
        ends = [x.min(), (x.min() + x.max()) / 2, x.max()]
        start, middle, end = (heights[np.argsort(np.abs(x - at), kind="stable")[:6]].mean() for at in ends)
        halves = [half for half in (middle - start, end - middle) if abs(half) > 3]
        courses = [course for course, _ in groupby("rises" if half > 0 else "falls" for half in halves)]
        found.append((colour, ", then ".join(courses)))
    return found


# ----------------------------------------------------------------------------------------------------------- thinking


def answers(question: Question, texts: Sequence[str], times: Sequence[float] | None) -> list[str]:
    """Everything that would be a true answer, taking words as widely as a person might."""
    if times is not None:
        return Clip(texts, times).answers(question.kind, **question.about)
    [text] = texts
    if question.kind in ("text", "text in ink", "ink", "ink of text"):
        return of_signs(question.kind, text, **question.about)
    if question.kind in ("price", "field", "goods"):
        pairs = [line.partition(" ")[::2] for line in text.split("; ")]
        return paired(pairs, question.about.get("key"), question.about.get("value"))
    if text.startswith("bars: "):
        columns = [bar.split() for bar in text.removeprefix("bars: ").split(", ")]
        if question.kind in ("highest", "lowest"):
            edge = (max if question.kind == "highest" else min)(int(value) for _, value in columns)
            return [colour for colour, value in columns if int(value) == edge]
        return paired(columns, question.about.get("colour"), question.about.get("value"))
    if text.startswith("line "):
        courses = [line.removeprefix("line ").split(" ", 1) for line in text.split("; ")]
        if question.kind == "course":
            return paired(courses, question.about["colour"], None)
        return [colour for colour, course in courses if question.about["course"] in course]
    return of_scene(question.kind, text, **question.about)


def paired(pairs: Sequence[Sequence[str]], key: str | None, value: str | None) -> list[str]:
    if key is not None:
        return [second for first, second in pairs if first == key and second]
    return [first for first, second in pairs if second == value]


def of_signs(kind: str, shown: str, colour: str = "", text: str = "", sort: str = "") -> list[str]:
    signs = re.findall(r'sign "(\w+)", (\w+)', shown)
    if kind == "ink of text":
        return paired(signs, text, None)
    found = [(said, ink) for said, ink in signs if kind != "text in ink" or ink == colour]
    assert all(said.isdigit() == (sort == "number") for said, _ in found)
    return [ink if kind == "ink" else said for said, ink in found]


def fits(thing: str, name: str) -> bool:
    return set(name.split()) - {"thing"} <= set(thing.split())


def board(text: str) -> dict[tuple[int, int], str]:
    """Things by column and row."""
    rows = [row.split(", ") for row in text.split("; ")]
    return {(x, y): thing for y, row in enumerate(rows) for x, thing in enumerate(row) if thing != "empty"}


def of_scene(
    kind: str,
    text: str,
    shape: str = "",
    shapes: str = "",
    colour: str = "",
    place: str = "",
    thing: str = "",
    other: str = "",
    side: str = "",
) -> list[str]:
    things = board(text)
    columns, rows = text.split("; ")[0].count(",") + 1, text.count(";") + 1

    def where(cell: tuple[int, int]) -> str:
        down, across = {0: "top", rows - 1: "bottom"}.get(cell[1]), {0: "left", columns - 1: "right"}.get(cell[0])
        return " ".join(filter(None, (down, across))) or "middle"

    def sides(cell: tuple[int, int], seen_from: tuple[int, int], strictly: bool) -> set[str]:
        (x, y), (u, v) = cell, seen_from
        found = {"left": x < u, "right": x > u, "above": y < v, "below": y > v}
        return {name for name, true in found.items() if true and (not strictly or x == u or y == v)}

    match kind.split():
        case ["count", _]:
            name = shapes.removesuffix("s").removesuffix("e") if shapes.startswith("cross") else shapes[:-1]
            return [str(sum(fits(one, f"{name} {colour}") for one in things.values()))]
        case ["colour" | "shape" as wanted, "of" | "at", *_]:
            found = [one for cell, one in things.items() if set(place.split()) <= set(where(cell).split())]
            return [one.split()[wanted == "shape"] for one in found if fits(one, f"{shape} {colour}")]
        case ["place", *_]:
            return [where(cell) for cell, one in things.items() if fits(one, thing)]
        case ["side"]:
            pairs = product(things.items(), things.items())
            found = [sides(a, b, True) for (a, one), (b, two) in pairs if fits(one, thing) and fits(two, other)]
            return [name for names in found for name in names]
        case ["neighbour"]:
            [base] = [cell for cell, one in things.items() if one == other]
            word = side.removeprefix("to the ").removesuffix(" of")
            strict, loose = (
                [one for cell, one in things.items() if word in sides(cell, base, strictly)]
                for strictly in (True, False)
            )
            return strict or loose
    raise AssertionError(kind)


class Clip:
    """What comes, goes, moves and changes. No two things of a clip have their shape in common."""

    def __init__(self, texts: Sequence[str], times: Sequence[float]) -> None:
        self.times = times
        frames = [{name.split()[1]: (cell, name) for cell, name in board(text).items()} for text in texts]
        self.seen: Mapping[str, list[tuple[tuple[int, int], str] | None]] = {
            shape: [frame.get(shape) for frame in frames] for shape in {shape: 0 for frame in frames for shape in frame}
        }

    def name(self, shape: str) -> str:
        return next(there[1] for there in self.seen[shape] if there)

    def events(self, shape: str) -> list[tuple[str, int]]:
        """What it does, and in which frame."""
        found = []
        for n, (before, now) in enumerate(zip(self.seen[shape], self.seen[shape][1:], strict=False), start=1):
            if bool(before) != bool(now):
                found.append(("appears" if now else "disappears", n))
            elif before and now and before[1] != now[1]:
                found.append((f"turns {now[1].split()[0]}", n))
        return found

    def course(self, shape: str) -> str:
        first, *_, last = [there[0] for there in self.seen[shape] if there] * 2
        across, down = last[0] - first[0], last[1] - first[1]
        assert not across or not down, "it moves diagonally"
        return {(0, 0): "it stays", (1, 0): "right", (-1, 0): "left", (0, 1): "down", (0, -1): "up"}[
            int(np.sign(across)), int(np.sign(down))
        ]

    def arrivals(self) -> list[str]:
        """Shapes of what is not there from the beginning, in the order of their coming."""
        new = [(self.events(shape)[0][1], shape) for shape, seen in self.seen.items() if not seen[0]]
        return [shape for _, shape in sorted(new)]

    def often(self, shape: str) -> int:
        return sum(event == "appears" for event, _ in self.events(shape))

    def answers(
        self,
        kind: str,
        thing: str = "",
        direction: str = "",
        event: str = "",
        event_s: str = "",
        time: str = "",
        number: str = "",
    ) -> list[str]:
        meant = [x for x in self.seen if any(there and fits(there[1], thing) for there in self.seen[x])]
        arrivals = self.arrivals()
        match kind:
            case "direction":
                return [self.course(shape) for shape in meant]
            case "moves to":
                return [self.name(shape) for shape in self.seen if self.course(shape) == direction]
            case "first" | "last":
                return [self.name(arrivals[0 if kind == "first" else -1])]
            case "after" | "before":
                beside = [arrivals.index(shape) + (1 if kind == "after" else -1) for shape in meant]
                return [self.name(arrivals[n]) for n in beside if 0 <= n < len(arrivals)]
            case "how often":
                return [str(self.often(shape)) for shape in meant]
            case "so often":
                wanted = 1 if number == "once" else int(number.removesuffix(" times"))
                return [self.name(shape) for shape in self.seen if self.often(shape) == wanted]
            case "when":
                moments = [n for x in meant for what, n in self.events(x) if what == event_s.removesuffix(" first")]
                if event.endswith("first"):
                    moments = moments[:1]
                return [f"at {self.times[n]} seconds" for n in moments]
            case "at":
                return [
                    self.name(x)
                    for x in self.seen
                    for what, n in self.events(x)
                    if what == event_s and self.times[n] == float(time)
                ]
            case "happens":
                return [f"it {event}" for x in meant for event, _ in self.events(x) or [("stays", 0)]]
            case "what changes":
                return [self.name(shape) for shape in self.seen if self._does(shape, event_s)]
        raise AssertionError(kind)

    def _does(self, shape: str, event: str) -> bool:
        if event == "moves":
            return self.course(shape) != "it stays"
        events = [what for what, _ in self.events(shape)]
        return events[:2] == ["appears", "disappears"] if event in ("blinks", "comes and goes") else event in events


# ------------------------------------------------------------------------------------------------------- descriptions


def wrong_in(caption: str, texts: Sequence[str], times: Sequence[float] | None) -> list[str]:
    """The clauses of a description that are not true, or "order", or "left out"."""
    if times is None:
        told, shown = told_and_shown(caption, texts[0])
        return [] if told == shown else ["order"]
    clip = Clip(texts, times)
    told = [
        (f"{colour} {shape}", shape, does)
        for colour, shape, does in re.findall(
            r"an? (\w+) (\w+)((?: moves| appears| disappears| turns)?(?: \w+| [\d.]+)*?)(?=,| and|\.$)", caption.lower()
        )
    ]
    names = [name for name, *_ in told]
    if caption.startswith("First"):
        return [] if names == [clip.name(shape) for shape in clip.arrivals()] else ["order"]
    wrong = []
    for name, shape, does in told:
        match does.split():
            case ["moves", course]:
                true = clip.course(shape) == course
            case ["appears", *often] if "at" not in often:
                true = clip.often(shape) == (1 if often == ["once"] else int(often[0]))
            case [*event, "at", second, "seconds"]:
                true = (" ".join(event), times.index(float(second))) in clip.events(shape)
            case _:
                true = False
        if not true or clip.name(shape) != name:
            wrong.append(f"{name}{does}")
    busy = [shape for shape in clip.seen if clip.events(shape) or clip.course(shape) != "it stays"]
    if set(busy) != {shape for _, shape, _ in told}:
        wrong.append("left out")
    return wrong


def told_and_shown(caption: str, text: str) -> tuple[list[Any], list[Any]]:
    """What a picture's description lists, and what is there, from left to right, row by row."""
    if text.startswith("bars"):
        return re.findall(r"chart with (\w+)", caption), [["two", "three", "four", "five"][text.count(",") - 1]]
    if text.startswith("line"):
        told = re.findall(r"an? (\w+) line that (\w+(?:, then \w+)?)", caption.lower())
        return told, re.findall(r"line (\w+) (\w+(?:, then \w+)?)", text)
    if text.startswith("sign"):
        return re.findall(r'"(\w+)"', caption), re.findall(r'"(\w+)"', text)
    if re.match("A receipt for|A form with", caption):
        return caption[:-1].split(" ", 3)[3].split(", "), [line.split()[0] for line in text.split("; ")]
    return re.findall(r"an? (\w+ \w+)", caption.lower()), list(board(text).values())
