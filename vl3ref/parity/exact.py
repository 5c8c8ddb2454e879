"""Exact mode: transformers' order of computation, and with it transformers' bits.

    with exact(model):
        logits = model(inputs).logits

The same kernels on the same shapes give the same bits. Four things are computed in another order here, for speed or
memory, and exact mode puts them back:

    here                                                    in transformers
    the patch embedding is a matrix product                 a convolution, as the checkpoint stores it
    frames are encoded in chunks                            all at once
    frames of one size share a call of attention; before    a call for each frame; shared key heads are left to torch
        torch 2.9, shared key heads are repeated for it
    the decoder's MLPs compute a long prompt in pieces      all at once
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from vl3ref.model.attention import PackedAttention
from vl3ref.model.language_model import GatedMLP
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.model.vision import PatchEmbeddings, VisionEncoder


@contextmanager
def exact(model: VideoLLaMA3) -> Iterator[VideoLLaMA3]:
    """While open, the model computes in transformers' order; afterwards as before.

    On a CPU in float32, features, embeddings and logits of one conversation with text and images, or text and videos,
    then equal those of transformers' sdpa implementation bit for bit. Parts that were exchanged stay as they are.
    """
    with ExitStack() as changes:
        for module in model.modules():
            for name, value in _exact_attributes(module).items():
                changes.enter_context(_attribute(module, name, value))
        yield model


def _exact_attributes(module: nn.Module) -> dict[str, Any]:
    if type(module) is PatchEmbeddings:
        return {"forward": partial(_convolve, module.patch_embedding)}
    if type(module) is VisionEncoder:
        return {"chunk_patches": sys.maxsize}
    if type(module) is PackedAttention:
        return {"forward": _attend_one_by_one}
    if type(module) is GatedMLP:
        return {"chunk_tokens": sys.maxsize}
    return {}


def _convolve(
    convolution: nn.Conv2d, patches: Float[Tensor, "patches values"], positions: Tensor
) -> Float[Tensor, "patches dim"]:
    c, (h, w) = convolution.in_channels, convolution.kernel_size
    return convolution(rearrange(patches, "n (c h w) -> n c h w", c=c, h=h, w=w)).flatten(1)


def _attend_one_by_one(q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int], causal: bool) -> Tensor:
    outputs = []
    for segment in zip(*(x.split(list(lengths)) for x in (q, k, v)), strict=True):
        one_q, one_k, one_v = (rearrange(x, "n h d -> 1 h n d") for x in segment)
        grouped = one_q.shape[1] != one_k.shape[1]
        out = F.scaled_dot_product_attention(one_q, one_k, one_v, is_causal=causal, enable_gqa=grouped)
        outputs.append(rearrange(out, "1 h n d -> n h d"))
    return torch.cat(outputs)


@contextmanager
def _attribute(module: nn.Module, name: str, value: Any) -> Iterator[None]:
    """While open, the module itself holds the value; it hides what the class says."""
    own = vars(module)
    before = {name: own[name]} if name in own else {}
    own[name] = value
    try:
        yield
    finally:
        del own[name]
        own.update(before)
