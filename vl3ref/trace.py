"""Which pixels each visual token saw: the way back from the decoder's sequence to the files."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vl3ref.errors import InputError, quoted
from vl3ref.model_inputs import ModelInputs, VisualSource


@dataclass
class TokenTrace:
    """One row per visual token, in the order in which the decoder reads them; tensors lie on the CPU.

    Attributes:
        visual: index into `ModelInputs.sources`.
        frame: index of the sampled frame (0 for images).
        time: seconds, float64; nan where no times are known.
        box: left, top, right, bottom in pixels of the original.
        position: row of the packed sequence that the decoder reads, and so of the logits.
    """

    visual: Int[Tensor, " kept"]
    frame: Int[Tensor, " kept"]
    time: Float[Tensor, " kept"]
    box: Float[Tensor, "kept 4"]
    position: Int[Tensor, " kept"]

    def __len__(self) -> int:
        return len(self.visual)


def trace(inputs: ModelInputs, keep_mask: Bool[Tensor, " visual_tokens"] | None = None) -> TokenTrace:
    """What each visual token shows, and where it stands.

    Args:
        inputs: made by a processor, which notes the sources.
        keep_mask: of the model's output, to list the kept tokens alone; None lists all, at their places before pruning.

    Raises:
        InputError: the sources are not known, or the mask belongs to other inputs.
    """
    if not isinstance(inputs, ModelInputs):
        raise InputError(f"trace takes ModelInputs, not {quoted(inputs)}")
    counts = inputs.tokens_per_visual()
    if inputs.grid_sizes is None or inputs.merge_sizes is None or not counts:
        nothing = torch.zeros(0, dtype=torch.int64)
        return TokenTrace(nothing, nothing, torch.zeros(0, dtype=torch.float64), torch.zeros(0, 4), nothing)
    if keep_mask is None:
        keep_mask = torch.ones(sum(counts), dtype=torch.bool)
    if not isinstance(keep_mask, Tensor) or keep_mask.dtype != torch.bool or keep_mask.ndim != 1:
        raise InputError(f"keep_mask should be a bool tensor of 1 axis, not {quoted(keep_mask)}")
    if len(keep_mask) != sum(counts):
        raise InputError(f"the keep mask has {len(keep_mask)} entries for {sum(counts)} visual tokens")
    if not inputs.sources or any(source.token_id is None for source in inputs.sources):
        raise InputError("these inputs do not say where their visuals came from; a processor's do")
    keep = keep_mask.cpu()

    visual = inputs.is_visual(sorted({source.token_id for source in inputs.sources if source.token_id is not None}))
    kept = torch.ones_like(visual, device="cpu").masked_scatter(visual.cpu(), keep)
    position = (kept.cumsum(0) - 1)[visual.cpu()]
    layouts = zip(inputs.sources, inputs.grid_sizes.tolist(), inputs.merge_sizes.tolist(), strict=True)
    parts = [_trace_one(index, source, grid, merge) for index, (source, grid, merge) in enumerate(layouts)]
    index, frame, time, box = (torch.cat(column)[keep] for column in zip(*parts, strict=True))
    return TokenTrace(index, frame, time, box, position[keep])


def _trace_one(index: int, source: VisualSource, grid: list[int], merge: int) -> tuple[Tensor, ...]:
    t, h, w = grid[0], grid[1] // merge, grid[2] // merge
    frame, row, column = (axis.flatten() for axis in torch.meshgrid(*map(torch.arange, (t, h, w)), indexing="ij"))
    times = torch.tensor(source.timestamps or [float("nan")] * t, dtype=torch.float64)
    left, top = column / w * source.width, row / h * source.height
    right, bottom = (column + 1) / w * source.width, (row + 1) / h * source.height
    return torch.full_like(frame, index), frame, times[frame], torch.stack([left, top, right, bottom], dim=1)
