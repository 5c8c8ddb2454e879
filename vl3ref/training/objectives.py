"""What a pack is worth: the summed loss of its parts, and how many they are.

Sums, not means: a step divides by the count of the whole batch, so that the loss does not depend on how the batch was
cut into packs, or over how many processes it was spread.
"""

from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from vl3ref.model.language_model import learnt_after
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.model_inputs import ModelInputs


@runtime_checkable
class Objective(Protocol):
    def count(self, pack: Any, /) -> int:
        """Over how many parts the loss of a pack is summed."""

    def loss(self, model: Any, pack: Any, /) -> Tensor:
        """The summed loss of a pack, scalar float32."""


class NextToken:
    """Cross-entropy of the assistant's words (official: the mean over all learnt tokens)."""

    def count(self, pack: ModelInputs) -> int:
        assert pack.labels is not None
        return int(learnt_after(pack.labels, pack.lengths.tolist()).sum())

    def loss(self, model: VideoLLaMA3, pack: ModelInputs) -> Tensor:
        mean = model(pack, pack.labels).loss
        assert mean is not None
        return mean * self.count(pack)
