"""RoPE for contexts longer than a decoder was pretrained on, as Llama 3 and Qwen scale it. Skip on a first reading:
VideoLLaMA 3 uses none of it.

    linear    every frequency divided by `factor`
    llama3    low frequencies divided by `factor`, high ones kept, a ramp between (Llama 3.1)
    yarn      the same idea with a ramp over the pairs, and longer queries and keys (arXiv 2309.00071)

The formulas are transformers' (modeling_rope_utils.py), so that configs mean the same in both.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from vl3ref.config import LanguageConfig, RopeScaling


def scale_frequencies(
    frequencies: Float[Tensor, " pairs"], config: LanguageConfig
) -> tuple[Float[Tensor, " pairs"], float]:
    """The inverse frequencies that the longer context uses, float32, and what cos and sin are multiplied by."""
    scaling = config.rope_scaling
    if scaling is None:
        return frequencies, 1.0
    if scaling.kind == "linear":
        return frequencies / scaling.factor, 1.0
    share = _kept_share(frequencies, scaling, config.rope_theta)
    return frequencies / scaling.factor * (1 - share) + frequencies * share, _attention_factor(scaling)


def _kept_share(frequencies: Tensor, scaling: RopeScaling, theta: float) -> Float[Tensor, " pairs"]:
    """How much of each pair's own frequency is kept: 1 for fast pairs, 0 for slow ones, a ramp between."""
    trained = scaling.original_max_position_embeddings
    if scaling.kind == "llama3":
        turns = trained * frequencies / (2 * math.pi)  # full turns within the pretraining context
        low, high = scaling.low_freq_factor, scaling.high_freq_factor
        return ((turns - low) / (high - low)).clamp(0, 1)

    dim = 2 * len(frequencies)

    def pair_with(turns: float) -> float:
        """The (fractional) pair that makes `turns` full turns within the pretraining context."""
        return dim * math.log(trained / (turns * 2 * math.pi)) / (2 * math.log(theta))

    first = max(math.floor(pair_with(scaling.beta_fast)), 0)
    last = min(math.ceil(pair_with(scaling.beta_slow)), dim - 1)
    pairs = torch.arange(len(frequencies), dtype=torch.float32, device=frequencies.device)
    return 1 - ((pairs - first) / max(last - first, 0.001)).clamp(0, 1)


def _attention_factor(scaling: RopeScaling) -> float:
    """yarn's 0.1 ln(factor) + 1, unless the config gives another; 1 for llama3."""
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    return 0.1 * math.log(scaling.factor) + 1 if scaling.kind == "yarn" and scaling.factor > 1 else 1.0
