"""Runs of a benchmark: answers together and alone, after a kill, in shards and with controls; and rescoring."""

import json
from collections import Counter
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import vl3ref
from tests.evaluation.own_benchmark import BENCHMARK, QUESTIONS, items, question, write
from vl3ref.errors import InputError
from vl3ref.evaluation import asking, running
from vl3ref.evaluation.benchmark import Item
from vl3ref.evaluation.results import Results, as_lines, merge, read
from vl3ref.evaluation.running import rescored, run
from vl3ref.files import held
from vl3ref.likelihood import score
from vl3ref.model.diff_fp import keep_all
from vl3ref.pruners import read_pruner

MOST = 24
"""New tokens; the model in the box stops by itself before."""


@pytest.fixture(scope="module")
def model() -> Any:
    return vl3ref.load("vl3-tiny", "cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("data") / "own")


@pytest.fixture(scope="module")
def whole(model: Any, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "own.jsonl"
    run(*model, BENCHMARK, data, path, max_new_tokens=MOST, name="tiny")
    return path


def replies(model: Any, some: list[Item], most: int = MOST) -> list[Any]:
    return asking.ask(*model, asking.prepare(*model, some), most)


def as_asked_alone(model: Any, item: Item) -> list[int]:
    """By `generate`, and nothing of `asking`."""
    network, processor = model
    message = [{"role": "user", "content": item.content}]
    inputs = processor(message, add_system_prompt=False, **asking.OFFICIAL)
    return network.generate(inputs, max_new_tokens=MOST, repetition_penalty=asking.penalty(network))[0].tolist()


# -------------------------------------------------------------------------------------------------------------- asking


@pytest.mark.parametrize("penalty", [1.0, 1.1])
def test_questions_together_get_what_they_get_alone(
    model: Any, data: Path, penalty: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten questions: more than are answered side by side, of two subsets that share more than the clip."""
    monkeypatch.setitem(model[0].recommended_sampling, "repetition_penalty", penalty)
    of_clip = [item for item in items(data) if "turns" in item.media] * 4
    subtitled = [item for item in items(data) if "moves" in item.media]
    video = of_clip[0].content[0]  # type: ignore[index]
    some = [
        *(replace(item, id=f"{index}") for index, item in enumerate(of_clip)),
        *(replace(item, content=[video, *item.content[1:]]) for item in subtitled),  # type: ignore[index]
    ]
    counted: list[int] = []
    encoder = model[0].vision_encoder
    handle = encoder.register_forward_hook(lambda *_: counted.append(1))
    given: list[list[int]] = []
    generate = type(model[0]).generate
    monkeypatch.setattr(
        type(model[0]),
        "generate",
        lambda *a, **k: [given.append(x.tolist()) or x for x in generate(*a, **k)],  # type: ignore[func-returns-value]
    )
    found = replies(model, some)
    handle.remove()
    assert len(counted) == 1 and len(found) == len(some) == 15
    monkeypatch.setattr(type(model[0]), "generate", generate)
    alone = [as_asked_alone(model, item) for item in some]
    assert [reply.text for reply in found] == [model[1].decode(ids).strip() for ids in alone]
    assert sorted(given) == sorted(alone) and len({*map(tuple, alone)}) > 3


def test_likelihood_of_letters_and_options(model: Any, data: Path) -> None:
    network, processor = model
    some = [item for item in items(data) if "turns" in item.media]
    [reply] = [x for x, item in zip(replies(model, some), some, strict=True) if item.options]
    [item] = [item for item in some if item.options]
    inputs = processor([{"role": "user", "content": item.content}], add_system_prompt=False, **asking.OFFICIAL)
    end = processor.tokenizer.special("<|im_end|>")
    expected: Any = score(network, inputs, [*"ABC"], processor)
    torch.testing.assert_close(torch.tensor(reply.letters), expected, atol=1e-4, rtol=0)
    expected = score(network, inputs, [[*processor.tokenizer.encode(x)[0], end] for x in item.options])
    torch.testing.assert_close(torch.tensor(reply.options), expected, atol=1e-4, rtol=0)
    assert item.options[max(range(3), key=lambda i: reply.options[i])] == "yellow"


@pytest.mark.parametrize("what", ["a pruner that reads the question", "positions of its own"])
def test_a_model_that_may_read_the_question_first_is_asked_one_at_a_time(
    model: Any, data: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if what.startswith("a pruner"):
        monkeypatch.setattr(model[0], "pruner", read_pruner("uniform=0.5", model[0]))
    else:
        scheme = lambda inputs, kept: torch.cat(  # noqa: E731
            [torch.arange(int(x.sum())) for x in kept.split(inputs.lengths.tolist())]
        )
        monkeypatch.setattr(model[0], "positions", scheme)
    some = [item for item in items(data) if "turns" in item.media]
    asked: list[int] = []
    inner = asking._ask
    monkeypatch.setattr(asking, "_ask", lambda *a: [asked.append(len(a[2].items)), *inner(*a)][1:])
    found = replies(model, some)
    assert asked == [1, 1, 1]
    assert [x.text for x in found] == [model[1].decode(as_asked_alone(model, item)).strip() for item in some]


def test_pictures_between_words(model: Any, data: Path) -> None:
    """Prompts part before their last picture: they share nothing."""
    picture = {"type": "image", "image": str(data / "chart.png")}
    some = [
        Item(text, "chart.png", [{"type": "text", "text": text}, picture, {"type": "text", "text": "What is it?"}], "")
        for text in ("First:", "Then:")
    ]
    found = replies(model, some)
    assert [x.text for x in found] == [model[1].decode(as_asked_alone(model, item)).strip() for item in some]


def test_one_question_that_is_too_long_costs_no_other(model: Any, data: Path) -> None:
    some = [item for item in items(data) if "moves" in item.media]
    long = replace(some[1], content=[some[1].content[0], {"type": "text", "text": "word " * 40_000}])  # type: ignore[index]
    first, refused, last = replies(model, [some[0], long, some[2]])
    assert isinstance(refused, InputError) and "was trained on 32,768 positions" in str(refused)
    assert [first, last] == replies(model, [some[0], some[2]])


def test_what_controls_show(model: Any, data: Path) -> None:
    some = [item for item in items(data) if "turns" in item.media]
    plain = asking.prepare(*model, some)
    frames = int(plain.inputs.grid_sizes[0, 0])  # type: ignore[index]
    shown: Any = asking.shuffled(plain)
    before, after = (x.inputs.pixel_values.unflatten(0, (frames, -1)).flatten(1) for x in (plain, shown))
    places = [[int((row == other).all()) for other in before].index(1) for row in after]
    assert sorted(places) != places and len(before) == frames > 2
    assert torch.equal(before.sum(0), before.sum(0)) and torch.equal(after.sort(0).values, before.sort(0).values)
    again: Any = asking.shuffled(asking.prepare(*model, some[:1]))
    assert torch.equal(again.inputs.pixel_values, shown.inputs.pixel_values)
    grey: Any = asking.blank(plain)
    assert not grey.inputs.pixel_values.any() and grey.ids == plain.ids
    picture = asking.prepare(*model, [item for item in items(data) if "chart" in item.media])
    assert asking.shuffled(picture) is None


# ------------------------------------------------------------------------------------------------------------- running


def test_every_item_has_one_line(whole: Path, model: Any, data: Path) -> None:
    results = read(whole)
    assert [record["id"] for record in results.records] == ["1", "3", "4", "2", "5", "6", "7"]
    assert Counter(record["official"]["outcome"] for record in results.records)["needs a judge"] == 1
    outcomes = {record["id"]: record["strict"]["outcome"] for record in results.records}
    assert outcomes["1"] == "right" and outcomes["5"] == "skipped" and outcomes["7"] == "wrong"
    for record, item in zip(results.records, sorted(items(data), key=lambda x: "1342567".index(x.id)), strict=True):
        assert record["response"] == model[1].decode(as_asked_alone(model, item)).strip()
        assert ("shuffled" in record) == record["media"].endswith(".mp4") and record["blank"]["response"]
        assert record["media"] == Path(item.media).name and record["options"] == [*item.options]
    choice = results.records[1]
    assert (
        choice["options"][2] == "yellow"
        and choice["likelihood"]["by_option"].index(max(choice["likelihood"]["by_option"])) == 2
    )
    assert results.heading["setting"]["max_frames"] == 180 and results.heading["items"] == 7


@pytest.mark.parametrize("cut", [0, 1, 30])
def test_a_killed_run_goes_on(
    cut: int, model: Any, data: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the second file; and in the middle of a line, of which `cut` bytes are missing."""
    path, ask, calls = tmp_path / "own.jsonl", asking.ask, []

    def killed(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return ask(*arguments)

    monkeypatch.setattr(asking, "ask", killed)
    with pytest.raises(KeyboardInterrupt):
        run(*model, BENCHMARK, data, path, max_new_tokens=MOST, name="tiny", controls=False)
    monkeypatch.setattr(asking, "ask", ask)
    there = path.read_bytes()
    assert there.count(b"\n") == 1 + 4
    path.write_bytes(there[: len(there) - cut])
    with pytest.raises(InputError, match="exists: go on with it by --resume"):
        run(*model, BENCHMARK, data, path, max_new_tokens=MOST)
    results = run(*model, BENCHMARK, data, path, max_new_tokens=MOST, name="tiny", controls=False, resume=True)
    plain = [{k: v for k, v in x.items() if k not in running.CONTROLS} for x in read(whole).records]
    assert [as_close(x) for x in results.records] == [as_close(x) for x in plain]
    done = path.read_bytes()
    run(*model, BENCHMARK, data, path, max_new_tokens=MOST, name="tiny", controls=False, resume=True)
    assert path.read_bytes() == done


def as_close(record: dict[str, Any]) -> Any:
    """Without the last digits of likelihoods, which depend on what was computed beside them."""
    rounded = {name: [round(x, 3) for x in row] for name, row in record["likelihood"].items()}
    return {**record, "likelihood": rounded}


def test_a_run_killed_in_its_heading_starts_anew(model: Any, data: Path, tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_text('{"format": "vl3')
    results = run(*model, BENCHMARK, data, tmp_path / "own.jsonl", limit=1, max_new_tokens=2, resume=True)
    assert len(results.records) == results.heading["items"] == 1


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"limit": 3}, "its items is 7, not 3"),
        ({"max_new_tokens": 5}, "its setting max_new_tokens is 24, not 5"),
        ({"controls": False}, "its setting controls is True, not False"),
        ({"changes": "uniform"}, "its changes is '', not 'uniform'"),
        ({"pruner": keep_all}, "its pruner is 'DiffFP', not 'keep_all'"),
        ({"benchmark": replace(BENCHMARK, name="other")}, "its benchmark is 'own', not 'other'"),
        ({"weights": None}, "its weights is"),
        ({"shard": (1, 2)}, "its shard rank is 0, not 1"),
        ({"data": [*QUESTIONS[:6], question("7", "moves.mp4", "Other words?", "x", kind="")]}, "its questions is"),
    ],
)
def test_answers_of_another_run_are_refused(
    other: dict[str, Any],
    said: str,
    model: Any,
    data: Path,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = dict(other)
    if "pruner" in other:
        monkeypatch.setattr(model[0], "pruner", other.pop("pruner"))
    if "weights" in other:
        weight = model[0].language_model.norm.weight
        monkeypatch.setattr(weight, "data", weight.data + 1)
        other.pop("weights")
    folder = write(tmp_path / "own", other.pop("data")) if "data" in other else data
    benchmark = other.pop("benchmark", BENCHMARK)
    before = whole.read_bytes()
    with pytest.raises(InputError, match=said):
        run(*model, benchmark, folder, whole, resume=True, **{"max_new_tokens": MOST, "name": "x", **other})
    assert whole.read_bytes() == before


def test_a_broken_file_costs_its_items_and_is_named(model: Any, data: Path, tmp_path: Path) -> None:
    more = [
        question("8", "broken.mp4", "What?", "x", kind="open"),
        question("9", "broken.mp4", "Who?", "x", kind="open"),
        question("10", "gone.png", "Who?", "x", kind="open"),
        question("11", "chart.png", "Who?", "x", kind="open", trouble="its clip is missing"),
    ]
    folder = write(tmp_path / "own", [*more[:2], QUESTIONS[1], *more[2:]])
    (folder / "broken.mp4").write_bytes(b"no video" * 100)
    told: list[str] = []
    results = run(*model, BENCHMARK, folder, tmp_path / "x.jsonl", max_new_tokens=2, tell=told.append)
    found = {record["id"]: record["official"] for record in results.records}
    assert [name for name, verdict in found.items() if verdict["outcome"] == "broken"] == ["8", "9", "11", "10"]
    assert "broken.mp4" in found["8"]["read"] and found["2"]["outcome"] != "broken"
    assert [line.split(":")[1] for line in told] == [" 8", " 9", " 11", " 10"] and "gone.png" in told[3]
    assert told[2] == "broken: 11: its clip is missing"


def test_shards_add_up_to_one_run(model: Any, data: Path, whole: Path, tmp_path: Path) -> None:
    paths = [tmp_path / f"own.{rank}.jsonl" for rank in range(4)]  # three files: the last has none
    for rank, path in enumerate(paths):
        run(*model, BENCHMARK, data, path, max_new_tokens=MOST, name="tiny", shard=(rank, 4))
    assert [len(read(path).records) for path in paths] == [3, 1, 3, 0]
    assert as_lines(merge(paths[::-1])) == whole.read_text()
    with pytest.raises(InputError, match="of 4 shards, 2, 4 is missing"):
        merge([paths[0], paths[2]])
    (tmp_path / "copy.jsonl").write_bytes(paths[1].read_bytes())
    with pytest.raises(InputError, match="are the same shard"):
        merge([*paths, tmp_path / "copy.jsonl"])
    with pytest.raises(InputError, match="each shard's file once"):
        merge([paths[0], *paths])
    *lines, _ = paths[2].read_text().splitlines(keepends=True)
    paths[2].write_text("".join(lines))
    with pytest.raises(InputError, match="is not finished, 1 of its 3 items are missing: --resume"):
        merge(paths)
    with pytest.raises(InputError, match="another run: its setting max_new_tokens is 3, not 24"):
        run(*model, BENCHMARK, data, tmp_path / "y.jsonl", max_new_tokens=3, shard=(1, 4))
        merge([paths[0], tmp_path / "y.jsonl"])


# ------------------------------------------------------------------------------------------------------------- judging


def test_answers_are_judged_anew(whole: Path) -> None:
    same = rescored(BENCHMARK, whole)
    assert as_lines(same) == whole.read_text()
    prompts: list[str] = []

    def judge(prompt: str) -> str:
        prompts.append(prompt)
        return "It is true."

    record = rescored(BENCHMARK, whole, judge).records[5]
    assert record["official"] == {"outcome": "right", "score": 1.0, "read": record["response"]}
    said = [record["response"], record["blank"]["response"], record["shuffled"]["response"]]
    assert prompts == [f"{text}?" for text in said]
    stricter = replace(BENCHMARK, strict=lambda item, response: BENCHMARK.strict(item, "never said"))
    outcomes = {x["strict"]["outcome"] for x in rescored(stricter, whole).records}
    assert outcomes == {"wrong", "unparsed", "skipped"}


@pytest.mark.parametrize(
    ("judge", "said"),
    [(lambda prompt: 1 / 0, "the judge failed: ZeroDivisionError"), (lambda prompt: 3, "should return a text, not 3")],
)
def test_a_judge_that_fails_costs_its_item(judge: Any, said: str, whole: Path) -> None:
    verdict = rescored(BENCHMARK, whole, judge).records[5]["official"]
    assert verdict["outcome"] == "needs a judge" and said in verdict["read"]


def changed(line: int, **values: Any) -> Any:
    def change(lines: list[Any]) -> None:
        lines[line] = {**lines[line], **values}

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: lines.append(lines[1]), "holds the item '1' twice, in lines 2 and 9"),
        (lambda lines: lines.pop(0), "is no file of results"),
        (changed(0, format="x"), "is no file of results"),
        (changed(0, setting=3), "is no file of results"),
        (changed(0, benchmark="other"), "holds no results of own"),
        (lambda lines: lines.insert(2, []), "line 3 is no result"),
        (changed(1, official={"outcome": "fine"}), "line 2 is no result"),
        (changed(1, official={"outcome": "right", "score": 7}), "line 2 is no result"),
        (changed(1, strict={"outcome": "right", "score": "a"}), "line 2 is no result"),
        (changed(1, media=None), "line 2 is no result"),
        (changed(2, likelihood={"by_letter": []}), "the item '3' cannot be judged"),
        (changed(2, likelihood={"by_letter": 7}), "the item '3' cannot be judged"),
        (changed(2, blank=[1]), "line 3 is no result"),
        (changed(2, blank={"response": "x"}), "line 3 is no result"),
        (changed(2, by_letter=None), "line 3 is no result"),
    ],
)
def test_damaged_results_are_refused(change: Any, said: str, whole: Path, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in whole.read_text().splitlines()]
    change(lines)
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(InputError, match=said):
        rescored(BENCHMARK, tmp_path / "x.jsonl")


@pytest.mark.parametrize(
    ("questions", "said"),
    [
        ([], "holds no questions of own"),
        ([QUESTIONS[0], QUESTIONS[0]], "has two items of own with the id '1'"),
    ],
)
def test_data_that_is_none(questions: Any, said: str, model: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        run(*model, BENCHMARK, write(tmp_path / "own", questions), tmp_path / "x.jsonl")
    assert not (tmp_path / "x.jsonl").exists()
    with pytest.raises(InputError, match="is not a folder: name the one that holds the data of own"):
        run(*model, BENCHMARK, tmp_path / "nowhere", tmp_path / "x.jsonl")


def test_a_file_that_another_process_writes(model: Any, data: Path, whole: Path, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(whole.read_bytes())
    with held(tmp_path / "x.jsonl", InputError), pytest.raises(InputError, match=r"another process holds .*x\.jsonl"):
        run(*model, BENCHMARK, data, tmp_path / "x.jsonl", max_new_tokens=MOST, resume=True)
    assert (tmp_path / "x.jsonl").read_bytes() == whole.read_bytes()


def test_a_picture_in_memory_that_is_cut_off(model: Any, data: Path) -> None:
    """As they lie in parquet files: opened when the questions are listed, decoded when they are asked."""
    content = (data / "chart.png").read_bytes()
    picture = {"type": "image", "image": Image.open(BytesIO(content[: len(content) // 2]))}
    item = Item("1", "chart.png", [picture, {"type": "text", "text": "What?"}], "x")
    [(_, said)] = running._answers(*model, [item], False, 2)
    assert "image" in said["broken"]


def test_a_full_disk(model: Any, data: Path, tmp_path: Path) -> None:
    from tests.helpers import room_for

    with room_for(1500), pytest.raises(InputError, match=r"x.jsonl cannot be written: .*; make room"):
        run(*model, BENCHMARK, data, tmp_path / "x.jsonl", max_new_tokens=2, controls=False)
    results = run(*model, BENCHMARK, data, tmp_path / "x.jsonl", max_new_tokens=2, controls=False, resume=True)
    assert isinstance(results, Results) and len(results.records) == 7
