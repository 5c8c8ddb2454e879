"""What the model sees of an image or video: its frames, their sizes, and the visual tokens that are kept.

Pixels and sizes are the processor's, and the keep mask is the pruner's own, so neither needs weights.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, UInt8
from rich.table import Table
from torch import Tensor

from vl3ref.config import ModelConfig
from vl3ref.inputs.images import RGB
from vl3ref.inputs.processor import Processor
from vl3ref.model.diff_fp import Pruner
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.model_inputs import ModelInputs, VisualSource

CONTRAST, VEIL = 0.2, 48
"""A dropped token's pixels are scaled by the first and get the second added, so that a black one looks dropped too."""


@dataclass
class Seen:
    """What the model sees of one image or video.

    Attributes:
        source: name, original size, timestamps.
        modal: "image" or "video".
        grid: frames, rows and columns of patches.
        merge: patches along the side of one visual token.
        patches: normalised pixels in merge-block order, as the encoder gets them.
        keep: which visual tokens are kept.
    """

    source: VisualSource
    modal: str
    grid: tuple[int, int, int]
    merge: int
    patches: Float[Tensor, "patches values"]
    keep: Bool[Tensor, "frames rows columns"]

    @property
    def tokens(self) -> int:
        """Visual tokens before pruning."""
        return self.keep.numel()

    @property
    def tokens_per_frame(self) -> int:
        return self.tokens // len(self.keep)

    @property
    def kept(self) -> int:
        """Visual tokens after pruning."""
        return int(self.keep.sum())

    @property
    def kept_per_frame(self) -> list[int]:
        return self.keep.sum(dim=(1, 2)).tolist()

    @property
    def times(self) -> list[float | None]:
        """Seconds of each frame; None where no times are known."""
        known = self.source.timestamps
        return [None] * self.grid[0] if known is None else [float(time) for time in known]

    def pictures(self) -> UInt8[np.ndarray, "frames height width 3"]:
        """The frames at the size the model gets, put together from their patches."""
        (t, h, w), m, side = self.grid, self.merge, math.isqrt(self.patches.shape[1] // 3)
        pixels = ((self.patches / 2 + 0.5) * 255).round().to(torch.uint8).cpu().numpy()
        axes = {"t": t, "h": h // m, "w": w // m, "m": m, "n": m, "p": side, "q": side}
        return rearrange(pixels, "(t h w m n) (c p q) -> t (h m p) (w n q) c", **axes)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        before, after = "tokens_before_diff_fp", "tokens_after_diff_fp"
        frames = zip(self.times, self.kept_per_frame, strict=True)
        return {
            "name": self.source.name,
            "modal": self.modal,
            "height": self.source.height,
            "width": self.source.width,
            "grid": list(self.grid),
            "merge_size": self.merge,
            before: self.tokens,
            after: self.kept,
            "frames": [{"time": time, before: self.tokens_per_frame, after: kept} for time, kept in frames],
        }


def without_weights(config: ModelConfig) -> VideoLLaMA3:
    """A model whose parameters hold no numbers (torch's "meta" device). Its pruner works as usual."""
    with torch.device("meta"):
        return VideoLLaMA3(config)


def inspect_part(
    part: Mapping[str, Any], model: VideoLLaMA3, processor: Processor, pruner: Pruner | None = None, **overrides: Any
) -> Seen:
    """One image or video as the model would see it, alone in a conversation.

    Args:
        part: of a message, as the processor takes it; `vl3ref.inputs.files.file_part` makes one from a path.
        model: only its pruner is used, so weights are not needed (`without_weights`). For a pruner that reads features,
            take `visuals_of(inputs, model(inputs).keep_mask)` instead.
        pruner: used instead of the model's.
        overrides: of the processor (max_tokens, fps, max_frames, ...).

    Raises:
        InputError: the file cannot be read, or an option is out of range.
    """
    inputs = processor([{"role": "user", "content": [part]}], **overrides)
    [seen] = visuals_of(inputs, (pruner or model.pruner)(inputs, None))
    return seen


def visuals_of(inputs: ModelInputs, keep_mask: Tensor) -> list[Seen]:
    """What is seen of each image and video of some inputs.

    Args:
        inputs: made by a processor, of one or several conversations.
        keep_mask: (tokens,), what the pruner returned for them: bool, or scores, of which those above 0 are kept.
    """
    if not inputs.sources:
        return []
    masks = (keep_mask > 0).cpu().split(inputs.tokens_per_visual())
    return [
        Seen(source, modal, (t, h, w), m, patches, mask.reshape(t, h // m, w // m))
        for source, (patches, (t, h, w), m, modal), mask in zip(inputs.sources, inputs.visuals(), masks, strict=True)
    ]


def headline(seen: Seen) -> str:
    """Sizes, in two lines."""
    (frames, rows, columns), merge, source = seen.grid, seen.merge, seen.source
    return (
        f"{source.name}: {seen.modal}, {source.width} x {source.height} pixels\n"
        f"{frames} frame{'s' if frames > 1 else ''}, each {rows} x {columns} patches, "
        f"merged {merge} x {merge} into {rows // merge} x {columns // merge} tokens (rows x columns)"
    )


def table_of(seen: Seen) -> Table:
    """Frames, times, and tokens before and after pruning, for a terminal."""
    table = Table(show_footer=True)
    footers = {"frame": "all", "time": "", "tokens": str(seen.tokens), "kept": str(seen.kept)}
    for heading, footer in (footers | {"share": f"{seen.kept / seen.tokens:.0%}"}).items():
        table.add_column(heading, footer, justify="right")
    for frame, (time, kept) in enumerate(zip(seen.times, seen.kept_per_frame, strict=True)):
        share = f"{kept / seen.tokens_per_frame:.0%}"
        table.add_row(str(frame), seconds(time), str(seen.tokens_per_frame), str(kept), share)
    return table


def dim(picture: RGB, keep: Bool[Tensor, "rows columns"]) -> RGB:
    """Grey out the pixels of dropped tokens; those of kept tokens are unchanged."""
    side = picture.shape[0] // keep.shape[0]
    shown = repeat(keep.numpy(), "h w -> (h p) (w q) 1", p=side, q=side)
    return np.where(shown, picture, (picture * CONTRAST + VEIL).astype(np.uint8))


def seconds(time: float | None) -> str:
    """12.5 -> 12.50s; nothing where the time is not known."""
    return "" if time is None else f"{time:.2f}s"
