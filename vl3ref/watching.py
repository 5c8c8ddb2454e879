"""Hidden states and attention maps of a forward pass, taken by hooks: the model itself knows nothing of it.

    with watch(model) as seen:
        model(inputs)
    seen.language.hidden_states[3]      # what enters block 3, (tokens, dim); the last one follows the final norm
    seen.vision.attentions[0][2]        # block 0, frame 2: (heads, patches, patches)

Patches are listed row by row, not in the merge-block order in which they are computed, so that a row of a map reshaped
to (rows, columns) is a picture. Maps are computed beside the fused attention: the pass gives the same without them.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from vl3ref.errors import InputError, quoted
from vl3ref.model.token_merge import Frame
from vl3ref.model.videollama3 import VideoLLaMA3


@dataclass
class Tower:
    """What one tower computed. Chunks of a long video are joined, and several passes follow one another."""

    named: bool
    _hidden: dict[int, list[Tensor]]
    _maps: dict[int, list[Tensor]]
    _frames: list[Frame] = field(default_factory=list)

    @property
    def hidden_states(self) -> list[Tensor] | dict[int, Tensor]:
        """What enters each block, and last what leaves the final norm (transformers' convention): (tokens, dim) each. A
        list, or a dict where layers were named."""
        states = {layer: self._by_rows(torch.cat(parts)) for layer, parts in self._hidden.items() if parts}
        return states if self.named else list(states.values())

    @property
    def attentions(self) -> list[list[Tensor]] | dict[int, list[Tensor]]:
        """For each block one float32 (heads, n, n) per segment: per frame, or per conversation."""
        maps = {layer: self._maps_by_rows(maps) for layer, maps in self._maps.items() if maps}
        return maps if self.named else list(maps.values())

    def _by_rows(self, x: Tensor) -> Tensor:
        if not self._frames:
            return x
        frames = zip(x.split([h * w for h, w, _ in self._frames]), self._frames, strict=True)
        return torch.cat(
            [rearrange(part, "(h w m n) d -> (h m w n) d", h=h // m, w=w // m, m=m, n=m) for part, (h, w, m) in frames]
        )

    def _maps_by_rows(self, maps: list[Tensor]) -> list[Tensor]:
        """Both axes of a map in the order of `_by_rows`."""
        if not self._frames:
            return maps
        order = "heads (h w m n) (i j k l) -> heads (h m w n) (i k j l)"
        return [
            rearrange(x, order, h=h // m, w=w // m, m=m, n=m, i=h // m, j=w // m, k=m, l=m)
            for x, (h, w, m) in zip(maps, self._frames, strict=True)
        ]


@dataclass
class Watched:
    vision: Tower
    language: Tower


@contextmanager
def watch(model: VideoLLaMA3, layers: Sequence[int] | None = None) -> Iterator[Watched]:
    """Within the context, forward passes leave their hidden states and attention maps behind: use it around
    `model(inputs)`. Decoding and later turns of a chat read the cache, and leave hidden states but no maps.

    Args:
        layers: of both towers, counted from 0; -1 is the last block of each, and the number of blocks names what leaves
            the final norm. None takes all. Maps need memory for every pair of tokens: name layers where
            sequences are long.

    Raises:
        InputError: a layer that neither tower has, or frames are not all encoded (`fast.encode_equal_frames_once`).
    """
    if not isinstance(model, VideoLLaMA3):
        raise InputError(f"watch takes a VideoLLaMA3, not {quoted(model)}")
    vision, language = model.vision_encoder, model.language_model
    if "forward" in vars(vision):
        raise InputError("only distinct frames are encoded here (encode_equal_frames_once): watch outside of it")
    deepest = max(len(vision.encoder.layers), len(language.layers))
    if layers is not None and not (isinstance(layers, Sequence) and all(isinstance(layer, int) for layer in layers)):
        raise InputError(f"layers should be a list of whole numbers, or None, not {quoted(layers)}")
    if unknown := [layer for layer in layers or () if not -deepest <= layer <= deepest]:
        raise InputError(f"there is no layer {quoted(unknown[0])}; the deeper tower has {deepest}")
    with ExitStack() as hooks:
        watched = Watched(
            _watch(vision.encoder.layers, vision.post_layernorm, layers, hooks),
            _watch(language.layers, language.norm, layers, hooks),
        )
        frames = watched.vision._frames
        hooks.callback(vision.merge.register_forward_pre_hook(lambda _, args: frames.extend(args[1])).remove)
        yield watched


def _watch(blocks: nn.ModuleList, norm: nn.Module, layers: Sequence[int] | None, hooks: ExitStack) -> Tower:
    count = len(blocks)
    named = range(count + 1) if layers is None else {n + count if n < 0 else n for n in layers}
    wanted = [n for n in sorted(named) if 0 <= n <= count]
    tower = Tower(layers is not None, {n: [] for n in wanted}, {n: [] for n in wanted if n < count})
    for layer, hidden in tower._hidden.items():
        if layer == count:
            handle = norm.register_forward_hook(lambda _, args, out, hidden=hidden: hidden.append(out))
        else:
            handle = blocks[layer].register_forward_pre_hook(lambda _, args, hidden=hidden: hidden.append(args[0]))
        hooks.callback(handle.remove)
    for layer, maps in tower._maps.items():
        attend = blocks[layer].get_submodule("self_attn.attend")
        handle = attend.register_forward_hook(
            lambda _, args, kwargs, out, maps=maps: maps.extend(attention_maps(*args, **kwargs)), with_kwargs=True
        )
        hooks.callback(handle.remove)
    return tower


def attention_maps(
    q: Float[Tensor, "tokens heads head_dim"],
    k: Float[Tensor, "tokens kv_heads head_dim"],
    v: Tensor,
    lengths: Sequence[int],
    causal: bool,
) -> list[Float[Tensor, "heads length length"]]:
    """The probabilities that weight the values, one float32 (heads, n, n) per segment. This is the one function that
    holds a segment's scores whole."""
    maps = []
    for q_one, k_one in zip(q.split(list(lengths)), k.split(list(lengths)), strict=True):
        k_one = k_one.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
        scores = torch.einsum("n h d, m h d -> h n m", q_one.float(), k_one.float()) * q.shape[-1] ** -0.5
        if causal:
            scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), float("-inf"))
        maps.append(scores.softmax(dim=-1))
    return maps
