"""Two sets of activations -> a report."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from vl3ref.errors import InputError
from vl3ref.parity.activations import Activations, record_modules
from vl3ref.parity.metrics import Difference, difference
from vl3ref.parity.report import Report

TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-5, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Relative difference (root mean square) past which a row fails. float64 allows for transformers' own detours through
float32 (RMSNorm and the vision tower's RoPE)."""


def compare_activations(
    ours: Activations,
    reference: Activations,
    truth: Activations | None = None,
    tolerance: float | None = None,
    about: Mapping[str, Any] | None = None,
) -> Report:
    """One row for every name that both have, in our order.

    Args:
        truth: the same computation in higher precision, for the errors of each.
        tolerance: relative difference past which a row fails; by default `TOLERANCES` of our dtype. Ids and masks must
            be equal; next_ids only where the dtype has 24 bits or more, since near ties turn on the last bit.
        about: what else the report should say of itself.

    Raises:
        InputError: they share no name, or a shape differs; says which.
    """
    shared = [name for name in ours if name in reference]
    if not shared:
        raise InputError(f"no activation has the same name in both; ours begin with {', '.join(list(ours)[:4])}")
    for name in shared:
        if ours[name].shape != reference[name].shape:
            raise InputError(
                f"{name} is {tuple(ours[name].shape)} in ours and {tuple(reference[name].shape)} in the reference"
            )
    rows = [
        difference(name, ours[name], reference[name], (truth or {}).get(name) if _measured(ours[name]) else None)
        for name in shared
    ]
    dtype = next((x.dtype for x in ours.values() if x.is_floating_point()), torch.float32)
    limit = TOLERANCES.get(dtype, 1e-5) if tolerance is None else tolerance
    failed = [row.name for row in rows if _fails(row, ours, limit, dtype)]
    missing = sorted(set(ours) ^ set(reference))
    return Report(rows, limit, failed, missing, {"dtype": str(dtype).removeprefix("torch."), **(about or {})})


@torch.no_grad()
def compare(
    ours: nn.Module,
    reference: nn.Module,
    *args: Any,
    reference_args: tuple[Any, ...] | None = None,
    pairs: Mapping[str, str] | None = None,
    tolerance: float | None = None,
) -> Report:
    """Run any two modules on the same input and compare what their submodules compute.

    Args:
        args: what both are called with; `reference_args` for the reference where it wants something else.
        pairs: name of a submodule of ours -> that of the reference. By default, all names that both have. The modules
            themselves are compared as "output".
    """
    if pairs is None:
        theirs = dict(reference.named_modules())
        pairs = {name: name for name, _ in ours.named_modules() if name in theirs}
    pairs = {a: b for a, b in pairs.items() if a}
    with record_modules({**{a: ours.get_submodule(a) for a in pairs}, "output": ours}) as found:
        ours(*args)
    with record_modules({**{a: reference.get_submodule(b) for a, b in pairs.items()}, "output": reference}) as expected:
        reference(*(args if reference_args is None else reference_args))
    return compare_activations(found, expected, tolerance=tolerance)


def _measured(x: torch.Tensor) -> bool:
    return x.is_floating_point()


def _fails(row: Difference, ours: Activations, limit: float, dtype: torch.dtype) -> bool:
    if ours[row.name].is_floating_point():
        return not row.relative <= limit  # also where it is nan
    if row.name == "next_ids" and dtype in (torch.bfloat16, torch.float16):
        return False
    return not row.equal
