"""A benchmark of a few questions about a picture, two clips and whatever else a test puts beside them."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.helpers import ROOT
from vl3ref.evaluation.benchmark import Benchmark, Item, Judge, Verdict, right_if

MEDIA = ROOT / "docs" / "media" / "tinyworld"
LETTERS = "ABCD"


def question(id: str, media: str, text: str, answer: str | None, *options: str, **more: Any) -> dict[str, Any]:
    return {"id": id, "media": media, "text": text, "answer": answer, "options": options, **more}


QUESTIONS = [
    question("1", "turns.mp4", "When does the cross turn yellow?", "at 3.0 seconds", kind="open"),
    question("2", "chart.png", "How high is the green bar?", "B", "2", "6", "4", kind="choice"),
    question("3", "turns.mp4", "Which colour does the cross turn?", "C", "red", "blue", "yellow", kind="choice"),
    question("4", "turns.mp4", "What turns yellow?", "the cross", kind="open"),
    question("5", "moves.mp4", "Where does the red circle move?", None, kind="hidden"),
    question("6", "moves.mp4", "Where does it move?\nTo the left?", "judged", kind="open", subset="again"),
    question("7", "moves.mp4", "Where does it move?\nTo the right?", "no such words", kind="open", subset="again"),
]


def write(folder: Path, questions: list[dict[str, Any]] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("turns.mp4", "moves.mp4", "chart.png"):
        shutil.copy(MEDIA / name, folder)
    (folder / "questions.json").write_text(json.dumps(QUESTIONS if questions is None else questions))
    return folder


def items(folder: Path) -> Iterator[Item]:
    for row in json.loads((folder / "questions.json").read_text()):
        media = folder / row["media"]
        kind = "image" if media.suffix == ".png" else "video"
        options = "".join(f"\n({LETTERS[i]}) {option}" for i, option in enumerate(row["options"]))
        content = [{"type": kind, kind: str(media)}, {"type": "text", "text": row["text"] + options}]
        trouble = row.get("trouble", "")
        yield Item(
            row["id"],
            str(media),
            None if trouble else content,
            row["answer"],
            tuple(row["options"]),
            row["kind"],
            row.get("subset", ""),
            trouble,
        )


def official(item: Item, response: str, judge: Judge | None) -> Verdict:
    if item.answer == "judged" and judge is None:
        return Verdict("needs a judge", read=response)
    if item.answer == "judged" and judge is not None:
        return right_if("true" in judge(f"{response}?"), response)
    return strict(item, response)


def strict(item: Item, response: str) -> Verdict:
    if item.answer is None:
        return Verdict("skipped", read=response)
    if item.options and response not in [*LETTERS[: len(item.options)]]:
        return Verdict("unparsed")
    return right_if(response == item.answer, response)


BENCHMARK = Benchmark("own", "Own", items, official, strict, "micro", {"": (50.0, 75.0)}, True)
