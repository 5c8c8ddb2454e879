"""What is measured, and where; and the two models that it is measured on."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vl3ref.config import ModelConfig
from vl3ref.errors import InputError
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.parity.reference import twin
from vl3ref.parity.run import geometry, random_geometry

MERGE = 2
"""Patches along the side of a video token."""

LIVELY = 30
"""Factor on what the decoder's MLPs add. As drawn they add so little that the embedding, which is the head as well,
decides alone: the same id again and again, and comparing ids would compare nothing."""

DTYPES = ("float32", "bfloat16", "float16")
DRAWN = "drawn"


@dataclass(frozen=True)
class Settings:
    """Sizes of everything that is measured.

    Attributes:
        geometry: "tiny", "2b" or "7b"; its weights are drawn.
        layers: of each tower; None for all.
        frames, rows, columns: of the vision encoder's input, rows and columns in patches.
        tokens: of the prompt that is prefilled.
        context, new_tokens: of a decode: tokens that are there, tokens that are generated.
        batch: conversations that decode side by side, at most; powers of two up to it are measured.
        device, dtype: of the models.
        repeats: of every measurement, after one that warms up.
        threads: torch's; None leaves them as they are.
        clip_seconds, clip_height: of the video that preprocessing reads; 16:9, 25 frames a second.
        compiled: whether decoding is measured compiled, too.
        videos: files to ask about, or "drawn" for a drawn clip of 30 seconds.
        budget: seconds after which a measurement is not repeated any more.
    """

    geometry: str = "tiny"
    layers: int | None = None
    frames: int = 8
    rows: int = 24
    columns: int = 24
    tokens: int = 512
    context: int = 64
    new_tokens: int = 32
    batch: int = 8
    device: str = "cpu"
    dtype: str = "float32"
    repeats: int = 5
    threads: int | None = None
    clip_seconds: int = 60
    clip_height: int = 720
    compiled: bool = False
    videos: tuple[str, ...] = field(default_factory=tuple)
    budget: float = 120.0

    def __post_init__(self) -> None:
        whole = ("frames", "rows", "columns", "tokens", "context", "new_tokens", "batch", "repeats", "clip_seconds")
        for name in (*whole, "layers", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name.replace('_', '-')} should be at least 1, not {value}")
        if self.new_tokens < 3:
            raise InputError(
                f"new-tokens should be at least 3, not {self.new_tokens}: time runs from the second to the last"
            )
        if self.rows % MERGE or self.columns % MERGE:
            raise InputError(f"patches should be even numbers of rows and columns, not {self.rows}x{self.columns}")
        if self.dtype not in DTYPES:
            raise InputError(f"no dtype named {self.dtype!r} is measured; there are {', '.join(DTYPES)}")
        if self.clip_height < 32 or self.clip_height % 2:
            raise InputError(f"clip-height should be an even number of at least 32 pixels, not {self.clip_height}")
        for video in self.videos:
            if video != DRAWN and not Path(video).is_file():
                raise InputError(f"{video} is not a file; --video takes video files, or {DRAWN!r}")

    @property
    def torch_dtype(self) -> torch.dtype:
        return getattr(torch, self.dtype)

    @property
    def config(self) -> ModelConfig:
        return geometry(self.geometry, self.layers)


class Pair:
    """Our model and transformers', made when they are first needed, of the same parameters."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.device = torch.device(settings.device)

    @cached_property
    def ours(self) -> VideoLLaMA3:
        settings = self.settings
        model = random_geometry(settings.geometry, settings.layers, settings.device, settings.torch_dtype)
        with torch.no_grad():
            for layer in model.language_model.layers:
                layer.get_parameter("mlp.down_proj.weight").mul_(LIVELY)
        return model

    @cached_property
    def theirs(self) -> Any:
        """transformers' model, with sdpa attention.

        Raises:
            InputError: transformers is not installed.
        """
        reference = twin(self.ours, "sdpa")
        from transformers.utils import logging

        logging.set_verbosity_error()
        return reference


def drawn_ids(config: ModelConfig, count: int, seed: int = 0) -> Tensor:
    """(count,) int64: a text of drawn tokens, none of them a visual one."""
    source = torch.Generator().manual_seed(seed)
    return torch.randint(0, min(config.visual_token_ids), (count,), generator=source)


def drawn_pixels(config: ModelConfig, frames: int, rows: int, columns: int) -> tuple[Tensor, Tensor, Tensor]:
    """A video of noise, every frame another: pixel_values (patches, values) in [-1, 1], grid_sizes, merge_sizes."""
    source = torch.Generator().manual_seed(0)
    pixels = torch.rand(frames * rows * columns, config.vision.patch_values, generator=source) * 2 - 1
    return pixels, torch.tensor([[frames, rows, columns]]), torch.tensor([MERGE])
