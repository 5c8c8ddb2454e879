"""Annotations -> packed batches, each a function of its step number alone.

    sample -> conversation -> ModelInputs with labels -> cut to the longest allowed -> packs of about `pack_tokens`

Because batch k is always the same samples, a run that was interrupted goes on by counting from where it was: there is
no state of a shuffler or of workers to save.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch.utils.data import Dataset

from vl3ref.errors import VL3Error
from vl3ref.inputs.processor import Processor
from vl3ref.model_inputs import IGNORED, ModelInputs, join
from vl3ref.training.samples import AnnotationError
from vl3ref.training.stages import MAX_TOKENS, MAX_VISUAL_TOKENS, Stage


@runtime_checkable
class Samples(Protocol):
    """What can be trained on: `Annotations`, `TinyWorld`, or whatever has these."""

    def __len__(self) -> int: ...

    def conversation(self, index: int, /) -> list[dict[str, Any]]:
        """The messages of a sample, the assistant's included."""

    def name(self, index: int, /) -> str:
        """Where a sample comes from, for the log."""


@dataclass
class Batch:
    """What one process computes in one step.

    Attributes:
        packs: computed one after another; their gradients add up.
        skipped: a line for each sample that could not be used: which, and why.
    """

    packs: list[Any] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


@dataclass
class Conversations(Dataset[Batch]):
    """Batches of annotated conversations for one stage.

    Attributes:
        samples: the annotations.
        processor: the model's.
        stage: says how finely things are seen, and whether DiffFP is on.
        batch_size: conversations per step, over all processes.
        pack_tokens: a pack takes conversations until it would pass this; one that is longer has a pack to itself.
        shuffle: visit the samples in another (seeded) order each epoch; for endless ones, leave it.
        rank, world: this process, of how many.
    """

    samples: Samples
    processor: Processor
    stage: Stage
    batch_size: int
    pack_tokens: int = MAX_TOKENS
    shuffle: bool = True
    seed: int = 0
    rank: int = 0
    world: int = 1
    _epoch: tuple[int, torch.Tensor] | None = None

    def __getitem__(self, step: int) -> Batch:
        """The batch of a step, counted from 0."""
        batch = Batch()
        prepared = []
        for position in range(step * self.batch_size + self.rank, (step + 1) * self.batch_size, self.world):
            index = self._index(position)
            try:
                prepared.append(self.prepare(self.samples.conversation(index)))
            except Exception as error:  # whatever one file of millions does to a library must not end the run
                name, reason = self.samples.name(index), str(error)
                reason = reason if isinstance(error, VL3Error | OSError) else f"{type(error).__name__}: {reason}"
                reason = " ".join(reason.split())  # a line of the log
                batch.skipped.append(reason if reason.startswith(name) else f"{name}: {reason}")
        batch.packs = list(packed(prepared, self.pack_tokens))
        return batch

    def prepare(self, conversation: list[dict[str, Any]]) -> ModelInputs:
        """One conversation, as the stage sees it, with its labels.

        Raises:
            AnnotationError, InputError: it cannot be used.
        """
        inputs = self.processor(
            conversation,
            add_generation_prompt=False,
            return_labels=True,
            max_tokens=min(MAX_VISUAL_TOKENS, self.processor.config.max_tokens),
            image_merge_size=self.stage.image_merge,
            video_merge_size=self.stage.video_merge,
            diff_fp=None if self.stage.diff_fp else False,
        )
        inputs = cut(inputs, MAX_TOKENS, self.processor)
        assert inputs.labels is not None
        if bool((inputs.labels[1:] == IGNORED).all()):
            raise AnnotationError("nothing in it is learnt, or not within the longest length")
        return inputs

    def _index(self, position: int) -> int:
        """Which sample stands at a place of the endless sequence of epochs."""
        epoch, place = divmod(position, len(self.samples))
        if not self.shuffle:
            return place
        if self._epoch is None or self._epoch[0] != epoch:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            self._epoch = epoch, torch.randperm(len(self.samples), generator=generator)
        return int(self._epoch[1][place])


def packed(conversations: Iterable[ModelInputs], tokens: int) -> Iterator[ModelInputs]:
    """Neighbours in one tensor, up to so many tokens. Attention stays within each conversation (`lengths` says where
    each ends), so packing changes nothing but the speed."""
    together: list[ModelInputs] = []
    for one in conversations:
        if together and sum(len(other.input_ids) for other in together) + len(one.input_ids) > tokens:
            yield join(together)
            together = []
        together.append(one)
    if together:
        yield join(together)


def cut(inputs: ModelInputs, most: int, processor: Processor) -> ModelInputs:
    """One conversation, its tail cut off where it is longer than `most` tokens, visual tokens included.

    The official trainer cuts at exactly `most`. Here a frame that the cut would split goes as a whole, and so do the
    pixels of all frames after it, so that nothing is encoded that nobody reads.
    """
    if len(inputs.input_ids) <= most:
        return inputs
    assert inputs.labels is not None
    ids = (processor.config.image_token_id, processor.config.video_token_id)
    visual = inputs.visual_positions(ids)
    left = int(visual[:most].sum())
    kept = {name: [] for name in ("pixel_values", "grid_sizes", "merge_sizes", "modals")}  # type: ignore[var-annotated]
    whole = 0
    start = 0
    if inputs.pixel_values is not None and inputs.grid_sizes is not None and inputs.merge_sizes is not None:
        for grid, merge, modal in zip(
            inputs.grid_sizes.tolist(), inputs.merge_sizes.tolist(), inputs.modals, strict=True
        ):
            patches = grid[1] * grid[2]
            per_frame = patches // merge**2
            frames = min(grid[0], (left - whole) // per_frame)
            if frames:
                kept["pixel_values"].append(inputs.pixel_values[start : start + frames * patches])
                kept["grid_sizes"].append([frames, *grid[1:]])
                kept["merge_sizes"].append(merge)
                kept["modals"].append(modal)
                whole += frames * per_frame
            start += grid[0] * patches
            if frames < grid[0]:
                break
    end = most if whole == left else int(visual.nonzero()[whole])
    seen = bool(kept["modals"])
    return replace(
        inputs,
        input_ids=inputs.input_ids[:end],
        lengths=torch.tensor([end]),
        labels=inputs.labels[:end],
        pixel_values=torch.cat(kept["pixel_values"]) if seen else None,
        grid_sizes=torch.tensor(kept["grid_sizes"]) if seen else None,
        merge_sizes=torch.tensor(kept["merge_sizes"]) if seen else None,
        modals=kept["modals"],
        sources=None,
    )
