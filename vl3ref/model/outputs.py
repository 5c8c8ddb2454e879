"""What the model hands out, and what it checks of the parts that can be swapped."""

from collections.abc import Sequence
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
