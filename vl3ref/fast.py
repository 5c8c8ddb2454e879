"""What changes speed and nothing else. The model does not know this file.

A decode step, newest tokens -> logits, comes in four kinds, to be handed to `stream(step=...)`:

    eager_step                     layer after layer from Python; the default on a CPU
    CapturedStep()                 a CUDA graph, recorded once and replayed: one launch a token; the default on a GPU
    CompiledStep()                 torch.compile's fewer, fused kernels, after a minute of compiling
    CapturedStep(compiled=True)    both

All give the same tokens, up to ties that rounding decides. All but the first need shapes that stay the same from token
to token, so their attention reads the whole cache under a mask. A graph replays kernels and no Python: a module's hooks
run while it is captured, and not again.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vl3ref.errors import InputError
from vl3ref.model.kv_cache import KVCache
from vl3ref.model.language_model import LanguageModel
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.model.vision import VisionEncoder

DecodeStep: TypeAlias = Callable[[LanguageModel, KVCache, Tensor], Tensor]
"""(decoder, cache, newest token of each row (rows,)) -> logits of the next (rows, vocab). The cache grows."""


def default_step(device: torch.device) -> DecodeStep:
    return CapturedStep() if device.type == "cuda" else eager_step


def eager_step(decoder: LanguageModel, cache: KVCache, tokens: Int[Tensor, " rows"]) -> Float[Tensor, "rows vocab"]:
    return decoder.head(decoder.hidden(tokens, [1] * len(tokens), cache))


def static_step(
    decoder: LanguageModel,
    cache: KVCache,
    tokens: Int[Tensor, " rows"],
    slots: Int[Tensor, " rows"],
    positions: Int[Tensor, " rows"],
) -> Float[Tensor, "rows vocab"]:
    """One step in which Python reads nothing from the device. The caller advances the cache."""
    return decoder.head(decoder.run(tokens, cache.static_step(slots, positions), cache))


@lru_cache
def compiled_static_step() -> Callable[..., Tensor]:
    # torch traces through the cached inverse_frequencies, which gives the same, and warns that it does.
    warnings.filterwarnings("ignore", "Dynamo detected a call to a `functools.lru_cache`")
    return torch.compile(static_step, dynamic=True)


class CompiledStep:
    """One compilation serves all later caches, whatever their sizes."""

    def __call__(self, decoder: LanguageModel, cache: KVCache, tokens: Int[Tensor, " rows"]) -> Tensor:
        slots = torch.tensor(cache.lengths, device=cache.device)
        positions = torch.tensor(cache.next_positions, device=cache.device)
        logits = compiled_static_step()(decoder, cache, tokens, slots, positions)
        cache.advance([1] * len(tokens))
        return logits


class CapturedStep:
    """A CUDA graph of one step, for one cache. It is captured again when the cache has new tensors: when rows were
    dropped, or room added.

    Args:
        compiled: capture the compiled step.
    """

    def __init__(self, compiled: bool = False) -> None:
        self.compute = compiled_static_step() if compiled else static_step
        self.captured_for: Any = None
        self.lengths: list[int] = []

    def __call__(self, decoder: LanguageModel, cache: KVCache, tokens: Int[Tensor, " rows"]) -> Tensor:
        if not cache.keys[0].is_cuda:
            raise InputError("CUDA graphs can be captured on a GPU alone; use eager_step or CompiledStep() here")
        if self.captured_for is not cache.keys[0]:
            self._capture(decoder, cache)
        elif self.lengths != cache.lengths:  # the cache was used otherwise since the last step
            self._place(cache)
        self.tokens.copy_(tokens)
        with torch.cuda.device(cache.device):
            self.graph.replay()
        cache.advance([1] * len(tokens))
        self.lengths = list(cache.lengths)
        return self.logits

    def _place(self, cache: KVCache) -> None:
        """Where the next tokens go. The graph moves both on by itself."""
        self.slots.copy_(torch.tensor(cache.lengths))
        self.positions.copy_(torch.tensor(cache.next_positions))

    def _capture(self, decoder: LanguageModel, cache: KVCache) -> None:
        self.tokens, self.slots, self.positions = torch.zeros(
            3, len(cache.lengths), dtype=torch.int64, device=cache.device
        )
        self._place(cache)
        with torch.cuda.device(cache.device):  # a capture's stream is the current device's, which may be another one
            self._advance(decoder, cache)  # outside the capture, where libraries may still allocate
            self._place(cache)  # what that wrote is overwritten
            self.graph = torch.cuda.CUDAGraph()
            stream = torch.cuda.Stream(cache.device)
            # thread_local: another thread may allocate meanwhile
            with torch.cuda.graph(self.graph, stream=stream, capture_error_mode="thread_local"):
                self.logits = self._advance(decoder, cache)
        self.captured_for = cache.keys[0]

    def _advance(self, decoder: LanguageModel, cache: KVCache) -> Tensor:
        logits = self.compute(decoder, cache, self.tokens, self.slots, self.positions)
        self.slots += 1
        self.positions += 1
        return logits


# ------------------------------------------------------------------------------------------------- equal frames, once


@contextmanager
def encode_equal_frames_once(model: VideoLLaMA3) -> Iterator[None]:
    """Within the context, frames with the very same pixels are encoded once: a screen recording or a slide show repeats
    itself to the bit. Features are those without it, within rounding (1e-6).

    Raises:
        InputError: the encoder was changed so that equal frames get different features at different times.
    """
    encoder = model.vision_encoder
    if "forward" in vars(encoder):  # another context does it already; while it lasts, if it is another thread's
        yield
        return
    _check_time_does_not_matter(encoder)
    encode_all = encoder.forward

    def forward(pixel_values: Tensor, grid_sizes: Tensor, merge_sizes: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return encode_all(pixel_values, grid_sizes, merge_sizes)
        features = []
        patches = pixel_values.split(grid_sizes.prod(dim=1).tolist())
        for values, grid, merge in zip(patches, grid_sizes.tolist(), merge_sizes, strict=True):
            frames = values.unflatten(0, (grid[0], -1))
            first = first_occurrences(frames)
            distinct = sorted(set(first))
            shape = torch.tensor([[len(distinct), grid[1], grid[2]]])
            if len(distinct) < len(frames):
                values = frames[distinct].flatten(0, 1)
            encoded = encode_all(values, shape, merge[None]).chunk(len(distinct))
            features += [encoded[distinct.index(frame)] for frame in first]
        return torch.cat(features)

    encoder.forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        vars(encoder).pop("forward", None)


def first_occurrences(frames: Float[Tensor, "frames patches values"]) -> list[int]:
    """For each frame, the index of the first frame with the very same pixels (its own, if none before has).

    A sum over the pixels' bits, weighted by place, finds candidates in one pass; each is then compared in full.
    """
    bits = frames.flatten(1).view(torch.int64 if frames.dtype == torch.float64 else torch.int32)
    weights = torch.arange(1, 2 * bits.shape[1], 2, device=frames.device)
    # Into buffers: small results between large ones would keep the allocator from using the large ones' room again.
    product, sums = torch.empty_like(weights), weights.new_empty(len(bits))
    for row, total in zip(bits, sums, strict=True):
        torch.sum(torch.mul(row, weights, out=product), dim=0, out=total)
    seen: dict[int, list[int]] = {}
    first = []
    for index, fingerprint in enumerate(sums.tolist()):
        candidates = seen.setdefault(fingerprint, [])
        same = next((k for k in candidates if torch.equal(frames[k], frames[index])), index)
        if same == index:
            candidates.append(index)
        first.append(same)
    return first


@torch.inference_mode()
def _check_time_does_not_matter(encoder: VisionEncoder) -> None:
    """Encode a tiny clip whose first and last frames are equal, and compare their features."""
    weight = encoder.post_layernorm.weight
    frame, other = (torch.linspace(a, b, 4 * encoder.config.patch_values).view(4, -1) for a, b in ((-1, 1), (1, -1)))
    clip = torch.cat([frame, other, other, frame]).to(weight.device)
    features = encoder(clip, torch.tensor([[4, 2, 2]]), torch.tensor([2])).float()
    if not torch.allclose(features[0], features[-1], rtol=1e-3, atol=1e-3 * float(features.abs().max())):
        raise InputError("this encoder gives equal frames different features at different times: encode every frame")
