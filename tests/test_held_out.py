"""Evaluation on annotations of one's own: what is asked, how answers are judged, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import vl3ref
from vl3ref.errors import VL3Error
from vl3ref.tinyworld.samples import held_out, write
from vl3ref.training.annotations import Annotations
from vl3ref.training.held_out import evaluate

Run = Callable[..., tuple[str, str]]
COLOURS = ["red", "green", "blue", "yellow"]


@pytest.fixture(scope="module")
def model() -> Any:
    return vl3ref.load("vl3-tiny", "cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty pictures: more than are answered at once."""
    return write([sample for _, sample in held_out("shape", 7, 20)], tmp_path_factory.mktemp("data"))


def test_exact_match_is_the_examinations(model: Any, data: Path) -> None:
    """With the answers that one gets by asking alone."""
    result, samples = evaluate(*model, data), Annotations(data)
    assert len(result.answers) == 20 and result.answers[16].name == "annotations.jsonl line 17"
    for index in (0, 17):
        *prompt, right = samples.conversation(index)
        answer, [ids] = result.answers[index], model[0].generate(model[1]([prompt]), max_new_tokens=20)
        assert answer.expected == right["content"] and answer.given == model[1].decode(ids)
        assert answer.question == prompt[-1]["content"][-1]["text"]
    assert result.score == sum(x.given == x.expected for x in result.answers) / 20


def sample(**values: Any) -> str:
    turns = [{"from": "human", "value": "Which colour is grass?"}, {"from": "gpt", "value": " green"}]
    return json.dumps({"conversations": turns, **values})


def test_the_likeliest_option(model: Any, tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text(sample(options=COLOURS) + "\n" + sample(options=["green", "zzzzzzzz"]))
    result = evaluate(*model, tmp_path / "data.jsonl", "options")
    assert result.answers[0].given in COLOURS and result.answers[1].score == 1


def test_a_function(model: Any, data: Path) -> None:
    seen: list[Any] = []

    def metric(given: str, expected: str, one: Any) -> float:
        seen.append((given, expected, one["image"]))
        return 0.25

    result = evaluate(*model, data, metric, max_new_tokens=1)
    assert result.score == 0.25 and len(seen) == 20 and seen[3][2] == ["000003.png"]


SAID = '{"from": "gpt", "value": "x"}'
ASKED = '{"from": "human", "value": "x"}'


@pytest.mark.parametrize(
    ("text", "metric", "said"),
    [
        ("", "exact", "holds no samples"),
        ("{", "exact", "data.jsonl line 1 cannot be read as JSON"),
        (f'{{"conversations": [{SAID}]}}', "exact", "data.jsonl line 1: there is no turn from human"),
        (f'{{"conversations": [{ASKED}]}}', "exact", "line 1: the assistant says nothing"),
        (
            f'{{"conversations": [{ASKED}, {SAID}, {ASKED}]}}',
            "exact",
            "line 1: its last turn should be the right answer",
        ),
        (f'{{"image": "no.png", "conversations": [{ASKED}, {SAID}]}}', "exact", "no.png"),
        (f'{{"id": 7, "conversations": [{ASKED}, {SAID}, {ASKED}]}}', "exact", r"line 1 \(id 7\): its last turn"),
        (sample(), "options", 'line 1: "options" should be a list'),
        (sample(options=["green"]), "options", "at least two different texts"),
        (sample(options=["green", "green"]), "options", "at least two different texts"),
        (sample(options=["green", 3]), "options", "at least two different texts"),
        (sample(options=["red", "blue"]), "options", "'green' is none of its options"),
        (sample(), lambda *_: 1 / 0, "the metric failed on data.jsonl line 1: ZeroDivisionError"),
        (sample(), lambda *_: "good", "should return a number or True or False, not 'good'"),
        (sample(), lambda *_: float("nan"), "not nan for data.jsonl line 1"),
    ],
)
def test_what_cannot_be_judged(text: str, metric: Any, said: str, model: Any, tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text(text)
    with pytest.raises(VL3Error, match=said):
        evaluate(*model, tmp_path / "data.jsonl", metric, max_new_tokens=1)


def test_the_command(data: Path, tmp_path: Path, vl3ref_main: Run) -> None:
    (tmp_path / "mine.py").write_text("def close(given, expected, sample):\n    return given[:1] == expected[:1]\n")
    metric = f"{tmp_path / 'mine.py'}:close"
    settings = ["--pruner", "difffp", "--pruner", "uniform=0.5", "--max-tokens", 1]
    out, _ = vl3ref_main("eval", data, "--metric", metric, *settings, "--json", tmp_path / "out.json")
    found = json.loads((tmp_path / "out.json").read_text())
    assert [*found] == ["vl3-tiny difffp", "vl3-tiny uniform=0.5"] and f"{found['vl3-tiny difffp']['score']:.1%}" in out
    assert set(found["vl3-tiny difffp"]["answers"][0]) == {"name", "question", "expected", "given", "score"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.jsonl"], "nowhere.jsonl' does not exist"),
        (["DATA", "tinyworld"], "name tinyworld, or annotation files"),
        (["DATA", "--metric", "best"], "a metric of one's own (beside exact and options) is given as file.py:function"),
        (["DATA", "--metric", "gone.py:f"], "gone.py"),
        (["DATA", "--media", "nowhere"], "--media nowhere is not a folder"),
        (["DATA", "--max-tokens", "0"], "--max-tokens should be at least 1"),
        (["DATA", "--model", "nowhere"], "'nowhere' is not a folder"),
        (["DATA", "--adapter", "nowhere"], "'nowhere' is not a folder"),
        (["DATA", "--json", "/nowhere/x"], "cannot be written"),
        (["tinyworld", "--metric", "exact"], "--metric is for data of your own"),
    ],
)
def test_what_the_command_refuses(arguments: list[str], said: str, data: Path, vl3ref_main: Run) -> None:
    assert said in vl3ref_main("eval", *(str(data) if x == "DATA" else x for x in arguments), rc=2)[1]
