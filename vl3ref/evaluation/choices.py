"""Multiple choice: the prompt that several benchmarks share, and the option that an answer names."""

import re
import string
from collections.abc import Sequence

from vl3ref.errors import quoted
from vl3ref.evaluation.benchmark import Item, Judge, Verdict, right_if
from vl3ref.evaluation.metrics import read_choice

LETTERS = string.ascii_uppercase
"""`Item.answer` of a multiple-choice question is one of them: "A" for the first of `Item.options`."""


def choice_prompt(question: str, options: Sequence[str]) -> str:
    """As PerceptionTest, MLVU and NextQA are asked."""
    listed = "".join(f"({letter}) {option}\n" for letter, option in zip(LETTERS, options, strict=False))
    return (
        f"Question: {question}\nOptions:\n{listed}"
        "Answer with the option's letter from the given choices directly and only give the best option."
    )


def labelled(question: str) -> tuple[list[str], list[str]]:
    """Labels and texts of the options that stand in a question, each on a line: "A. red", "Option 1: a man sits"."""
    found = re.findall(r"(?m)^(?:Option|Sentence|Caption)? ?([A-Z]|[0-9]{1,2})[.:)] *(\S.*)$", question)
    return [label for label, _ in found], [text.strip() for _, text in found]


def letter_of(right: str, options: Sequence[str]) -> tuple[str, str]:
    """The letter of the right option and, if there is none, what is wrong."""
    place = options.index(right) if right in options else len(LETTERS)
    return (LETTERS[place], "") if place < len(LETTERS) else ("", f"its answer {quoted(right)} is none of its options")


def contradiction(letter: str, options: Sequence[str]) -> str:
    """What is wrong with an answer that should be an option's letter."""
    return "" if letter in [*LETTERS[: len(options)]] else f"its answer {quoted(letter)} is no letter of its options"


def official_letter(item: Item, response: str, between: str = ", ") -> Verdict:
    """The authors' reading: the first capital that is an option's letter, of whatever word, once "answer" is deleted.

    Their code ends where there is none, or where a comma, or a space inside brackets, stands beside it.

    Args:
        between: what may stand beside it, besides brackets.
    """
    letters = [*LETTERS[: len(item.options)]]
    deleted = response.replace("answer", "").replace("Answer", "")
    # From the beginning of a run of brackets only: from everywhere inside, a long one would take quadratic time.
    found = re.search(rf"(?<![({between}])[({between}]*[A-{letters[-1]}][){between}]*", deleted)
    letter = found[0].strip().strip("()") if found else ""
    if item.answer is None:
        return Verdict("skipped", read=letter)
    if not (truth := item.more.get("truth", item.answer)):
        return Verdict("broken")
    return right_if(letter == truth, letter) if letter in letters else Verdict("unparsed")


def official_choice(item: Item, response: str, judge: Judge | None) -> Verdict:
    return official_letter(item, response)


def strict_choice(item: Item, response: str) -> Verdict:
    """`read_choice`. An item that contradicts itself is broken."""
    if item.trouble:
        return Verdict("broken")
    labels = item.more.get("labels", LETTERS)
    place = read_choice(response, item.options, labels)
    if item.answer is None:
        return Verdict("skipped", read="" if place is None else labels[place])
    return Verdict("unparsed") if place is None else right_if(LETTERS[place] == item.answer, labels[place])
