"""What passes from the processor to the model: one or several conversations as packed tensors.

Both import it; neither imports the other.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vl3ref.config import ModelConfig
from vl3ref.errors import InputError, quoted

IGNORE_INDEX = -100
"""The label of a token that is not trained on (torch's `ignore_index`)."""


@dataclass
class VisualSource:
    """Where one image or video came from.

    Attributes:
        name: the file's path, or "image 1", "video 2" for data that has none.
        conversation: index of the conversation it belongs to.
        height, width: of the original, in pixels.
        timestamps: seconds of each frame, or None where no times are known.
        token_id: what stands for each of its visual tokens in `ModelInputs.input_ids`.
    """

    name: str
    conversation: int
    height: int
    width: int
    timestamps: list[float] | None = None
    token_id: int | None = None


@dataclass
class ModelInputs:
    """One or several conversations, packed. The field names are the official ones.

    Attributes:
        input_ids: (N,) int64, with one id for each visual token before pruning.
        lengths: (B,) int64, tokens of each conversation.
        pixel_values: (patches, 3*14*14) float32, normalised, each visual in merge-block order; None without visuals.
        grid_sizes: (V, 3) int64, frames x rows x columns of patches of each visual.
        merge_sizes: (V,) int64, patches along the side of one visual token.
        modals: "image" or "video" for each visual.
        labels: (N,) int64, `IGNORE_INDEX` where nothing is trained on; only if the processor was asked for them.
        sources: where each visual came from, for `vl3ref.trace.trace`.
    """

    input_ids: Int[Tensor, " tokens"]
    lengths: Int[Tensor, " conversations"]
    pixel_values: Float[Tensor, "patches values"] | None = None
    grid_sizes: Int[Tensor, "visuals 3"] | None = None
    merge_sizes: Int[Tensor, " visuals"] | None = None
    modals: list[str] = field(default_factory=list)
    labels: Int[Tensor, " tokens"] | None = None
    sources: list[VisualSource] | None = None

    def __repr__(self) -> str:
        """A few lines: the size of each tensor, and what each visual is."""
        sizes = ", ".join(f"{n} {tuple(x.shape)}" for n, x in vars(self).items() if isinstance(x, Tensor))
        visuals = [f"\n  {kind} {t} x {h} x {w} patches" for _, (t, h, w), _, kind in self.visuals()]
        more = [f"\n  and {len(visuals) - 5} more"] if len(visuals) > 5 else []
        return f"ModelInputs({len(self.lengths)} conversations: {sizes}{''.join(visuals[:5] + more)})"

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "ModelInputs":
        """The same inputs on another device.

        lengths, grid_sizes and merge_sizes stay on the CPU, where Python reads them to lay out the work. `dtype` can
        only widen the pixels: pruning needs them in float32, and the encoder casts to its own dtype itself.

        Raises:
            InputError: there is no such device, or dtype is none of torch's.
        """
        if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise InputError(f"dtype should be one of torch's for real numbers, or None, not {quoted(dtype)}")
        try:
            device = None if device is None else torch.empty(0, device=device).device
        except (TypeError, ValueError, RuntimeError, AssertionError) as error:  # the last: not in this build of torch
            raise InputError(f"device {quoted(device)} cannot be used: {str(error).splitlines()[0][:150]}") from None
        moved: dict[str, Any] = {"input_ids": self.input_ids.to(device)}
        if self.labels is not None:
            moved["labels"] = self.labels.to(device)
        if (pixels := self.pixel_values) is not None:
            moved["pixel_values"] = pixels.to(device, torch.promote_types(pixels.dtype, dtype or pixels.dtype))
        return replace(self, **moved)

    def visuals(self) -> Iterator[tuple[Tensor, tuple[int, int, int], int, str]]:
        """Patches, grid (frames, rows, columns), merge size and modal of each image and video."""
        if self.pixel_values is None or self.grid_sizes is None or self.merge_sizes is None:
            return
        grids = [(t, h, w) for t, h, w in self.grid_sizes.tolist()]
        patches = self.pixel_values.split([t * h * w for t, h, w in grids])
        yield from zip(patches, grids, self.merge_sizes.tolist(), self.modals, strict=True)

    def tokens_per_visual(self) -> list[int]:
        """Visual tokens of each image and video, before pruning."""
        if self.grid_sizes is None or self.merge_sizes is None:
            return []
        return (self.grid_sizes.prod(dim=1) // self.merge_sizes**2).tolist()

    def is_visual(self, visual_token_ids: Sequence[int]) -> Bool[Tensor, " tokens"]:
        """Which of the input_ids stand for visual tokens."""
        return torch.stack([self.input_ids == token for token in visual_token_ids]).any(dim=0)

    def check(self, config: ModelConfig) -> None:
        """Refuse inputs whose parts contradict each other, or do not fit the model.

        Raises:
            InputError: naming the two that should agree.
        """
        self._check_types()
        if int(self.lengths.sum()) != len(self.input_ids):
            raise InputError(
                f"lengths add up to {int(self.lengths.sum())}, but there are {len(self.input_ids)} input_ids"
            )
        if len(self.input_ids) == 0 or int(self.lengths.min()) < 1:
            raise InputError("a conversation has no tokens")
        low, high, vocab = int(self.input_ids.min()), int(self.input_ids.max()), config.language.vocab_size
        if low < 0 or high >= vocab:
            raise InputError(f"input_ids run from {low} to {high}, but the vocabulary from 0 to {vocab - 1}")
        if self.pixel_values is not None and self.grid_sizes is not None and self.merge_sizes is not None:
            check_grids(self.pixel_values, self.grid_sizes, self.merge_sizes, config.vision.patch_values)
        placed, given = int(self.is_visual(config.visual_token_ids).sum()), sum(self.tokens_per_visual())
        if placed != given:
            raise InputError(f"input_ids hold {placed} visual tokens, but images and videos make {given}")

    def _check_types(self) -> None:
        check_tensor("input_ids", self.input_ids, 1)
        check_tensor("lengths", self.lengths, 1)
        for name, axes in {"grid_sizes": 2, "merge_sizes": 1, "pixel_values": 2}.items():
            if getattr(self, name) is not None:
                check_tensor(name, getattr(self, name), axes)
        if not isinstance(self.modals, list | tuple) or any(modal not in ("image", "video") for modal in self.modals):
            raise InputError(f"modals should be a list of 'image' and 'video', not {quoted(self.modals)}")
        counts = [None if x is None else len(x) for x in (self.grid_sizes, self.merge_sizes, self.modals or None)]
        if len(set(counts)) > 1 or (self.pixel_values is None) != (counts[0] is None):
            raise InputError(
                "pixel_values, grid_sizes, merge_sizes and modals go together, one of the last three for each visual; "
                f"there are {', '.join('none' if n is None else str(n) for n in counts)} of those"
            )


def join(parts: Sequence[ModelInputs]) -> ModelInputs:
    """The conversations of several inputs, one after another. Labels and sources are kept if every part has them.

    Raises:
        InputError: they are none.
    """
    if not isinstance(parts, list | tuple) or not parts or any(not isinstance(part, ModelInputs) for part in parts):
        raise InputError(f"join takes a list of at least one ModelInputs, not {quoted(parts)}")
    starts = list(accumulate((len(part.lengths) for part in parts), initial=0))
    joined: dict[str, Any] = {}
    for name in (f.name for f in fields(ModelInputs)):
        there = [getattr(part, name) for part in parts if getattr(part, name) is not None]
        if not there or (name in ("labels", "sources") and len(there) < len(parts)):
            continue
        joined[name] = torch.cat(there) if isinstance(there[0], Tensor) else [x for values in there for x in values]
    if "sources" in joined:
        joined["sources"] = [
            replace(source, conversation=source.conversation + start)
            for part, start in zip(parts, starts, strict=False)
            for source in part.sources or ()
        ]
    return ModelInputs(**joined)


def check_tensor(name: str, x: Any, axes: int) -> None:
    """
    Raises:
        InputError: pixel_values are no real numbers, anything else no whole ones; or they have another form.
    """
    fits = isinstance(x, Tensor) and x.ndim == axes and (name != "grid_sizes" or x.shape[1] == 3)
    if not fits or not (x.is_floating_point() if name == "pixel_values" else x.dtype in (torch.int64, torch.int32)):
        kind = "floating-point" if name == "pixel_values" else "int64"
        form = "(visuals, 3)" if name == "grid_sizes" else f"{axes} {'axis' if axes == 1 else 'axes'}"
        given = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else quoted(x)
        raise InputError(f"{name} should be a {kind} tensor of {form}, not {given}")


def check_grids(pixel_values: Tensor, grid_sizes: Tensor, merge_sizes: Tensor, patch_values: int) -> None:
    """Refuse grids that cannot be merged, and pixels that do not belong to them.

    Raises:
        InputError: naming the two that should agree.
    """
    check_tensor("pixel_values", pixel_values, 2)
    check_tensor("grid_sizes", grid_sizes, 2)
    check_tensor("merge_sizes", merge_sizes, 1)
    grids, merges = grid_sizes.tolist(), merge_sizes.tolist()
    if len(grids) != len(merges):
        raise InputError(f"there are {len(grids)} grid_sizes, but {len(merges)} merge_sizes")
    for (t, h, w), merge in zip(grids, merges, strict=True):
        if merge < 1 or min(t, h, w) < 1 or h % merge or w % merge:
            raise InputError(f"a grid of {t} x {h} x {w} patches cannot be merged by {merge}")
    expected = (sum(t * h * w for t, h, w in grids), patch_values)
    if tuple(pixel_values.shape) != expected:
        raise InputError(f"pixel_values are {tuple(pixel_values.shape)}, but the grids ask for {expected}")
