"""Attention over packed sequences: the one place that calls scaled_dot_product_attention.

A packed tensor has no batch axis. Frames of different sizes, or conversations of different lengths, lie one after
another, and `lengths` says where each ends:

    tokens   a a a a b b c c c c        lengths = [4, 2, 4]
    a attends to a, b to b, c to c

Neighbours of equal length (the frames of a video) are computed by one batched call; all lengths at once where torch has
a kernel for it (a GPU, half precision). No mask is ever built for this, so no tensor has two axes of total length: the
fused kernels keep scores in blocks.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import accumulate, groupby
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from vl3ref.model import kernels
from vl3ref.model.kv_cache import Step

LATE_CHUNK = 512
"""Queries of a later turn that attend together under a mask, (512, keys)."""


def packed_attention(
    q: Float[Tensor, "tokens heads head_dim"],
    k: Float[Tensor, "tokens kv_heads head_dim"],
    v: Float[Tensor, "tokens kv_heads head_dim"],
    lengths: Sequence[int] | Tensor,
    causal: bool,
) -> Float[Tensor, "tokens heads head_dim"]:
    """Softmax(q kT / sqrt(head_dim)) v within each segment.

    Args:
        q, k, v: packed queries, keys and values. Fewer key than query heads means grouped-query attention: query head h
            reads key head h // (heads / kv_heads).
        lengths: tokens of each segment, in order; they add up to `tokens`.
        causal: whether a token sees only itself and what stands before it in its segment.

    Returns:
        Packed like q, same dtype.
    """
    lengths = [length for length in _as_list(lengths) if length]
    ragged = len(set(lengths)) > 1
    kernel = kernels.varlen_kernel(q.device, q.dtype, q.shape[-1], _grouped(q, k)) if ragged else None
    if kernel is not None:
        return _attend_at_once(kernel, q, k, v, tuple(lengths), causal)
    outputs = []
    runs = [(length, len(list(run))) for length, run in groupby(lengths)]
    # split, not slices: the backward pass of a slice fills a tensor of full length, once for every segment
    pieces = [x.split([length * count for length, count in runs]) for x in (q, k, v)]
    for (_, count), *run in zip(runs, *pieces, strict=True):
        q_run, k_run, v_run = (rearrange(x, "(s n) h d -> s h n d", s=count) for x in run)
        out = _attend(q_run, k_run, v_run, causal=causal)
        outputs.append(rearrange(out, "s h n d -> (s n) h d"))
    if not outputs:
        return torch.empty_like(q)
    return torch.cat(outputs) if len(outputs) > 1 else outputs[0]


def cached_attention(
    q: Float[Tensor, "tokens heads head_dim"],
    keys: Float[Tensor, "conversations kv_heads capacity head_dim"],
    values: Float[Tensor, "conversations kv_heads capacity head_dim"],
    step: Step,
) -> Float[Tensor, "tokens heads head_dim"]:
    """Causal attention of new tokens over everything a KV cache holds, the new tokens themselves included.

    Args:
        q: packed queries of the new tokens.
        keys, values: the cache of one layer, the new tokens written to it.
        step: how many new tokens each conversation has, and how many came before.
    """
    if step.one_each:
        return _attend_one_each(q, keys, values, step)
    outputs = []
    for b, q_new in enumerate(q.split(list(step.lengths))):
        total = step.past[b] + step.lengths[b]
        if step.lengths[b]:
            k, v = keys[b : b + 1, :, :total], values[b : b + 1, :, :total]
            out = _attend_late(rearrange(q_new, "n h d -> 1 h n d"), k, v)
            outputs.append(rearrange(out, "1 h n d -> n h d"))
    return torch.cat(outputs)


def attention_maps(
    q: Float[Tensor, "tokens heads head_dim"],
    k: Float[Tensor, "tokens kv_heads head_dim"],
    lengths: Sequence[int] | Tensor,
    causal: bool,
) -> list[Float[Tensor, "heads length length"]]:
    """The probabilities that `packed_attention` weights its values with, one float32 (heads, n, n) per segment.

    For looking, not for computing: this is the one function that holds a segment's scores whole.
    """
    group = q.shape[1] // k.shape[1]
    maps = []
    for q_segment, k_segment in zip(q.split(_as_list(lengths)), k.split(_as_list(lengths)), strict=True):
        k_segment = k_segment.repeat_interleave(group, dim=1)
        scores = torch.einsum("n h d, m h d -> h n m", q_segment.float(), k_segment.float()) * q.shape[-1] ** -0.5
        if causal:
            scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), float("-inf"))
        maps.append(scores.softmax(dim=-1))
    return maps


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Any = None, causal: bool = False) -> Tensor:
    """torch's attention over (batch, heads, n, head_dim), by a kernel that keeps scores in blocks.

    Where the fused kernels do not know that query heads share key heads, torch would silently hold all scores; there
    keys and values are repeated instead, which costs their size alone.
    """
    if _grouped(q, k) and not kernels.groups_are_fused(q.device, q.dtype, q.shape[-1]):
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=_grouped(q, k))


def _attend_at_once(
    kernel: Callable[..., Any], q: Tensor, k: Tensor, v: Tensor, lengths: tuple[int, ...], causal: bool
) -> Tensor:
    """One kernel for segments of any lengths. (A window of no token to the right is the causal one.)"""
    ends, longest = _ends(lengths, q.device), max(lengths)
    out: Tensor = kernel(q, k, v, ends, ends, longest, longest, window_size=(-1, 0) if causal else (-1, -1))
    return out


@lru_cache(maxsize=4)
def _ends(lengths: tuple[int, ...], device: torch.device) -> Tensor:
    """Where segments begin and end, int32 (segments + 1,). Kept: every layer asks for the same.

    Made outside inference mode, as the backward pass of later training may keep it.
    """
    with torch.inference_mode(False):
        return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)


def _attend_one_each(q: Tensor, keys: Tensor, values: Tensor, step: Step) -> Tensor:
    """One new token per conversation. All are computed in one call; a mask hides what shorter ones have not filled.

    The query heads that share a key head are laid along the query axis, so that each key is read once for all of them.
    (Views here and not einops: this runs once per layer and token, where five microseconds count.)
    """
    conversations, heads, head_dim = q.shape
    out = F.scaled_dot_product_attention(
        q.view(conversations, keys.shape[1], -1, head_dim),
        keys[:, :, : step.reach],
        values[:, :, : step.reach],
        attn_mask=None if step.mask is None else step.mask[:, None, None],
    )
    return out.reshape(conversations, heads, head_dim)


def _attend_late(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The last queries of a sequence, (1, heads, new, head_dim), see every key up to themselves, of (1, heads, total,
    head_dim).

    Flash attention knows this case by name. Other kernels know it only where the queries begin with the sequence, and
    take a mask elsewhere: the queries go in pieces, so that no mask grows with both lengths.
    """
    new, total = q.shape[2], k.shape[2]
    if new == total:
        return _attend(q, k, v, causal=True)
    if kernels.has_flash(q.device, q.dtype, q.shape[-1]):
        from torch.nn.attention.bias import causal_lower_right  # takes as long to import as the rest of torch

        return _attend(q, k, v, causal_lower_right(new, total))
    outputs = []
    seen = total - new
    for piece in q.split(LATE_CHUNK, dim=2):
        before, seen = seen, seen + piece.shape[2]
        mask = torch.ones(piece.shape[2], seen, dtype=torch.bool, device=q.device).tril(before)
        outputs.append(_attend(piece, k[:, :, :seen], v[:, :, :seen], mask))
    return torch.cat(outputs, dim=2)


def _as_list(lengths: Sequence[int] | Tensor) -> list[int]:
    return lengths.tolist() if isinstance(lengths, Tensor) else list(lengths)


def _grouped(q: Tensor, k: Tensor) -> bool:
    """Whether several query heads share a key head. Heads are the second axis, packed or in a batch."""
    return q.shape[1] != k.shape[1]
