"""Weights and settings through files: official -> hf -> transformers -> its own files -> official."""

from pathlib import Path

import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.goldens_cases import NAMES, golden, inputs_of
from tests.helpers import GOLDENS
from tests.parity.drawn import DETOUR, close, configs, conversation, drawn_model, rounding_of, seeds, their_logits
from vl3ref.checkpoints import load_model, save_model
from vl3ref.config import ModelConfig
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.parity.reference import twin_inputs

Reference = transformers.VideoLlama3ForConditionalGeneration
few = settings(deadline=None, max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])


def same(a: VideoLLaMA3, b: VideoLLaMA3) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@few
@given(config=configs(), seed=seeds, shards=st.sampled_from(["10KB", "5GB"]))
def test_there_and_back_through_transformers(
    config: ModelConfig, seed: int, shards: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """ours -> hf -> transformers -> its own files -> ours, for any geometry."""
    tmp_path = tmp_path_factory.mktemp("files")
    model = drawn_model(config, seed)
    hf = save_model(model, tmp_path / "hf", "hf")
    reference, report = Reference.from_pretrained(hf, output_loading_info=True)
    assert not any(report.values())
    inputs = conversation(config, [(2, 4, 2)], [2], ["video"], seed)
    with torch.no_grad():
        expected = reference.eval()(**twin_inputs(model, inputs)).logits[0]
        close(model(inputs).logits, expected, 4 * DETOUR[torch.float32], rounding_of(model, their_logits(inputs)))

        reference.save_pretrained(tmp_path / "theirs", max_shard_size=shards)
        back = load_model(tmp_path / "theirs", device="cpu")
        assert same(back, model)
        assert (back.config.vision, back.config.visual_token_ids) == (config.vision, config.visual_token_ids)
        assert back.config.language == config.language
        assert torch.equal(back(inputs).logits, model(inputs).logits)


def test_the_goldens_from_official_to_hf_to_transformers_and_back(tmp_path: Path) -> None:
    official = load_model(GOLDENS / "official-tiny", device="cpu")
    # One id for both kinds of visual token becomes hf's two.
    released = official.config
    official.config = load_model(GOLDENS / "hf-tiny", device="cpu").config
    reference = Reference.from_pretrained(save_model(official, tmp_path / "hf", "hf")).eval()
    reference.save_pretrained(tmp_path / "theirs")
    back = load_model(tmp_path / "theirs", device="cpu")
    assert same(back, official)
    with torch.no_grad():
        for case in NAMES:
            inputs = inputs_of(case, "hf")
            expected = reference(**twin_inputs(back, inputs)).logits[0]
            assert (back(inputs).logits - expected).abs().max() < 2e-5
            assert (back(inputs).logits - golden(case, "logits")).abs().max() < 2e-5

    back.config = released
    again = load_model(save_model(back, tmp_path / "official", "official"), device="cpu")
    assert same(again, official) and again.config == released


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_that_transformers_made_and_saved_is_read_and_rewritten(tmp_path: Path, tied: bool, dtype: str) -> None:
    """Its config.json holds what transformers writes of its own accord, defaults left out or not."""
    text = transformers.Qwen2Config(
        vocab_size=64,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
        bos_token_id=1,
        eos_token_id=[2, 3],
    )
    config = transformers.VideoLlama3Config(
        text_config=text.to_dict(),
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "patch_size": 4,
        },
        image_token_id=62,
        video_token_id=63,
        tie_word_embeddings=tied,
    )
    torch.manual_seed(0)
    reference = Reference(config).to(getattr(torch, dtype)).eval()
    reference.save_pretrained(tmp_path / "theirs")
    model = load_model(tmp_path / "theirs", device="cpu", dtype=dtype)
    assert (model.language_model.lm_head is None) == tied
    assert model.config.language.eos_token_ids == (2, 3)
    assert load_model(save_model(model, tmp_path / "again", "hf"), device="cpu", dtype=dtype).config == model.config
    again = Reference.from_pretrained(tmp_path / "again", dtype=dtype).eval()
    inputs = conversation(model.config, [(1, 2, 3)], [1], ["image"], 0)
    with torch.no_grad():
        first, second = (net(**twin_inputs(model, inputs)).logits[0] for net in (reference, again))
        assert torch.equal(first, second)
        close(model(inputs).logits, first, 1e-5 if dtype == "float32" else 3e-2)
