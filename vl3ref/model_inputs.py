"""What passes from the processor to the model: one or several conversations as packed tensors.

It stands below both, because neither imports the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vl3ref.errors import InputError

IGNORED = -100
"""The label of a token that is not learnt."""


@dataclass
class VisualSource:
    """Where one picture or video of a `ModelInputs` came from.

    Attributes:
        name: the file's path, or "image 1", "video 2" for data that has none.
        conversation: index of the conversation it belongs to.
        height, width: of the original, in pixels, before any resizing.
        timestamps: seconds of each frame, or None where no times are known.
    """

    name: str
    conversation: int
    height: int
    width: int
    timestamps: list[float] | None = None


@dataclass
class TokenTrace:
    """One row per visual token, in the order in which the decoder sees them; tensors live on the CPU.

    Attributes:
        visual: index into `ModelInputs.sources`.
        frame: index of the sampled frame (0 for pictures).
        time: seconds, nan where no times are known.
        box: left, top, right, bottom in pixels of the original.
    """

    visual: Int[Tensor, " kept"]
    frame: Int[Tensor, " kept"]
    time: Float[Tensor, " kept"]
    box: Float[Tensor, "kept 4"]

    def __len__(self) -> int:
        return len(self.visual)


@dataclass
class ModelInputs:
    """One or several conversations, packed: what `VideoLLaMA3` takes. The field names are the official ones.

    Attributes:
        input_ids: (N,) int64, every visual token standing there, before DiffFP.
        lengths: (B,) int64, tokens of each conversation.
        pixel_values: (patches, 3*14*14) float32, normalised, each visual in merge-block order; None without visuals.
        grid_sizes: (V, 3) int64, frames x rows x columns of patches of each visual.
        merge_sizes: (V,) int64, patches along the side of one visual token.
        modals: "image" or "video" for each visual.
        diff_fp: which pruner to use: None for the model's own, False for none, a number for DiffFP at that threshold,
            True for DiffFP at its own.
        labels: (N,) int64 where the processor was asked for them: what is learnt, -100 elsewhere.
        sources: where each visual came from, if known; `trace` needs it.
    """

    input_ids: Int[Tensor, " tokens"]
    lengths: Int[Tensor, " conversations"]
    pixel_values: Float[Tensor, "patches values"] | None = None
    grid_sizes: Int[Tensor, "visuals 3"] | None = None
    merge_sizes: Int[Tensor, " visuals"] | None = None
    modals: list[str] = field(default_factory=list)
    diff_fp: float | bool | None = None
    labels: Int[Tensor, " tokens"] | None = None
    sources: list[VisualSource] | None = None

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "ModelInputs":
        """The same inputs on another device.

        What Python reads to lay out the work (lengths, grid_sizes, merge_sizes) stays where it is, on the CPU as the
        processor makes it: reading it from a GPU would stall every layer.

        `dtype` can only widen the pixels (to float64): DiffFP decides on what the processor made, and bfloat16 does not
        resolve its threshold. The vision encoder casts to its own dtype when it reads them.
        """
        pixels = self.pixel_values
        if pixels is not None:
            pixels = pixels.to(device, pixels.dtype if dtype is None else torch.promote_types(pixels.dtype, dtype))
        labels = None if self.labels is None else self.labels.to(device)
        return replace(self, input_ids=self.input_ids.to(device), pixel_values=pixels, labels=labels)

    def tokens_per_visual(self) -> list[int]:
        """Visual tokens of each picture or video, before DiffFP."""
        if self.grid_sizes is None or self.merge_sizes is None:
            return []
        return (self.grid_sizes.prod(dim=1) // self.merge_sizes**2).tolist()

    def check(self, visual_token_ids: tuple[int, ...], vocab_size: int, patch_values: int) -> None:
        """Refuse inputs whose parts contradict each other.

        Raises:
            InputError: naming the two numbers that should agree.
        """
        self._check_types()
        if int(self.lengths.sum()) != len(self.input_ids):
            raise InputError(
                f"lengths add up to {int(self.lengths.sum())}, but there are {len(self.input_ids)} input_ids"
            )
        if len(self.input_ids) == 0 or int(self.lengths.min()) < 1:
            raise InputError("a conversation has no tokens")
        low, high = int(self.input_ids.min()), int(self.input_ids.max())
        if low < 0 or high >= vocab_size:
            raise InputError(f"input_ids run from {low} to {high}, but the vocabulary from 0 to {vocab_size - 1}")
        self._check_visuals(patch_values)
        placed, given = int(self.visual_positions(visual_token_ids).sum()), sum(self.tokens_per_visual())
        if placed != given:
            raise InputError(f"input_ids hold {placed} visual tokens, but pictures and videos make {given}")

    def _check_types(self) -> None:
        forms = {"input_ids": 1, "lengths": 1, "grid_sizes": 2, "merge_sizes": 1, "pixel_values": 2}
        for name, rank in forms.items():
            x = getattr(self, name)
            if x is None and name not in ("input_ids", "lengths"):
                continue
            if not isinstance(x, Tensor) or x.ndim != rank or x.is_floating_point() != (name == "pixel_values"):
                kind = "floating-point" if name == "pixel_values" else "integer"
                raise InputError(f"{name} should be a {kind} tensor of {rank} axes")

    def _check_visuals(self, patch_values: int) -> None:
        given = [x is not None for x in (self.pixel_values, self.grid_sizes, self.merge_sizes)]
        if any(given) and not all(given):
            raise InputError("pixel_values, grid_sizes and merge_sizes go together: give all three or none")
        if self.pixel_values is None or self.grid_sizes is None or self.merge_sizes is None:
            return
        counts = [len(x) for x in (self.grid_sizes, self.merge_sizes, self.modals or [])]
        if len(set(counts)) > 1:
            raise InputError("{} grid_sizes, {} merge_sizes, {} modals: each visual needs one of each".format(*counts))
        for modal in self.modals:
            if modal not in ("image", "video"):
                raise InputError(f"modal {modal!r} is not known; there are 'image' and 'video'")
        check_grids(self.pixel_values, self.grid_sizes.tolist(), self.merge_sizes.tolist(), patch_values)

    def visual_positions(self, visual_token_ids: tuple[int, ...]) -> Bool[Tensor, " tokens"]:
        """Which of the input_ids stand for visual tokens."""
        return torch.isin(self.input_ids, torch.tensor(visual_token_ids, device=self.input_ids.device))

    def trace(self, keep_mask: Bool[Tensor, " visual_tokens"] | None = None) -> TokenTrace:
        """What each visual token shows: its source, frame, time and pixel box.

        Args:
            keep_mask: of the model's output, to list kept tokens alone; None lists all.

        Raises:
            InputError: these inputs were not made by a processor, so the sources are not known.
        """
        if self.grid_sizes is None or self.merge_sizes is None:
            nothing = torch.zeros(0, dtype=torch.int64)
            return TokenTrace(nothing, nothing, torch.zeros(0, dtype=torch.float64), torch.zeros(0, 4))
        if not self.sources:
            raise InputError("these inputs do not say where their visuals came from; a processor's do")
        if keep_mask is not None and len(keep_mask) != sum(self.tokens_per_visual()):
            raise InputError(
                f"the keep mask has {len(keep_mask)} entries for {sum(self.tokens_per_visual())} visual tokens"
            )
        parts = [
            _trace_one(index, source, grid, merge)
            for index, (source, grid, merge) in enumerate(
                zip(self.sources, self.grid_sizes.tolist(), self.merge_sizes.tolist(), strict=True)
            )
        ]
        keep = slice(None) if keep_mask is None else keep_mask.cpu()
        return TokenTrace(
            **{f.name: torch.cat([getattr(part, f.name) for part in parts])[keep] for f in fields(TokenTrace)}
        )


def join(parts: Sequence[ModelInputs]) -> ModelInputs:
    """Several inputs as one: their conversations, one after another. Labels and sources stay if every part has them.

    Raises:
        InputError: there are none, or they are to be pruned differently.
    """
    if not parts:
        raise InputError("there are no inputs to join")
    if any(part.diff_fp != parts[0].diff_fp for part in parts):
        raise InputError(f"inputs pruned differently cannot be joined: diff_fp is {[part.diff_fp for part in parts]}")
    tensors: dict[str, Any] = {}
    for name in ("input_ids", "lengths", "pixel_values", "grid_sizes", "merge_sizes"):
        there = [getattr(part, name) for part in parts if getattr(part, name) is not None]
        tensors[name] = torch.cat(there) if there else None
    if all(part.labels is not None for part in parts):
        tensors["labels"] = torch.cat([part.labels for part in parts if part.labels is not None])
    sources: list[VisualSource] | None = None
    if all(part.sources is not None for part in parts):
        before = [0, *accumulate(len(part.lengths) for part in parts)]
        sources = [
            replace(source, conversation=source.conversation + first)
            for part, first in zip(parts, before, strict=False)
            for source in part.sources or ()
        ]
    modals = [modal for part in parts for modal in part.modals]
    return ModelInputs(**tensors, modals=modals, diff_fp=parts[0].diff_fp, sources=sources)


def _trace_one(index: int, source: VisualSource, grid: list[int], merge: int) -> TokenTrace:
    t, h, w = grid[0], grid[1] // merge, grid[2] // merge
    frame, row, column = (axis.flatten() for axis in torch.meshgrid(*map(torch.arange, (t, h, w)), indexing="ij"))
    times = torch.tensor(source.timestamps or [float("nan")] * t, dtype=torch.float64)
    corners = [column / w * source.width, row / h * source.height]
    opposite = [(column + 1) / w * source.width, (row + 1) / h * source.height]
    box = torch.stack([*corners, *opposite], dim=1)
    return TokenTrace(torch.full_like(frame, index), frame, times[frame], box)


def check_grids(pixel_values: Tensor, grids: Sequence[Sequence[int]], merges: Sequence[int], patch_values: int) -> None:
    """Refuse grids that cannot be merged, and pixels that are not theirs.

    Raises:
        InputError: naming the two that should agree.
    """
    for (t, h, w), merge in zip(grids, merges, strict=True):
        if merge < 1 or min(t, h, w) < 1 or h % merge or w % merge:
            raise InputError(f"a grid of {t} x {h} x {w} patches cannot be merged by {merge}")
    wanted = (sum(t * h * w for t, h, w in grids), patch_values)
    if tuple(pixel_values.shape) != wanted:
        raise InputError(f"pixel_values are {tuple(pixel_values.shape)}, but the grids ask for {wanted}")
