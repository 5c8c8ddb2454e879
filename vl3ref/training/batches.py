"""Annotations -> packed batches, each a function of its step number alone.

    sample -> conversation -> ModelInputs with labels -> cut to the longest allowed -> packs of about `pack_tokens`

Because batch k is always the same samples, a resumed run counts from where it was: there is no state of a shuffler or
of workers to save.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch.utils.data import Dataset

from vl3ref.errors import TrainingError, VL3Error
from vl3ref.inputs.processor import Processor
from vl3ref.model.loss import has_target
from vl3ref.model_inputs import IGNORE_INDEX, ModelInputs, join
from vl3ref.training.samples import AnnotationError
from vl3ref.training.stages import MAX_TOKENS, MAX_VISUAL_TOKENS


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
        targets: what the summed loss of all packs is divided by: tokens that are trained on.
        tokens: of all packs, visual ones included.
        samples: conversations that were asked for, the skipped ones included.
        skipped: a line for each sample that could not be used: which, and why.
        filler: a pack that is computed, and counts nothing, where another process has more packs than this one.
    """

    packs: list[Any] = field(default_factory=list)
    targets: int = 0
    tokens: int = 0
    samples: int = 0
    skipped: list[str] = field(default_factory=list)
    filler: Any = None


MOST_SHUFFLED = 1 << 32
"""Samples of an epoch; an order of so many takes 34 GB."""


@dataclass
class Conversations(Dataset[Batch]):
    """Batches of annotated conversations.

    Attributes:
        samples: the annotations.
        processor: the model's, with the merge sizes of the stage.
        batch_size: conversations per step, over all processes.
        pack_tokens: a pack takes conversations until it would pass this; one that is longer has a pack to itself.
        shuffle: visit the samples in another (seeded) order each epoch; for endless ones, leave it.
        seed: of the order.
        rank, world: this process, of how many.
    """

    samples: Samples
    processor: Processor
    batch_size: int
    pack_tokens: int = MAX_TOKENS
    shuffle: bool = True
    seed: int = 0
    rank: int = 0
    world: int = 1
    _epoch: tuple[int, torch.Tensor] | None = None

    def __post_init__(self) -> None:
        if self.shuffle and len(self.samples) > MOST_SHUFFLED:
            raise TrainingError("samples without end have no order to shuffle: Plan(shuffle=False, steps=...)")

    def __getitem__(self, step: int) -> Batch:
        """This process's batch of a step, counted from 0."""
        batch, prepared = Batch(), []
        for position in range(step * self.batch_size + self.rank, (step + 1) * self.batch_size, self.world):
            index = self._index(position)
            batch.samples += 1
            try:
                prepared.append(self.prepare(self.samples.conversation(index)))
            except Exception as error:  # whatever one file of millions does to a library must not end the run
                name, reason = self.samples.name(index), str(error)
                reason = reason if isinstance(error, VL3Error | OSError) else f"{type(error).__name__}: {reason}"
                reason = " ".join(reason.split())  # a line of the log
                batch.skipped.append(reason if reason.startswith(name) else f"{name}: {reason}")
        batch.packs = list(packed(prepared, self.pack_tokens))
        batch.targets = sum(count_targets(pack) for pack in batch.packs)
        batch.tokens = sum(len(pack.input_ids) for pack in batch.packs)
        if self.world > 1:
            # Processes gather each sharded layer together, so all of them have to pass through the same layers equally
            # often: packs without visuals get a grey one that nothing is trained on, and a filler stands by.
            grey = grey_frame(self.processor)
            batch.packs = [pack if pack.modals else join([pack, grey]) for pack in batch.packs]
            batch.filler = replace(grey, labels=torch.tensor([IGNORE_INDEX, IGNORE_INDEX, int(grey.input_ids[2])]))
        return batch

    @property
    def order(self) -> dict[str, int]:
        """What decides which samples a step has: a resumed run counts steps, so it must have it alike."""
        order = {"batch_size": self.batch_size, "shuffle": int(self.shuffle), "seed": self.seed}
        # Shuffled among all of them; in their own order, more may have been added.
        return {**order, "samples": len(self.samples)} if self.shuffle else order

    def prepare(self, conversation: list[dict[str, Any]]) -> ModelInputs:
        """One conversation with its labels, cut to the longest allowed.

        Raises:
            AnnotationError, InputError: it cannot be used.
        """
        limit = min(MAX_VISUAL_TOKENS, self.processor.config.max_tokens)
        inputs = self.processor(conversation, add_generation_prompt=False, return_labels=True, max_tokens=limit)
        inputs = cut(inputs, MAX_TOKENS, self.processor)
        if not count_targets(inputs):
            raise AnnotationError("nothing in it is trained on, or not within the longest length")
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


def count_targets(pack: ModelInputs) -> int:
    """Tokens that are trained on."""
    assert pack.labels is not None
    return int(has_target(pack.labels, pack.lengths.tolist()).sum())


def packed(conversations: Iterable[ModelInputs], tokens: int) -> Iterator[ModelInputs]:
    """Neighbours in one tensor, up to `tokens` tokens. Attention stays within each conversation (`lengths` says where
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
    visual = inputs.is_visual((processor.config.image_token_id, processor.config.video_token_id))
    room = int(visual[:most].sum())
    kept, whole = [], 0  # the visuals' whole frames before the cut, and their tokens
    for patches, (t, h, w), merge, modal in inputs.visuals():
        per_frame = h * w // merge**2
        frames = min(t, (room - whole) // per_frame)
        if frames:
            kept.append((patches[: frames * h * w], [frames, h, w], merge, modal))
            whole += frames * per_frame
        if frames < t:
            break
    end = most if whole == room else int(visual.nonzero()[whole])
    pixels, grids, merges, modals = zip(*kept, strict=True) if kept else ((), (), (), ())
    return replace(
        inputs,
        input_ids=inputs.input_ids[:end],
        lengths=torch.tensor([end]),
        labels=inputs.labels[:end],
        pixel_values=torch.cat(pixels) if kept else None,
        grid_sizes=torch.tensor(grids) if kept else None,
        merge_sizes=torch.tensor(merges) if kept else None,
        modals=list(modals),
        sources=None,
    )


def grey_frame(processor: Processor) -> ModelInputs:
    """A conversation of a grey visual token (a frame of a video) between two text tokens, none of them trained on."""
    config = processor.config
    merge, text = config.video_merge_size, min({0, 1, 2} - {config.image_token_id, config.video_token_id})
    return ModelInputs(
        input_ids=torch.tensor([text, config.video_token_id, text]),
        lengths=torch.tensor([3]),
        pixel_values=torch.zeros(merge**2, 3 * config.patch_size**2),
        grid_sizes=torch.tensor([[1, merge, merge]]),
        merge_sizes=torch.tensor([merge]),
        modals=["video"],
        labels=torch.full((3,), IGNORE_INDEX),
    )
