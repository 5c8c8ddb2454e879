"""`vl3ref parity`: what it prints, writes and exits with."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file

from tests.helpers import ROOT
from vl3ref.model.language_model import GatedMLP
from vl3ref.model.vision import VisionMLP
from vl3ref.parity.synthetic import random_geometry

CAT = ROOT / "docs" / "media" / "cat.jpg"
CLIP = ROOT / "tests" / "goldens" / "frames" / "v10_3s.mp4"
SMALL = ("--random", "tiny", "--layers", "1", "--frames", "2", "--max-tokens", "2", "--device", "cpu")
FAST = (*SMALL, "--no-float64")


@pytest.fixture
def parity(vl3ref_main):
    """Runs the command, which leaves torch's settings alone."""

    def run(*arguments, rc=0):
        before = (torch.get_default_dtype(), torch.is_grad_enabled())
        result = vl3ref_main("parity", *arguments, rc=rc)
        assert (torch.get_default_dtype(), torch.is_grad_enabled()) == before
        return result

    return run


@pytest.fixture
def reported(parity, tmp_path):
    """Runs the command and gives its table as JSON, and what it prints."""

    def run(*arguments, rc=0):
        out, _ = parity(*arguments, "--json", tmp_path / "table.json", rc=rc)
        return json.loads((tmp_path / "table.json").read_text()), " ".join(out.split())

    return run


def row_of(report, name):
    return next(row for row in report["rows"] if row["name"] == name)


@pytest.mark.parametrize(("kind", "attention"), [("video", "sdpa"), ("image", "eager"), ("text", "sdpa")])
def test_random_weights_on_synthetic_inputs_pass(reported, kind, attention) -> None:
    report, printed = reported(*SMALL, "--synthetic", kind, "--attention", attention)
    assert "All rows are within" in printed
    names = [row["name"] for row in report["rows"]]
    assert ("vision.patch_embedding" in names) == (kind != "text")
    assert names.index("language.layers.0") < names.index("logits") < names.index("next_ids")
    assert report["about"]["reference"] == f"transformers, {attention}"


@pytest.mark.parametrize("source", [CAT, CLIP], ids=["image", "video"])
def test_a_file_through_a_checkpoint_is_compared_from_its_pixels_on(reported, source) -> None:
    report, _ = reported(source, "What is it?", "--visual-tokens", "64", "--max-tokens", "2", "--frames", "2")
    rows = {row["name"]: row for row in report["rows"]}
    assert list(rows)[:2] == ["input_ids", "pixels"] and list(rows)[-2:] == ["logits", "next_ids"]
    assert rows["pixels"]["equal"] and rows["input_ids"]["equal"] and rows["next_ids"]["equal"]
    assert report["passed"] and rows["logits"]["our_error"] < 1e-5 and rows["logits"]["reference_error"] < 1e-5
    assert report["about"]["input"] == str(source)


def test_exact_mode_gives_the_same_bits_and_the_fast_order_does_not(reported) -> None:
    report, printed = reported(*FAST, "--exact", "--tolerance", "0")
    assert "Every activation is the same bit for bit." in printed and report["first_difference"] is None
    assert all(row["our_error"] is None for row in report["rows"])
    _, printed = reported(*FAST, "--tolerance", "0", rc=1)
    assert "past the relative tolerance of 0: vision.patch_embedding" in printed


def test_bfloat16_has_a_tolerance_of_its_own(reported) -> None:
    report, _ = reported(*SMALL, "--dtype", "bfloat16")
    assert report["about"]["dtype"] == "bfloat16" and report["tolerance"] == 5e-2
    logits = row_of(report, "logits")
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
    assert all(tuple(row["shape"]) == arrays[row["name"]].shape for row in rows)


@pytest.mark.parametrize(("part", "name"), [(VisionMLP, "vision.layers.0.mlp"), (GatedMLP, "language.layers.0.mlp")])
def test_a_mistake_in_ours_ends_with_exit_code_1_and_is_named(reported, monkeypatch, part, name) -> None:
    forward = part.forward
    monkeypatch.setattr(part, "forward", lambda self, x: forward(self, x) * 1.001)
    report, printed = reported(*SMALL, "--exact", rc=1)
    assert report["first_difference"] == report["failed"][0] == name and not report["passed"]
    assert f"They first differ at {name}." in printed
    assert row_of(report, name)["our_error"] < 1e-5  # the float64 run is ours as well


# -------------------------------------------------------------------------------------------- somebody else's numbers


@pytest.fixture(scope="module")
def theirs(tmp_path_factory) -> dict[str, np.ndarray]:
    """What a port would have written, had it computed the same."""
    from vl3ref.cli import main

    path = tmp_path_factory.mktemp("dump") / "acts.safetensors"
    with pytest.raises(SystemExit) as stop:
        main(["parity", *FAST, "--dump", str(path)])
    assert not stop.value.code
    return load_file(path)


@pytest.fixture
def written(tmp_path):
    """Writes activations as a port would, and gives the options that compare with them."""

    def write(arrays):
        save_file(arrays, tmp_path / "theirs.safetensors")
        return "--against", tmp_path / "theirs.safetensors"

    return write


def test_activations_that_numpy_wrote_agree(reported, theirs, written) -> None:
    report, _ = reported(*FAST, *written(theirs))
    assert report["first_difference"] is None and report["unpaired"] == []
    assert "theirs.safetensors" in report["about"]["reference"]


@pytest.mark.parametrize("name", ["vision.layers.0.attention", "logits"])
def test_a_disturbed_activation_is_found(reported, theirs, written, name) -> None:
    report, _ = reported(*SMALL, *written({**theirs, name: theirs[name] * np.float32(1.01)}), rc=1)
    assert report["first_difference"] == name and report["failed"] == [name]
    row = row_of(report, name)
    assert row["relative"] == pytest.approx(0.01 / 1.01, rel=1e-3) and row["verdict"] == "nearer"


def test_a_weight_that_was_disturbed_is_found(reported, theirs, written, monkeypatch) -> None:
    def disturbed(*arguments):
        model = random_geometry(*arguments)
        with torch.no_grad():
            model.language_model.layers[0].self_attn.o_proj.weight[0, 0] += 1
        return model

    monkeypatch.setattr("vl3ref.parity.synthetic.random_geometry", disturbed)
    report, _ = reported(*FAST, *written(theirs), rc=1)
    assert report["first_difference"] == report["failed"][0] == "language.layers.0.attention"


def test_a_port_may_leave_names_out_and_have_others(reported, theirs, written) -> None:
    some = {name: theirs[name] for name in theirs if name.startswith("input.") or name in ("embeddings", "logits")}
    report, _ = reported(*FAST, *written({**some, "decoder.layers.0": np.ones((1, 1), np.float32)}))
    assert [row["name"] for row in report["rows"]] == ["embeddings", "logits"]
    assert "decoder.layers.0" in report["unpaired"] and "vision.norm" in report["unpaired"]


def test_the_inputs_of_the_file_are_the_ones_that_are_run(reported, theirs, written) -> None:
    halved = theirs["input.pixel_values"] * np.float32(0.5)
    report, _ = reported(*FAST, *written({**theirs, "input.pixel_values": halved}), rc=1)
    assert report["first_difference"] == "vision.patch_embedding"


# ------------------------------------------------------------------------------------------------------ what is wrong


def is_refused(err: str, message: str) -> None:
    assert [line for line in err.splitlines() if line.startswith("error: ") and message in line], err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--random", "3b"), "no preset named '3b'"),
        (("--random", "tiny", "--model", "vl3-tiny"), "exclude each other"),
        (("--layers", "2"), "--layers goes with --random"),
        (("--random", "tiny", "--layers", "0"), "layers should be at least 1, not 0"),
        (("--random", "tiny", str(CAT)), "has no tokenizer"),
        (("--random", "tiny", "--frames", "0"), "--frames should be at least 1 and at most 10,000, not 0"),
        ((*FAST, "--max-tokens", "0"), "--max-tokens should be at least 1 and at most 10,000, not 0"),
        (("--random", "tiny", "--dtype", "float99"), "no floating-point dtype named 'float99'"),
        (("--random", "tiny", "--dtype", "int8"), "no floating-point dtype named 'int8'"),
        (("--random", "tiny", "--device", "nowhere"), "device 'nowhere' cannot be used"),
        ((*FAST, "--attention", "flash"), "transformers cannot use flash attention"),
        (("no-such-file.mp4",), "no-such-file.mp4"),
        (("--against", "no-such-file.safetensors"), "no-such-file.safetensors' does not exist"),
        (("--against", str(CAT)), "cannot be read as a safetensors file"),
        (("--random", "tiny", "--json", "no-such-folder/a.json"), "'no-such-folder/a.json' cannot be written"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_exit_code_2(parity, arguments, message) -> None:
    is_refused(parity(*arguments, rc=2)[1], message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": np.ones((3, 3), np.float32)}, "logits is"),
        ({"input.input_ids": np.zeros(5, np.int64)}, "input_ids"),
        ({"input.merge_sizes": np.array([5])}, "cannot be merged by 5"),
        ({"input.grid_sizes": np.array([[2, 12]])}, "input.grid_sizes in"),
    ],
)
def test_a_file_that_does_not_fit_is_one_sentence_and_exit_code_2(parity, theirs, written, change, message) -> None:
    is_refused(parity(*FAST, *written({**theirs, **change}), rc=2)[1], message)


def test_a_file_of_nothing_that_is_ours_is_refused(parity, written) -> None:
    is_refused(parity(*FAST, *written({"output": np.ones(2, np.float32)}), rc=2)[1], "no activation has the same name")
