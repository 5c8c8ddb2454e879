"""`vl3ref eval NAME`: tables, files, two models, processes, and what is refused."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import vl3ref
from tests.evaluation.benchmark_data import NAMES, make
from tests.evaluation.own_benchmark import BENCHMARK, write
from tests.helpers import ROOT, run_page
from vl3ref.evaluation.asking import Questions, Reply
from vl3ref.evaluation.benchmarks import BENCHMARKS
from vl3ref.evaluation.results import as_lines, read
from vl3ref.evaluation.running import rescored, run

Run = Callable[..., tuple[str, str]]
SHORT = ["--max-tokens", 12, "--device", "cpu"]


@pytest.fixture(autouse=True)
def own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One benchmark more; and the working folder is empty."""
    monkeypatch.setitem(BENCHMARKS, "own", BENCHMARK)  # type: ignore[arg-type]
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("data") / "own")


@pytest.fixture(scope="module")
def model() -> Any:
    return vl3ref.load("vl3-tiny", "cpu")


@pytest.fixture(scope="module")
def answers(model: Any, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("answers") / "first.jsonl"
    run(*model, BENCHMARK, data, path, name="first", max_new_tokens=12)
    return path


@pytest.mark.parametrize("name", NAMES)
def test_each_benchmark_runs_and_is_judged_anew_alike(name: str, model: Any, tmp_path: Path) -> None:
    """Its first items, in its data's real format; what is written and read again is the same."""
    path = tmp_path / "results.jsonl"
    results = run(*model, BENCHMARKS[name], make(name, tmp_path), path, max_new_tokens=2, limit=3)
    assert len(results.records) == 3 and "broken" not in {x["official"]["outcome"] for x in results.records}
    assert as_lines(rescored(BENCHMARKS[name], path)) == path.read_text()
    options = [record for record in results.records if record["options"]]
    assert all({"by_letter", "by_option"} <= set(record) for record in options)


def test_a_table_and_its_files(data: Path, vl3ref_main: Run) -> None:
    files = ["--output", "a.jsonl", "--json", "a.json", "--markdown", "a.md"]
    out, err = vl3ref_main("eval", "own", "--data", data, *SHORT, *files)
    found = json.loads(Path("a.json").read_text())["models"]["vl3-tiny"]
    [first, *_, last] = found["rows"]
    assert first["subset"] == "" and first["kind"] == "open" and first["outcomes"]["right"] == 1
    assert last["subset"] == "again" and last["outcomes"]["needs a judge"] == 1 and last["items"] == 2
    for row in found["rows"]:
        assert sum(row["outcomes"].values()) == row["items"] and (row["score"] is None or 0 <= row["score"] <= 100)
    everything = next(row for row in found["rows"] if (row["subset"], row["kind"]) == ("", "all"))
    assert everything["paper"] == [50, 75] and everything["low"] <= everything["score"] <= everything["high"]
    assert "Own, official protocol. The model was vl3-tiny (weights" in out and "every answer is in a.jsonl" in err
    assert "Answers had at most 12 tokens; the official setting is 2048." in out
    assert "Not in the scores: 1 needs a judge, 1 skipped." in out
    heading, rule, *rows = Path("a.md").read_text().splitlines()
    assert heading.count("|") == rule.count("|") == rows[0].count("|") and "| paper 2B | 7B |" in heading
    assert "blank | shuffled" in heading and "letter" not in heading


def test_strict_tables_have_likelihoods(answers: Path, vl3ref_main: Run) -> None:
    vl3ref_main("eval", "own", "--rescore", answers, "--protocol", "strict", "--json", "a.json", "--markdown", "a.md")
    choice = next(
        x for x in json.loads(Path("a.json").read_text())["models"][str(answers)]["rows"] if x["kind"] == "choice"
    )
    assert set(choice["others"]) == {"by_letter", "by_option", "blank", "shuffled"}
    assert choice["others"]["by_option"] == 50 and choice["outcomes"]["unparsed"] == 2
    assert "letter | option | blank | shuffled" in Path("a.md").read_text()


def test_a_run_is_resumed_and_not_written_over(data: Path, vl3ref_main: Run) -> None:
    command = ["eval", "own", "--data", data, *SHORT, "--no-controls"]
    vl3ref_main(*command)
    before = Path("own.jsonl").read_bytes()
    assert "own.jsonl exists: go on with it by --resume" in vl3ref_main(*command, rc=2)[1]
    Path("own.jsonl").write_bytes(before[:-50])
    vl3ref_main(*command, "--resume")
    assert [x["id"] for x in read("own.jsonl").records] == [x["id"] for x in map(json.loads, before.splitlines()[1:])]
    assert "its items is 7, not 2" in vl3ref_main(*command, "--resume", "--limit", 2, rc=2)[1]


def test_two_models_and_two_pruners_are_compared(data: Path, vl3ref_main: Run) -> None:
    tiny = ROOT / "weights" / "vl3-tiny"
    columns = ["--model", "vl3-tiny", "--model", tiny, "--pruner", "difffp", "--pruner", "uniform=0.5"]
    command = ["eval", "own", "--data", data, "--limit", 2, "--no-controls", *SHORT]
    out, _ = vl3ref_main(*command, *columns, "--json", "a.json")
    names = [f"{model} {pruner}" for model in ("vl3-tiny", tiny) for pruner in ("difffp", "uniform=0.5")]
    found = json.loads(Path("a.json").read_text())
    assert [*found["models"]] == names and [*found["comparisons"]] == names[1:]
    assert found["comparisons"][names[2]][""]["difference"] == 0 and found["comparisons"][names[2]][""]["p"] == 1
    assert f"{names[2]} less vl3-tiny difffp: +0.0 [+0.0, +0.0], p = 1 (2 items about 2 files)" in out
    assert len([*Path().glob("own-*.jsonl")]) == 4 and Path("own-vl3-tiny-uniform=0.5.jsonl").exists()


def test_files_of_answers_are_compared(answers: Path, data: Path, model: Any, vl3ref_main: Run, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in answers.read_text().splitlines()]
    for line in lines[1:4]:
        line["response"] = "no idea"
    Path("second.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    out, _ = vl3ref_main("eval", "own", "--rescore", answers, "--rescore", "second.jsonl")
    assert f"second.jsonl less {answers}: -25.0" in out
    run(*model, BENCHMARK, data, tmp_path / "few.jsonl", max_new_tokens=2, limit=2)
    _, err = vl3ref_main("eval", "own", "--rescore", answers, "--rescore", "few.jsonl", rc=2)
    assert "two models are compared on the same questions" in err


def test_a_judge_is_asked(answers: Path, vl3ref_main: Run) -> None:
    Path("mine.py").write_text("def judge(prompt):\n    return 'true' if prompt.endswith('?') else 3\n")
    vl3ref_main("eval", "own", "--rescore", answers, "--judge", "mine.py:judge", "--output", "judged.jsonl")
    record = read("judged.jsonl").records[5]
    assert record["official"]["outcome"] == "right" and read(answers).records[5]["official"]["outcome"] != "right"


def test_processes_share_the_files_and_are_merged(
    data: Path, answers: Path, vl3ref_main: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        out, err = vl3ref_main("eval", "own", "--data", data, *SHORT)
        assert out == "" and f"this was process {rank + 1} of 2; when all are done: vl3ref eval --merge" in err
    parts = ["own.1-of-2.jsonl", "own.2-of-2.jsonl"]
    out, _ = vl3ref_main("eval", "--merge", *parts, "--output", "all.jsonl")
    assert "Own, official protocol" in out
    assert Path("all.jsonl").read_text() == answers.read_text().replace('"model": "first"', '"model": "vl3-tiny"')
    assert "of 2 shards, 2 is missing" in vl3ref_main("eval", "--merge", parts[0], "--output", "x.jsonl", rc=2)[1]


@pytest.mark.parametrize(("rank", "world"), [("2", "2"), ("a", "2"), ("0", ""), ("-1", "2"), ("1", "0")])
def test_processes_that_cannot_be(
    rank: str, world: str, data: Path, vl3ref_main: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", world)
    assert "RANK and WORLD_SIZE should be as torchrun sets them" in vl3ref_main("eval", "own", "--data", data, rc=2)[1]


def test_hidden_answers_are_written_for_their_server(vl3ref_main: Run, tmp_path: Path) -> None:
    folder = make("perceptiontest", tmp_path)
    asked = ["eval", "perceptiontest", "--data", folder, "--no-controls", *SHORT, "--limit", 4]
    vl3ref_main(*asked, "--submission", "server.json")
    assert isinstance(json.loads(Path("server.json").read_text()), dict)


def test_a_process_that_is_killed_goes_on(tmp_path: Path, vl3ref_main: Run) -> None:
    """By SIGKILL, while it writes; then resumed to what an undisturbed run gives."""
    folder = make("mlvu", tmp_path)
    command = ["eval", "mlvu", "--data", str(folder), "--no-controls", "--max-tokens", "2", "--device", "cpu"]
    process = subprocess.Popen([sys.executable, "-m", "vl3ref", *command, "--output", "killed.jsonl"], cwd=tmp_path)
    path, begun = tmp_path / "killed.jsonl", time.monotonic()
    while process.poll() is None and time.monotonic() - begun < 120:
        if path.exists() and path.read_bytes().count(b"\n") > 3:
            os.kill(process.pid, signal.SIGKILL)
            break
        time.sleep(0.01)
    process.wait()
    there = path.read_bytes()
    assert there.count(b"\n") > 3
    path.write_bytes(there[:-7])  # as if it had been writing the line
    vl3ref_main(*command, "--output", "killed.jsonl", "--resume")
    vl3ref_main(*command, "--output", "whole.jsonl")
    killed, whole = (
        [(x["id"], x["response"], x["strict"]) for x in read(f"{x}.jsonl").records] for x in ("killed", "whole")
    )
    assert killed == whole and len(whole) == 14


def test_the_page_runs(vl3ref_main: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command and the Python of docs/evaluation.md, on made data, with a model that says B to everything."""
    monkeypatch.setattr("vl3ref.hub.download", lambda *_: ROOT / "weights" / "vl3-tiny")

    def says_b(model: Any, processor: Any, questions: Questions, most: int) -> list[Reply]:
        scores = [[0.0] * len(item.options) for item in questions.items]
        return [Reply("B", x, x) for x in scores]

    monkeypatch.setattr("vl3ref.evaluation.asking.ask", says_b)
    make("mlvu", tmp_path / "data")
    page = (ROOT / "docs" / "evaluation.md").read_text("utf-8")
    commands = [line for line in page.splitlines() if line.startswith(("vl3ref eval ", "torchrun "))]
    for command in commands:
        words = shlex.split(command, comments=True)
        arguments = words[words.index("eval") :]
        for rank in range(2) if words[0] == "torchrun" else [None]:
            with monkeypatch.context() as one:
                if rank is not None:
                    one.setenv("WORLD_SIZE", "2")
                    one.setenv("RANK", str(rank))
                vl3ref_main(*arguments)
    assert len(commands) == 9 and len(read("whole.jsonl").records) == 14
    assert len(run_page("evaluation.md")["results"].records) == 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["own"], "--data should name the folder that holds the data of own"),
        (["own", "--data", "nowhere"], "'nowhere' is not a folder: name the one that holds the data of own"),
        (["mlvu", "--data", "."], "7_topic_reasoning.json' does not exist"),
        (["own", "--data", "DATA", "--protocol", "fair"], "--protocol should be official or strict, not 'fair'"),
        (["own", "--data", "DATA", "--limit", "0"], "--limit should be at least 1"),
        (["own", "--data", "DATA", "--max-tokens", "0"], "--max-tokens should be at least 1"),
        (["own", "--data", "DATA", "--output", "no/x.jsonl"], "cannot be written"),
        (["own", "--data", "DATA", "--output", "."], "cannot be written"),
        (["own", "--data", "DATA", "--judge", "gone.py:judge"], "gone.py"),
        (["own", "--data", "DATA", "--judge", "gone"], "a judge is given as file.py:function, not 'gone'"),
        (["own", "--data", "DATA", "--metric", "exact"], "--metric and --media are for data of your own"),
        (["own", "--data", "DATA", "--model", "nowhere"], "'nowhere' is not a folder"),
        (["own", "--data", "DATA", "--pruner", "rtl"], "there is no pruner 'rtl'"),
        (["own", "--rescore", "gone.jsonl"], "'gone.jsonl' does not exist"),
        (["own", "--rescore", "ANSWERS", "--data", "DATA"], "--rescore reads a file of answers"),
        (["mlvu", "--rescore", "ANSWERS"], "holds no results of mlvu"),
        (["own", "--rescore", "ANSWERS", "--rescore", "ANSWERS2", "--output", "x"], "rescore one file at a time"),
        (
            ["own", "--rescore", "ANSWERS", "--submission", "x.json"],
            "--submission is for one model's answers to docvqa",
        ),
        (["own", "--rescore", "EMPTY"], "holds no results of own"),
        (["--merge", "ANSWERS"], "name it with --output"),
        (["--merge", "ANSWERS", "--resume", "--output", "x"], "--merge reads files of answers"),
        (["--merge", "ANSWERS", "ANSWERS", "--output", "x"], "name each shard's file once"),
        (["--merge", "EMPTY", "--output", "x"], "name each shard's file once; an empty one has no results"),
        (["--merge", "gone.jsonl", "--output", "x"], "'gone.jsonl' does not exist"),
        (["tinyworld", "--data", "DATA"], "--data is for benchmarks (chartqa, docvqa"),
        (["data.jsonl", "--limit", "3"], "--limit is for benchmarks"),
        (["mlvu2", "--data", "DATA"], "'mlvu2' is none of them"),
        (["tinyworld", "--protocol", "strict"], "--protocol is for benchmarks"),
    ],
)
def test_what_is_refused(arguments: list[str], said: str, data: Path, answers: Path, vl3ref_main: Run) -> None:
    Path("empty.jsonl").touch()
    Path("copy.jsonl").write_bytes(answers.read_bytes())
    names = {"DATA": data, "ANSWERS": answers, "ANSWERS2": "copy.jsonl", "EMPTY": "empty.jsonl"}
    _, err = vl3ref_main("eval", *(names.get(x, x) for x in arguments), rc=2)
    assert said in err and not Path("own.jsonl").exists()
