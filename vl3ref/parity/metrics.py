"""How far apart two tensors are, in several units at once."""

from dataclasses import dataclass

import torch
from jaxtyping import Shaped
from torch import Tensor


@dataclass(frozen=True)
class Difference:
    """One activation of ours beside the reference's.

    Attributes:
        name: where in the data flow.
        shape: of both.
        equal: bit for bit.
        max_abs, mean_abs: of the difference.
        max_ulp: the largest difference in units of the last place. Elements smaller than the tensor's root mean square
            are counted in that one's units: a sum that cancels is only as exact as its terms.
        relative: root mean square of the difference over that of the reference.
        cosine: similarity of the two, flattened; 1.0 for two tensors of zeros.
        our_error, reference_error: root mean square distance from the same computation in higher precision, over the
            root mean square of that; None where it was not computed.
    """

    name: str
    shape: tuple[int, ...]
    equal: bool
    max_abs: float
    mean_abs: float
    max_ulp: float
    relative: float
    cosine: float
    our_error: float | None = None
    reference_error: float | None = None

    @property
    def verdict(self) -> str:
        """Whether ours is nearer to higher precision than the reference: "nearer", "farther", "as near" (within 5 per
        cent), or "" where that was not computed."""
        ours, theirs = self.our_error, self.reference_error
        if ours is None or theirs is None:
            return ""
        return "as near" if abs(ours - theirs) <= 0.05 * max(ours, theirs) else "nearer" if ours < theirs else "farther"


def difference(
    name: str,
    ours: Shaped[Tensor, "*shape"],
    reference: Shaped[Tensor, "*shape"],
    precise: Shaped[Tensor, "*shape"] | None = None,
) -> Difference:
    """Compare two tensors of any dtype, in float64. For ids and masks, `equal` and `max_abs` are what counts.

    Args:
        precise: the same activation computed in higher precision, for `our_error` and `reference_error`.
    """
    dtype = ours.dtype
    ours, reference = (x.detach().cpu().double() for x in (ours, reference))
    precise = precise.detach().cpu().double() if precise is not None else None
    apart = (ours - reference).abs()
    return Difference(
        name,
        tuple(ours.shape),
        equal=torch.equal(ours, reference),
        max_abs=apart.max().item() if apart.numel() else 0.0,
        mean_abs=apart.mean().item() if apart.numel() else 0.0,
        max_ulp=_ulps(apart, reference, dtype),
        relative=_relative(ours, reference),
        cosine=_cosine(ours, reference),
        our_error=None if precise is None else _relative(ours, precise),
        reference_error=None if precise is None else _relative(reference, precise),
    )


def _ulps(apart: Tensor, reference: Tensor, dtype: torch.dtype) -> float:
    if not dtype.is_floating_point or not apart.numel():
        return 0.0
    root_mean_square = reference.square().mean().sqrt()
    magnitude = reference.abs().maximum(root_mean_square).clamp(min=torch.finfo(dtype).tiny)
    spacing = torch.finfo(dtype).eps * torch.exp2(torch.floor(torch.log2(magnitude)))
    return (apart / spacing).max().item()


def _relative(a: Tensor, b: Tensor) -> float:
    """‖a - b‖ / ‖b‖; the absolute distance where b is zero."""
    distance, size = (a - b).norm().item(), b.norm().item()
    return distance / size if size else distance


def _cosine(a: Tensor, b: Tensor) -> float:
    lengths = a.norm().item() * b.norm().item()
    if not lengths:
        return 1.0 if torch.equal(a, b) else 0.0
    return (a * b).sum().item() / lengths
