"""DocVQA: questions about scanned documents, scored by how many characters are wrong (ANLS)."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vl3ref.evaluation.benchmark import Benchmark, Item, Judge, Verdict, share
from vl3ref.evaluation.benchmarks.chartqa import answers
from vl3ref.evaluation.data import about, checked, json_rows
from vl3ref.evaluation.metrics import anls


def items(root: Path) -> Iterator[Item]:
    """The validation set; where there is none, the test set, whose answers are hidden."""
    split = "test" if not (root / "val.jsonl").exists() and (root / "test.jsonl").exists() else "val"
    for row in json_rows(root / f"{split}.jsonl"):
        yield about(
            "image",
            root / row.text("image"),
            f"{row.text('question')}\nAnswer the question with a single word or phrase.",
            answers(row) if split == "val" else None,
            id=row.text("question_id"),
            kind=split,
            more={"question_id": row["question_id"]},
        )


def official(item: Item, response: str, judge: Judge | None) -> Verdict:
    """ANLS without its cut."""
    return _scored(item, response, cut=0.0)


def strict(item: Item, response: str) -> Verdict:
    return _scored(item, response, cut=0.5) if response or item.answer is None else Verdict("unparsed")


def _scored(item: Item, response: str, cut: float) -> Verdict:
    return (
        Verdict("skipped", read=response) if item.answer is None else share(anls(response, item.answer, cut), response)
    )


def submission(items: Iterable[Item], answers: Mapping[str, str]) -> list[dict[str, Any]]:
    """What DocVQA's server takes. `answers`: by the items' ids."""
    return [{"questionId": item.more["question_id"], "answer": answers[item.id]} for item in items]


BENCHMARK = Benchmark("docvqa", "DocVQA", checked(items), official, strict, "micro", {"": (91.9, 94.9)}, video=False)
