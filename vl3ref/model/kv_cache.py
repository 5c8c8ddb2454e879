"""What the decoder remembers while generating: the keys and values of every token so far.

One pair of tensors per layer, (conversations, kv_heads, capacity, head_dim), allocated once for the longest a
generation can get. Conversations fill their rows independently, so those of different lengths decode side by side.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from vl3ref.config import LanguageConfig


class KVCache:
    """Keys and values of all layers, and how many tokens each conversation holds (`lengths`, plain ints).

    Args:
        config: the decoder's.
        conversations: how many are generated at once.
        capacity: tokens reserved for each; `reserve` adds more.
        dtype, device: the decoder's.
    """

    def __init__(
        self, config: LanguageConfig, conversations: int, capacity: int, dtype: torch.dtype, device: torch.device | str
    ) -> None:
        shape = (conversations, config.num_key_value_heads, capacity, config.head_dim)
        layers = range(config.num_hidden_layers)
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in layers]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in layers]
        self.lengths = [0] * conversations

    @property
    def capacity(self) -> int:
        return self.keys[0].shape[2]

    def write(
        self,
        layer: int,
        keys: Float[Tensor, "tokens kv_heads head_dim"],
        values: Float[Tensor, "tokens kv_heads head_dim"],
        lengths: Sequence[int],
    ) -> None:
        """Append packed new tokens to every conversation of one layer; `advance` counts them once all layers have."""
        for b, (k, v) in enumerate(zip(keys.split(list(lengths)), values.split(list(lengths)), strict=True)):
            rows = slice(self.lengths[b], self.lengths[b] + lengths[b])
            self.keys[layer][b, :, rows] = k.transpose(0, 1)
            self.values[layer][b, :, rows] = v.transpose(0, 1)

    def advance(self, lengths: Sequence[int]) -> None:
        self.lengths = [held + new for held, new in zip(self.lengths, lengths, strict=True)]

    def reserve(self, tokens: int) -> None:
        """Make room for `tokens` more in the fullest conversation, keeping what is held."""
        missing = max(self.lengths) + tokens - self.capacity
        if missing > 0:
            self.keys = [torch.nn.functional.pad(k, (0, 0, 0, missing)) for k in self.keys]
            self.values = [torch.nn.functional.pad(v, (0, 0, 0, missing)) for v in self.values]

    def keep(self, conversations: Sequence[int]) -> None:
        """Forget all conversations but these (those that have not ended)."""
        self.keys = [k[list(conversations)] for k in self.keys]
        self.values = [v[list(conversations)] for v in self.values]
        self.lengths = [self.lengths[b] for b in conversations]
