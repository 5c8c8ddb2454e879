"""Looking inside a forward pass without a second code path.

Pass a `Recording` down with the data; every block that meets one leaves a copy of what it computed. The result of the
pass is the same with or without it: attention maps are worked out beside the fused attention, never instead of it.
"""

from collections import defaultdict
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Recording:
    """What one tower leaves behind.

    Args:
        hidden_states: record the residual stream: what enters block 0, what leaves each block but the last, and what
            leaves the final norm (layers + 1 tensors, transformers' convention).
        attentions: record each block's attention probabilities: for every block a list with one tensor
            (heads, length, length) per segment (a frame, or a conversation).
    """

    hidden_states: bool = False
    attentions: bool = False
    _hidden: dict[int, list[Tensor]] = field(default_factory=lambda: defaultdict(list))
    _maps: dict[int, list[Tensor]] = field(default_factory=lambda: defaultdict(list))

    def add_hidden(self, layer: int, x: Tensor) -> None:
        if self.hidden_states:
            self._hidden[layer].append(x)

    def add_attention(self, layer: int, maps: list[Tensor]) -> None:
        self._maps[layer] += maps

    def forget_last(self, segments: int, rows: int) -> None:
        """Drop the last segments, of so many rows each: what only filled a chunk up."""
        for chunks in self._hidden.values():
            chunks[-1] = chunks[-1][: len(chunks[-1]) - segments * rows]
        for maps in self._maps.values():
            del maps[len(maps) - segments :]

    def all_hidden(self) -> tuple[Tensor, ...] | None:
        """One (tokens, dim) tensor per depth. Chunks that were computed one after another are joined."""
        return tuple(torch.cat(self._hidden[layer]) for layer in sorted(self._hidden)) if self.hidden_states else None

    def all_attentions(self) -> tuple[list[Tensor], ...] | None:
        return tuple(self._maps[layer] for layer in sorted(self._maps)) if self.attentions else None
