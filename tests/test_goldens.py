"""The model against numbers of the official implementation: both layouts, each case alone, all cases as one batch."""

import pytest
import torch

from tests.goldens_cases import CASES, NAMES, golden, inputs_of, labels_of
from tests.helpers import GOLDENS
from vl3ref.checkpoints import load_model
from vl3ref.checkpoints.layouts import file_name
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.model_inputs import join

TOLERANCE = 2e-5


@pytest.fixture(scope="module", params=["official", "hf"])
def layout(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(layout: str) -> VideoLLaMA3:
    """In float64: what differs is then the rounding of the stored numbers alone, the same on every processor."""
    return load_model(GOLDENS / f"{layout}-tiny", device="cpu", dtype="float64")


def close(ours: torch.Tensor, reference: torch.Tensor) -> None:
    assert ours.shape == reference.shape
    assert (ours - reference).abs().max() <= TOLERANCE


@pytest.mark.parametrize("case", NAMES)
def test_case_alone(model: VideoLLaMA3, layout: str, case: str) -> None:
    inputs = inputs_of(case, layout)
    with torch.no_grad():
        output = model(inputs)
    close(output.logits, golden(case, "logits"))
    if inputs.pixel_values is None:
        assert len(output.keep_mask) == 0
        return
    assert torch.equal(output.keep_mask, golden(case, "keep_mask"))
    features = model.vision_encoder(inputs.pixel_values, inputs.grid_sizes, inputs.merge_sizes)
    close(features, golden(case, "vision_features"))
    close(model.projector(features), golden(case, "projected"))


@pytest.mark.parametrize("case", NAMES)
def test_greedy_ids(model: VideoLLaMA3, layout: str, case: str) -> None:
    (answer,) = model.generate(inputs_of(case, layout), max_new_tokens=24, min_new_tokens=24)
    assert torch.equal(answer, golden(case, "greedy"))


@pytest.mark.parametrize("case", NAMES)
def test_loss_and_every_gradient(model: VideoLLaMA3, layout: str, case: str) -> None:
    inputs = inputs_of(case, layout)
    model.zero_grad()
    output = model(inputs, labels=labels_of(inputs))
    assert output.logits is None
    assert output.loss.item() == pytest.approx(CASES[case]["loss"], rel=1e-6)
    output.loss.backward()
    norms = {
        file_name(name, "official"): parameter.grad.norm().item()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    for name, norm in CASES[case]["grad_norm"].items():
        # The key bias of a softmax has no effect, and its gradient is rounding noise around zero.
        assert norms.get(name, 0.0) == pytest.approx(norm, rel=1e-4, abs=1e-6), name


def test_all_cases_as_one_batch(model: VideoLLaMA3, layout: str) -> None:
    inputs = join([inputs_of(case, layout) for case in NAMES])
    with torch.no_grad():
        output = model(inputs)
    for case, logits in zip(NAMES, output.logits.split(output.lengths.tolist()), strict=True):
        close(logits, golden(case, "logits"))
    assert torch.equal(
        output.keep_mask, torch.cat([golden(case, "keep_mask") for case in NAMES if CASES[case]["modals"]])
    )


def test_all_cases_generated_as_one_batch(model: VideoLLaMA3, layout: str) -> None:
    inputs = join([inputs_of(case, layout) for case in NAMES])
    answers = model.generate(inputs, max_new_tokens=24, min_new_tokens=24)
    for case, answer in zip(NAMES, answers, strict=True):
        assert torch.equal(answer, golden(case, "greedy")), case


def test_the_loss_of_a_batch_is_the_mean_over_its_targets(model: VideoLLaMA3, layout: str) -> None:
    inputs = join([inputs_of(case, layout) for case in NAMES])
    with torch.no_grad():
        loss = model(inputs, labels=labels_of(inputs)).loss
    assert loss.item() == pytest.approx(sum(CASES[case]["loss"] for case in NAMES) / len(NAMES), rel=1e-6)
