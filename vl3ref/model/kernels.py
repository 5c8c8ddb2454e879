"""Which of torch's attention kernels there are: asked of the device, the dtype and the installed torch.

torch falls back by itself, but to one that holds all scores; here is what has to be known to keep it from that.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from inspect import signature
from typing import Any

import torch


@lru_cache
def groups_are_fused(device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
    """A CPU's kernel since torch 2.9, a GPU's where it is flash attention."""
    if device.type == "cpu":
        return torch.__version__ >= "2.9"  # compares as a version, not as letters
    return has_flash(device, dtype, head_dim)


@lru_cache
def has_flash(device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
    """Whether torch's flash attention runs here: a GPU from Ampere on, half precision, heads of up to 256."""
    return (
        device.type == "cuda"
        and dtype in (torch.bfloat16, torch.float16)
        and head_dim % 8 == 0
        and head_dim <= 256
        and torch.backends.cuda.is_flash_attention_available()
        and torch.cuda.get_device_capability(device) >= (8, 0)
    )


@lru_cache
def varlen_kernel(device: torch.device, dtype: torch.dtype, head_dim: int, grouped: bool) -> Callable[..., Any] | None:
    """torch.nn.attention.varlen's, where this torch has one that fits."""
    if not has_flash(device, dtype, head_dim):
        return None
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    known = signature(varlen_attn).parameters
    if "window_size" not in known or (grouped and "enable_gqa" not in known):
        return None
    return partial(varlen_attn, enable_gqa=True) if grouped else varlen_attn
