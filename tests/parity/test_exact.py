"""The exact mode: the bits of transformers (sdpa, CPU, float32). The fast order: within rounding of them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.parity.drawn import DETOUR, Grid, close, configs, conversation, drawn_model, rounding_of, seeds
from vl3ref.config import ModelConfig
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.model_inputs import ModelInputs
from vl3ref.parity import Activations, compare_activations, record
from vl3ref.parity.reference import record_reference
from vl3ref.parity.run import drawn_inputs, random_geometry

NAMES = ("vision.merged", "embeddings", "logits")


@st.composite
def inputs_of_one_kind(draw: st.DrawFn, config: ModelConfig) -> ModelInputs:
    """Text alone, one image or one video."""
    modal = draw(st.sampled_from(["text", "image", "video"]))
    if modal == "text":
        return conversation(config, [], [], [], draw(seeds), draw(st.integers(1, 12)))
    merge = draw(st.sampled_from([1, 2]))
    side = st.integers(1, 4)
    grid: Grid = (1 if modal == "image" else draw(st.integers(2, 4)), merge * draw(side), merge * draw(side))
    return conversation(config, [grid], [merge], [modal], draw(seeds))


def bits_differ(ours: Activations, reference: Activations) -> list[str]:
    return [name for name in NAMES if name in reference and not torch.equal(ours[name], reference[name])]


@settings(deadline=None, max_examples=20)
@given(config=configs(), data=st.data(), seed=seeds)
def test_exact_mode_has_transformers_bits(config: ModelConfig, data: st.DataObject, seed: int) -> None:
    model = drawn_model(config, seed)
    inputs = data.draw(inputs_of_one_kind(config))
    reference = record_reference(model, inputs, new_tokens=1)
    assert not bits_differ(record(model.exact(), inputs, 1), reference)
    model.exact(False)
    fast = record(model, inputs, 1)
    for name in NAMES:
        if name in reference:
            rounding = rounding_of(model, lambda wide, name=name: record_reference(wide, inputs, new_tokens=1)[name])
            close(fast[name], reference[name], 4 * DETOUR[torch.float32], rounding)


@pytest.fixture(scope="module")
def released() -> VideoLLaMA3:
    """The 2B's widths with two layers in each tower."""
    return random_geometry("2b", 2, "cpu", torch.float32)


@pytest.mark.parametrize("modal", ["text", "image", "video"])
def test_exact_mode_has_transformers_bits_at_the_2bs_widths(released: VideoLLaMA3, modal: str) -> None:
    model = released
    inputs = drawn_inputs(model.config, modal, (2, 8, 8))
    reference = record_reference(model, inputs, new_tokens=1)
    exact = record(model.exact(), inputs, 1)
    assert not bits_differ(exact, reference)
    assert compare_activations(exact, reference).first_parting is None

    fast = record(model.exact(False), inputs, 1)
    for name in NAMES:
        if name in reference:
            close(fast[name], reference[name], 2e-5)
    report = compare_activations(fast, reference)
    # A matrix product, where transformers has a convolution. Text is computed in one order only.
    assert report.first_parting == (None if modal == "text" else "vision.patch_embedding")
    assert report.passed


def test_exact_mode_can_be_left_again() -> None:
    model = random_geometry("tiny", 1, "cpu", torch.float32)
    before = (model.vision_encoder.chunk_patches, model.vision_encoder.embeddings.as_convolution)
    assert model.exact() is model
    assert (model.vision_encoder.chunk_patches, model.vision_encoder.embeddings.as_convolution) == (None, True)
    model.exact(False)
    assert (model.vision_encoder.chunk_patches, model.vision_encoder.embeddings.as_convolution) == before
