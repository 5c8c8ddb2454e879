"""Every kind of question in all its wordings. Those in `held_out` are never trained on: they tell whether a question
was understood or its wording learned by heart.

[a|b] stands for either. {gaps} are filled from the picture.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product

ABSENT_NOUNS = (  # noqa: SIM905 (as a list, each word would take a line)
    "cat dog bird fish horse cow car bus train boat plane house tree flower person man woman child table chair book "
    "phone bottle hat shoe sun moon cloud apple banana heart arrow diamond letter clock door window fork key lamp"
).split()
"""What the small world never shows."""


@dataclass(frozen=True)
class Kind:
    """One kind of question.

    Attributes:
        skill: what it takes to answer.
        training, held_out: wordings.
    """

    skill: str
    training: tuple[str, ...]
    held_out: tuple[str, ...] = ()


def _kind(skill: str, training: str, held_out: str = "") -> Kind:
    """Wordings that stand a line each."""
    return Kind(skill, tuple(_expanded(training)), tuple(_expanded(held_out)))


def _expanded(lines: str) -> Iterator[str]:
    for line in filter(None, map(str.strip, lines.splitlines())):
        parts = [part.split("|") for part in re.split(r"\[(.*?)\]", line)]
        yield from ("".join(chosen) for chosen in product(*parts))


WORDINGS: Mapping[str, Kind] = {
    # ------------------------------------------------------------------------------------------------- pictures: shapes
    "colour of shape": _kind(
        "colour",
        """What colour is the {shape}?
        Which colour does the {shape} have?
        The {shape} is of what colour?
        [Tell me|Name] the colour of the {shape}.
        In [what|which] colour is the {shape}?""",
        """What is the colour of the {shape}?
        Which colour is the {shape}?
        What colour does the {shape} have?""",
    ),
    "shape of colour": _kind(
        "shape",
        """What shape is {colour}?
        What is the {colour} [thing|shape|one]?
        Which shape is the {colour} [one|thing]?
        [Tell me|Name] the shape of the {colour} thing.
        What shape does the {colour} thing have?""",
        """Which shape is {colour}?
        What shape is the {colour} [one|thing]?
        What is the shape of the {colour} thing?""",
    ),
    "colour at place": _kind(
        "colour",
        """What colour is the [thing|shape] in the {place}?
        Which colour does the thing in the {place} have?
        [Tell me|Name] the colour of the thing in the {place}.""",
        """What is the colour of the [thing|shape] in the {place}?""",
    ),
    "shape at place": _kind(
        "shape",
        """What shape is in the {place}?
        What shape is the thing in the {place}?
        [Tell me|Name] the shape of the thing in the {place}.""",
        """Which shape is in the {place}?
        What is the shape of the thing in the {place}?""",
    ),
    "count all": _kind(
        "count",
        """How many [things|shapes] [are there|do you see|are in the picture]?
        Count the [things|shapes].
        What is the number of things?""",
        """What is the number of shapes?
        How many shapes do you see in the picture?""",
    ),
    "count shape": _kind(
        "count",
        """How many {shapes} [are there|do you see|are in the picture]?
        Count the {shapes}.
        What is the number of {shapes}?""",
        """How many of the things are {shapes}?
        Tell me the number of {shapes}.""",
    ),
    "count colour": _kind(
        "count",
        """How many {colour} [things|shapes] [are there|do you see|are in the picture]?
        Count the {colour} [things|shapes].
        What is the number of {colour} things?
        How many [things|shapes] are {colour}?""",
        """How many of the things are {colour}?
        Tell me the number of {colour} things.""",
    ),
    "place of thing": _kind(
        "position",
        """Where is the {thing}?
        In [which|what] part of the picture is the {thing}?
        [Tell me|Name] the place of the {thing}.
        Where do you see the {thing}?""",
        """Where in the picture is the {thing}?
        Tell me where the {thing} is.""",
    ),
    "side": _kind(
        "position",
        """Where is the {thing}, seen from the {other}?
        Seen from the {other}, where is the {thing}?
        On which side of the {other} is the {thing}?""",
        """Where is the {thing} seen from the {other}?
        On what side of the {other} do you see the {thing}?""",
    ),
    "neighbour": _kind(
        "position",
        """What is {side} the {other}?
        Which [thing|shape] is {side} the {other}?
        Name the thing {side} the {other}.""",
        """What do you see {side} the {other}?
        Tell me what is {side} the {other}.""",
    ),
    "picture caption": _kind(
        "picture caption",
        """Describe [the|this] [picture|image].
        What is in [the|this] picture?
        What does the picture show?
        What do you see?""",
        """What do you see in the picture?
        What does the image show?
        What is in the image?""",
    ),
    "inventory": _kind("inventory", "Name everything you see.\nWhat is in each cell?\nList it all."),
    "each": _kind(
        "inventory",
        """What is the {wanted} of each: {names}?
        Give the {wanted} of each: {names}.
        {names}: the {wanted} of each?""",
    ),
    # --------------------------------------------------------------------------------------------- pictures: to be read
    "text": _kind(
        "reading",
        """What [is written|do you read] here?
        What [does the sign say|does it say]?
        Read the [sign|text|{sort}].
        What is the [text|{sort}]?
        Which {sort} do you see?""",
        """What is written on the sign?
        What does the text say?
        Which {sort} is written here?""",
    ),
    "text in ink": _kind(
        "reading",
        """What is written in {colour}?
        Read the {colour} [text|{sort}].
        What does the {colour} [text|sign] say?""",
        """What do you read in {colour}?
        What is the {colour} text?""",
    ),
    "ink": _kind(
        "colour",
        """What colour is the [text|{sort}]?
        Which colour does the text have?
        [Tell me|Name] the colour of the text.""",
        """What is the colour of the text?
        Which colour is the [text|{sort}]?""",
    ),
    "ink of text": _kind(
        "colour",
        """What colour is "{text}"?
        In [what|which] colour is "{text}" written?
        Which colour does "{text}" have?""",
        """What is the colour of "{text}"?
        Which colour is "{text}"?""",
    ),
    "price": _kind(
        "document",
        """How much is the {key}?
        What does the {key} cost?
        [What is the|Tell me the|Name the] price of the {key}[?|.]
        Price of the {key}?""",
        """How much does the {key} cost?
        Which price does the {key} have?""",
    ),
    "goods": _kind(
        "document",
        """What costs {value}?
        Which thing costs {value}?
        What has the price {value}?""",
        """Name the thing that costs {value}.
        What is it that costs {value}?""",
    ),
    "field": _kind(
        "document",
        """What is the {key}?
        Which {key} is given?
        Read the {key}.
        [Tell me|Name] the {key}.""",
        """What {key} is given?
        Which {key} do you read?""",
    ),
    # ----------------------------------------------------------------------------------------------------------- charts
    "height": _kind(
        "chart",
        """How high is the {colour} bar?
        What is the [value|height] of the {colour} bar?
        [Tell me|Name] the [value|height] of the {colour} bar.
        Which [value|height] does the {colour} bar have?""",
        """What [value|height] does the {colour} bar have?
        What is the number of the {colour} bar?""",
    ),
    "bar": _kind(
        "chart",
        """Which bar is {value} high?
        Which bar has the [value|height] {value}?
        What colour is the bar of [value|height] {value}?""",
        """Which colour is the bar of [value|height] {value}?
        What bar has the [value|height] {value}?""",
    ),
    "highest": _kind(
        "chart",
        "Which bar is the highest?\nWhat colour is the highest bar?\nWhich bar has the most?\nName the highest bar.",
        "Which colour is the highest bar?\nTell me the highest bar.",
    ),
    "lowest": _kind(
        "chart",
        "Which bar is the lowest?\nWhat colour is the lowest bar?\nWhich bar has the least?\nName the lowest bar.",
        "Which colour is the lowest bar?\nTell me the lowest bar.",
    ),
    "course": _kind(
        "chart",
        """What does the {colour} line do?
        Does the {colour} line rise or fall?
        How does the {colour} line [go|run]?
        Tell me what the {colour} line does.""",
        """What does the line in {colour} do?
        Does the line in {colour} rise or fall?""",
    ),
    "line": _kind(
        "chart",
        "Which line {course}?\nWhat colour is the line that {course}?\nName the line that {course}.",
        "Which colour is the line that {course}?\nWhat line {course}?",
    ),
    # ------------------------------------------------------------------------------------------------------------ clips
    "direction": _kind(
        "motion",
        """In which direction does the {thing} move?
        Which way does the {thing} [go|move]?
        Where does the {thing} [go|move]?
        How does the {thing} move?""",
        """What way does the {thing} go?
        In what direction does the {thing} [go|move]?""",
    ),
    "moves to": _kind(
        "motion",
        """What moves {direction}?
        Which [thing|shape] [moves|goes] {direction}?
        Name the thing that moves {direction}.""",
        """What goes {direction}?
        Tell me what moves {direction}.""",
    ),
    "first": _kind(
        "order",
        """What [comes|appears|is seen] first?
        Which thing [comes|appears] first?
        What is the first thing to [appear|come]?""",
        "What is the first thing?\nName the thing that appears first.",
    ),
    "last": _kind(
        "order",
        """What [comes|appears|is seen] last?
        Which thing [comes|appears] last?
        What is the last thing to [appear|come]?""",
        "What is the last thing?\nName the thing that appears last.",
    ),
    "after": _kind(
        "order",
        """What [comes|appears] after the {thing}?
        Which thing [comes|appears] after the {thing}?
        What follows the {thing}?""",
        "What is seen after the {thing}?\nName the thing that comes after the {thing}.",
    ),
    "before": _kind(
        "order",
        """What [comes|appears] before the {thing}?
        Which thing [comes|appears] before the {thing}?""",
        "What is seen before the {thing}?\nName the thing that comes before the {thing}.",
    ),
    "how often": _kind(
        "frequency",
        """How often does the {thing} [appear|blink]?
        How many times does the {thing} [appear|blink]?
        How often [is the {thing} seen|do you see the {thing}]?
        Count how often the {thing} appears.""",
        """How many times is the {thing} seen?
        Tell me how often the {thing} appears.""",
    ),
    "so often": _kind(
        "frequency",
        """What [appears|blinks] {number}?
        Which thing [appears|blinks] {number}?
        What is seen {number}?""",
        "Name the thing that appears {number}.\nWhich thing is seen {number}?",
    ),
    "when": _kind(
        "time",
        """When does the {thing} {event}?
        At [what|which] time does the {thing} {event}?
        [At which second|In which second] does the {thing} {event}?
        Tell me when the {thing} {event_s}.""",
        """What is the time when the {thing} {event_s}?
        At what second does the {thing} {event}?""",
    ),
    "at": _kind(
        "time",
        """What {event_s} at {time} seconds?
        Which thing {event_s} at {time} seconds?""",
        "What is it that {event_s} at {time} seconds?\nName the thing that {event_s} at {time} seconds.",
    ),
    "happens": _kind(
        "change",
        """What happens to the {thing}?
        What does the {thing} do?
        How does the {thing} change?
        Tell me what happens to the {thing}.""",
        "What is it that happens to the {thing}?\nTell me what the {thing} does.",
    ),
    "what changes": _kind(
        "change",
        """What {event_s}?
        Which [thing|shape] {event_s}?
        Name the thing that {event_s}.""",
        "What is it that {event_s}?\nTell me what {event_s}.",
    ),
    "video caption": _kind(
        "video caption",
        """Describe the [clip|video].
        What happens in [the|this] [video|clip]?
        What does the video show?
        What happens?""",
        "What does the clip show?\nDescribe this [video|clip].\nTell me what happens in the video.",
    ),
}

WANTED: Mapping[str, tuple[str, str]] = {
    "colour of shape": ("colour", "{shape}"),
    "shape of colour": ("shape", "{colour}"),
    "colour at place": ("colour", "{place}"),
    "shape at place": ("shape", "{place}"),
    "place of thing": ("place", "{thing}"),
    "neighbour": ("thing", "{side} the {other}"),
    "side": ("side", "{thing} from the {other}"),
    "ink of text": ("colour", "{text}"),
    "text in ink": ("text", "{colour}"),
    "price": ("price", "{key}"),
    "goods": ("name", "{value}"),
    "field": ("text", "{key}"),
    "height": ("height", "{colour}"),
    "bar": ("colour", "{value}"),
    "course": ("course", "{colour}"),
    "direction": ("direction", "{thing}"),
    "moves to": ("name", "{direction}"),
    "after": ("next", "{thing}"),
    "before": ("last", "{thing}"),
    "how often": ("number", "{thing}"),
    "so often": ("name", "{number}"),
    "when": ("time", "{thing}"),
    "at": ("name", "{time}"),
    "happens": ("change", "{thing}"),
}
"""Kinds of which several are asked at once ("each"): what is asked for, and what it is asked of."""
