"""How far two tensors are apart, in several units at once."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Shaped
from torch import Tensor

Verdict = Literal["nearer", "farther", "as near", ""]


@dataclass(frozen=True)
class Difference:
    """One activation of ours beside the reference's.

    Attributes:
        name: where in the data flow.
        shape: of both.
        equal: bit for bit.
        max_abs, mean_abs: of the difference.
        max_ulp: the largest difference in units of the last place of the dtype they were computed in. An element
            smaller than the tensor's root mean square is counted in that one's units: a sum that cancels is only as
            exact as its terms.
        relative: root mean square of the difference over that of the reference.
        cosine: between the two, flattened; 1.0 for two tensors of zeros.
        our_error, reference_error: root mean square distance from the same computation in higher precision, over the
            root mean square of that; None where there is none.
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
    def verdict(self) -> Verdict:
        """Whether ours is nearer the truth than the reference; "as near" within 5 per cent."""
        if self.our_error is None or self.reference_error is None:
            return ""
        if abs(self.our_error - self.reference_error) <= 0.05 * max(self.our_error, self.reference_error):
            return "as near"
        return "nearer" if self.our_error < self.reference_error else "farther"


def difference(
    name: str,
    ours: Shaped[Tensor, "*shape"],
    reference: Shaped[Tensor, "*shape"],
    truth: Shaped[Tensor, "*shape"] | None = None,
) -> Difference:
    """Compare two tensors of any dtype; all sums are taken in float64.

    Ids and masks compare as numbers: `equal` and `max_abs` are what counts for them.
    """
    a, b = ours.detach().cpu(), reference.detach().cpu()
    wide_a, wide_b = a.double(), b.double()
    apart = (wide_a - wide_b).abs()
    exact = truth.detach().cpu().double() if truth is not None else None
    return Difference(
        name=name,
        shape=tuple(a.shape),
        equal=torch.equal(wide_a, wide_b),
        max_abs=_number(apart.max()) if apart.numel() else 0.0,
        mean_abs=_number(apart.mean()) if apart.numel() else 0.0,
        max_ulp=_ulps(apart, wide_b, a.dtype),
        relative=_relative(wide_a, wide_b),
        cosine=_cosine(wide_a, wide_b),
        our_error=None if exact is None else _relative(wide_a, exact),
        reference_error=None if exact is None else _relative(wide_b, exact),
    )


def _ulps(apart: Tensor, reference: Tensor, dtype: torch.dtype) -> float:
    if not dtype.is_floating_point or not apart.numel():
        return 0.0
    magnitude = reference.abs().clamp(min=_number(reference.square().mean().sqrt())).clamp(min=torch.finfo(dtype).tiny)
    spacing = torch.finfo(dtype).eps * torch.exp2(torch.floor(torch.log2(magnitude)))
    return _number((apart / spacing).max())


def _relative(a: Tensor, b: Tensor) -> float:
    """‖a - b‖ / ‖b‖; the absolute distance where b is zero."""
    distance, size = _number((a - b).norm()), _number(b.norm())
    return distance / size if size else distance


def _cosine(a: Tensor, b: Tensor) -> float:
    lengths = _number(a.norm()) * _number(b.norm())
    if not lengths:
        return 1.0 if torch.equal(a, b) else 0.0
    return _number((a * b).sum()) / lengths


def _number(x: Tensor) -> float:
    return float(x.item())
