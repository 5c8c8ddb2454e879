"""The real lmms-eval 0.7 asks vl3-tiny about pictures and clips of the small world: tasks/ has the tasks.

It needs an environment of its own: `make lmms-env`, then `make test-lmms`.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import vl3ref
from tests.media import write_video
from vl3ref.generation import score
from vl3ref.tinyworld.samples import held_out

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("lmms_eval") is None, reason="lmms-eval is not installed: make lmms-env"),
]

TASKS = ("pictures", "clips", "mixed", "until", "rounds")
Doc = dict[str, Any]


def picture_docs(folder: Path, count: int) -> list[Doc]:
    docs = []
    for skill in ("colour", "count", "document"):
        for index, (_, sample) in enumerate(held_out(skill, 11, count)):
            path = folder / f"{skill}{index}.png"
            Image.fromarray(sample["image"][0]).save(path)
            question, answer = (turn["value"].removeprefix("<image>\n") for turn in sample["conversations"])
            docs.append({"question": question, "answer": answer, "images": [str(path)]})
    return docs


def clip_docs(folder: Path, count: int) -> list[Doc]:
    """In three containers, of which lmms-eval takes .webm for sound; every second one is cut."""
    docs = []
    for index, (_, sample) in enumerate(held_out("motion", 11, count, encoding=None)):
        height, width = (side - side % 2 for side in sample["video"][0].shape[1:3])
        frames = [np.ascontiguousarray(frame[:height, :width]) for frame in sample["video"][0]]
        path = folder / f"clip{index}.{('mp4', 'mkv', 'mov')[index % 3]}"
        write_video(path, frames, [float(second) for second in range(len(frames))])
        question, answer = (turn["value"].removeprefix("<video>\n") for turn in sample["conversations"])
        cut = [0.5, len(frames) - 0.5] if index % 2 else None
        docs.append({"question": question, "answer": answer, "videos": [str(path)], "cuts": [cut]})
    return docs


@pytest.fixture(scope="module")
def docs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Doc]]:
    folder = tmp_path_factory.mktemp("media")
    pictures, clips = picture_docs(folder, 4), clip_docs(folder, 6)
    paths = [path for doc in pictures for path in doc["images"]]
    mixed = [{**doc, "images": paths[index : index + 3], "cuts": [[0.0, 2.0]]} for index, doc in enumerate(clips)]
    choice = [{**doc, "options": ["red", "blue", "green", "yellow"]} for doc in pictures[:4]]
    for doc in choice:
        doc["options"] = sorted({*doc["options"], doc["answer"]})
        doc["answer"] = doc["options"].index(doc["answer"])
    rounds = [{**doc, "images": paths[index : index + 3]} for index, doc in enumerate(pictures[:5])]
    several = [{**doc, "images": paths[:4]} for doc in pictures[:2]]
    sets = {"pictures": [*pictures, *several], "clips": clips, "mixed": mixed, "until": [*pictures, *clips]}
    return {**sets, "rounds": rounds, "choice": choice}


def run(folder: Path, docs: dict[str, list[Doc]], tasks: Sequence[str], *arguments: str) -> dict[str, list[Any]]:
    """The answers of each task's documents, in their order, and under "scores" what lmms-eval made of them."""
    for name in tasks:
        keys = sorted({key for doc in docs[name] for key in doc})
        lines = [json.dumps({key: doc.get(key) for key in keys}) for doc in docs[name]]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "lmms_eval", "--model", "vl3ref", "--model_args", "pretrained=vl3-tiny"]
    command += ["--include_path", str(Path(__file__).parent / "tasks"), "--device", "cpu", "--log_samples"]
    command += ["--tasks", ",".join(f"vl3ref_{name}" for name in tasks), "--output_path", str(folder / "out")]
    alone = {"HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run(
        [*command, *arguments], cwd=folder, env={**os.environ, **alone}, capture_output=True, text=True
    )
    assert not done.returncode and "Traceback" not in done.stdout + done.stderr, done.stdout + done.stderr
    answers: dict[str, list[Any]] = {}
    for name in tasks:
        [path] = (folder / "out").rglob(f"*_samples_vl3ref_{name}.jsonl")
        lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        answers[name] = [line["filtered_resps"] for line in sorted(lines, key=lambda line: line["doc_id"])]
    [results] = (folder / "out").rglob("*_results.json")
    scores = json.loads(results.read_text("utf-8"))["results"]
    return {**answers, "scores": [scores[f"vl3ref_{name}"] for name in tasks]}


@pytest.fixture(scope="module")
def answers(docs: dict[str, list[Doc]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    return run(tmp_path_factory.mktemp("one"), docs, TASKS, "--batch_size", "1")


@pytest.fixture(scope="module")
def model() -> Any:
    return vl3ref.load("vl3-tiny", device="cpu")


def inputs_of(model: Any, content: list[Any], system: str | None = None) -> Any:
    turns = [{"role": "system", "content": system}] if system else []
    return model[1]([*turns, {"role": "user", "content": content}], add_system_prompt=False)


def own(model: Any, content: list[Any], system: str | None = None) -> str:
    return str(model[1].decode(model[0].generate(inputs_of(model, content, system), max_new_tokens=12)[0]))


def pictures_of(doc: Doc) -> list[Doc]:
    return [{"type": "image", "image": path} for path in doc.get("images", [])]


def clips_of(doc: Doc) -> list[Doc]:
    cuts = [{} if cut is None else {"start_time": cut[0], "end_time": cut[1]} for cut in doc.get("cuts", [])]
    return [{"type": "video", "video": path, **cut} for path, cut in zip(doc.get("videos", []), cuts, strict=True)]


@pytest.mark.parametrize("name", ["pictures", "clips"])
def test_answers_are_generates(name: str, docs: Any, answers: Any, model: Any) -> None:
    expected = [own(model, [*pictures_of(doc), *clips_of(doc), doc["question"]]) for doc in docs[name]]
    assert answers[name] == expected
    right = [answer == doc["answer"] for answer, doc in zip(expected, docs[name], strict=True)]
    [scores] = [s for task, s in zip(TASKS, answers["scores"], strict=True) if task == name]
    assert scores["exact_match,none"] == pytest.approx(sum(right) / len(right))


def test_messages_keep_their_order(docs: Any, answers: Any, model: Any) -> None:
    """Text, a picture, text, pictures, a cut clip, the question; and the task's system prompt."""
    expected = []
    for doc in docs["mixed"]:
        first, *others = pictures_of(doc)
        content = ["First: ", first, "Then: ", *others, *clips_of(doc), doc["question"]]
        expected.append(own(model, content, "Answer in one word."))
    assert answers["mixed"] == expected


def test_until_ends_answers(docs: Any, answers: Any, model: Any) -> None:
    expected = [own(model, [*pictures_of(doc), *clips_of(doc), doc["question"]]) for doc in docs["until"]]
    assert answers["until"] == [answer.split(" ")[0] for answer in expected]
    assert any(" " in answer for answer in expected)


def test_rounds_see_what_was_said(docs: Any, answers: Any, model: Any) -> None:
    for doc, said in zip(docs["rounds"], answers["rounds"], strict=True):
        expected: list[str] = []
        for picture in pictures_of(doc):
            question = f"Before: {expected[-1]}\n{doc['question']}" if expected else doc["question"]
            expected.append(own(model, [picture, question]))
        assert said == expected


def test_batches_change_nothing(docs: Any, answers: Any, tmp_path: Path) -> None:
    assert run(tmp_path, docs, TASKS, "--batch_size", "4") == answers


def test_multiple_choice_is_by_likelihood(docs: Any, model: Any, tmp_path: Path) -> None:
    answers = run(tmp_path, docs, ["choice"], "--force_simple", "--batch_size", "1")
    right = []
    for doc, given in zip(docs["choice"], answers["choice"], strict=True):
        inputs = inputs_of(model, [*pictures_of(doc), doc["question"]])
        expected = score(model[0], inputs, doc["options"], model[1])
        assert [-float(loss) for loss, _ in given] == pytest.approx(expected.tolist(), rel=1e-4, abs=1e-5)
        said = own(model, [*pictures_of(doc), doc["question"]])
        assert [greedy == "True" for _, greedy in given] == [said.startswith(option) for option in doc["options"]]
        right.append(int(expected.argmax()) == doc["answer"])
    [scores] = answers["scores"]
    assert scores["acc,none"] == pytest.approx(sum(right) / len(right))
