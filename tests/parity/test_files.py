"""Weights and settings through files: official -> hf -> transformers -> its own files -> official."""

from pathlib import Path

import pytest
import torch
import transformers

from tests.goldens_cases import NAMES, golden, inputs_of
from tests.helpers import GOLDENS
from tests.parity.pairs import CONFIGS, close, conversation, pair_of, rounding_of
from vl3ref.checkpoints import load_model, save_model
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.parity.reference import reference_inputs, reference_model

Reference = transformers.VideoLlama3ForConditionalGeneration


def same(a: VideoLLaMA3, b: VideoLLaMA3) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(("name", "shards"), [(name, "10KB" if n else "5GB") for n, name in enumerate(CONFIGS)])
def test_there_and_back_through_transformers(name: str, shards: str, tmp_path: Path) -> None:
    """ours -> hf -> transformers -> its own files -> ours."""
    pair = pair_of(name)
    model = pair.ours[torch.float32]
    reference, report = Reference.from_pretrained(save_model(model, tmp_path / "hf", "hf"), output_loading_info=True)
    assert not any(report.values())
    inputs = conversation(pair.config, [(2, 4, 2)], [2], ["video"], seed=0)
    expected, rounding = pair.their_logits(inputs)
    with torch.no_grad():
        assert torch.equal(reference.eval()(**reference_inputs(model, inputs)).logits[0], expected)
        close(model(inputs).logits, expected, rounding)

        reference.save_pretrained(tmp_path / "theirs", max_shard_size=shards)
        back = load_model(tmp_path / "theirs", device="cpu")
        assert same(back, model)
        assert (back.config.vision, back.config.visual_token_ids) == (pair.config.vision, pair.config.visual_token_ids)
        assert back.config.language == pair.config.language
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
            given = reference_inputs(back, inputs)
            rounding = rounding_of(reference, lambda model, given=given: model(**given).logits[0])
            close(back(inputs).logits, reference(**given).logits[0], rounding)
            close(back(inputs).logits, golden(case, "logits"), rounding)

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
    given = reference_inputs(model, inputs)
    with torch.no_grad():
        first, second = (net(**given).logits[0] for net in (reference, again))
        assert torch.equal(first, second)
        off = (model(inputs).logits - first).abs().max()
        wide = reference_model(model.double())(**given).logits[0]  # of the same weights
        assert off <= 10 * (first.double() - wide).abs().max()
