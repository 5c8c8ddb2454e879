"""`vl3ref train`: options reach where they should, and what is wrong is one sentence."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import vl3ref
from tests.helpers import ROOT
from vl3ref.checkpoints import read_change
from vl3ref.tinyworld import TinyWorld, recipe
from vl3ref.tinyworld.samples import write
from vl3ref.training import run as run_module
from vl3ref.training.checkpoints import checkpoints
from vl3ref.training.distributed import own_device
from vl3ref.training.run_log import read_log
from vl3ref.training.stages import OFFICIAL_2B
from vl3ref.training.trainer import Plan

TINY = ROOT / "weights" / "vl3-tiny"
Run = Callable[..., tuple[str, str]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures with questions."""
    world = TinyWorld(5, {"scene": 1.0}, turns=2)
    return write([world[i] for i in range(6)], tmp_path_factory.mktemp("data"))


@pytest.fixture
def short(data: Path, tmp_path: Path) -> list[Any]:
    """Two steps of stage 1, but for the command's name."""
    few = ("--stage", 1, "--model", TINY, "--steps", 2, "--batch", 2)
    return [data, *few, "--workers", 0, "--device", "cpu", "--out", tmp_path / "run"]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


# -------------------------------------------------------------------------------------------------------------- wrong

SOURCE = ["--model", str(TINY), "--workers", "0"]
MEND = "give --model, a checkpoint to start from; or both --vision and --decoder"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name annotation files to train on, or --recipe tiny"),
        (["--stage", "3", *SOURCE], "name annotation files to train on, or --recipe tiny"),
        (["DATA", *SOURCE], "--stage should be 1, 2, 3 or 4"),
        (["DATA", "--stage", "0", *SOURCE], "--stage should be 1, 2, 3 or 4"),
        (["DATA", "--stage", "5", *SOURCE], "--stage should be 1, 2, 3 or 4"),
        (["missing.jsonl", "--stage", "1", *SOURCE], "missing.jsonl' does not exist"),
        ([str(ROOT / "pyproject.toml"), "--stage", "1", *SOURCE], "should be .json (a list) or .jsonl"),
        (["DATA", "missing.json", "--stage", "1", *SOURCE], "missing.json' does not exist"),
        (["DATA", "--stage", "1"], MEND),
        (["DATA", "--stage", "1", "--vision", str(TINY)], MEND),
        (["DATA", "--stage", "1", "--decoder", str(TINY)], MEND),
        (["DATA", "--stage", "1", *SOURCE, "--vision", str(TINY)], MEND),
        (["DATA", "--stage", "1", "--model", "nowhere"], "'nowhere' is not a folder"),
        (["DATA", "--stage", "1", "--vision", "nowhere", "--decoder", str(TINY)], "'nowhere' is not a folder"),
        (["DATA", "--stage", "1", *SOURCE, "--decoder-lr", "-1"], "--decoder-lr should be"),
        (["DATA", "--stage", "1", *SOURCE, "--projector-lr", "-1e-9"], "--projector-lr should be"),
        (["DATA", "--stage", "1", *SOURCE, "--vision-lr", "nan"], "--vision-lr should be"),
        (["DATA", "--stage", "1", *SOURCE, "--vision-lr", "inf"], "--vision-lr should be"),
        (["DATA", "--stage", "1", *SOURCE, "--vision-lr", "0", "--projector-lr", "0"], "every part is frozen"),
        (["DATA", "--stage", "1", *SOURCE, "--added-lr", "-1"], "--added-lr should be"),
        (["DATA", "--stage", "1", *SOURCE, "--change", "mine.py"], "file.py:function"),
        (["DATA", "--stage", "1", *SOURCE, "--change", "gone.py:change"], "gone.py"),
        (["DATA", "--stage", "1", *SOURCE, "--steps", "0"], "--steps should be at least 1, not 0"),
        (["DATA", "--stage", "1", *SOURCE, "--steps", "-3"], "--steps should be at least 1, not -3"),
        (["DATA", "--stage", "1", *SOURCE, "--batch", "0"], "--batch should be at least 1, not 0"),
        (["DATA", "--stage", "1", *SOURCE, "--batch", "-2", "--steps", "1"], "--batch should be at least 1, not -2"),
        (["DATA", "--stage", "1", *SOURCE, "--pack", "0"], "--pack should be at least 1, not 0"),
        (["DATA", "--stage", "1", *SOURCE, "--save-every", "0"], "--save-every should be at least 1, not 0"),
        (["DATA", "--stage", "1", "--model", str(TINY), "--workers", "-1"], "--workers should be at least 0, not -1"),
        (["DATA", "--stage", "1", *SOURCE, "--epochs", "0"], "--epochs should be a number above 0, not 0"),
        (["DATA", "--stage", "1", *SOURCE, "--epochs", "-1"], "--epochs should be a number above 0, not -1"),
        (
            ["DATA", "--stage", "1", *SOURCE, "--epochs", "nan"],
            "--epochs should be a number that fits into 64 bits, not nan",
        ),
        (
            ["DATA", "--stage", "1", *SOURCE, "--epochs", "inf"],
            "--epochs should be a number that fits into 64 bits, not inf",
        ),
        (["DATA", "--stage", "1", *SOURCE, "--media", "nowhere"], "--media nowhere is not a folder"),
        (["DATA", "--stage", "1", *SOURCE, "--device", "abacus"], "device 'abacus' cannot be used"),
        (["DATA", "--stage", "1", *SOURCE, "--out", str(ROOT / "LICENSE")], "LICENSE is a file; name a folder"),
        (["DATA", "--recipe", "tiny"], "leave DATA out"),
        (["--recipe", "tiny", "--stage", "1"], "leave --stage out"),
        (["--recipe", "tiny", "--stage", "0"], "leave --stage out"),
        (["--recipe", "tiny", "--model", str(TINY)], "leave --model out"),
        (["--recipe", "tiny", "--vision", str(TINY), "--decoder", str(TINY)], "leave --decoder, --vision out"),
        (["--recipe", "tiny", "--steps", "5", "--batch", "64"], "leave --batch, --steps out"),
        (["--recipe", "tiny", "--batch", "128", "--epochs", "1"], "leave --batch, --epochs out"),
        (["--recipe", "tiny", "--vision-lr", "0"], "leave --vision-lr out"),
        (["--recipe", "tiny", "--out", str(ROOT / "LICENSE")], "LICENSE is a file; name a folder"),
        (["--recipe", "tiny", "--workers", "-1"], "--workers should be at least 0"),
    ],
)
def test_what_train_cannot_do_is_one_line(
    arguments: list[str],
    said: str,
    vl3ref_main: Run,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def begun(*_: Any, **__: Any) -> None:
        raise AssertionError("it trains")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_module, "train_stage", begun)
    monkeypatch.setattr(recipe, "train_tiny", begun)
    out, err = vl3ref_main("train", *(data if x == "DATA" else x for x in arguments), rc=2)
    lines = err.splitlines()
    assert out == "" and len(lines) == 1 and lines[0].startswith("error: ") and said in lines[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["--recipe", "--stage"])
def test_usage_errors(name: str, vl3ref_main: Run) -> None:
    assert f"Invalid value for '{name}'" in vl3ref_main("train", name, "huge", rc=2)[1]


def test_a_file_in_the_way(short: list[Any], vl3ref_main: Run, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    _, err = vl3ref_main("train", *short, rc=2)
    assert err.count("\n") == 1 and "run is a file; name a folder" in err
    assert (tmp_path / "run").read_text() == "mine"
    _, err = vl3ref_main("train", *short[:-1], tmp_path / "run" / "deeper", rc=2)
    assert err.splitlines()[-1].startswith("error: ") and "Not a directory" in err


def test_the_recipe_runs_in_one_process(vl3ref_main: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    _, err = vl3ref_main("train", "--recipe", "tiny", "--out", tmp_path / "run", rc=2)
    assert "start it without torchrun" in err and not (tmp_path / "run").exists()


def test_a_run_is_not_written_over(short: list[Any], vl3ref_main: Run, tmp_path: Path) -> None:
    vl3ref_main("train", *short)
    before = weights(tmp_path / "run" / "final"), read_log(tmp_path / "run" / "log.csv")
    _, err = vl3ref_main("train", *short, "--projector-lr", 1e-2, "--save-every", 1, rc=2)
    assert re.search("error: .*run holds a run already; give --resume", err)
    after = weights(tmp_path / "run" / "final"), read_log(tmp_path / "run" / "log.csv")
    assert before[1] == after[1] and all(torch.equal(before[0][name], after[0][name]) for name in before[0])


def test_samples_that_cannot_be_used_are_named(data: Path, short: list[Any], vl3ref_main: Run, tmp_path: Path) -> None:
    samples = [json.loads(line) for line in data.read_text().splitlines()]
    samples[1]["image"] = ["gone.png"]
    mixed = tmp_path / "mixed.jsonl"
    mixed.write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    settings = ["--media", data.parent, "--batch", 6, "--steps", 1]
    _, err = vl3ref_main("train", mixed, *short[1:], *settings)
    [skipped] = [line for line in err.splitlines() if line.startswith("skipped: ")]
    assert "mixed.jsonl line 2" in skipped and skipped.endswith("gone.png does not exist")
    assert (tmp_path / "run" / "skipped.log").read_text() == f"step 1: {skipped.removeprefix('skipped: ')}\n"
    [row] = read_log(tmp_path / "run" / "log.csv")
    assert row["skipped"] == "1"


def test_nothing_that_can_be_used(short: list[Any], vl3ref_main: Run, tmp_path: Path) -> None:
    mixed = tmp_path / "gone.jsonl"
    mixed.write_text(json.dumps({"image": "gone.png", "conversations": [{"from": "human", "value": "What?"}]}) + "\n")
    _, err = vl3ref_main("train", mixed, *short[1:], rc=2)
    assert "no sample could be used so far" in err.splitlines()[-1]


# -------------------------------------------------------------------------------------------------------------- a stage


def test_a_stage_from_a_checkpoint(short: list[Any], vl3ref_main: Run, tmp_path: Path) -> None:
    out, err = vl3ref_main("train", *short, "--projector-lr", 1e-2, "--vision-lr", 1e-2)
    run = tmp_path / "run"
    assert out == ""
    first, merge, *progress, last = err.splitlines()
    assert first == f"6 samples, 2 steps of 2; logs and checkpoints in {run}"
    assert merge == "warning: stage-1 trains with image_merge_size 1, and saves it; the checkpoint came with 2"
    assert [line.split("  ")[0] for line in progress] == ["stage-1 step 1/2", "stage-1 step 2/2"]
    assert last == f"wrote {run / 'final'}"
    assert [path.name for path in checkpoints(run)] == ["checkpoint-000002"]
    assert [row["step"] for row in read_log(run / "log.csv")] == ["1", "2"]
    before, after, kept = (weights(folder) for folder in (TINY, run / "final", run / "checkpoint-000002"))
    assert before.keys() == after.keys()
    assert {x.dtype for x in before.values()} == {x.dtype for x in after.values()} == {torch.bfloat16}
    assert {x.dtype for x in kept.values()} == {torch.float32}
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    decoder = {name for name in before if name.startswith(("model.layers", "model.embed", "model.norm", "lm_head"))}
    assert changed and decoder and not changed & decoder  # stage 1 leaves the decoder as it is
    assert all(torch.equal(after[name], kept[name].bfloat16()) for name in after)
    assert not (run / "final" / "trainer.pt").exists()
    for folder in (run / "final", run / "checkpoint-000002"):
        answered, _ = vl3ref_main("ask", "Hello", "--model", folder, "--max-tokens", 3, "--min-tokens", 3, "--json")
        assert len(json.loads(answered)["ids"]) == 3
    assert vl3ref.load_processor(run / "final").config.image_merge_size == OFFICIAL_2B[0].image_merge_size


def test_a_stage_from_an_encoder_and_a_decoder(short: list[Any], vl3ref_main: Run, tmp_path: Path) -> None:
    start = short.index("--model")
    assembled = [*short[:start], "--vision", TINY, "--decoder", TINY, *short[start + 2 :]]
    vl3ref_main("train", *assembled, "--vision-lr", 0)
    before, after = weights(TINY), weights(tmp_path / "run" / "final")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all("projector" in name for name in changed)  # new, and all that was trained


def test_resuming(short: list[Any], vl3ref_main: Run, tmp_path: Path) -> None:
    run, longer = tmp_path / "run", [*short, "--steps", 3, "--save-every", 2, "--projector-lr", 1e-2]
    _, err = vl3ref_main("train", *longer, "--resume")  # nothing there yet: it simply starts
    assert f"wrote {run / 'final'}" in err
    rows, finished = read_log(run / "log.csv"), weights(run / "final")
    for file in (*(run / "checkpoint-000003").iterdir(), *(run / "final").iterdir()):
        file.unlink()
    (run / "checkpoint-000003").rmdir()
    vl3ref_main("train", *longer, "--resume")
    assert [row["loss"] for row in read_log(run / "log.csv")] == [row["loss"] for row in rows]
    assert all(torch.equal(finished[name], tensor) for name, tensor in weights(run / "final").items())
    vl3ref_main("train", *longer, "--resume")  # finished: nothing more to do
    assert all(torch.equal(finished[name], tensor) for name, tensor in weights(run / "final").items())


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What a stage would be trained with; nothing is trained."""
    noted: list[Any] = []

    def note(model: Any, processor: Any, samples: Any, stage: Any, plan: Any, folder: Path, *others: Any) -> None:
        own = {"model": model, "samples": samples, "stage": stage, "plan": plan, "folder": folder}
        noted.append(
            {**own, **dict(zip(("change", "resume", "processes", "device", "lora", "base"), others, strict=True))}
        )

    monkeypatch.setattr(run_module, "train_stage", note)
    monkeypatch.setattr(run_module, "finish", lambda folder, dtype, change: folder / f"final in {dtype}")
    return noted


def test_options_reach_the_stage(data: Path, vl3ref_main: Run, settings: list[Any], tmp_path: Path) -> None:
    options = ["--batch", 4, "--pack", 77, "--save-every", 9, "--workers", 3, "--steps", 7, "--resume"]
    options.append("--gradient-checkpointing")
    _, err = vl3ref_main(
        "train", data, data, "--stage", 2, "--model", TINY, "--device", "cpu", *options, "--out", "there"
    )
    [given] = settings
    assert given["stage"] == OFFICIAL_2B[1] and given["resume"] is True and given["change"] is None
    plan = given["plan"]
    assert (plan.batch_size, plan.pack_tokens, plan.shuffle, plan.steps) == (4, 77, True, 7)
    assert (plan.save_every, plan.workers, plan.gradient_checkpointing) == (9, 3, True)
    assert given["folder"] == Path("there") and len(given["samples"]) == 12
    assert given["model"].dtype == torch.float32 and given["model"].device == given["device"] == torch.device("cpu")
    assert "12 samples, 7 steps of 4" in err and err.endswith("wrote there/final in bfloat16\n")


def test_defaults(data: Path, vl3ref_main: Run, settings: list[Any]) -> None:
    for number in (1, 4):
        vl3ref_main("train", data, "--stage", number, "--model", TINY, "--device", "cpu")
    assert [given["stage"] for given in settings] == [OFFICIAL_2B[0], OFFICIAL_2B[3]]
    assert [given["folder"] for given in settings] == [Path("runs/stage-1"), Path("runs/stage-4")]
    assert settings[0]["plan"] == Plan() and not settings[0]["resume"]


@pytest.mark.parametrize(
    ("plan", "steps"),
    [
        (Plan(batch_size=2), 3),
        (Plan(batch_size=4), 2),
        (Plan(batch_size=2, epochs=10), 30),
        (Plan(batch_size=2, epochs=0.4), 1),
        (Plan(batch_size=2, epochs=0.001), 1),
        (Plan(batch_size=2, epochs=10, steps=5), 5),
    ],
)
def test_epochs_are_so_many_steps(plan: Plan, steps: int) -> None:
    assert plan.total_steps(6) == steps


def test_learning_rates(data: Path, vl3ref_main: Run, settings: list[Any]) -> None:
    lrs = ["--decoder-lr", 0, "--projector-lr", 1e-4, "--added-lr", 1e-3, "--epochs", 2, "--batch", 3]
    _, err = vl3ref_main("train", data, "--stage", 2, "--model", TINY, "--device", "cpu", *lrs)
    assert settings[0]["stage"] == replace(OFFICIAL_2B[1], decoder_lr=None, projector_lr=1e-4, added_lr=1e-3)
    assert "6 samples, 4 steps of 3;" in err


def test_a_change(short: list[Any], vl3ref_main: Run, tmp_path: Path) -> None:
    """From a file, in a stage and after it; what it adds can be all that is trained."""
    (tmp_path / "mine.py").write_text(CHANGE)
    name = f"{tmp_path / 'mine.py'}:add_scorer"
    frozen = ["--projector-lr", 0, "--vision-lr", 0, "--decoder-lr", 0]
    arguments = [*short, "--stage", 4, "--change", name, *frozen]
    assert "--added-lr above 0" in vl3ref_main("train", *arguments, rc=2)[1]
    vl3ref_main("train", *arguments, "--added-lr", 1e-2)
    before, after = weights(TINY), weights(tmp_path / "run" / "final")
    assert after.keys() - before.keys() == {"pruner.weight", "pruner.bias"}
    assert all(torch.equal(before[x], after[x]) for x in before) and bool(after["pruner.weight"].any())
    loaded, _ = vl3ref.load(tmp_path / "run" / "final", "cpu", change=read_change(name))
    assert torch.equal(loaded.pruner.weight, after["pruner.weight"].float())


CHANGE = """
import torch

class Scorer(torch.nn.Linear):
    def forward(self, inputs, features):
        return super().forward(features)[:, 0].exp()

def add_scorer(model):
    model.pruner = Scorer(model.config.vision.hidden_size, 1)
    torch.nn.init.zeros_(model.pruner.weight)
"""


def test_the_recipe(vl3ref_main: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    called = []

    def train_tiny(folder: Path, **options: Any) -> Path:
        called.append((folder, options))
        return folder / "vl3-tiny"

    monkeypatch.setattr(recipe, "train_tiny", train_tiny)
    out, err = vl3ref_main("train", "--recipe", "tiny")
    assert out == "" and "--resume" in err and err.endswith("wrote runs/tiny/vl3-tiny\n")
    vl3ref_main("train", "--recipe", "tiny", "--out", "there", "--resume", "--workers", 0, "--device", "cpu")
    assert called == [
        (Path("runs/tiny"), {"resume": False, "workers": 1, "device": own_device(None), "change": None}),
        (Path("there"), {"resume": True, "workers": 0, "device": torch.device("cpu"), "change": None}),
    ]


def test_help(vl3ref_main: Run) -> None:
    out, _ = vl3ref_main("--help")
    assert "train" in out
    assert "--model" in vl3ref_main("train", "--help")[0]
