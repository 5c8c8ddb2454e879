"""MMMU-Pro (standard): college questions with pictures inside the text.

The authors' code for it cannot run at its commit. "official" is what it means to do, with pictures where the question
and the options name them. Our template ends a picture with a line break, which theirs would not have had.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vl3ref.errors import InputError, quoted
from vl3ref.evaluation.benchmark import Benchmark, Item, Judge, Verdict, right_if
from vl3ref.evaluation.choices import LETTERS, contradiction, strict_choice
from vl3ref.evaluation.data import Row, checked, embedded_image, table_rows, tables


def items(root: Path) -> Iterator[Item]:
    for row in table_rows(*tables(root / "standard", root / "standard (10 options)")):
        options = Row(row.where, {"options": _listed(row)}).texts("options")
        listed = "\n".join(f"({letter}):{option}" for letter, option in zip(LETTERS, options, strict=False))
        prompt = f"{row.text('question')}\n{listed}\nAnswer with the option letter from the given choices directly."
        answer, (content, missing) = row.text("answer"), _inline(prompt, row)
        yield Item(
            id=row.text("id"),
            media=row.text("id"),
            content=None if missing else content,
            answer=answer,
            options=options,
            kind=row.text("subject"),
            trouble=missing or contradiction(answer, options),
        )


def _listed(row: Row) -> Any:
    """The options, which are a Python list written as a text."""
    try:
        return ast.literal_eval(row.text("options"))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise InputError(f'{row.where}: "options" should be a list, not {quoted(row["options"])}') from None


def _inline(prompt: str, row: Row) -> tuple[list[dict[str, Any]], str]:
    """The user's message, with a picture behind each `<image k>:`; and what is wrong."""
    content: list[dict[str, Any]] = []
    for text in re.split(r"(?<=<image [1-7]>)", prompt):
        number = re.search(r"<image ([1-7])>$", text)
        content.append({"type": "text", "text": text + (":" if number else "")})
        if number:
            picture = embedded_image(row, f"image_{number[1]}")
            if isinstance(picture, str):
                return [], picture
            content.append({"type": "image", "image": picture})
    return content, ""


def official(item: Item, response: str, judge: Judge | None) -> Verdict:
    """MMMU's rules, without their random choice where nothing is found."""
    if boxed := re.search(r"boxed\{([^}]*)\}", response):
        return right_if(boxed[1] == item.answer, boxed[1])
    for mark in ",.!?;:'":
        response = response.strip(mark)
    response = f" {response} "
    for form in ("({})", " {} "):
        places = {letter: response.rfind(form.format(letter)) for letter in LETTERS[: len(item.options)]}
        if max(places.values()) >= 0:
            break
    else:
        if len(response.split()) > 5:
            texts = zip(LETTERS, item.options, strict=False)
            places = {letter: response.lower().rfind(text.lower()) for letter, text in texts}
    letter = max(places, key=lambda name: places[name])
    return right_if(letter == item.answer, letter) if places[letter] >= 0 else Verdict("unparsed")


BENCHMARK = Benchmark(
    "mmmu-pro", "MMMU-Pro", checked(items), official, strict_choice, "micro", {"": (28.6, 33.6)}, video=False
)
