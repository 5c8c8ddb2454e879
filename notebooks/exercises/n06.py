"""Checks of notebook 6, Qwen2.5 from scratch."""

from collections.abc import Callable

import torch
from check import NotYet, same
from torch import Tensor

from vl3ref.config import LanguageConfig, preset
from vl3ref.model.kv_cache import KVCache
from vl3ref.model.rope import inverse_frequencies, rotate, rotation


def exercise_1(cache_bytes: Callable[[LanguageConfig, int, int], int]) -> None:
    for name in ("2b", "7b"):
        config = preset(name).language
        for tokens, dtype in ((1000, torch.bfloat16), (7, torch.float32)):
            cache = KVCache(config, 1, tokens, dtype, "meta")
            wanted = sum(x.numel() * x.element_size() for x in (*cache.keys, *cache.values))
            asked = f"cache_bytes(the {name.upper()}'s config, {tokens}, {dtype.itemsize})"
            same(cache_bytes(config, tokens, dtype.itemsize), wanted, asked)


def exercise_2(grouped: Callable[[Tensor, int, int], Tensor]) -> None:
    generator = torch.Generator().manual_seed(0)
    for heads, kv_heads in ((6, 6), (6, 2), (4, 1)):
        weight = torch.randn(heads * 8, 5, generator=generator)
        group = heads // kv_heads
        wanted = torch.cat([sum(weight.split(8)[i * group : (i + 1) * group]) / group for i in range(kv_heads)])
        same(grouped(weight, heads, kv_heads), wanted, f"grouped(weight, {heads}, {kv_heads})")


def exercise_3(for_interleaved_pairs: Callable[[Tensor, int], Tensor]) -> None:
    generator = torch.Generator().manual_seed(0)
    for head_dim, heads in ((4, 1), (16, 3)):
        weight, x = torch.randn(heads * head_dim, 5, generator=generator), torch.randn(9, 5, generator=generator)
        angles = torch.arange(9)[:, None] * inverse_frequencies(head_dim, 100.0, torch.device("cpu"))
        ours = rotate((x @ weight.T).view(9, heads, head_dim), rotation(angles, torch.float32))
        reordered = for_interleaved_pairs(weight, head_dim)
        same(None if reordered is None else reordered.shape, weight.shape, "the shape of the reordered weight")
        theirs = torch.view_as_complex((x @ reordered.T).view(9, heads, -1, 2)) * torch.polar(
            torch.ones_like(angles), angles
        ).unsqueeze(1)
        found = torch.view_as_real(theirs).flatten(2)
        if not torch.allclose(found.sort().values, ours.sort().values, atol=1e-5):
            raise NotYet(f"with heads of {head_dim}, their rotation gives other numbers than ours")
