"""Exact mode: the bits of transformers (sdpa, CPU, float32). Otherwise: within rounding of them."""

from dataclasses import replace

import pytest
import torch

from tests.parity.pairs import KINDS, Pair, conversation, pair_of
from vl3ref.model.initialise import random_model
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.parity import compare_activations, exact, record
from vl3ref.parity.reference import record_reference
from vl3ref.parity.synthetic import geometry, synthetic_inputs


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "all"])
def test_every_activation_has_transformers_bits(pair: Pair, kind: str) -> None:
    model = pair.ours[torch.float32]
    inputs = conversation(pair.config, *KINDS[kind], seed=0)
    reference = record_reference(model, inputs, new_tokens=2)
    with exact(model):
        assert compare_activations(record(model, inputs, 2), reference).first_difference is None


def test_threads_share_one_call_for_several_frames_in_another_way() -> None:
    """One head: a call of attention for one frame is one piece of work, and one for two frames is two."""
    pair = pair_of("no groups")
    model = pair.ours[torch.float32]
    inputs = conversation(pair.config, [(2, 2, 3)], [1], ["video"], seed=0)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        expected, _ = pair.their_logits(inputs)
        with torch.no_grad(), exact(model):
            assert torch.equal(model(inputs).logits, expected)
    finally:
        torch.set_num_threads(before)


def test_frames_that_come_in_chunks_and_prompts_that_come_in_pieces() -> None:
    pair = pair_of("no groups")
    model = pair.ours[torch.float32]
    inputs = conversation(pair.config, [(3, 24, 24)], [2], ["video"], seed=0, words=1200)
    expected, _ = pair.their_logits(inputs)
    assert len(expected) > model.language_model.layers[0].mlp.chunk_tokens
    with torch.no_grad(), exact(model):
        assert torch.equal(model(inputs).logits, expected)


@pytest.fixture(scope="module")
def released() -> VideoLLaMA3:
    """The 2B's widths, with one layer in each tower and a small vocabulary."""
    config = geometry("2b", 1)
    language = replace(config.language, vocab_size=600, eos_token_ids=())
    return random_model(replace(config, language=language, image_token_id=598, video_token_id=599), spread=0.1)


@pytest.mark.parametrize("modal", ["text", "image", "video"])
def test_every_activation_has_transformers_bits_at_the_2bs_widths(released: VideoLLaMA3, modal: str) -> None:
    inputs = synthetic_inputs(released.config, modal, (2, 8, 8))
    reference = record_reference(released, inputs, new_tokens=1)
    with exact(released):
        assert compare_activations(record(released, inputs, 1), reference).first_difference is None
    fast = compare_activations(record(released, inputs, 1), reference)
    assert fast.passed and (fast.first_difference == "vision.patch_embedding" or modal == "text")


def test_everything_is_as_before_afterwards_even_if_the_pass_failed() -> None:
    model = pair_of("no groups").ours[torch.float32]
    before = {name: dict(vars(module)) for name, module in model.named_modules()}
    with pytest.raises(RuntimeError, match="stop"), exact(model) as same:
        assert same is model and model.vision_encoder.chunk_patches != before["vision_encoder"]["chunk_patches"]
        raise RuntimeError("stop")
    assert {name: dict(vars(module)) for name, module in model.named_modules()} == before
