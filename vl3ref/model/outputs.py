"""What the model hands out, and what it checks: its arguments, and the parts that can be swapped."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vl3ref.errors import InputError, quoted


@dataclass
class Spliced:
    """What the decoder reads: packed embeddings after pruning.

    Attributes:
        lengths: tokens of each conversation.
        keep_mask: which of the visual tokens were kept.
        kept: which of the input_ids were kept, text included.
        positions: where the model has a scheme of its own.
    """

    embeddings: Float[Tensor, "kept dim"]
    lengths: Sequence[int]
    keep_mask: Bool[Tensor, " visual_tokens"]
    kept: Bool[Tensor, " tokens"]
    positions: Int[Tensor, "kept *axes"] | None = None


@dataclass
class ModelOutput:
    """`lengths` are the tokens of each conversation after pruning; logits are packed, in the model's dtype."""

    lengths: Int[Tensor, " conversations"]
    keep_mask: Bool[Tensor, " visual_tokens"]
    logits: Float[Tensor, "kept vocab"] | None = None
    loss: Float[Tensor, ""] | None = None

    def __repr__(self) -> str:
        there = [f"lengths={self.lengths.tolist()}", f"kept {int(self.keep_mask.sum())} of {len(self.keep_mask)}"]
        there += [f"logits {tuple(self.logits.shape)}"] if self.logits is not None else []
        there += [f"loss={self.loss.item():.4f}"] if self.loss is not None else []
        return f"ModelOutput({', '.join(there)})"


def check_parts(features: Tensor, projected: Tensor, scores: Any, expected: tuple[int, int]) -> None:
    """Refuse what a swapped merge, projector or pruner made, unless it fits: (visual tokens, width of the decoder).

    Raises:
        InputError: naming the part and what it made.
    """
    tokens, dim = expected
    if len(features) != tokens:
        raise InputError(f"the vision encoder made {len(features)} features; its merge should make {tokens}")
    if tuple(projected.shape) != expected:
        raise InputError(
            f"the projector made {tuple(projected.shape)} of {tokens} visual tokens; the decoder needs {dim} numbers "
            "for each"
        )
    usable = isinstance(scores, Tensor) and (scores.dtype == torch.bool or scores.is_floating_point())
    if not usable or tuple(scores.shape) != (tokens,):
        made = f"{scores.dtype} {tuple(scores.shape)}" if isinstance(scores, Tensor) else quoted(scores)
        raise InputError(f"the pruner made {made}; it should be a bool mask or float scores of {tokens} visual tokens")


def check_logits_to_keep(count: Any) -> None:
    """
    Raises:
        InputError: it is no whole number from 0.
    """
    if not isinstance(count, int) or isinstance(count, bool) or count < 0:
        raise InputError(f"logits_to_keep should be 0 (all) or a whole number above it, not {quoted(count)}")


def check_pruner(pruner: Any) -> Callable[..., Any]:
    """
    Raises:
        InputError: it cannot be called.
    """
    if not callable(pruner):
        raise InputError(f"a pruner should be a function (inputs, features) -> keep mask, not {quoted(pruner)}")
    return pruner


def check_packed(x: Any, lengths: Any, dim: int) -> list[int]:
    """The lengths of the conversations in x, ids or embeddings; one conversation if there are none.

    Raises:
        InputError: x has another form, or lengths do not add up to it.
    """
    shape = tuple(x.shape) if isinstance(x, Tensor) else quoted(x)
    if not isinstance(x, Tensor) or x.ndim not in (1, 2) or not len(x) or (x.ndim == 2) != x.is_floating_point():
        raise InputError(f"the decoder takes ids (tokens,) or embeddings (tokens, dim), not {shape}")
    if x.ndim == 2 and x.shape[1] != dim:
        raise InputError(f"embeddings should be (tokens, {dim}), not {shape}")
    if x.dtype in (torch.bool, torch.uint8):
        raise InputError(f"token ids should be int64, not {x.dtype}")
    listed = lengths.tolist() if isinstance(lengths, Tensor) else [len(x)] if lengths is None else lengths
    if not isinstance(listed, list | tuple) or not listed or any(type(n) is not int or n < 0 for n in listed):
        raise InputError(f"lengths should be a list of whole numbers, not {quoted(lengths)}")
    if sum(listed) != len(x):
        raise InputError(f"lengths add up to {quoted(sum(listed))}, but there are {len(x)} tokens")
    return list(listed)
