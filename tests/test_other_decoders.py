"""Decoders of Qwen3 and Llama, and every kind of rope scaling, against transformers on small random models."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from vl3ref.checkpoints import load_language_model, load_model, read_config, read_language_config, save_model
from vl3ref.config import LanguageConfig, ModelConfig, RopeScaling, VisionConfig
from vl3ref.model.initialise import random_model
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.model_inputs import ModelInputs

LINEAR = {"rope_type": "linear", "factor": 4.0}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}

DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2, tied, linear": ("qwen2", {"tie_word_embeddings": True, "rope": LINEAR}),
    "qwen2, yarn": ("qwen2", {"rope": YARN}),
    "qwen3, tied": ("qwen3", {"tie_word_embeddings": True, "head_dim": 6}),
    "qwen3, biases, yarn": ("qwen3", {"attention_bias": True, "head_dim": 16, "rope": {**YARN, "beta_fast": 8.0}}),
    "qwen3, llama3": ("qwen3", {"head_dim": 8, "rope": LLAMA3}),
    "llama": ("llama", {}),
    "llama, tied, biases, llama3": (
        "llama",
        {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True, "rope": LLAMA3},
    ),
    "llama, own heads, linear": ("llama", {"head_dim": 4, "mlp_bias": True, "rope": LINEAR}),
    "llama, yarn": ("llama", {"attention_bias": True, "rope": {**YARN, "attention_factor": 1.3}}),
}

SIZES = {
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}

IDS = torch.randint(1, 61, (48,), generator=torch.Generator().manual_seed(0))
"""Longer than the scaled decoders were pretrained on."""


def randomise(model: Any) -> Any:
    """Weights large enough that biases, norms and rotation all tell."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, x in model.named_parameters():
            value = torch.randn(x.shape, generator=generator)
            x.copy_(value / x.shape[-1] ** 0.5 if x.ndim > 1 else 0.3 * value + (not name.endswith("bias")))
    return model.eval()


def reference_of(kind: str, options: dict[str, Any]) -> Any:
    options = {**SIZES, **options}
    rope = {"rope_theta": 100.0, **options.pop("rope", {"rope_type": "default"})}
    config = transformers.AutoConfig.for_model(
        kind, **options, rope_parameters=rope, bos_token_id=None, eos_token_id=None
    )
    return randomise(transformers.AutoModelForCausalLM.from_config(config))


def close(ours: Tensor, reference: Any, *arguments: Any, **options: Any) -> None:
    """Within a few times what float32 does to transformers itself on the same inputs."""
    with torch.no_grad():
        narrow = reference(*arguments, **options).logits[0]
        wide = reference.double()(*arguments, **options).logits[0]
    reference.float()
    assert (ours - narrow).abs().max() <= 4 * (narrow - wide).abs().max()
    assert (ours.argmax(-1) == narrow.argmax(-1)).float().mean() > 0.9


@pytest.fixture(scope="module", params=list(DECODERS))
def decoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any, Path]:
    """Its kind, transformers' model, and the folder that transformers saved."""
    kind, options = DECODERS[request.param]
    reference, folder = reference_of(kind, options), tmp_path_factory.mktemp(kind)
    reference.save_pretrained(folder)
    return kind, reference, folder


def test_logits_and_answers_are_transformers(decoder: tuple[str, Any, Path]) -> None:
    _, reference, folder = decoder
    ours = load_language_model(folder, device="cpu")
    with torch.no_grad():
        close(ours(IDS), reference, IDS[None])
        expected = reference.generate(IDS[None], max_new_tokens=12, do_sample=False, pad_token_id=0)[0, len(IDS) :]
    assert ours.generate(IDS, max_new_tokens=12)[0].tolist() == expected.tolist()


def test_what_is_saved_loads_in_transformers(decoder: tuple[str, Any, Path], tmp_path: Path) -> None:
    kind, reference, folder = decoder
    save_model(load_language_model(folder, device="cpu"), tmp_path)
    again, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert again.config.model_type == kind and not any(report.values())
    with torch.no_grad():
        assert torch.equal(again.eval()(IDS[None]).logits, reference(IDS[None]).logits)


def test_transformers_4_files_say_the_same(decoder: tuple[str, Any, Path]) -> None:
    _, _, folder = decoder
    raw = json.loads((folder / "config.json").read_text())
    rope = raw.pop("rope_parameters")
    kind = rope.pop("rope_type")
    old = {"rope_theta": rope.pop("rope_theta"), "rope_scaling": {"type": kind, **rope} if rope else None}
    assert read_language_config({**raw, **old}) == read_language_config(folder)


# -------------------------------------------------------------------------------- in a whole VideoLLaMA 3

VISION = VisionConfig(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, patch_size=4)
LANGUAGES = {
    "qwen3": LanguageConfig(
        **SIZES, rope_theta=1e4, tie_word_embeddings=True, head_dim=10, qk_norm=True, qkv_bias=False
    ),
    "llama": LanguageConfig(
        **SIZES,
        qkv_bias=False,
        mlp_bias=True,
        rope_scaling=RopeScaling("llama3", 8.0, original_max_position_embeddings=16),
    ),
}


@pytest.fixture(params=list(LANGUAGES))
def whole(request: pytest.FixtureRequest) -> VideoLLaMA3:
    config = ModelConfig(VISION, LANGUAGES[request.param], image_token_id=59, video_token_id=60, layout="hf")
    return random_model(config, spread=0.3, deviation=None)


def test_a_whole_model_with_another_decoder_is_transformers(whole: VideoLLaMA3, tmp_path: Path) -> None:
    save_model(whole, tmp_path, "hf")
    reference, report = transformers.VideoLlama3ForConditionalGeneration.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(report.values()) and load_model(tmp_path, device="cpu").config == whole.config
    ids = torch.cat([IDS[:30] % 59, torch.full((6,), 59), IDS[30:] % 59])
    pixels, grid = torch.rand(6, 48) * 2 - 1, torch.tensor([[1, 2, 3]])
    inputs = ModelInputs(ids, torch.tensor([len(ids)]), pixels, grid, torch.tensor([1]), ["image"])
    theirs = {"pixel_values": pixels, "image_grid_thw": grid, "image_merge_sizes": torch.tensor([1])}
    with torch.no_grad():
        close(whole(inputs).logits, reference.eval(), input_ids=ids[None], **theirs)


def test_the_official_layout_names_another_decoder_in_its_model_type(whole: VideoLLaMA3, tmp_path: Path) -> None:
    official = ModelConfig(VISION, whole.config.language, image_token_id=59, video_token_id=59)
    whole.config = official
    save_model(whole, tmp_path)
    kind = "qwen3" if official.language.qk_norm else "llama"
    raw = json.loads((tmp_path / "config.json").read_text())
    assert raw["model_type"] == f"videollama3_{kind}" and read_config(tmp_path) == official
    again = load_model(tmp_path, device="cpu").state_dict()
    assert all(torch.equal(x, again[name]) for name, x in whole.state_dict().items())
    assert load_language_model(tmp_path, device="cpu").config == official.language
