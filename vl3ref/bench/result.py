"""What a measurement gives: rows of a table, each with its checks."""

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from vl3ref.bench.measure import Samples
from vl3ref.parity.metrics import difference

TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Relative root mean square difference that two orders of the same sums may have."""


@dataclass(frozen=True)
class Check:
    """Whether both sides computed the same.

    Attributes:
        what: was compared, and how it came out.
        passed: whether it may count as equal.
    """

    what: str
    passed: bool


@dataclass(frozen=True)
class Limit:
    """What the machine can do at best, measured in turn with a part.

    Attributes:
        name: what was run.
        work: operations or bytes of one run.
        seconds: it took.
        unit: "FLOP" or "B".
    """

    name: str
    work: int | float
    seconds: Samples
    unit: Literal["FLOP", "B"]

    @property
    def rate(self) -> float:
        """Operations or bytes per second, of the median run."""
        return self.work / self.seconds.median


@dataclass
class Row:
    """One measurement.

    Attributes:
        part, case: what was measured, and at which sizes.
        ours, theirs: samples, in seconds or in bytes.
        unit: "s" or "B".
        rival: whose `theirs` is.
        work: operations or bytes that one sample of ours is worth, to hold against the limits.
        limits: the first is the machine's own; others are there to explain.
        checks: of equal output.
        notes: sentences worth reading beside the numbers.
        numbers: further results, for programs.
    """

    part: str
    case: str
    ours: Samples
    theirs: Samples | None = None
    unit: Literal["s", "B"] = "s"
    rival: str = "transformers"
    work: int | float | None = None
    limits: list[Limit] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    numbers: dict[str, Any] = field(default_factory=dict)

    @property
    def equal(self) -> bool:
        return all(check.passed for check in self.checks)

    @property
    def ratio(self) -> float | None:
        """Theirs over ours, of medians: above 1, ours takes less. None where outputs differ: it would mean nothing."""
        if self.theirs is None or not self.equal or self.ours.median <= 0:
            return None
        return self.theirs.median / self.ours.median

    def fraction(self, limit: Limit) -> float | None:
        """Ours as a part of what the machine can do; None where there is nothing to count."""
        return None if self.work is None else self.work / self.ours.median / limit.rate


def verdict(checks: list[Check]) -> str:
    """All checks in a word."""
    return "" if not checks else "equal" if all(check.passed for check in checks) else "NOT EQUAL"


def close(what: str, ours: Tensor, theirs: Tensor) -> Check:
    """Two results of one dtype, up to the rounding that another order of sums brings."""
    if ours.shape != theirs.shape:
        return Check(f"{what}: {tuple(ours.shape)} beside {tuple(theirs.shape)}", False)
    found = difference(what, ours.cpu(), theirs.cpu())
    if found.equal:
        return Check(f"{what} equal bit for bit", True)
    passed = found.relative <= TOLERANCE[ours.dtype]  # nan fails
    return Check(f"{what} {'equal' if passed else 'differ'} to {found.relative:.0e}", passed)


def same(what: str, ours: Any, theirs: Any) -> Check:
    """Two things that have to be equal as they are."""
    return Check(what, True) if ours == theirs else Check(f"{what} differ: {ours} and {theirs}", False)
