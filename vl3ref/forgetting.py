"""What leaves the cache of a long stream, and what is shown again because of it (see `vl3ref.streaming`)."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from jaxtyping import Bool
from torch import Tensor

from vl3ref.errors import InputError, quoted
from vl3ref.model.diff_fp import Pruner
from vl3ref.model_inputs import ModelInputs
from vl3ref.sampling import is_whole


@dataclass(frozen=True)
class Held:
    """A stretch of the cache: a frame with what was said after it, or words that stay.

    Attributes:
        number: of the frame, counted from 0 over all that were seen; None for words.
        seconds: when it was shown.
        tokens: after pruning, those of its message included.
    """

    number: int | None
    seconds: float
    tokens: int


Forget = Callable[[Sequence[Held], int], Sequence[Held]]
"""(frames in the cache, oldest first; tokens that have to go) -> the frames that leave."""


def oldest(frames: Sequence[Held], tokens: int) -> list[Held]:
    """The oldest frames leave."""
    before = accumulate((frame.tokens for frame in frames), initial=0)
    return [frame for frame, gone in zip(frames, before, strict=False) if gone < tokens]


def every_nth(n: int) -> Forget:
    """Of the older half of the frames, only every n-th stays, as long as that is enough; then the oldest leave."""

    def rule(frames: Sequence[Held], tokens: int) -> list[Held]:
        older, recent = frames[: len(frames) // 2], frames[len(frames) // 2 :]
        return oldest([*sorted(older, key=lambda held: (held.number or 0) % n == 0), *recent], tokens)

    if not is_whole(n) or n < 1:
        raise InputError(f"every n-th frame stays for a whole number n of at least 1, not {quoted(n)}")
    return rule


def read_rule(text: str) -> Forget:
    """`oldest`, or `every=N`.

    Raises:
        InputError: it is neither.
    """
    name, _, number = text.partition("=")
    if text == "oldest":
        return oldest
    if name != "every" or not re.fullmatch("[0-9]{1,9}", number):
        raise InputError(f"frames leave by the rule oldest, or every=N (every=4), not {quoted(text)}")
    return every_nth(int(number))


class FramePruner:
    """A pruner of videos, given one frame at a time: it is handed each frame together with the one before.

    A place of the picture whose latest kept token has left the cache is kept in the next frame, even if nothing changed
    there: a pruner that drops what is known already counts on the decoder having it.
    """

    def __init__(self, pruner: Pruner) -> None:
        self.pruner = pruner
        self._before: tuple[ModelInputs, Tensor] | None = None  # the latest frame and its features
        self._next: tuple[ModelInputs, Tensor] | None = None
        self._shown = torch.zeros(0)  # (tokens,) of each place: the frame whose token shows it, -1 for none
        self._lost = torch.zeros(0, dtype=torch.bool)  # (tokens,) whether that has left

    def __call__(self, inputs: ModelInputs, features: Tensor | None) -> Tensor:
        """Scores of one frame's tokens. It becomes the frame before once it is `seen`."""
        assert inputs.pixel_values is not None and inputs.grid_sizes is not None and features is not None
        self._next = inputs, features
        if self._before is None:
            return self.pruner(inputs, features)
        before, features_before = self._before
        assert before.pixel_values is not None
        both = replace(
            inputs,
            input_ids=inputs.input_ids.repeat(2),
            lengths=2 * inputs.lengths,
            pixel_values=torch.cat([before.pixel_values, inputs.pixel_values]),
            grid_sizes=inputs.grid_sizes * torch.tensor([2, 1, 1]),
        )
        scores = self.pruner(both, torch.cat([features_before, features]))[len(features) :]
        return torch.where(self._lost & (scores <= 0), torch.ones_like(scores), scores)

    def seen(self, number: int, keep: Bool[Tensor, " tokens"]) -> None:
        """The frame that was scored last is in the cache now."""
        if self._before is None:
            self._shown = torch.full(keep.shape, -1, device=keep.device)
            self._lost = torch.zeros_like(keep)
        self._before = self._next
        self._shown[keep], self._lost[keep] = number, False

    def left(self, numbers: Iterable[int]) -> None:
        """These frames are no longer in the cache."""
        self._lost |= torch.isin(self._shown, torch.tensor([*numbers], device=self._shown.device))
