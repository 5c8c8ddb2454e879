"""The KV cache: keys and values of every token so far, (conversations, kv_heads, capacity, head_dim) per layer.

Conversations fill their rows independently, so those of different lengths are generated side by side. A forward pass
takes a `Step`, planned once and read by every layer:

    prefill   nothing is cached yet        attention within the packed prompt (`packed_attention`)
    append    any number of new tokens     each conversation's new tokens attend to all of its own
    decode    one new token each           one batched call; a mask hides what shorter conversations have not filled

A token's slot in the cache and its rotary position are two things: equal by default, different where the model has a
position scheme of its own (`VideoLLaMA3.positions`).
"""

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from vl3ref.config import LanguageConfig
from vl3ref.model.kernels import sdpa_last

MOST_GROWTH = 2048
"""Tokens: copying a full cache is then a small part of computing them."""


@dataclass(frozen=True)
class Step:
    """The new tokens of one forward pass.

    Attributes:
        kind: see the module's docstring.
        lengths: new tokens of each conversation.
        positions: rotary position of each new token, (tokens,) or (tokens, axes).
        past: tokens that each conversation has already; empty in a static step, which reads `slots`.
        slots: (decode) conversation and slot of each new token; None for one conversation, whose `past` says it.
        keys, mask: (decode) how many of the cached keys attention reads, and what is added to their scores: 0, or -inf
            where nothing is stored. None hides nothing.
    """

    kind: Literal["prefill", "append", "decode"]
    lengths: Sequence[int]
    positions: Int[Tensor, "tokens *axes"]
    past: Sequence[int] = ()
    slots: tuple[Tensor, Tensor] | None = None
    keys: int = 0
    mask: Float[Tensor, "conversations keys"] | None = None


def first_step(lengths: Sequence[int], positions: Tensor | None, device: torch.device) -> Step:
    """The plan of a forward pass without a cache."""
    return Step("prefill", lengths, _count(lengths, [0] * len(lengths), device) if positions is None else positions)


def _count(lengths: Sequence[int], starts: Sequence[int], device: torch.device) -> Int[Tensor, " tokens"]:
    """start, start + 1, ... for the tokens of each conversation."""
    return torch.cat([torch.arange(s, s + n, device=device) for s, n in zip(starts, lengths, strict=True)])


class KVCache:
    """
    Attributes:
        capacity: tokens that each conversation has room for; `reserve` adds more.
        lengths: tokens that each conversation holds.
        offsets: rotary position of each conversation's next token, less its slot.
    """

    def __init__(
        self, config: LanguageConfig, conversations: int, capacity: int, dtype: torch.dtype, device: torch.device | str
    ) -> None:
        shape = (conversations, config.num_key_value_heads, capacity, config.head_dim)
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.num_hidden_layers)]
        self.values = [torch.zeros_like(x) for x in self.keys]
        self.lengths, self.offsets = [0] * conversations, [0] * conversations
        self.capacity, self.device = capacity, self.keys[0].device

    @property
    def next_positions(self) -> list[int]:
        """Rotary position of each conversation's next token."""
        return [held + offset for held, offset in zip(self.lengths, self.offsets, strict=True)]

    def step(self, lengths: Sequence[int], positions: Int[Tensor, "tokens *axes"] | None = None) -> Step:
        """Plan for `lengths` new tokens. `positions` count from 0; the plan adds what each conversation had before."""
        past = list(self.lengths)
        if any(past) and positions is None and all(n == 1 for n in lengths):
            slots = torch.tensor(past, device=self.device)
            positions = slots + torch.tensor(self.offsets, device=self.device) if any(self.offsets) else slots
            places = (torch.arange(len(past), device=self.device), slots) if len(past) > 1 else None
            keys = max(past) + 1
            mask = self._mask(slots, keys) if min(past) + 1 < keys else None
            return Step("decode", lengths, positions, past, places, keys, mask)
        if positions is None:
            positions = _count(lengths, self.next_positions, self.device)
        elif any(past):
            parts = zip(positions.split(list(lengths)), self.next_positions, strict=True)
            positions = torch.cat([part + start for part, start in parts])
        return Step("append" if any(past) else "prefill", lengths, positions, past)

    def static_step(self, slots: Int[Tensor, " conversations"], positions: Int[Tensor, " conversations"]) -> Step:
        """Plan for one new token each, at places that only the device knows, as in a CUDA graph: every shape stays the
        same from token to token, so attention reads the whole capacity under a mask."""
        rows = torch.arange(len(slots), device=self.device)
        mask = self._mask(slots, self.capacity)
        return Step("decode", [1] * len(slots), positions, (), (rows, slots), self.capacity, mask)

    def write(self, layer: int, k: Tensor, v: Tensor, step: Step) -> None:
        """Store new keys and values (tokens, kv_heads, head_dim); `advance` counts them once all layers have."""
        for cached, new in ((self.keys[layer], k), (self.values[layer], v)):
            if step.slots is not None:
                cached[step.slots[0], :, step.slots[1]] = new
            elif step.kind == "decode":
                cached[0, :, step.past[0]] = new[0]
            else:
                for row, part in enumerate(new.split(list(step.lengths))):
                    start = step.past[row]
                    cached[row, :, start : start + len(part)] = part.transpose(0, 1)

    def attend(self, layer: int, q: Float[Tensor, "tokens heads head_dim"], step: Step) -> Tensor:
        """Causal attention of new tokens over everything stored, themselves included. Packed like q."""
        keys, values = self.keys[layer], self.values[layer]
        if step.kind == "decode":
            return _attend_one_each(q, keys[:, :, : step.keys], values[:, :, : step.keys], step.mask)
        outputs = []
        for row, new in enumerate(q.split(list(step.lengths))):
            total = step.past[row] + len(new)
            if len(new):
                k, v = keys[row : row + 1, :, :total], values[row : row + 1, :, :total]
                out = sdpa_last(rearrange(new, "n h d -> 1 h n d"), k, v)
                outputs.append(rearrange(out, "1 h n d -> n h d"))
        return torch.cat(outputs)

    def advance(self, lengths: Sequence[int], positions: Int[Tensor, "tokens *axes"] | None = None) -> None:
        """Count new tokens. After `positions` that are not 0, 1, 2, ..., the next one follows the largest."""
        self.lengths = [held + new for held, new in zip(self.lengths, lengths, strict=True)]
        if positions is not None:
            following = [int(part.max()) + 1 for part in positions.cpu().split(list(lengths))]
            self.offsets = [position - held for position, held in zip(following, self.lengths, strict=True)]

    def reserve(self, lengths: Sequence[int]) -> None:
        """Make room for `lengths` more tokens of the conversations, keeping what is stored. A small cache grows to
        twice its size, a large one by `MOST_GROWTH`: copies are rare, and little room stays empty."""
        needed = max(held + new for held, new in zip(self.lengths, lengths, strict=True))
        if needed > self.capacity:
            capacity = max(needed, self.capacity + min(self.capacity, MOST_GROWTH))
            self._replace(lambda x: F.pad(x, (0, 0, 0, capacity - x.shape[2])))
            self.capacity = capacity

    def keep(self, rows: Sequence[int]) -> None:
        """Forget all conversations but these."""
        self._replace(lambda x: x[list(rows)])
        self.lengths = [self.lengths[row] for row in rows]
        self.offsets = [self.offsets[row] for row in rows]

    def fork(self, room: int = 0) -> "KVCache":
        """A copy that goes its own way, with room for `room` more tokens."""
        fork, held = copy(self), max(self.lengths)
        fork.keys, fork.values, fork.capacity = list(self.keys), list(self.values), held + room
        fork._replace(lambda x: F.pad(x[:, :, :held], (0, 0, 0, room)))
        return fork

    def forget(self, slots: Int[Tensor, " kept"]) -> None:
        """Keep these slots of the one conversation, ascending. Keys stay rotated to the positions that they had, and
        the next position is what it would have been: distances between what is kept do not change."""
        for x in (*self.keys, *self.values):
            x[:, :, : len(slots)] = x[:, :, slots]
        self.offsets = [offset + held - len(slots) for offset, held in zip(self.offsets, self.lengths, strict=True)]
        self.lengths = [len(slots)]

    def _replace(self, change: Callable[[Tensor], Tensor]) -> None:
        """Layer by layer, so that no more than one is held twice."""
        for tensors in (self.keys, self.values):
            for layer, x in enumerate(tensors):
                tensors[layer] = change(x)

    def _mask(self, slots: Int[Tensor, " conversations"], keys: int) -> Float[Tensor, "conversations keys"]:
        """Made once per step; torch would turn a mask of booleans into this one in every layer."""
        missing = torch.arange(keys, device=self.device) > slots[:, None]
        return self.keys[0].new_zeros(missing.shape).masked_fill(missing, float("-inf"))


def _attend_one_each(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Query heads that share a key head are laid along the query axis, so that each key is read once for all of them.
    (view, not einops: this runs once per layer and token, where microseconds count.)"""
    rows, heads, head_dim = q.shape
    q = q.view(rows, keys.shape[1], -1, head_dim)
    out = F.scaled_dot_product_attention(q, keys, values, attn_mask=None if mask is None else mask[:, None, None])
    return out.reshape(rows, heads, head_dim)
