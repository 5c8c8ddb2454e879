"""What the decoder remembers while generating: the keys and values of every token so far.

One pair of tensors per layer, (conversations, kv_heads, capacity, head_dim), allocated once for the longest a
generation can get. Conversations fill their rows independently, so those of different lengths decode side by side.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vl3ref.config import LanguageConfig
from vl3ref.model.rope import Rotation, text_rotation


@dataclass(frozen=True)
class Step:
    """Where the new tokens of one forward pass stand, and what they see. Worked out once, read by every layer.

    Attributes:
        lengths: new tokens of each conversation.
        past: tokens each conversation held before them; empty where only the device knows.
        positions: of each new token in its conversation.
        goes_on: whether any conversation held tokens before, so that the cache has to be read.
        one_each: whether every conversation has exactly one new token (decoding); the rest is for that case.
        reach: keys that attention reads of each conversation: as many as the longest holds, or all there is room for.
        mask: added to the scores of these keys, in the cache's dtype: 0, or minus infinity for those that are not
            there. None if all are.
        conversations: which one each token belongs to; None if there is only one.
    """

    lengths: Sequence[int]
    past: Sequence[int]
    positions: Int[Tensor, " tokens"]
    goes_on: bool = False
    one_each: bool = False
    reach: int = 0
    mask: Float[Tensor, "tokens reach"] | None = None
    conversations: Int[Tensor, " tokens"] | None = None


def first_step(lengths: Sequence[int], device: torch.device) -> Step:
    """The step of a pass that remembers nothing."""
    positions = torch.cat([torch.arange(n, device=device) for n in lengths])
    return Step(lengths, [0] * len(lengths), positions)


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
        self.config = config
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in layers]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in layers]
        self.lengths = [0] * conversations
        self.rotation = self._rotation()

    @property
    def capacity(self) -> int:
        return self.keys[0].shape[2]

    def _rotation(self) -> Rotation:
        """Of every position there is room for: looked up while decoding, instead of made anew for every token."""
        positions = torch.arange(self.capacity, device=self.keys[0].device)
        return text_rotation(positions, self.config.head_dim, self.config.rope_theta, self.keys[0].dtype)

    def step(self, lengths: Sequence[int]) -> Step:
        """Plan for these many new tokens of each conversation."""
        device = self.keys[0].device
        if any(length != 1 for length in lengths):
            starts = zip(self.lengths, lengths, strict=True)
            positions = torch.cat([torch.arange(past, past + new, device=device) for past, new in starts])
            return Step(lengths, list(self.lengths), positions, any(self.lengths))
        positions = torch.tensor(self.lengths, device=device)
        longest = max(self.lengths) + 1
        mask = self._mask(positions, longest) if min(self.lengths) + 1 < longest else None
        several = torch.arange(len(lengths), device=device) if len(lengths) > 1 else None
        past = list(self.lengths)
        return Step(lengths, past, positions, any(past), one_each=True, reach=longest, mask=mask, conversations=several)

    def static_step(self, positions: Int[Tensor, " conversations"]) -> Step:
        """Plan for one new token of each conversation at positions that only the device knows.

        Every shape is the same from token to token, and nothing depends on a number that Python has to read: what a
        captured CUDA graph needs. Attention reads the whole capacity, and masks what is not filled.
        """
        conversations = torch.arange(len(positions), device=positions.device)
        mask = self._mask(positions, self.capacity)
        ones, reach = [1] * len(positions), self.capacity
        return Step(ones, [], positions, True, one_each=True, reach=reach, mask=mask, conversations=conversations)

    def _mask(self, positions: Int[Tensor, " conversations"], reach: int) -> Float[Tensor, "conversations reach"]:
        """Made once per step; of a mask of booleans, torch would make this one in every layer."""
        missing = torch.arange(reach, device=positions.device) > positions[:, None]
        return self.keys[0].new_zeros(missing.shape).masked_fill(missing, float("-inf"))

    def write(
        self,
        layer: int,
        keys: Float[Tensor, "tokens kv_heads head_dim"],
        values: Float[Tensor, "tokens kv_heads head_dim"],
        step: Step,
    ) -> None:
        """Put packed new tokens in their places in one layer; `advance` counts them once all layers have."""
        if step.conversations is not None:
            self.keys[layer][step.conversations, :, step.positions] = keys
            self.values[layer][step.conversations, :, step.positions] = values
            return
        if step.one_each:
            self.keys[layer][0, :, step.past[0]] = keys[0]
            self.values[layer][0, :, step.past[0]] = values[0]
            return
        new = list(step.lengths)
        for b, (k, v) in enumerate(zip(keys.split(new), values.split(new), strict=True)):
            rows = slice(step.past[b], step.past[b] + new[b])
            self.keys[layer][b, :, rows] = k.transpose(0, 1)
            self.values[layer][b, :, rows] = v.transpose(0, 1)

    def advance(self, lengths: Sequence[int]) -> None:
        self.lengths = [held + new for held, new in zip(self.lengths, lengths, strict=True)]

    def reserve(self, tokens: int | Sequence[int]) -> None:
        """Make room for this many more tokens in every conversation, or these many in each, keeping what is held."""
        more = [tokens] * len(self.lengths) if isinstance(tokens, int) else tokens
        missing = max(held + new for held, new in zip(self.lengths, more, strict=True)) - self.capacity
        if missing > 0:
            self._change(lambda x: torch.nn.functional.pad(x, (0, 0, 0, missing)))
            self.rotation = self._rotation()

    def keep(self, conversations: Sequence[int]) -> None:
        """Forget all conversations but these (those that have not ended)."""
        self._change(lambda x: x[list(conversations)])
        self.lengths = [self.lengths[b] for b in conversations]

    def _change(self, change: Callable[[Tensor], Tensor]) -> None:
        """Layer by layer, so that no more than one is held twice."""
        for tensors in (self.keys, self.values):
            for layer, x in enumerate(tensors):
                tensors[layer] = change(x)
