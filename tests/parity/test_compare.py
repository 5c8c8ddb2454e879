"""The tool's parts: measures of difference on numbers made by hand, any two modules, files of activations."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn

from tests.parity.pairs import conversation, random_parameters
from vl3ref import InputError
from vl3ref.config import LanguageConfig, ModelConfig, VisionConfig
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.model_inputs import ModelInputs
from vl3ref.parity import (
    Activations,
    Report,
    compare,
    compare_activations,
    difference,
    load_activations,
    record,
    record_modules,
    save_activations,
)
from vl3ref.watching import watch

# ----------------------------------------------------------------------------------------------------------- measures


def test_the_measures_of_a_difference_made_by_hand() -> None:
    row = difference("x", torch.tensor([[3.0, 5.0]]), torch.tensor([[3.0, 4.0]]))
    assert row.shape == (1, 2) and not row.equal
    assert (row.max_abs, row.mean_abs) == (1.0, 0.5)
    assert row.relative == pytest.approx(1 / 5)
    assert row.cosine == pytest.approx((9 + 20) / (5 * math.sqrt(34)))
    assert (row.our_error, row.reference_error, row.verdict) == (None, None, "")


def test_equal_tensors_differ_by_nothing() -> None:
    x = torch.randn(3, 4)
    row = difference("x", x, x.clone())
    assert row.equal and row.max_abs == row.mean_abs == row.max_ulp == row.relative == 0.0
    assert row.cosine == pytest.approx(1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [1.0, 1.75, 512.0, 2.0**-9])
def test_a_step_to_the_next_number_is_one_unit_in_the_last_place(dtype: torch.dtype, value: float) -> None:
    reference = torch.full((4,), value, dtype=dtype)
    step = torch.finfo(dtype).eps * 2.0 ** math.floor(math.log2(value))
    ours = reference.clone()
    ours[2] += step
    assert difference("x", ours, reference).max_ulp == 1.0
    ours[2] += 2 * step
    assert difference("x", ours, reference).max_ulp == 3.0


def test_small_elements_are_counted_in_units_of_the_root_mean_square() -> None:
    reference = torch.tensor([1.0, 1.0, 1.0, 1e-6])
    eps = torch.finfo(torch.float32).eps
    # The root mean square lies just below one, where the spacing is half as wide.
    assert difference("x", reference + torch.tensor([0, 0, 0, eps]), reference).max_ulp == pytest.approx(2.0, rel=1e-2)


def test_zeros_are_as_like_as_can_be_and_unlike_anything_else() -> None:
    zeros = torch.zeros(3)
    assert difference("x", zeros, zeros).cosine == 1.0
    row = difference("x", torch.ones(3), zeros)
    assert row.cosine == 0.0 and row.relative == pytest.approx(math.sqrt(3))


@pytest.mark.parametrize(
    ("ours", "verdict"), [(1.01, "nearer"), (1.3, "farther"), (1.1, "as near"), (1.104, "as near"), (1.106, "farther")]
)
def test_the_verdict_says_who_is_nearer_to_higher_precision(ours: float, verdict: str) -> None:
    row = difference("x", torch.tensor([ours]), torch.tensor([1.1]), torch.tensor([1.0], dtype=torch.float64))
    assert row.verdict == verdict
    assert row.reference_error == pytest.approx(0.1, rel=1e-6) and row.our_error == pytest.approx(ours - 1, rel=1e-4)


def test_errors_are_measured_in_float64() -> None:
    precise = torch.tensor([1.0 + 1e-12], dtype=torch.float64)
    row = difference("x", torch.tensor([1.0]), torch.tensor([1.0]), precise)
    assert row.our_error == pytest.approx(1e-12, rel=1e-3)


def test_ids_that_another_type_holds_are_not_rounded_to_equal() -> None:
    ids = torch.tensor([1, 2])
    assert difference("x", ids, torch.tensor([1.0, 2.0])).equal
    assert not difference("x", ids, torch.tensor([1.0, 2.5])).equal


def test_nan_is_a_failure_and_can_be_written() -> None:
    report = compare_activations({"x": torch.tensor([float("nan"), 1.0])}, {"x": torch.ones(2)})
    assert report.failed == ["x"]
    (row,) = json.loads(report.json(), parse_constant=pytest.fail)["rows"]
    assert row["max_abs"] == "nan"


# ------------------------------------------------------------------------------------------------------------- reports


def ids_and_floats(dtype: torch.dtype, ids: list[int]) -> dict[str, Tensor]:
    return {"logits": torch.ones(2, 3, dtype=dtype), "next_ids": torch.tensor(ids)}


@pytest.mark.parametrize(("dtype", "passes"), [(torch.float32, False), (torch.bfloat16, True)])
def test_next_ids_have_to_agree_where_the_dtype_resolves_near_ties(dtype: torch.dtype, passes: bool) -> None:
    report = compare_activations(ids_and_floats(dtype, [1, 2]), ids_and_floats(dtype, [1, 3]))
    assert report.passed == passes and report.first_difference == "next_ids"


@pytest.mark.parametrize("name", ["keep_mask", "input_ids"])
def test_masks_and_prompt_ids_always_have_to_agree(name: str) -> None:
    low = {"logits": torch.ones(2, dtype=torch.bfloat16)}
    ours, theirs = {**low, name: torch.tensor([1, 0])}, {**low, name: torch.tensor([1, 1])}
    assert compare_activations(ours, theirs, tolerance=1e9).failed == [name]


def test_a_row_fails_past_the_tolerance_and_not_before() -> None:
    ours, theirs = {"logits": torch.tensor([1.001])}, {"logits": torch.tensor([1.0])}
    assert compare_activations(ours, theirs, tolerance=1.1e-3).passed
    assert compare_activations(ours, theirs, tolerance=0.9e-3).failed == ["logits"]
    assert compare_activations(ours, theirs).failed == ["logits"]


def test_different_shapes_and_no_shared_name_are_refused() -> None:
    with pytest.raises(InputError, match=r"logits is \(2,\) in ours and \(3,\) in the reference"):
        compare_activations({"logits": torch.ones(2)}, {"logits": torch.ones(3)})
    with pytest.raises(InputError, match="no activation has the same name"):
        compare_activations({"logits": torch.ones(2)}, {"output": torch.ones(2)})


def test_names_of_one_side_alone_are_told() -> None:
    report = compare_activations({"a": torch.ones(1), "b": torch.ones(1)}, {"b": torch.ones(1), "c": torch.ones(1)})
    assert [row.name for row in report.rows] == ["b"] and report.unpaired == ["a", "c"]
    assert "Only on one side: a, c." in report.markdown()


def some_report() -> Report:
    ours = {"vision.norm": torch.tensor([[1.0, 2.0]]), "logits": torch.tensor([[3.0]]), "next_ids": torch.tensor([4])}
    theirs = {**ours, "logits": torch.tensor([[3.3]])}
    precise = {name: x.double() for name, x in ours.items()}
    return compare_activations(ours, theirs, precise, about={"input": "synthetic"})


def test_a_report_as_markdown_json_and_a_plot(tmp_path) -> None:
    report = some_report()
    rows = [line for line in report.markdown().splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0] for row in rows] == ["| activation", "| vision.norm", "| logits", "| next_ids"]
    assert rows[1].endswith("| equal |") and rows[2].endswith("| nearer |")
    assert "- input: synthetic" in report.markdown()
    assert "They first differ at logits." in report.markdown() and "past the relative tolerance" in report.markdown()
    content = json.loads(report.json())
    assert content["first_difference"] == "logits" and content["failed"] == ["logits"] and content["passed"] is False
    assert [row["verdict"] for row in content["rows"]] == ["as near", "nearer", ""]
    report.plot(tmp_path / "errors.png")
    assert Image.open(tmp_path / "errors.png").size[0] > 400


# ---------------------------------------------------------------------------------------------------- any two modules


class Block(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.down = nn.Linear(2 * dim, dim)  # registered first, computed last
        self.up = nn.Linear(dim, 2 * dim)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.act(self.down(self.act(self.up(x))))


class Stack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(4) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def two_stacks() -> tuple[Stack, Stack]:
    torch.manual_seed(0)
    first, second = Stack(), Stack()
    second.load_state_dict(first.state_dict())
    return first, second


def test_compare_says_that_equal_modules_are_equal() -> None:
    report = compare(*two_stacks(), torch.randn(5, 4))
    assert report.passed and report.first_difference is None
    computed = [f"blocks.{n}{part}" for n in range(3) for part in (".up", ".down", ".act", "")]
    assert [row.name for row in report.rows] == [*computed, "output"]


@pytest.mark.parametrize("culprit", ["blocks.1.down", "blocks.2.up"])
def test_compare_finds_the_first_submodule_that_differs(culprit: str) -> None:
    first, second = two_stacks()
    with torch.no_grad():
        first.get_submodule(culprit).bias += 0.01
    report = compare(first, second, torch.randn(5, 4))
    assert report.first_difference == culprit
    assert report.failed[0] == culprit and "output" in report.failed


def test_compare_pairs_submodules_of_other_names_and_other_arguments() -> None:
    first, second = two_stacks()
    renamed = nn.ModuleDict({"layers": second.blocks})
    renamed.forward = lambda batch, scale: second(batch * scale)
    x = torch.randn(5, 4)
    pairs = {"blocks.0": "layers.0", "blocks.2.up": "layers.2.up"}
    report = compare(first, renamed, x, reference_args=(x[None] / 2, 2.0), pairs=pairs)
    assert [row.name for row in report.rows] == ["blocks.0", "blocks.2.up", "output"] and report.passed
    assert not compare(first, renamed, x, reference_args=(x[None], 2.0), pairs=pairs).passed


def test_compare_does_not_mind_modules_that_give_no_tensor_or_one_number() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.mean, self.pair = (nn.Identity() for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            self.table({"x": x})
            return self.mean(x.mean()) + self.pair((x, None))[0]

    report = compare(Odd(), Odd(), torch.randn(3))
    assert [row.name for row in report.rows] == ["mean", "pair", "output"] and report.passed
    assert report.rows[0].shape == ()


def test_hooks_are_gone_after_recording_even_if_the_pass_fails() -> None:
    stack = Stack()
    with pytest.raises(RuntimeError), record_modules({"first": stack.blocks[0]}):
        stack(torch.randn(5, 3))
    assert not stack.blocks[0]._forward_hooks


def test_calls_of_one_module_are_joined_along_rows() -> None:
    linear = nn.Linear(2, 3)
    with record_modules({"linear": linear}) as found:
        parts = [linear(torch.randn(n, 2)) for n in (2, 1)]
    assert torch.equal(found["linear"], torch.cat(parts).detach())


# --------------------------------------------------------------------------------------------------- recordings, files


@pytest.fixture(scope="module")
def model() -> VideoLLaMA3:
    vision = VisionConfig(16, 24, 11, 2, patch_size=2)
    language = LanguageConfig(40, 16, 24, 2, 4, 2)
    return random_parameters(VideoLLaMA3(ModelConfig(vision, language, 38, 39)), 0)


@pytest.fixture(scope="module")
def video(model: VideoLLaMA3) -> ModelInputs:
    return conversation(model.config, [(3, 4, 4)], [2], ["video"], 0)


@pytest.fixture(scope="module")
def recorded(model: VideoLLaMA3, video: ModelInputs) -> Activations:
    return record(model, video, 2)


def test_a_recording_is_in_the_order_of_the_data_flow(recorded: Activations) -> None:
    names = list(recorded)
    blocks = [f"vision.layers.{n}{branch}" for n in range(11) for branch in (".attention", ".mlp", "")]
    assert names[:35] == ["keep_mask", "vision.patch_embedding", *blocks]
    assert names[35:39] == ["vision.norm", "vision.merged", "projected", "embeddings"]
    assert names[39] == "language.layers.0.attention" and names[-3:] == ["language.norm", "logits", "next_ids"]


@pytest.mark.parametrize("chunk", [16, None])
def test_a_recording_holds_what_the_model_gives(model: VideoLLaMA3, video: ModelInputs, chunk: int | None) -> None:
    model.vision_encoder.chunk_patches = chunk
    found = record(model, video, 3)
    with torch.no_grad():
        spliced = model.splice(video)
        with watch(model) as seen:
            output = model(video)
    assert torch.equal(found["logits"], output.logits) and torch.equal(found["keep_mask"], output.keep_mask)
    assert len(found["projected"]) == int(output.keep_mask.sum()) < len(output.keep_mask)
    assert torch.equal(found["embeddings"], spliced.embeddings)
    assert torch.equal(found["language.layers.0"], seen.language.hidden_states[1])
    # Parity lists patches in merge-block order, watch row by row.
    assert torch.equal(
        found["vision.layers.3"].view(3, 2, 2, 2, 2, 16).transpose(2, 3).reshape(48, 16), seen.vision.hidden_states[4]
    )
    assert torch.equal(found["next_ids"], model.generate(video, 3, min_new_tokens=3)[0])


def test_a_file_gives_back_activations_and_inputs(recorded: Activations, video: ModelInputs, tmp_path) -> None:
    save_activations(tmp_path / "acts.safetensors", recorded, video)
    back, inputs = load_activations(tmp_path / "acts.safetensors")
    assert list(back) == list(recorded) and all(torch.equal(back[name], recorded[name]) for name in recorded)
    assert inputs is not None and inputs.modals == ["video"]
    for name in ("input_ids", "lengths", "pixel_values", "grid_sizes", "merge_sizes"):
        assert torch.equal(getattr(inputs, name), getattr(video, name))


def test_a_file_of_activations_alone_has_no_inputs(recorded: Activations, tmp_path) -> None:
    save_activations(tmp_path / "acts.safetensors", recorded)
    assert load_activations(tmp_path / "acts.safetensors")[1] is None


def test_a_file_that_others_wrote_may_leave_out_lengths_and_modals_and_use_int32(video: ModelInputs, tmp_path) -> None:
    save_file(
        {
            "input.input_ids": video.input_ids.numpy().astype(np.int32),
            "input.pixel_values": video.pixel_values.numpy(),
            "input.grid_sizes": video.grid_sizes.numpy().astype(np.int32),
            "input.merge_sizes": video.merge_sizes.numpy().astype(np.int32),
            "decoder.layers.0": np.ones((2, 2), np.float32),
            "vision.layers.last": np.ones((2, 2), np.float32),
            "logits": np.ones((2, 2), np.float32),
        },
        tmp_path / "theirs.safetensors",
    )
    found, inputs = load_activations(tmp_path / "theirs.safetensors")
    assert list(found) == ["decoder.layers.0", "logits", "vision.layers.last"]
    assert inputs is not None and inputs.modals == ["video"] and inputs.lengths.tolist() == [len(video.input_ids)]
    assert inputs.input_ids.dtype == inputs.grid_sizes.dtype == inputs.merge_sizes.dtype == torch.int64


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("input.input_ids", np.zeros((1, 4), np.int64), r"input.input_ids in .* is \(1, 4\), but should have 1 axes"),
        ("input.input_ids", np.zeros(4, np.float32), "holds float32"),
        ("input.grid_sizes", np.zeros((1, 2), np.int64), r"input.grid_sizes in .* is \(1, 2\)"),
        ("input.pixel_values", np.zeros((4, 12), np.int64), "holds int64"),
    ],
)
def test_inputs_of_a_wrong_form_are_refused(name: str, value: np.ndarray, message: str, tmp_path) -> None:
    path = tmp_path / "theirs.safetensors"
    save_file({"input.input_ids": np.zeros(4, np.int64), "logits": np.ones(2, np.float32), name: value}, path)
    with pytest.raises(InputError, match=message):
        load_activations(path)


def test_what_is_no_safetensors_file_is_refused(tmp_path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    for name in ("notes.txt", "missing.safetensors"):
        with pytest.raises(InputError, match=name):
            load_activations(tmp_path / name)


def test_others_can_read_what_is_written(recorded: Activations, video: ModelInputs, tmp_path) -> None:
    save_activations(tmp_path / "acts.safetensors", recorded, video)
    arrays = load_file(tmp_path / "acts.safetensors")
    assert arrays["logits"].dtype == np.float32 and arrays["keep_mask"].dtype == bool
    assert arrays["input.pixel_values"].shape == tuple(video.pixel_values.shape)
