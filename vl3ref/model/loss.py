"""Next-token cross-entropy over packed conversations."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vl3ref.errors import InputError
from vl3ref.model_inputs import IGNORE_INDEX

LOSS_CHUNK = 1024
"""Tokens whose logits are held at once: 0.6 GB in float32 with Qwen's vocabulary."""


def check_labels(labels: Tensor, tokens: int, vocab_size: int) -> None:
    """
    Raises:
        InputError: labels are not one id, or -100, for each token.
    """
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.ndim != 1:
        raise InputError("labels should be a 1-D int64 tensor")
    if len(labels) != tokens:
        raise InputError(f"{len(labels)} labels for {tokens} input_ids")
    if int(labels.max()) >= vocab_size or bool(((labels < 0) & (labels != IGNORE_INDEX)).any()):
        raise InputError(
            f"labels should be {IGNORE_INDEX} or lie between 0 and {vocab_size - 1}; these run from "
            f"{int(labels.min())} to {int(labels.max())}"
        )


def has_target(labels: Int[Tensor, " tokens"], lengths: Sequence[int]) -> Bool[Tensor, " tokens"]:
    """Which tokens have a next token, in their own conversation, that is trained on."""
    mask = labels.roll(-1) != IGNORE_INDEX
    mask[torch.tensor(lengths, device=labels.device).cumsum(0) - 1] = False
    return mask


def next_token_loss(
    head: Callable[[Tensor], Tensor],
    hidden: Float[Tensor, "tokens dim"],
    labels: Int[Tensor, " tokens"],
    lengths: Sequence[int],
) -> Float[Tensor, ""]:
    """Mean cross-entropy in float32 of predicting label i + 1 from hidden state i of the same conversation.

    Logits are computed for tokens with a target only, a chunk at a time, and again in the backward pass, so that
    (tokens, vocab) is never held. `labels` are unshifted.

    Raises:
        InputError: nothing is trained on.
    """
    rows = has_target(labels, lengths).nonzero().squeeze(1)
    if not len(rows):
        raise InputError(f"no token is a target: every label is {IGNORE_INDEX}, or stands first in its conversation")
    hidden, targets = hidden[rows], labels[rows + 1]

    def summed(hidden: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(head(hidden).float(), targets, reduction="sum")

    total = hidden.new_zeros((), dtype=torch.float32)
    for chunk in zip(hidden.split(LOSS_CHUNK), targets.split(LOSS_CHUNK), strict=True):
        total = total + checkpoint(summed, *chunk, use_reentrant=False)
    return total / targets.numel()
