"""Operations and bytes, counted from the config alone.

A matrix product of (n, a) and (a, b) is 2 n a b operations: a multiplication and an addition each. What is not a matrix
product (norms, GELU, softmax, rotations, additions) counts as nothing, as it does in torch's FlopCounterMode.
"""

from collections.abc import Sequence
from typing import NamedTuple

from vl3ref.config import LanguageConfig, ModelConfig, VisionConfig

Shape = tuple[int, int, int]
"""Rows, inputs and outputs of a linear layer."""


class Operations(NamedTuple):
    """Floating-point operations: of linear layers, and of attention's two products."""

    linear: int
    attention: int

    @property
    def total(self) -> int:
        return self.linear + self.attention


def vision_operations(config: VisionConfig, frame_patches: Sequence[int]) -> Operations:
    """The vision encoder on frames of so many patches each, before the merge.

    Patch embedding; per layer q, k, v, out, fc1, fc2; per layer and frame of n patches q kT and its product with v,
    each n x n x hidden_size.
    """
    patches = sum(frame_patches)
    linear = sum(2 * n * a * b for n, a, b in vision_shapes(config, patches)) * config.num_hidden_layers
    embedding = 2 * patches * config.patch_values * config.hidden_size
    pairs = sum(n * n for n in frame_patches)
    return Operations(linear + embedding, 2 * 2 * pairs * config.hidden_size * config.num_hidden_layers)


def language_operations(config: LanguageConfig, lengths: Sequence[int], logits: int = 1) -> Operations:
    """A prefill of conversations of so many tokens, with logits of the last `logits` of each.

    Per layer q, k, v, o, gate, up, down; attention among the n (n + 1) / 2 pairs that a causal conversation has, no
    matter what a kernel computes and throws away; and the head.
    """
    tokens = sum(lengths)
    linear = sum(2 * n * a * b for n, a, b in language_shapes(config, tokens)) * config.num_hidden_layers
    head = 2 * sum(min(n, logits) for n in lengths) * config.hidden_size * config.vocab_size
    pairs = sum(n * (n + 1) // 2 for n in lengths)
    return Operations(linear + head, 2 * 2 * pairs * config.hidden_size * config.num_hidden_layers)


def vision_shapes(config: VisionConfig, rows: int) -> list[Shape]:
    """The linear layers of one block."""
    dim, wide = config.hidden_size, config.intermediate_size
    return [(rows, dim, dim)] * 4 + [(rows, dim, wide), (rows, wide, dim)]


def language_shapes(config: LanguageConfig, rows: int) -> list[Shape]:
    """The linear layers of one block."""
    dim, wide, kv = config.hidden_size, config.intermediate_size, config.num_key_value_heads * config.head_dim
    return [(rows, dim, dim)] * 2 + [(rows, dim, kv)] * 2 + [(rows, dim, wide)] * 2 + [(rows, wide, dim)]


def decode_bytes(config: LanguageConfig, held: Sequence[int | float], item: int) -> int:
    """Bytes that must be read to give every conversation its next token.

    Args:
        held: tokens in the cache of each conversation, the new one included.
        item: bytes of one number.

    Returns:
        All parameters of blocks, norm and head (an embedding table that is not the head is only looked up in, and
        counts as nothing), once for all conversations, and everything that their caches hold.
    """
    block = sum(a * b for _, a, b in language_shapes(config, 1))
    biases = config.hidden_size + 2 * config.num_key_value_heads * config.head_dim
    block += biases + 2 * config.hidden_size
    parameters = block * config.num_hidden_layers + config.hidden_size * (1 + config.vocab_size)
    return item * parameters + round(sum(held) * cache_bytes(config, item))


def cache_bytes(config: LanguageConfig, item: int) -> int:
    """Bytes of one token's keys and values in all layers."""
    return 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * item


def parameter_bytes(config: ModelConfig, item: int) -> int:
    """Bytes of a whole model's weights."""
    import torch

    from vl3ref.model.videollama3 import VideoLLaMA3

    with torch.device("meta"):
        model = VideoLLaMA3(config)
    return item * sum(parameter.numel() for parameter in model.parameters())
