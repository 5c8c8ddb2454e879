"""RealWorldQA: photographs, mostly from cars, with questions that carry their own instruction."""

from collections.abc import Iterator
from pathlib import Path

from vl3ref.evaluation.benchmark import Benchmark, Item, Judge, Verdict, right_if
from vl3ref.evaluation.choices import LETTERS, labelled, strict_choice
from vl3ref.evaluation.data import checked, embedded_image, table_rows, tables
from vl3ref.evaluation.metrics import exact_match

JUDGE = (
    "Decide whether an answer says the same as the true answer; other words are fine if they mean the same, as 3 and "
    "three do. Reply True or False and nothing else.\nGround Truth: {}, Answer: {}, Your output: "
)
"""In our words; the authors' has three examples. It does not see the question."""


def items(root: Path) -> Iterator[Item]:
    for number, row in enumerate(table_rows(*tables(root / "data", root))):
        question, answer = row.text("question"), row.text("answer").strip()
        labels, options = labelled(question)
        several = len(options) > 1 and labels == [*LETTERS[: len(options)]] and answer.upper() in labels
        picture = embedded_image(row, "image")
        trouble = picture if isinstance(picture, str) else ""
        yield Item(
            id=str(number),
            media=str(number),
            content=None if trouble else [{"type": "image", "image": picture}, {"type": "text", "text": question}],
            answer=answer.upper() if several else answer,
            options=options if several else (),
            kind="test",
            trouble=trouble,
        )


def official(item: Item, response: str, judge: Judge | None) -> Verdict:
    """The same letters, or what a judge forgives."""
    read = response.strip().lower().removesuffix(".").strip()
    truth = item.answer.lower()
    if not response.strip():  # the authors' run ends here
        return Verdict("unparsed")
    if read == truth:
        return right_if(True, read)
    return right_if("true" in judge(JUDGE.format(truth, read)).lower(), read) if judge else Verdict("needs a judge")


def strict(item: Item, response: str) -> Verdict:
    if item.options:
        return strict_choice(item, response)
    return right_if(exact_match(response, item.answer), response) if response else Verdict("unparsed")


BENCHMARK = Benchmark(
    "realworldqa", "RealWorldQA", checked(items), official, strict, "micro", {"": (67.3, 72.7)}, video=False
)
