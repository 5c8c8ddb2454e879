"""Small models and inputs of any shape, and how near two results are."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from hypothesis import assume, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from vl3ref.config import LanguageConfig, ModelConfig, VisionConfig
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.model_inputs import ModelInputs
from vl3ref.parity.reference import twin, twin_inputs

quick = settings(deadline=None, max_examples=12)

dtypes = st.sampled_from([torch.float32, torch.float64])
seeds = st.integers(0, 2**31)
Grid = tuple[int, int, int]

KERNEL = {torch.float32: 5e-6, torch.float64: 1e-12}
"""Relative to the largest value: the rounding of a few sums, taken in another order."""

DETOUR = {torch.float32: 2e-5, torch.float64: 2e-6}
"""The same, for what passes through RMSNorm or the vision tower's rotation. transformers computes those two in float32
whatever the model's dtype, where ours stays in float64; so in float64 it is transformers that is inexact."""


@st.composite
def vision_configs(draw: st.DrawFn, layers: int = 2) -> VisionConfig:
    heads = draw(st.integers(1, 3))
    return VisionConfig(
        hidden_size=heads * 4 * draw(st.integers(1, 5)),
        intermediate_size=draw(st.integers(3, 40)),
        num_hidden_layers=layers,
        num_attention_heads=heads,
        patch_size=draw(st.sampled_from([2, 5, 14])),
        layer_norm_eps=draw(st.sampled_from([1e-6, 1e-3])),
    )


@st.composite
def language_configs(draw: st.DrawFn, layers: int = 2) -> LanguageConfig:
    kv_heads = draw(st.integers(1, 3))
    heads = kv_heads * draw(st.sampled_from([1, 2, 3, 7]))
    return LanguageConfig(
        vocab_size=draw(st.integers(30, 70)),
        hidden_size=heads * 2 * draw(st.integers(1, 6)),
        intermediate_size=draw(st.integers(3, 50)),
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        rms_norm_eps=draw(st.sampled_from([1e-6, 1e-3])),
        rope_theta=draw(st.sampled_from([1e4, 1e6])),
        tie_word_embeddings=draw(st.booleans()),
    )


@st.composite
def configs(draw: st.DrawFn) -> ModelConfig:
    vision, language = draw(vision_configs()), draw(language_configs())
    last = language.vocab_size - 1
    return ModelConfig(vision, language, image_token_id=last - 1, video_token_id=last)


def filled(module: nn.Module, seed: int, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Weights large enough that every branch, bias and norm tells: attention is peaked, activations are bent."""
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            drawn = torch.randn(parameter.shape, generator=source, dtype=torch.float64)
            if parameter.ndim > 1:
                drawn *= 1.0 if "embed_tokens" in name else 1.5 / parameter[0].numel() ** 0.5
            else:
                drawn = 0.3 * drawn + (0.0 if name.endswith("bias") else 1.0)
            parameter.data = drawn.to(dtype)
    return module.eval()


def drawn_model(config: ModelConfig, seed: int, dtype: torch.dtype = torch.float32) -> VideoLLaMA3:
    model = filled(VideoLLaMA3(config), seed, dtype)
    assert isinstance(model, VideoLLaMA3)
    return model


@st.composite
def twins(draw: st.DrawFn) -> tuple[VideoLLaMA3, Any, torch.dtype]:
    """A model of ours, transformers' on the same parameters, and their dtype."""
    dtype = draw(dtypes)
    model = drawn_model(draw(configs()), draw(seeds), dtype)
    return model, twin(model), dtype


@st.composite
def grids_and_merges(draw: st.DrawFn, most: int = 3) -> tuple[list[Grid], list[int]]:
    """Pictures and videos of any sizes, in any mix of merge sizes."""
    merges = draw(st.lists(st.sampled_from([1, 2]), min_size=1, max_size=most))
    side = st.integers(1, 3)
    return [(draw(side), merge * draw(side), merge * draw(side)) for merge in merges], merges


def drawn_patches(grids: list[Grid], merges: list[int], values: int, seed: int) -> Tensor:
    """Pixels in [-1, 1]. From one frame to the next about half of the places stand still, the last one always."""
    source = torch.Generator().manual_seed(seed)
    pixels = []
    for (t, h, w), merge in zip(grids, merges, strict=True):
        frames = torch.rand(t, h * w // merge**2, merge**2 * values, generator=source) * 2 - 1
        for k in range(1, t):
            still = torch.rand(frames.shape[1], generator=source) < 0.5
            still[-1] = len(still) > 1
            frames[k, still] = frames[k - 1, still]
        pixels.append(frames.reshape(-1, values))
    return torch.cat(pixels)


def conversation(
    config: ModelConfig, grids: list[Grid], merges: list[int], modals: list[str], seed: int, words: int = 4
) -> ModelInputs:
    """Stretches of text with the visuals between them."""
    source = torch.Generator().manual_seed(seed)

    def text() -> Tensor:
        return torch.randint(2, config.language.vocab_size - 2, (words,), generator=source)

    ids = [text()]
    for (t, h, w), merge, modal in zip(grids, merges, modals, strict=True):
        ids += [torch.full((t * h * w // merge**2,), config.token_id_for(modal)), text()]
    joined = torch.cat(ids)
    inputs = ModelInputs(joined, torch.tensor([len(joined)]))
    if not grids:
        return inputs
    pixels = drawn_patches(grids, merges, config.vision.patch_values, seed)
    return replace(
        inputs, pixel_values=pixels, grid_sizes=torch.tensor(grids), merge_sizes=torch.tensor(merges), modals=modals
    )


@st.composite
def conversations(draw: st.DrawFn, config: ModelConfig) -> ModelInputs:
    """Text alone, or with any mix of pictures and videos."""
    grids, merges = draw(grids_and_merges()) if draw(st.integers(0, 4)) else ([], [])
    modals = ["video" if grid[0] > 1 else draw(st.sampled_from(["image", "video"])) for grid in grids]
    return conversation(config, grids, merges, modals, draw(seeds), draw(st.integers(1, 5)))


def close(ours: Tensor, reference: Tensor, tolerance: float, rounding: Callable[[], float] | None = None) -> None:
    """Within `tolerance` of the reference's largest value, of the same shape and dtype, and not of nothing.

    Args:
        rounding: for what passes through many layers, see `rounding_of`. It is asked where the tolerance is not enough,
            and a draw that magnifies rounding too much to say anything is drawn anew.
    """
    assert ours.shape == reference.shape and ours.dtype == reference.dtype
    assert reference.numel() and torch.isfinite(reference).all()
    off = float((ours - reference).abs().max())
    largest = max(float(reference.detach().abs().max()), 1e-3)
    if rounding is None or off <= tolerance * largest:
        assert off <= tolerance * largest
        return
    theirs = rounding()
    assume(theirs <= 1e-4 * largest)
    assert off <= 10 * theirs


def rounding_of(model: VideoLLaMA3, theirs: Callable[[VideoLLaMA3], Tensor]) -> Callable[[], float]:
    """How far transformers in float32 is from transformers in float64.

    The drawn widths are narrow: a few numbers can all be nearly equal, and a norm then magnifies their rounding by
    thousands, in either implementation.

    Args:
        theirs: what transformers makes of our model's parameters.
    """

    def off() -> float:
        with torch.no_grad():
            wide, narrow = (theirs(deepcopy(model).to(dtype)) for dtype in (torch.float64, torch.float32))
        return float((wide - narrow).abs().max())

    return off


def their_logits(inputs: ModelInputs) -> Callable[[VideoLLaMA3], Tensor]:
    """Of one conversation, (tokens, vocab)."""
    return lambda model: twin(model)(**twin_inputs(model, inputs)).logits[0]
