"""Small models of ours beside transformers' on the same parameters, inputs for them, and how near their results are.

How much float32 rounds depends on the processor, so no bound here is a number found by trying: ours may differ from
transformers' by a small multiple of what float32 does to transformers itself, its float32 against its float64.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor, nn

from vl3ref.config import LanguageConfig, ModelConfig, VisionConfig
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.model_inputs import ModelInputs
from vl3ref.parity.reference import reference_inputs, reference_model

MULTIPLE = 10
"""Of transformers' own rounding, by which ours may differ. Mistakes are larger by orders of magnitude."""

EPSILON = torch.finfo(torch.float32).eps

Grid = tuple[int, int, int]
Compute = Callable[..., Tensor]
"""(model, inputs in the model's dtype) -> result."""

few, many = settings(max_examples=10), settings(max_examples=50)
seeds = st.integers(0, 2**31)


def rounding_of(reference: nn.Module, compute: Compute, *inputs: Any) -> float:
    """The largest difference between what a model in float32 computes, and what its copy in float64 does."""
    wide = deepcopy(reference).double()
    with torch.no_grad():
        return float((compute(reference, *inputs).double() - compute(wide, *inputs).double()).abs().max())


def close(ours: Tensor, reference: Tensor, rounding: float) -> None:
    """Assert the same shape and dtype, at least one element, and a difference of at most `MULTIPLE` times the rounding,
    or times the last place of the largest value."""
    assert ours.shape == reference.shape and ours.dtype == reference.dtype
    assert reference.numel() and torch.isfinite(reference).all()
    unit = EPSILON * reference.detach().abs().max().item()
    assert (ours - reference).detach().abs().max().item() <= MULTIPLE * max(rounding, unit)


class Pair:
    """One set of parameters in our model and in transformers', in float32 and in float64."""

    def __init__(self, config: ModelConfig, seed: int) -> None:
        self.config = config
        ours = random_parameters(VideoLLaMA3(config), seed)
        self.ours = {torch.float32: ours, torch.float64: deepcopy(ours).double()}
        self.theirs = {dtype: reference_model(model) for dtype, model in self.ours.items()}

    @torch.no_grad()
    def check(self, ours: Compute, theirs: Compute, *inputs: Tensor, same_in_float64: bool = False) -> None:
        """Compute the same with both, in both dtypes.

        Args:
            inputs: floating-point tensors, cast to the dtype of the model they are given to.
            same_in_float64: expect 12 digits in float64. What passes through transformers' RMSNorm or its rotation in
                the vision encoder has fewer: it computes the two in float32 whatever the model's dtype.
        """
        cast = {dtype: [x.to(dtype) for x in inputs] for dtype in self.ours}
        expected = {dtype: theirs(model, *cast[dtype]) for dtype, model in self.theirs.items()}
        rounding = float((expected[torch.float32].double() - expected[torch.float64]).abs().max())
        largest = float(expected[torch.float64].abs().max())
        assert rounding <= 1e-4 * largest, "this case magnifies rounding so much that it shows nothing"
        for dtype, model in self.ours.items():
            exact = same_in_float64 and dtype == torch.float64
            close(ours(model, *cast[dtype]), expected[dtype], 0.0 if exact else rounding)
            if exact:
                assert (ours(model, *cast[dtype]) - expected[dtype]).abs().max() <= 1e-12 * largest

    def their_logits(self, inputs: ModelInputs) -> tuple[Tensor, float]:
        """Of one conversation in float32, (tokens, vocab), and their rounding."""
        given = reference_inputs(self.ours[torch.float32], inputs)
        with torch.no_grad():
            narrow, wide = (model(**given).logits[0] for model in self.theirs.values())
        return narrow, float((narrow.double() - wide).abs().max())


def random_parameters(module: Any, seed: int) -> Any:
    """Weights large enough that every branch, bias and norm tells: attention is peaked, activations are bent."""
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            values = torch.randn(parameter.shape, generator=source)
            if parameter.ndim > 1:
                values *= 1.0 if "embed_tokens" in name else 1.5 / parameter[0].numel() ** 0.5
            else:
                values = 0.3 * values + (0.0 if name.endswith("bias") else 1.0)
            parameter.data = values
    return module.eval()


# -------------------------------------------------------------------------------------------------------- geometries

CONFIGS = {
    "grouped heads, tied": ModelConfig(
        VisionConfig(32, 40, 2, 2, patch_size=4),
        LanguageConfig(60, 32, 48, 2, 4, 2, tie_word_embeddings=True),
        *(58, 59),
    ),
    "seven heads share one, large patches": ModelConfig(
        VisionConfig(24, 33, 2, 3, patch_size=14, layer_norm_eps=1e-3),
        LanguageConfig(50, 56, 30, 2, 7, 1, rms_norm_eps=1e-3, rope_theta=1e4),
        *(48, 49),
    ),
    "no groups": ModelConfig(
        VisionConfig(36, 20, 2, 1, patch_size=5),
        LanguageConfig(70, 36, 50, 2, 3, 3, rope_theta=1e4),
        *(68, 69),
    ),
}


@lru_cache
def pair_of(name: str) -> Pair:
    return Pair(CONFIGS[name], seed=1)


@st.composite
def configs(draw: st.DrawFn) -> ModelConfig:
    """Any small geometry."""
    heads, kv_heads = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    vision = VisionConfig(
        hidden_size=heads * 4 * draw(st.integers(1, 5)),
        intermediate_size=draw(st.integers(3, 40)),
        num_hidden_layers=2,
        num_attention_heads=heads,
        patch_size=draw(st.sampled_from([2, 5, 14])),
        layer_norm_eps=draw(st.sampled_from([1e-6, 1e-3])),
    )
    query_heads = kv_heads * draw(st.sampled_from([1, 2, 3, 7]))
    language = LanguageConfig(
        vocab_size=draw(st.integers(30, 70)),
        hidden_size=query_heads * 2 * draw(st.integers(1, 6)),
        intermediate_size=draw(st.integers(3, 50)),
        num_hidden_layers=2,
        num_attention_heads=query_heads,
        num_key_value_heads=kv_heads,
        rms_norm_eps=draw(st.sampled_from([1e-6, 1e-3])),
        rope_theta=draw(st.sampled_from([1e4, 1e6])),
        tie_word_embeddings=draw(st.booleans()),
    )
    return ModelConfig(vision, language, language.vocab_size - 2, language.vocab_size - 1)


# ------------------------------------------------------------------------------------------------------------ inputs

KINDS: dict[str, tuple[list[Grid], list[int], list[str]]] = {
    "text": ([], [], []),
    "image": ([(1, 2, 3)], [1], ["image"]),
    "image, merged": ([(1, 4, 6)], [2], ["image"]),
    "video": ([(3, 4, 4)], [2], ["video"]),
    "videos": ([(2, 4, 2), (4, 2, 4)], [2, 2], ["video", "video"]),
    "all": ([(1, 3, 2), (3, 2, 4), (1, 2, 2), (2, 1, 3)], [1, 2, 2, 1], ["image", "video", "image", "video"]),
}
"""Grids, merge sizes and modals of one conversation."""


@st.composite
def grids_and_merges(draw: st.DrawFn, most: int = 3) -> tuple[list[Grid], list[int]]:
    """Images and videos of any sizes, in any mix of merge sizes."""
    merges = draw(st.lists(st.sampled_from([1, 2]), min_size=1, max_size=most))
    side = st.integers(1, 3)
    return [(draw(side), merge * draw(side), merge * draw(side)) for merge in merges], merges


@st.composite
def conversations(draw: st.DrawFn, config: ModelConfig) -> ModelInputs:
    """Text alone, or with any mix of images and videos."""
    grids, merges = draw(grids_and_merges()) if draw(st.integers(0, 4)) else ([], [])
    modals = ["video" if grid[0] > 1 else draw(st.sampled_from(["image", "video"])) for grid in grids]
    return conversation(config, grids, merges, modals, draw(seeds), draw(st.integers(1, 5)))


def conversation(
    config: ModelConfig, grids: list[Grid], merges: list[int], modals: list[str], seed: int, words: int = 4
) -> ModelInputs:
    """Stretches of text with the visuals between them. Texts hold neither 0 nor 1."""
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
    pixels = random_patches(grids, merges, config.vision.patch_values, seed)
    return replace(
        inputs, pixel_values=pixels, grid_sizes=torch.tensor(grids), merge_sizes=torch.tensor(merges), modals=modals
    )


def random_patches(grids: list[Grid], merges: list[int], values: int, seed: int) -> Tensor:
    """Pixels in [-1, 1]. From one frame to the next about half of the tokens do not change, the last one never does."""
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
