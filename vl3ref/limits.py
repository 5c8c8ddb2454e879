"""What a prompt needs, weighed before it is decoded or computed: positions, and memory.

Memory is counted low: only what is certainly held at the same time. So what is refused could not have worked, and what
is let through can still run out; `memory_errors` makes one sentence of that.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool
from torch import Tensor

from vl3ref.config import LanguageConfig, ModelConfig
from vl3ref.errors import InputError
from vl3ref.model.diff_fp import DiffFP, Pruner, keep_all
from vl3ref.model.vision import CHUNK_PATCHES
from vl3ref.model_inputs import ModelInputs

if TYPE_CHECKING:
    from vl3ref.model.videollama3 import VideoLLaMA3

SMALLER = "lower --visual-tokens or --max-frames (in Python max_tokens, max_frames)"
"""What makes a prompt with images and videos smaller."""

CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.stat", "anon"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.stat", "total_rss"),
)
"""Where a container reads its limit, and what it holds: Linux' control groups, versions 2 and 1."""


def check_prompt(
    model: "VideoLLaMA3", inputs: ModelInputs, pruner: Pruner | None = None, past: int = 0, allow_long: bool = False
) -> None:
    """Refuse a prompt that the model cannot read, before any of it is computed.

    Args:
        inputs: with or without their pixels.
        pruner: in place of the model's.
        past: tokens of earlier turns.
        allow_long: more tokens than the model was trained on may pass.

    Raises:
        InputError: the prompt is longer than what the model was trained on, or needs more memory than there is.
    """
    kept = least_kept(inputs, model.pruner if pruner is None else pruner)
    if past + int(inputs.lengths.max()) > trained_positions(model.config.language) and not allow_long:
        visual = inputs.is_visual(model.config.visual_token_ids).cpu()
        read = torch.ones_like(visual).masked_scatter(visual, kept).split(inputs.lengths.tolist())
        check_positions(model.config.language, past + max(int(part.sum()) for part in read), len(kept) > 0)
    tokens = len(inputs.input_ids) - int((~kept).sum())
    check_memory(memory_needed(model.config, inputs, tokens, model.dtype.itemsize), model.device)


def check_positions(config: LanguageConfig, tokens: int, visual: bool = False) -> None:
    """
    Args:
        tokens: of one conversation so far, after pruning.
        visual: whether images or videos are among them.

    Raises:
        InputError: the decoder was trained on fewer.
    """
    trained = trained_positions(config)
    if tokens > trained:
        raise InputError(
            f"the conversation has {tokens:,} tokens, and the model was trained on {trained:,} positions: "
            f"{f'{SMALLER}, shorten the text' if visual else 'shorten the text'}, or allow it with --allow-long "
            "(allow_long=True)"
        )


def trained_positions(config: LanguageConfig) -> int:
    """Positions that the decoder was trained on, or that its rotary frequencies were stretched to."""
    scaling = config.rope_scaling
    stretched = 0 if scaling is None else int(scaling.original_max_position_embeddings * scaling.factor)
    return max(config.max_position_embeddings, stretched)


def least_kept(inputs: ModelInputs, pruner: Pruner) -> Bool[Tensor, " visual_tokens"]:
    """As many visual tokens of each frame as are kept whatever its pixels are. Of pruners other than DiffFP and
    `keep_all` nothing is known."""
    masks = [torch.zeros(0, dtype=torch.bool)]
    frames = [] if inputs.grid_sizes is None else inputs.grid_sizes[:, 0].tolist()
    for count, tokens, modal in zip(frames, inputs.tokens_per_visual(), inputs.modals, strict=True):
        keep = torch.full((count, tokens // count), pruner is keep_all or isinstance(pruner, DiffFP))
        if isinstance(pruner, DiffFP) and modal == "video":
            keep[1:, 1:] = False
        masks.append(keep.flatten())
    return torch.cat(masks)


# -------------------------------------------------------------------------------------------------------------- memory


def memory_needed(config: ModelConfig, inputs: ModelInputs, tokens: int, itemsize: int) -> int:
    """Bytes that prefilling a prompt of `tokens` holds beside the weights:

        pixels      patches x 588 x 4, unless the inputs have them already
        and either
        encoding    features and projected features of every visual token; the MLP's width of every patch of a chunk
        or
        decoding    keys and values of every token in every layer; three residual streams

    Numbers of the latter two have `itemsize` bytes.
    """
    vision, decoder = config.vision, config.language
    grids = [] if inputs.grid_sizes is None else inputs.grid_sizes.tolist()
    patches, visual_tokens = sum(t * h * w for t, h, w in grids), sum(inputs.tokens_per_visual())
    chunk = min(patches, max([CHUNK_PATCHES["cpu"], *(h * w for _, h, w in grids)]))
    pixels = pixel_bytes(grids, vision.patch_values) if inputs.pixel_values is None else 0
    encoding = visual_tokens * (vision.hidden_size + decoder.hidden_size) + chunk * vision.intermediate_size
    cached = 2 * decoder.num_hidden_layers * decoder.num_key_value_heads * decoder.head_dim
    return pixels + itemsize * max(encoding, tokens * (cached + 3 * decoder.hidden_size))


def pixel_bytes(grids: Sequence[Sequence[int]], patch_values: int) -> int:
    """Bytes of the processor's float32 pixels; those of several visuals are copied once, to lie side by side."""
    return sum(t * h * w for t, h, w in grids) * patch_values * 4 * (2 if len(grids) > 1 else 1)


def check_memory(needed: int, device: torch.device) -> None:
    """
    Raises:
        InputError: the device has less memory left.
    """
    free = free_memory(device)
    if free is not None and needed > free:
        raise InputError(
            f"this prompt needs at least {needed / 1e9:,.1f} GB of memory, and {free / 1e9:,.1f} GB are free on "
            f"{'this machine' if device.type == 'cpu' else device}: {SMALLER}"
        )


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be allocated; None where that is not known. On a CPU swap and a container's limit count."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    if device.type != "cpu":
        return None
    try:
        found = _table("/proc/meminfo")
        free = [1024 * (found["MemAvailable:"] + found["SwapFree:"])]
    except (OSError, KeyError):  # not Linux
        return None
    for limit, held, key in CGROUPS:
        try:
            free.append(int(Path(limit).read_text()) - _table(held)[key])
        except (OSError, KeyError, ValueError):  # ValueError: the word "max", no limit
            continue
    return max(min(free), 0)


def _table(path: str) -> dict[str, int]:
    """Lines of "name number"."""
    return {name: int(number) for name, number, *_ in map(str.split, Path(path).read_text().splitlines())}


@contextmanager
def memory_errors() -> Iterator[None]:
    """Within the context, or in a function that it decorates, memory that runs out is an InputError."""
    try:
        yield
        return
    except (MemoryError, RuntimeError) as error:
        on_gpu = isinstance(error, torch.OutOfMemoryError)
        if not (on_gpu or isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error)):
            raise
        error.__traceback__ = None  # the tensors in its frames are let go
    raise InputError(f"out of memory{' on the GPU' * on_gpu}: {SMALLER}{', or --dtype bfloat16' * on_gpu}") from None
