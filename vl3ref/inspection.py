"""What the model sees of a picture or video: its frames, their sizes, and the visual tokens that DiffFP keeps.

Needs a configuration and a processor, no weights: pixels and sizes are the processor's, the mask is that of the model's
own pruner (`without_weights` builds a model that has one).
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange, repeat
from jaxtyping import Bool, UInt8
from PIL import Image, ImageDraw, ImageFont
from rich.table import Table
from torch import Tensor

from vl3ref.config import ModelConfig
from vl3ref.errors import InputError
from vl3ref.inputs.chat import Message
from vl3ref.inputs.images import RGB
from vl3ref.inputs.processor import Processor
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.model_inputs import ModelInputs, VisualSource

CONTRAST, VEIL = 0.2, 48
"""A dropped token's contrast is scaled and this grey level added, so that a dropped black one shows too."""

SHEET_WIDTH = 1920
CELL_WIDTH = 96
"""Pixels of a whole sheet at most, and of one frame at least (which its caption needs)."""

MARGIN, CAPTION = 6, 18


@dataclass
class Seen:
    """What the model sees of one picture or video.

    Attributes:
        source: name, original size, timestamps.
        modal: "image" or "video".
        grid: frames, rows and columns of patches.
        merge: patches along the side of one visual token.
        times: seconds of each frame; None where no times are known.
        keep: (frames, rows, columns) bool, which visual tokens stay.
    """

    source: VisualSource
    modal: str
    grid: tuple[int, int, int]
    merge: int
    times: list[float | None]
    keep: Bool[Tensor, "frames rows columns"]

    @property
    def tokens(self) -> int:
        """Visual tokens before DiffFP."""
        return self.keep.numel()

    @property
    def kept(self) -> int:
        """Visual tokens after DiffFP."""
        return int(self.keep.sum())

    @property
    def kept_per_frame(self) -> list[int]:
        return self.keep.sum(dim=(1, 2)).tolist()

    @property
    def tokens_per_frame(self) -> int:
        return self.tokens // len(self.keep)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "name": self.source.name,
            "modal": self.modal,
            "height": self.source.height,
            "width": self.source.width,
            "grid": list(self.grid),
            "merge_size": self.merge,
            "tokens_before_diff_fp": self.tokens,
            "tokens_after_diff_fp": self.kept,
            "frames": [
                {"time": time, "tokens_before_diff_fp": self.tokens_per_frame, "tokens_after_diff_fp": kept}
                for time, kept in zip(self.times, self.kept_per_frame, strict=True)
            ],
        }


def without_weights(config: ModelConfig) -> VideoLLaMA3:
    """A model that can say which tokens it would keep, and nothing else: its parameters hold no numbers."""
    with torch.device("meta"):
        return VideoLLaMA3(config)


def inspect_part(
    part: Message, model: VideoLLaMA3, processor: Processor, **overrides: Any
) -> tuple[Seen, UInt8[np.ndarray, "frames height width 3"]]:
    """One picture or video as the model would see it, alone in a conversation.

    Args:
        part: of a message, as the processor takes it; `inputs.files.file_part` makes one from a path.
        model: weights are not needed.
        overrides: of the processor (max_tokens, fps, max_frames, diff_fp, ...).

    Returns:
        What is seen, and its frames, (T, H, W, 3) uint8, at the size the model gets.

    Raises:
        InputError: the file cannot be read, or an option is out of range.
    """
    inputs = processor([{"role": "user", "content": [part]}], **overrides)
    [seen] = visuals_of(inputs, model.keep_mask(inputs))
    return seen, pictures_of(inputs)[0]


def visuals_of(inputs: ModelInputs, keep_mask: Bool[Tensor, " visual_tokens"]) -> list[Seen]:
    """What is seen of each picture and video of some inputs.

    Args:
        inputs: made by a processor, of one or several conversations.
        keep_mask: the model's, of all their visual tokens.
    """
    if inputs.grid_sizes is None or inputs.merge_sizes is None or inputs.sources is None:
        return []
    masks = keep_mask.cpu().split(inputs.tokens_per_visual())
    seen = []
    for source, modal, grid, merge, mask in zip(
        inputs.sources, inputs.modals, inputs.grid_sizes.tolist(), inputs.merge_sizes.tolist(), masks, strict=True
    ):
        keep = mask.reshape(grid[0], grid[1] // merge, grid[2] // merge)
        times: list[float | None] = [None] * grid[0]
        if source.timestamps is not None:
            times = [float(time) for time in source.timestamps]
        seen.append(Seen(source, modal, (grid[0], grid[1], grid[2]), merge, times, keep))
    return seen


def pictures_of(inputs: ModelInputs) -> list[np.ndarray]:
    """The patches of each picture and video put together again: (T, H, W, 3) uint8 each, at the size the model gets."""
    if inputs.pixel_values is None or inputs.grid_sizes is None or inputs.merge_sizes is None:
        return []
    side = math.isqrt(inputs.pixel_values.shape[1] // 3)
    patches = inputs.pixel_values.split(inputs.grid_sizes.prod(dim=1).tolist())
    pictures = []
    for values, (t, h, w), merge in zip(patches, inputs.grid_sizes.tolist(), inputs.merge_sizes.tolist(), strict=True):
        levels = ((values / 2 + 0.5) * 255).round().to(torch.uint8)
        frames = rearrange(
            levels,
            "(t h w m n) (c p q) -> t (h m p) (w n q) c",
            t=t,
            h=h // merge,
            w=w // merge,
            m=merge,
            n=merge,
            p=side,
            q=side,
        )
        pictures.append(frames.numpy())
    return pictures


def headline(seen: Seen) -> str:
    """Sizes, in two lines."""
    (frames, rows, columns), merge, source = seen.grid, seen.merge, seen.source
    return (
        f"{source.name}: {seen.modal}, {source.width} x {source.height} pixels\n"
        f"{frames} frame{'s' if frames > 1 else ''}, each {rows} x {columns} patches, "
        f"merged {merge} x {merge} into {rows // merge} x {columns // merge} tokens (rows x columns)"
    )


def table_of(seen: Seen) -> Table:
    """Frames, times and tokens before and after DiffFP, for a terminal."""
    table = Table(show_footer=True)
    for heading, footer in (
        ("frame", "all"),
        ("time", ""),
        ("tokens", str(seen.tokens)),
        ("after DiffFP", str(seen.kept)),
        ("kept", f"{seen.kept / seen.tokens:.0%}"),
    ):
        table.add_column(heading, footer, justify="right")
    for frame, (time, kept) in enumerate(zip(seen.times, seen.kept_per_frame, strict=True)):
        table.add_row(
            str(frame), seconds(time), str(seen.tokens_per_frame), str(kept), f"{kept / seen.tokens_per_frame:.0%}"
        )
    return table


def contact_sheet(seen: Seen, pictures: UInt8[np.ndarray, "frames height width 3"]) -> Image.Image:
    """All frames on one sheet, dropped tokens dimmed, with the time and kept / all tokens under each.

    Args:
        pictures: (T, H, W, 3) uint8, at the size the model gets.
    """
    count, height, width, _ = pictures.shape
    columns = math.ceil(math.sqrt(count))
    cell_width = max(min(width, (SHEET_WIDTH - MARGIN) // columns - MARGIN), CELL_WIDTH)
    cell_height = max(round(height * cell_width / width), 1)
    across, down = cell_width + MARGIN, cell_height + CAPTION + MARGIN
    sheet = Image.new("RGB", (columns * across + MARGIN, math.ceil(count / columns) * down + MARGIN), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for frame, (time, kept) in enumerate(zip(seen.times, seen.kept_per_frame, strict=True)):
        x, y = MARGIN + frame % columns * across, MARGIN + frame // columns * down
        sheet.paste(Image.fromarray(dim(pictures[frame], seen.keep[frame])).resize((cell_width, cell_height)), (x, y))
        when = f"{seconds(time)}  " if time is not None else ""
        draw.text((x, y + cell_height + 2), f"{when}{kept}/{seen.tokens_per_frame}", "black", font)
    return sheet


def dim(picture: RGB, keep: Bool[Tensor, "rows columns"]) -> RGB:
    """Grey out what the dropped tokens show; kept ones stay as they are."""
    side = picture.shape[0] // keep.shape[0]
    shown = repeat(keep.numpy(), "h w -> (h p) (w q) 1", p=side, q=side)
    return np.where(shown, picture, (picture * CONTRAST + VEIL).astype(np.uint8))


def save_sheet(sheet: Image.Image, path: Path) -> None:
    """Write a sheet as PNG, whatever the name's suffix.

    Raises:
        InputError: the file cannot be written.
    """
    try:
        sheet.save(path, format="PNG")
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from None


def seconds(time: float | None) -> str:
    """12.5 -> 12.50s; nothing where the time is not known."""
    return "" if time is None else f"{time:.2f}s"
