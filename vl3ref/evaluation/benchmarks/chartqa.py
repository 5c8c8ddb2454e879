"""ChartQA: questions about charts; a number may miss by 5 %."""

from collections.abc import Iterator
from pathlib import Path

from vl3ref.evaluation.benchmark import Benchmark, Item, Judge, Verdict, right_if
from vl3ref.evaluation.data import Row, about, checked, json_rows
from vl3ref.evaluation.metrics import relaxed, relaxed_accuracy

FILES = {"augmented": "test_augmented_renamed.jsonl", "human": "test_human_renamed.jsonl"}

JUDGE = (
    "Decide whether an answer to a question about a chart says the same as the true answer; other words are fine if "
    "they mean the same. Reply True or False and nothing else.\n"
    "Question: {}, Ground Truth: {}, Answer: {}, Your output: "
)
"""In our words; the authors' has six examples."""


def items(root: Path) -> Iterator[Item]:
    rows = [(split, number, row) for split in FILES for number, row in enumerate(json_rows(root / FILES[split]), 1)]
    last = {row.text("question_id"): index for index, (_, _, row) in enumerate(rows)}
    for index, (split, number, row) in enumerate(rows):
        yield about(
            "image",
            root / row.text("image"),
            f"{row.text('question')}\nAnswer the question using a single word or phrase.",
            answers(row),
            id=f"{split} {number}",
            kind=split,
            more={"question": row.text("question"), "overwritten": last[row.text("question_id")] != index},
        )


def answers(row: Row) -> list[str]:
    """Right answers: a text, or a list of texts."""
    answer = row["answer"]
    return Row(row.where, {"answer": answer if isinstance(answer, list) else [answer]}).texts("answer")


def official(item: Item, response: str, judge: Judge | None) -> Verdict:
    """A hundred times and a hundredth of the number are right too. What numbers do not decide, a judge does.

    Of questions with the same id, in either file, only the last counts.
    """
    if item.more["overwritten"]:
        return Verdict("skipped")
    response = response.strip()
    decided = {answer: relaxed(response, answer, forgiving=True) for answer in item.answer}
    open_answers = [answer for answer, right in decided.items() if right is None]
    if any(decided.values()) or any(response.lower() == answer.lower() for answer in open_answers):
        return right_if(True, response)
    if open_answers and judge is None:
        return Verdict("needs a judge", read=response)
    prompts = [JUDGE.format(item.more["question"], answer, response) for answer in open_answers]
    return right_if(any("true" in judge(prompt).lower() for prompt in prompts if judge), response)


def strict(item: Item, response: str) -> Verdict:
    if not response:
        return Verdict("unparsed")
    return right_if(any(relaxed_accuracy(response, answer) for answer in item.answer), response)


BENCHMARK = Benchmark("chartqa", "ChartQA", checked(items), official, strict, "macro", {"": (79.8, 86.3)}, video=False)
