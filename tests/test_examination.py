"""The examination counts what is right, its controls change what they should, and `vl3ref eval` prints it."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import small_runs
from tests.helpers import ROOT
from tests.small_runs import processor
from vl3ref.errors import InputError
from vl3ref.model.diff_fp import keep_all
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.model_inputs import ModelInputs
from vl3ref.tinyworld import EXAMINATIONS, PICTURE_SKILLS, SKILLS, TIME_SKILLS, Answer, Score, examination, examine
from vl3ref.tinyworld.encoding import Encoding
from vl3ref.tinyworld.examination import (
    SEED,
    as_json,
    as_markdown,
    blank,
    overall,
    rows,
    rows_by_candidates,
    shuffled,
)
from vl3ref.tinyworld.questions import NONE, Question
from vl3ref.tinyworld.samples import held_out
from vl3ref.training.samples import to_conversation

TINY = ROOT / "weights" / "vl3-tiny"
Main = Callable[..., tuple[str, str]]


@cache
def small_model() -> VideoLLaMA3:
    return small_runs.small_model()


class FixedAnswers:
    """Gives answers, one after another, in place of a model's `generate`, and keeps what it was asked."""

    def __init__(self, answers: list[str]) -> None:
        self.answers: Iterator[str] = iter(answers)
        self.asked: list[ModelInputs] = []

    def __call__(self, inputs: ModelInputs, max_new_tokens: int, pruner: Any) -> list[torch.Tensor]:
        self.asked.append(inputs)
        pruner(inputs, None)
        end = processor().tokenizer.special("<|im_end|>")
        said = [[*processor().tokenizer.encode(next(self.answers))[0], end] for _ in inputs.lengths]
        assert max(map(len, said)) <= max_new_tokens, "the right answer would have been cut"
        return [torch.tensor(ids) for ids in said]

    @property
    def prompts(self) -> list[str]:
        return [
            processor().decode(ids, skip_special_tokens=False)
            for inputs in self.asked
            for ids in inputs.input_ids.split(inputs.lengths.tolist())
        ]


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], FixedAnswers]:
    """Has the small model give these answers."""

    def set_answers(answers: list[str]) -> FixedAnswers:
        fixed = FixedAnswers(answers)
        monkeypatch.setattr(small_model(), "generate", fixed, raising=False)
        return fixed

    return set_answers


@cache
def exam(skill: str, count: int, seed: int = SEED) -> list[tuple[Question, dict[str, Any]]]:
    """As `examine` asks it, but for the encoding of its clips, which changes no question."""
    return held_out(skill, seed, count, encoding=None)


def answers_to(skill: str, count: int, seed: int = SEED) -> list[str]:
    return [sample["conversations"][-1]["value"] for _, sample in exam(skill, count, seed)]


def score_of(skill: str, questions: int, **options: Any) -> Score:
    return examine(small_model(), processor(), [skill], questions, **options)[skill]


# -------------------------------------------------------------------------------------------------------------- scores


def test_right_answers_are_counted_skill_by_skill(answering: Any) -> None:
    answers = {skill: answers_to(skill, 3) for skill in SKILLS}
    wrong = [f"x{answer}" for answer in answers["motion"]]
    answering([answer for skill in SKILLS for answer in (wrong if skill == "motion" else answers[skill])])
    scores = examine(small_model(), processor(), questions=3)
    assert list(scores) == list(SKILLS)
    for skill, score in scores.items():
        assert (score.right, score.asked) == (0 if skill == "motion" else 3, 3)
        assert score.accuracy == score.right / 3


def test_only_the_very_answer_counts(answering: Any) -> None:
    right = answers_to("colour", 6)
    given = [right[0].capitalize(), f"{right[1]}.", f" {right[2]}", right[3][:-1], "", right[5]]
    answering(given)
    score = score_of("colour", 6)
    assert score.right == 1 and [answer.right for answer in score.answers] == [False] * 5 + [True]
    asked = [question for question, _ in exam("colour", 6)]
    wordings = [sample["conversations"][0]["value"].removeprefix("<image>\n") for _, sample in exam("colour", 6)]
    assert score.answers == list(map(Answer, asked, wordings, given))
    assert [answer.expected for answer in score.answers] == right


def test_the_answer_is_not_in_the_prompt_and_each_question_is_asked_once(answering: Any) -> None:
    model = answering(answers_to("reading", 60))
    assert score_of("reading", 60).right == 60
    assert [len(inputs.lengths) for inputs in model.asked] == [50, 10]
    for prompt, (_, sample) in zip(model.prompts, exam("reading", 60), strict=True):
        question = sample["conversations"][0]["value"].removeprefix("<image>")
        assert prompt.endswith(f"<image>{question}<|im_end|>\n<|im_start|>assistant\n")
        assert prompt.count("assistant\n") == 1


def test_new_wordings_are_asked(answering: Any) -> None:
    answering(answers_to("colour", 5))
    score = score_of("colour", 5, new_wordings=True)
    assert score.right == 5 and all(x.wording in x.asked.wordings(held_out=True) for x in score.answers)


def test_the_seed_decides_the_questions(answering: Any) -> None:
    answering(answers_to("order", 10))
    assert score_of("order", 10, seed=5).right < 10
    answering(answers_to("order", 10, seed=5))
    assert score_of("order", 10, seed=5).right == 10


def test_an_unknown_skill_is_refused() -> None:
    with pytest.raises(InputError, match="juggling"):
        score_of("juggling", 1)


def test_an_untrained_model_can_be_examined() -> None:
    score = score_of("motion", 3)
    assert score.right == 0 and score.tokens > 4


def test_tokens_are_counted_after_pruning(answering: Any) -> None:
    def tokens(skill: str, **options: Any) -> float:
        answering(answers_to(skill, 8))
        return score_of(skill, 8, **options).tokens

    inputs = processor()([to_conversation(sample)[:-1] for _, sample in exam("motion", 8)])
    assert tokens("motion", pruner=keep_all) == pytest.approx(sum(inputs.tokens_per_visual()) / 8)
    assert 0 < tokens("motion", encoding=None) < 0.7 * tokens("motion", pruner=keep_all)
    assert tokens("colour") == tokens("colour", pruner=keep_all)
    assert tokens("motion", control=blank) < tokens("motion", encoding=None)  # nothing changes in a blank clip


def test_the_decoder_reads_what_the_pruner_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    def first_of_each(inputs: ModelInputs, features: torch.Tensor) -> torch.Tensor:
        starts = np.cumsum([0, *inputs.tokens_per_visual()[:-1]])
        assert features.shape[0] == sum(inputs.tokens_per_visual())
        return torch.zeros(len(features)).index_fill(0, torch.tensor(starts), 0.5)

    assert score_of("motion", 3, pruner=first_of_each).tokens == 1
    monkeypatch.setattr(small_model(), "pruner", first_of_each)
    assert score_of("motion", 3).tokens == 1


# ------------------------------------------------------------------------------------------------------------ controls


@pytest.mark.parametrize("skill", ["position", "order"])
def test_blank_is_blank_and_as_large_as_before(skill: str) -> None:
    for _, sample in exam(skill, 10, 3):
        kind = "image" if skill in PICTURE_SKILLS else "video"
        changed = blank(sample, np.random.default_rng(0))
        [before], [after] = sample[kind], changed[kind]
        assert after.shape == before.shape and after.dtype == before.dtype
        assert len(np.unique(after)) == 1 and len(np.unique(before)) > 1
        assert {**changed, kind: 0} == {**sample, kind: 0}


def test_shuffled_frames_are_the_same_frames_at_the_same_times() -> None:
    moved = 0
    for index, (_, sample) in enumerate(exam("order", 20, 3)):
        [before] = sample["video"]
        original = before.copy()
        changed = shuffled(sample, np.random.default_rng(index))
        [after] = changed["video"]
        assert Counter(frame.tobytes() for frame in after) == Counter(frame.tobytes() for frame in before)
        assert changed["timestamps"] == sample["timestamps"] and changed["conversations"] == sample["conversations"]
        moved += not np.array_equal(before, after)
        assert np.array_equal(sample["video"][0], original)
    assert moved > 15


def test_controls_change_what_is_shown_and_nothing_else(answering: Any) -> None:
    model = answering(answers_to("change", 5) * 4)
    for control in (None, blank, shuffled, shuffled):
        score_of("change", 5, control=control)
    plain, empty, mixed, again = model.asked
    assert all(torch.equal(inputs.input_ids, plain.input_ids) for inputs in (empty, mixed))
    assert len(empty.pixel_values.unique()) == 1 and empty.pixel_values.shape == plain.pixel_values.shape
    assert not torch.equal(mixed.pixel_values, plain.pixel_values)
    assert torch.equal(mixed.pixel_values.sort(dim=0)[0], plain.pixel_values.sort(dim=0)[0])
    assert torch.equal(mixed.pixel_values, again.pixel_values)  # the seed decides


def test_the_examinations() -> None:
    assert {
        "accuracy": {},
        "new wordings": {"new_wordings": True},
        "lossless": {"skills": TIME_SKILLS, "encoding": None},
        "crf 23": {"skills": TIME_SKILLS, "encoding": Encoding(23)},
        "blank pictures": {"control": blank},
        "shuffled frames": {"skills": TIME_SKILLS, "control": shuffled},  # a picture has one frame
        "pruning off": {"skills": TIME_SKILLS, "pruner": keep_all},
    } == EXAMINATIONS


# --------------------------------------------------------------------------------------------------------------- table


def answer(right: bool, candidates: int = 2, kind: str = "first") -> Answer:
    choices = [f"{n}" for n in range(candidates)]
    return Answer(
        Question(kind, choices[0] if choices else NONE, choices), "?", (choices or [NONE])[0] + "!" * (not right)
    )


def score(right: int, asked: int, tokens: float) -> Score:
    return Score([answer(n < right) for n in range(asked)], tokens)


COLUMNS = {
    "accuracy": {skill: score(index, 20, 4.0 + index / 4) for index, skill in enumerate(SKILLS)},
    "few": {"order": score(3, 4, 10.0), "time": score(0, 1, 2.25)},
}


def test_rows() -> None:
    heading, *body, last = rows(COLUMNS)
    assert heading == ["skill", "accuracy", "few"]
    assert [row[0] for row in body] == list(SKILLS)
    cells = {row[0]: row[1:] for row in body}
    assert cells["order"] == ["45.0% (6.2)", "75.0% (10.0)"]
    assert cells["colour"] == ["0.0% (4.0)", ""]
    assert last == ["all", "32.5%", "60.0%"]  # over all questions: not the mean of 75% and 0%
    assert overall(COLUMNS["accuracy"]) == pytest.approx(sum(range(len(SKILLS))) / 20 / len(SKILLS))


def cells_of(markdown: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines()]


def test_cells_by_number_of_candidates() -> None:
    """What is absent cannot be guessed among what is there; the last column has all above it."""
    order = [answer(True, 0), answer(False, 0), answer(True, 2), *[answer(False, 3)] * 2, *[answer(True, 5)] * 5]
    scores = {"order": Score(order, 1.0), "reading": Score([answer(True, 1, "text"), answer(False, 2, "text")], 1.0)}
    assert rows_by_candidates(scores) == [
        ["skill", "absent", "1", "2", "3", "4", "guess"],
        ["order", "50% of 2", "", "100% of 1", "0% of 2", "100% of 5", "22%"],
        ["reading", "", "100% of 1", "0% of 1", "", "", "75%"],
    ]
    assert scores["order"].guess == pytest.approx((1 / 2 + 2 / 3 + 5 / 5) / 10)
    assert {cell: part.asked for cell, part in scores["order"].cells().items()} == {0: 2, 2: 1, 3: 2, 4: 5}


def test_markdown_and_json_say_what_the_rows_say() -> None:
    heading, ruler, *body = cells_of(as_markdown(rows(COLUMNS)))
    assert ruler == ["---", "---:", "---:"]
    assert [heading, *body] == rows(COLUMNS)
    numbers = json.loads(json.dumps(as_json(COLUMNS)))
    assert numbers["few"] == {
        "all": 0.6,
        "order": {"right": 3, "asked": 4, "tokens": 10.0, "candidates": {"2": {"right": 3, "asked": 4}}},
        "time": {"right": 0, "asked": 1, "tokens": 2.25, "candidates": {"2": {"right": 0, "asked": 1}}},
    }
    assert set(numbers["accuracy"]) == {"all", *SKILLS}


# --------------------------------------------------------------------------------------------------------- vl3ref eval


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--questions", "0"], "--questions should be at least 1 and at most 1,000,000, not 0"),
        (["--seed", "-1"], "--seed should be at least 0, not -1"),
        (["--model", "nowhere"], "'nowhere' is not a folder"),
        (["--device", "abacus"], "device 'abacus' cannot be used"),
        (["--json", "nowhere/a.json"], "'nowhere/a.json' cannot be written"),
        (["--markdown", "nowhere/a.md"], "'nowhere/a.md' cannot be written"),
        (["--json", "."], "'.' cannot be written"),
        (["--change", "nowhere.py:f"], "nowhere.py"),
    ],
)
def test_what_eval_cannot_do_is_one_line(
    arguments: list[str], said: str, vl3ref_main: Main, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examination, "examine", None)  # an hour later would be late
    out, err = vl3ref_main("eval", "tinyworld", *arguments, rc=2)
    lines = err.splitlines()
    assert out == "" and len(lines) == 1 and lines[0].startswith("error: ") and said in lines[0]


def test_an_unknown_world(vl3ref_main: Main) -> None:
    assert "'mars' should be .json (a list) or .jsonl" in " ".join(vl3ref_main("eval", "mars", rc=2)[1].split())
    assert "Missing argument" in vl3ref_main("eval", rc=2)[1]


def test_eval(vl3ref_main: Main, tmp_path: Path) -> None:
    json_file, markdown = tmp_path / "x.json", tmp_path / "y.md"
    files = ("--json", json_file, "--markdown", markdown)
    arguments = ("--questions", 2, "--no-controls", "--device", "cpu")
    out, err = vl3ref_main("eval", "tinyworld", "--model", TINY, *arguments, *files)
    numbers = json.loads(json_file.read_text())
    assert list(numbers) == ["accuracy"] and list(numbers["accuracy"]) == ["all", *SKILLS]
    scores = [numbers["accuracy"][skill] for skill in SKILLS]
    assert all(score["asked"] == 2 and 0 <= score["right"] <= 2 and score["tokens"] >= 4 for score in scores)
    assert numbers["accuracy"]["all"] == sum(score["right"] for score in scores) / (2 * len(SKILLS))
    assert err.splitlines() == [
        f"accuracy, {skill}: {score['right'] / 2:.1%} of 2" for skill, score in zip(SKILLS, scores, strict=True)
    ]
    table, by_candidates = markdown.read_text().split("\n\n")
    assert [row[0] for row in cells_of(by_candidates)[2:]] == list(SKILLS)
    heading, _, *body = cells_of(table)
    assert heading == ["skill", "accuracy"] and [row[0] for row in body] == [*SKILLS, "all"]
    assert [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if "│" in line] == body


@pytest.fixture
def examined(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What would be asked; nothing is."""
    noted: list[Any] = []

    def examine(model: Any, processor: Any, skills: Any, **settings: Any) -> dict[str, Score]:
        noted.append((model, skills, settings))
        return dict.fromkeys(skills, score(1, 3, 7.0))

    monkeypatch.setattr(examination, "examine", examine)
    return noted


def test_controls(vl3ref_main: Main, examined: list[Any], tmp_path: Path) -> None:
    vl3ref_main("eval", "tinyworld", "--questions", 3, "--seed", 8, "--device", "cpu", "--json", tmp_path / "x.json")
    expected = [
        ([skill], {"questions": 3, "seed": 8, **{name: x for name, x in settings.items() if name != "skills"}})
        for settings in EXAMINATIONS.values()
        for skill in settings.get("skills", SKILLS)
    ]
    assert [call[1:] for call in examined] == expected
    assert list(json.loads((tmp_path / "x.json").read_text())) == list(EXAMINATIONS)


def test_several_models_each_have_a_column(vl3ref_main: Main, examined: list[Any], tmp_path: Path) -> None:
    """Also where their folders have the same name, as every run's `final` has."""
    folders = [tmp_path / name / "final" for name in ("one", "two")]
    for folder in folders:
        folder.parent.mkdir()
        folder.symlink_to(TINY)
    models = [part for folder in folders for part in ("--model", folder)]
    vl3ref_main("eval", "tinyworld", *models, "--device", "cpu", "--json", tmp_path / "x.json", "--questions", 3)
    columns = list(json.loads((tmp_path / "x.json").read_text()))
    assert columns == [*(f"{folders[0]} {name}" for name in EXAMINATIONS), f"{folders[1]} accuracy"]
    vl3ref_main("eval", "tinyworld", *models[:2], "--model", TINY, "--no-controls", "--json", tmp_path / "x.json")
    assert list(json.loads((tmp_path / "x.json").read_text())) == ["final accuracy", "vl3-tiny accuracy"]


def test_a_changed_model_is_examined(vl3ref_main: Main, examined: list[Any], tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from vl3ref.model.diff_fp import DiffFP\n\ndef stricter(model):\n    model.pruner = DiffFP(threshold=5.0)\n"
    )
    arguments = ("--questions", 3, "--no-controls", "--device", "cpu")
    vl3ref_main("eval", "tinyworld", "--change", f"{file}:stricter", *arguments)
    assert len(examined) == len(SKILLS) and all(model.pruner.threshold == 5.0 for model, *_ in examined)
