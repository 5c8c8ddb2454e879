"""One decoding step, newest tokens -> logits, three ways.

    eager      layer after layer from Python; the default on a CPU
    captured   a CUDA graph, recorded once and replayed: one launch a token instead of dozens a layer; the default
               on a GPU
    compiled   torch.compile's: fewer, fused kernels, after a minute of compiling; on a GPU captured as well. For those
               who ask for it

All three give the same tokens, up to the ties that rounding decides. The last two need shapes that stay the same from
token to token, so their attention reads the whole cache and masks what is not filled (`KVCache.static_step`). A graph
replays kernels and no Python: a module's hooks run while it is captured, and not again.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Literal, TypeAlias, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vl3ref.errors import InputError
from vl3ref.model.kv_cache import KVCache
from vl3ref.model.language_model import LanguageModel

Way = Literal["eager", "captured", "compiled"]


Decode: TypeAlias = Callable[[Tensor], Tensor]
"""Newest token of each conversation (conversations,) -> logits of the next (conversations, vocab). The cache grows by
one token each."""

Compute: TypeAlias = Callable[[LanguageModel, KVCache, Tensor, Tensor], Tensor]
"""One step of a decoder and its cache, from the newest tokens and their positions, both on the device, to logits. It
counts nothing: its caller advances the cache."""


def decoding(decoder: LanguageModel, cache: KVCache, way: Way | None = None) -> Decode:
    """How to decode with a cache whose conversations will stay as many as they are.

    Args:
        way: None takes "captured" on a GPU and "eager" elsewhere.

    Raises:
        InputError: the way is not known, or not possible on this device.
    """
    on_gpu = cache.keys[0].is_cuda
    way = way or ("captured" if on_gpu else "eager")
    if way == "captured" and not on_gpu:
        raise InputError("CUDA graphs can be captured on a GPU alone; decode 'eager' or 'compiled' here")
    if way == "captured":
        return Captured(decoder, cache)
    if way == "compiled":
        return Captured(decoder, cache, compiled_logits()) if on_gpu else Compiled(decoder, cache)
    if way == "eager":
        return Eager(decoder, cache)
    raise InputError(f"decoding can be {', '.join(get_args(Way))}, not {way!r}")


class Eager:
    def __init__(self, decoder: LanguageModel, cache: KVCache) -> None:
        self.decoder, self.cache = decoder, cache

    def __call__(self, tokens: Int[Tensor, " conversations"]) -> Float[Tensor, "conversations vocab"]:
        return self.decoder.head(self.decoder.hidden(tokens, [1] * len(tokens), self.cache))


def static_logits(
    decoder: LanguageModel, cache: KVCache, tokens: Int[Tensor, " rows"], positions: Int[Tensor, " rows"]
) -> Float[Tensor, "rows vocab"]:
    """One step in which Python reads nothing from the device. Counts nothing: the caller advances the cache."""
    return decoder.head(decoder.run(decoder.embed_tokens(tokens), cache.static_step(positions), cache))


class Captured:
    """A graph of one step. It reads tokens and positions from buffers of its own, and moves the positions on.

    Args:
        compute: what is captured.
    """

    def __init__(self, decoder: LanguageModel, cache: KVCache, compute: Compute = static_logits) -> None:
        self.decoder, self.cache, self.compute = decoder, cache, compute
        device = cache.keys[0].device
        self.positions = torch.tensor(cache.lengths, device=device)
        self.tokens = torch.zeros_like(self.positions)
        with torch.cuda.device(device):  # a capture's stream is the current device's, which may be another one
            self._advance()  # outside the capture, where libraries may still allocate; what it writes is overwritten
            self.positions.copy_(torch.tensor(cache.lengths))
            self.graph = torch.cuda.CUDAGraph()
            stream = torch.cuda.Stream(device)
            # thread_local: another thread may allocate meanwhile
            with torch.cuda.graph(self.graph, stream=stream, capture_error_mode="thread_local"):
                self.logits = self._advance()

    def _advance(self) -> Tensor:
        logits = self.compute(self.decoder, self.cache, self.tokens, self.positions)
        self.positions += 1
        return logits

    def __call__(self, tokens: Int[Tensor, " conversations"]) -> Float[Tensor, "conversations vocab"]:
        self.tokens.copy_(tokens)
        with torch.cuda.device(self.tokens.device):
            self.graph.replay()
        self.cache.advance([1] * len(tokens))
        return self.logits


class Compiled:
    """A compiled step. One compilation serves all later caches, whatever their sizes."""

    def __init__(self, decoder: LanguageModel, cache: KVCache) -> None:
        self.decoder, self.cache = decoder, cache
        self.positions = torch.tensor(cache.lengths, device=cache.keys[0].device)

    def __call__(self, tokens: Int[Tensor, " conversations"]) -> Float[Tensor, "conversations vocab"]:
        logits = compiled_logits()(self.decoder, self.cache, tokens, self.positions)
        self.positions += 1
        self.cache.advance([1] * len(tokens))
        return logits


@lru_cache
def compiled_logits() -> Compute:
    return torch.compile(static_logits, dynamic=True)
