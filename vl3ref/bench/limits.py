"""What the machine can do at best: the rate of matrix products, and that of reading memory."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vl3ref.bench.count import Shape
from vl3ref.bench.machine import largest_cache
from vl3ref.bench.measure import Samples, in_turn, timed
from vl3ref.bench.result import Limit

SIDE = {"cpu": 3072, "cuda": 8192}
"""Of the square matrices: larger ones were no faster."""

LEAST = 2**30
"""Bytes of the buffer that is read on a CPU, or four times its largest cache."""

Candidates = dict[str, Callable[[], float]]


class Products:
    """The GEMM rate: a product of two large square matrices, the limit; and of a part's own linear layers, which says
    how much of it their shapes leave. Both in the part's dtype, on all threads, outputs allocated beforehand."""

    def __init__(self, device: torch.device, dtype: torch.dtype, shapes: Sequence[Shape]) -> None:
        side = SIDE.get(device.type, 3072)
        self.square = _factors((side, side, side), device, dtype)
        self.own = {shape: _factors(shape, device, dtype) for shape in dict.fromkeys(shapes)}
        self.work = {"square": 2 * side**3, "own": sum(2 * n * a * b for n, a, b in shapes)}
        self.names = {
            "square": f"product of two {side}×{side} matrices",
            "own": "products of the part's own shapes, " + ", ".join(f"{n}×{a}×{b}" for n, a, b in self.own),
        }
        self.shapes, self.device = shapes, device

    def candidates(self) -> Candidates:
        def own() -> None:
            for shape in self.shapes:
                _multiply(self.own[shape])

        return {
            "square": timed(lambda: _multiply(self.square), self.device, 3),
            "own": timed(own, self.device, 2),
        }

    def limits(self, samples: dict[str, Samples]) -> list[Limit]:
        return [Limit(self.names[name], self.work[name], samples[name], "FLOP") for name in ("square", "own")]


class Reading:
    """The read bandwidth, by the fastest of three ways to pass over a buffer that no cache holds, on all threads.

    Summing it reads every byte once; a matrix-vector product does the same and is what a decoder does; a copy reads and
    writes, and both count. Which is fastest is tried out once, and that one is the limit.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        size = 4 * 2**30 if device.type == "cuda" else max(LEAST, 4 * largest_cache())
        self.buffer = torch.empty(size // 4096, 4096 // dtype.itemsize, dtype=dtype, device=device).uniform_(-1, 1)
        self.device = device
        vector = torch.ones(self.buffer.shape[1], dtype=dtype, device=device)
        half = len(self.buffer) // 2
        floats = self.buffer.view(torch.float32)
        self.ways: dict[str, Callable[[], object]] = {
            "sum": lambda: floats.sum(),
            "matrix-vector product": lambda: torch.mv(self.buffer, vector),
            "copy": lambda: self.buffer[:half].copy_(self.buffer[half : 2 * half]),
        }
        tried = in_turn({name: timed(way, device) for name, way in self.ways.items()}, 3, 20.0)
        self.tried = {name: self.bytes / samples.median for name, samples in tried.items()}
        self.fastest = max(self.tried, key=lambda name: self.tried[name])

    @property
    def bytes(self) -> int:
        """Of one pass; a copy reads one half and writes the other."""
        return self.buffer.nbytes

    def candidates(self) -> Candidates:
        return {"read": timed(self.ways[self.fastest], self.device, 8)}

    def limits(self, samples: dict[str, Samples]) -> list[Limit]:
        others = ", ".join(f"{name} {rate / 1e9:.1f} GB/s" for name, rate in self.tried.items())
        name = f"{self.fastest} over {self.bytes / 2**30:.1f} GiB, the fastest of: {others}"
        return [Limit(name, self.bytes, samples["read"], "B")]


class Vectors:
    """The linear layers of one decoding step and nothing else, each with weights of its own: what a step would take if
    norms, rotations, attention and Python took nothing. The limit where a cache holds all weights, so that reading
    memory is none."""

    def __init__(self, device: torch.device, dtype: torch.dtype, shapes: Sequence[Shape]) -> None:
        self.layers = [_factors(shape, device, dtype) for shape in shapes]
        self.bytes = sum(weight.nbytes for _, weight, _ in self.layers)
        self.device = device

    def candidates(self) -> Candidates:
        return {"vectors": timed(lambda: [_multiply(layer) for layer in self.layers], self.device, 16)}

    def limits(self, samples: dict[str, Samples]) -> list[Limit]:
        name = f"the {len(self.layers)} matrix-vector products of a step, over {self.bytes / 2**20:.0f} MiB"
        return [Limit(name, self.bytes, samples["vectors"], "B")]


def _factors(shape: Shape, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, a linear layer's weight, and room for the result."""
    n, a, b = shape
    source = torch.Generator(device).manual_seed(0)
    rows, weight = (torch.empty(s, dtype=dtype, device=device).normal_(generator=source) for s in ((n, a), (b, a)))
    return rows, weight, torch.empty(n, b, dtype=dtype, device=device)


def _multiply(factors: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    rows, weight, out = factors
    return torch.mm(rows, weight.t(), out=out)
