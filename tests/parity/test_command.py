"""`vl3ref parity`: what it prints, writes and exits with."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file

from tests.helpers import ROOT
from vl3ref.cli import main
from vl3ref.model.language_model import GatedMLP
from vl3ref.model.vision import VisionMLP
from vl3ref.parity.run import random_geometry

CAT = ROOT / "docs" / "media" / "cat.jpg"
CLIP = ROOT / "tests" / "goldens" / "frames" / "v10_3s.mp4"
SMALL = ("--random", "tiny", "--layers", "1", "--frames", "2", "--max-tokens", "2", "--device", "cpu")


@pytest.fixture
def parity(capfd):
    def run(*arguments, rc=0):
        with pytest.raises(SystemExit) as stop:
            main(["parity", *map(str, arguments)])
        out, err = capfd.readouterr()
        assert (stop.value.code or 0) == rc, err
        assert "Traceback" not in err
        return out, err

    return run


@pytest.mark.parametrize("draw", ["video", "image", "text"])
def test_random_weights_on_drawn_inputs_pass(parity, draw) -> None:
    out, _ = parity(*SMALL, "--draw", draw)
    assert "All rows are within" in " ".join(out.split())
    rows = [line.split() for line in out.splitlines() if "e-" in line or "equal" in line]
    names = [row[0] for row in rows]
    assert ("vision.patch_embedding" in names) == (draw != "text")
    assert names.index("language.layers.0") < names.index("logits") < names.index("next_ids")


@pytest.mark.parametrize("source", [CAT, CLIP], ids=["image", "video"])
def test_a_file_through_a_checkpoint_is_compared_from_its_pixels_on(parity, tmp_path, source) -> None:
    table = tmp_path / "table.json"
    parity(source, "What is it?", "--visual-tokens", "64", "--max-tokens", "2", "--frames", "2", "--json", table)
    report = json.loads(table.read_text())
    rows = {row["name"]: row for row in report["rows"]}
    assert list(rows)[:2] == ["input_ids", "pixels"] and list(rows)[-2:] == ["logits", "next_ids"]
    assert rows["pixels"]["equal"] and rows["input_ids"]["equal"] and rows["next_ids"]["equal"]
    assert report["passed"] and rows["logits"]["our_error"] < 1e-5 and rows["logits"]["reference_error"] < 1e-5
    assert report["about"]["input"] == str(source) and "sdpa" in report["about"]["reference"]


def test_exact_gives_the_same_bits(parity, tmp_path) -> None:
    out, _ = parity(*SMALL, "--exact", "--no-truth", "--json", tmp_path / "a.json")
    assert "Every activation is the same bit for bit." in " ".join(out.split())
    report = json.loads((tmp_path / "a.json").read_text())
    assert report["first_parting"] is None and all(row["our_error"] is None for row in report["rows"])


def test_the_references_eager_attention_agrees_too(parity, tmp_path) -> None:
    parity(*SMALL, "--attention", "eager", "--json", tmp_path / "a.json")
    assert "eager" in json.loads((tmp_path / "a.json").read_text())["about"]["reference"]


def test_bfloat16_has_a_tolerance_of_its_own(parity, tmp_path) -> None:
    parity(*SMALL, "--dtype", "bfloat16", "--json", tmp_path / "a.json")
    report = json.loads((tmp_path / "a.json").read_text())
    assert report["about"]["dtype"] == "bfloat16" and report["tolerance"] == 5e-2
    logits = next(row for row in report["rows"] if row["name"] == "logits")
    assert 1e-4 < logits["our_error"] < 5e-2 and 1e-4 < logits["reference_error"] < 5e-2


def test_all_that_can_be_written_is_written(parity, tmp_path) -> None:
    files = [tmp_path / name for name in ("acts.safetensors", "table.md", "table.json", "errors.png")]
    options = ("--dump", "--markdown", "--json", "--plot")
    _, err = parity(*SMALL, *(x for pair in zip(options, files, strict=True) for x in pair))
    assert [line for line in err.splitlines() if line.startswith("wrote")] == [f"wrote {file}" for file in files]
    rows = json.loads(files[2].read_text())["rows"]
    table = files[1].read_text()
    assert all(f"| {row['name']} |" in table for row in rows)
    assert Image.open(files[3]).format == "PNG"
    arrays = load_file(files[0])
    assert {row["name"] for row in rows} <= set(arrays) and "input.pixel_values" in arrays
    assert {row["name"]: tuple(row["shape"]) for row in rows} == {
        row["name"]: arrays[row["name"]].shape for row in rows
    }


# --------------------------------------------------------------------------------------------------- what is not equal


@pytest.mark.parametrize(("part", "name"), [(VisionMLP, "vision.layers.0.mlp"), (GatedMLP, "language.layers.0.mlp")])
def test_a_mistake_in_ours_ends_with_exit_code_1_and_is_named(parity, tmp_path, monkeypatch, part, name) -> None:
    forward = part.forward
    monkeypatch.setattr(part, "forward", lambda self, x: forward(self, x) * 1.001)
    out, _ = parity(*SMALL, "--exact", "--json", tmp_path / "a.json", rc=1)
    report = json.loads((tmp_path / "a.json").read_text())
    assert report["first_parting"] == report["failed"][0] == name and not report["passed"]
    assert f"They part first at {name}." in " ".join(out.split())
    assert next(row for row in report["rows"] if row["name"] == name)["our_error"] < 1e-5  # the truth is ours, widened


def test_no_difference_is_allowed_with_a_tolerance_of_zero(parity) -> None:
    out, _ = parity(*SMALL, "--tolerance", "0", rc=1)
    assert "past the relative tolerance of 0: vision.patch_embedding" in " ".join(out.split())
    parity(*SMALL, "--tolerance", "0", "--exact")


# -------------------------------------------------------------------------------------------- somebody else's numbers


@pytest.fixture(scope="module")
def theirs(tmp_path_factory) -> dict[str, np.ndarray]:
    """What a port would have written, had it computed the same."""
    path = tmp_path_factory.mktemp("dump") / "acts.safetensors"
    with pytest.raises(SystemExit) as stop:
        main(["parity", *SMALL, "--no-truth", "--dump", str(path)])
    assert not stop.value.code
    return load_file(path)


def test_activations_that_numpy_wrote_agree(parity, theirs, tmp_path) -> None:
    save_file(theirs, tmp_path / "theirs.safetensors")
    parity(*SMALL, "--against", tmp_path / "theirs.safetensors", "--json", tmp_path / "a.json")
    report = json.loads((tmp_path / "a.json").read_text())
    assert report["first_parting"] is None and report["unpaired"] == []
    assert "theirs.safetensors" in report["about"]["reference"]


@pytest.mark.parametrize("name", ["vision.layers.0.attention", "projected", "logits"])
def test_a_disturbed_activation_is_found(parity, theirs, tmp_path, name) -> None:
    disturbed = {**theirs, name: theirs[name] * np.float32(1.01)}
    save_file(disturbed, tmp_path / "theirs.safetensors")
    parity(*SMALL, "--against", tmp_path / "theirs.safetensors", "--json", tmp_path / "a.json", rc=1)
    report = json.loads((tmp_path / "a.json").read_text())
    assert report["first_parting"] == name and report["failed"] == [name]
    (row,) = (row for row in report["rows"] if row["name"] == name)
    assert row["relative"] == pytest.approx(0.01 / 1.01, rel=1e-3) and row["verdict"] == "nearer"


def test_a_weight_that_was_disturbed_is_found(parity, theirs, tmp_path, monkeypatch) -> None:
    def disturbed(*arguments):
        model = random_geometry(*arguments)
        with torch.no_grad():
            model.language_model.layers[0].self_attn.o_proj.weight[0, 0] += 1
        return model

    monkeypatch.setattr("vl3ref.parity.run.random_geometry", disturbed)
    save_file(theirs, tmp_path / "theirs.safetensors")
    parity(*SMALL, "--against", tmp_path / "theirs.safetensors", "--json", tmp_path / "a.json", rc=1)
    report = json.loads((tmp_path / "a.json").read_text())
    assert report["first_parting"] == report["failed"][0] == "language.layers.0.attention"


def test_a_port_may_leave_names_out_and_have_others(parity, theirs, tmp_path) -> None:
    some = {name: theirs[name] for name in theirs if name.startswith("input.") or name in ("embeddings", "logits")}
    save_file({**some, "decoder.layers.0": np.ones((1, 1), np.float32)}, tmp_path / "theirs.safetensors")
    parity(*SMALL, "--against", tmp_path / "theirs.safetensors", "--json", tmp_path / "a.json")
    report = json.loads((tmp_path / "a.json").read_text())
    assert [row["name"] for row in report["rows"]] == ["embeddings", "logits"]
    assert "decoder.layers.0" in report["unpaired"] and "vision.norm" in report["unpaired"]


def test_the_inputs_of_the_file_are_the_ones_that_are_run(parity, theirs, tmp_path) -> None:
    changed = {**theirs, "input.pixel_values": theirs["input.pixel_values"] * np.float32(0.5)}
    save_file(changed, tmp_path / "theirs.safetensors")
    parity(*SMALL, "--against", tmp_path / "theirs.safetensors", "--json", tmp_path / "a.json", rc=1)
    assert json.loads((tmp_path / "a.json").read_text())["first_parting"] == "vision.patch_embedding"


# ------------------------------------------------------------------------------------------------------ what is wrong


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--random", "3b"), "no preset named '3b'"),
        (("--random", "tiny", "--model", "vl3-tiny"), "exclude each other"),
        (("--layers", "2"), "--layers goes with --random"),
        (("--random", "tiny", "--layers", "0"), "layers should be at least 1, not 0"),
        (("--random", "tiny", str(CAT)), "has no tokenizer"),
        (("--random", "tiny", "--frames", "0"), "--frames should be at least 1, not 0"),
        (("--random", "tiny", "--max-tokens", "0"), "max_new_tokens should be a whole number of at least 1"),
        (("--random", "tiny", "--dtype", "float99"), "no floating-point dtype named 'float99'"),
        (("--random", "tiny", "--dtype", "int8"), "no floating-point dtype named 'int8'"),
        (("--random", "tiny", "--device", "nowhere"), "device nowhere cannot be used"),
        (("--random", "tiny", "--device", "cpu", "--attention", "flash"), "transformers cannot use flash attention"),
        (("no-such-file.mp4",), "no-such-file.mp4"),
        (("--against", "no-such-file.safetensors"), "no-such-file.safetensors cannot be read"),
        (("--against", str(CAT)), "cannot be read as a safetensors file"),
        (("--random", "tiny", "--json", "no-such-folder/a.json"), "no folder no-such-folder to write a.json into"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_exit_code_2(parity, arguments, message) -> None:
    _, err = parity(*arguments, rc=2)
    assert [line for line in err.splitlines() if line.startswith("error: ") and message in line], err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": np.ones((3, 3), np.float32)}, "logits is"),
        ({"input.input_ids": np.zeros(5, np.int64)}, "input_ids"),
        ({"input.merge_sizes": np.array([5])}, "cannot be merged by 5"),
        ({"input.grid_sizes": np.array([[2, 12]])}, "input.grid_sizes in"),
    ],
)
def test_a_file_that_does_not_fit_is_one_sentence_and_exit_code_2(parity, theirs, tmp_path, change, message) -> None:
    save_file({**theirs, **change}, tmp_path / "theirs.safetensors")
    _, err = parity(*SMALL, "--against", tmp_path / "theirs.safetensors", rc=2)
    assert [line for line in err.splitlines() if line.startswith("error: ") and message in line], err


def test_a_file_of_nothing_that_is_ours_is_refused(parity, tmp_path) -> None:
    save_file({"output": np.ones(2, np.float32)}, tmp_path / "theirs.safetensors")
    _, err = parity(*SMALL, "--against", tmp_path / "theirs.safetensors", rc=2)
    assert "no activation has the same name in both" in err


def test_the_tool_leaves_torchs_settings_alone(parity) -> None:
    before = (torch.get_default_dtype(), torch.is_grad_enabled())
    parity(*SMALL)
    assert (torch.get_default_dtype(), torch.is_grad_enabled()) == before
