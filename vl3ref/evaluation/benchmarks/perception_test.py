"""PerceptionTest: three options about short videos. The test set's answers are hidden: a server scores them."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vl3ref.errors import InputError
from vl3ref.evaluation.benchmark import Benchmark, Item, Judge, Protocol, Verdict
from vl3ref.evaluation.choices import LETTERS, choice_prompt, official_letter, strict_choice
from vl3ref.evaluation.data import about, as_row, checked, json_object, video_file


def items(root: Path) -> Iterator[Item]:
    """The test set; entries with an "answer_id", as those of the validation set, are scored."""
    for row in json_object(root / "mc_question_test.json").values():
        video_id = row.row("metadata").text("video_id")
        questions = row["mc_question"]
        if not isinstance(questions, list):
            raise InputError(f'{row.where}: "mc_question" should be a list')
        for number, values in enumerate(questions, start=1):
            question = as_row(f"{row.where}, question {number}", values)
            options, right = question.texts("options"), question.values.get("answer_id")
            if len(options) != 3 or str(right) not in ("None", "0", "1", "2"):
                raise InputError(f'{question.where} should have 3 "options", and "answer_id" 0, 1, 2 or none')
            yield about(
                "video",
                video_file(root / "videos", video_id),
                choice_prompt(question.text("question"), options),
                None if right is None else LETTERS[int(right)],
                id=f"{video_id}_{question.text('id')}",
                options=options,
                kind=str(question.values.get("area", "")),
                more={"video_id": video_id, "id": question["id"]},
            )


def official(item: Item, response: str, judge: Judge | None) -> Verdict:
    return official_letter(item, response, between="")


def submission(
    items: Iterable[Item], answers: Mapping[str, str], protocol: Protocol = "official"
) -> dict[str, list[dict[str, Any]]]:
    """What the server takes. Words in which no answer is found are left out.

    Args:
        answers: the model's words, by the items' ids.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for item in items:
        response = answers[item.id]
        letter = (strict_choice(item, response) if protocol == "strict" else official(item, response, None)).read
        if letter:
            place = LETTERS.index(letter)
            entry = {"id": item.more["id"], "answer_id": place, "answer": item.options[place]}
            found.setdefault(item.more["video_id"], []).append(entry)
    return found


BENCHMARK = Benchmark(
    "perceptiontest", "PerceptionTest", checked(items), official, strict_choice, "micro", {"": (68.0, 72.8)}, video=True
)
