"""MathVista (testmini): mathematics in pictures, multiple choice and free form."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vl3ref.errors import InputError, quoted
from vl3ref.evaluation.benchmark import Benchmark, Item, Judge, Verdict, right_if
from vl3ref.evaluation.choices import LETTERS, letter_of, strict_choice
from vl3ref.evaluation.data import Row, about, checked, json_object
from vl3ref.evaluation.metrics import exact_match, levenshtein, number_in
from vl3ref.files import read_json_if_there

JUDGE = (
    "Read the question and the response of a model, and type the answer that the response gives and nothing else: an "
    "integer, a number with as many decimals as the hint says, a Python list, or the letter of the option.\n\n"
    "{}\n\n{}\n\nExtracted answer: "
)
"""In our words; the authors' is MathVista's own, with five examples."""


def items(root: Path) -> Iterator[Item]:
    rows = json_object(root / "testmini.json")
    queries = Row("query.json", read_json_if_there(root / "query.json", InputError))
    for pid, row in rows.items():
        query = queries.text(pid) if queries.values else row.text("query")
        truth, several = row.text("answer"), row.text("question_type") == "multi_choice"
        options = row.texts("choices") if several else []
        letter, trouble = letter_of(truth, options) if several else ("", "")
        if row.text("answer_type") in ("integer", "float") and not several and number_in(truth) is None:
            trouble = "its answer should be a number"
        yield about(
            "image",
            root / row.text("image"),
            query,
            letter if several else truth,
            id=pid,
            options=options,
            kind=row.text("question_type"),
            trouble=trouble,
            more={"truth": truth, "query": query, "type": row.text("answer_type"), "precision": _precision(row)},
        )


def _precision(row: Row) -> int:
    """Decimals of a float; 0 for others, which have none."""
    precision = row.values.get("precision") or 0
    if precision not in range(20):
        raise InputError(f'{row.where}: "precision" should be a number of decimals, not {quoted(precision)}')
    return int(precision)


# ------------------------------------------------------------------------------------------------------------ official


def official(item: Item, response: str, judge: Judge | None) -> Verdict:
    """What is neither an option, a number nor in the form `The answer is "..."` is read by a judge."""
    said = _direct(item, response)
    if said is None:
        if judge is None:
            return Verdict("needs a judge")
        said = judge(JUDGE.format(item.more["query"], response)).strip()
    read = _normal_form(item, said)
    return Verdict("unparsed") if read is None else right_if(read == item.more["truth"], read)


def _direct(item: Item, response: str) -> str | None:
    if not response or response in item.options:
        return response
    to_number: dict[str, Any] = {"integer": int, "float": float}
    try:
        return str(to_number[item.more["type"]](response))
    except (KeyError, ValueError):
        found = re.search(r'The answer is "(.*)"\.', response)
        return found[1] if found else None


def _normal_form(item: Item, said: str) -> str | None:
    """For multiple choice always an option: by its letter, or else the nearest text."""
    if item.options:
        bracketed = re.search(r"\(([a-zA-Z])\)", said)
        said = bracketed[1].upper() if bracketed else said.strip()
        letters = [*LETTERS[: len(item.options)]]
        if said in letters:
            return item.options[letters.index(said)]
        return min(item.options, key=lambda option: levenshtein(said, option))
    try:
        if item.more["type"] == "integer":
            return str(int(float(said)))
        return str(round(float(said), item.more["precision"])) if item.more["type"] == "float" else said
    except (ValueError, TypeError, OverflowError):
        return None


# -------------------------------------------------------------------------------------------------------------- strict


def strict(item: Item, response: str) -> Verdict:
    """Numbers are compared as numbers, lists but for their spaces, texts once normalised."""
    if item.options or item.trouble:
        return strict_choice(item, response)
    if item.more["type"] in ("integer", "float"):
        given, right = number_in(response), number_in(item.answer)
        if given is None or right is None:
            return Verdict("unparsed")
        decimals = item.more["precision"] if item.more["type"] == "float" else 20
        return right_if(round(given, decimals) == round(right, decimals), str(given))
    if item.more["type"] == "list":
        lists = re.findall(r"\[([^\[\]]*)\]", response)
        read = f"[{lists[0]}]".replace(" ", "") if len(lists) == 1 else ""
        return right_if(read == item.answer.replace(" ", ""), read) if read else Verdict("unparsed")
    return right_if(exact_match(response, item.answer), response) if response else Verdict("unparsed")


BENCHMARK = Benchmark(
    "mathvista", "MathVista", checked(items), official, strict, "micro", {"": (59.2, 67.1)}, video=False
)
