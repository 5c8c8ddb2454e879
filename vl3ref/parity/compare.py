"""Two sets of activations, or any two modules -> a report."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from vl3ref.errors import InputError
from vl3ref.parity.activations import Activations, record_modules
from vl3ref.parity.metrics import difference
from vl3ref.parity.report import Report

TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-5, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Relative difference (root mean square) past which a row fails. float64 allows for transformers' own detours through
float32 (RMSNorm and the vision encoder's RoPE)."""


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
        args: what both are called with; `reference_args` for the reference where it takes something else.
        pairs: name of a submodule of ours -> that of the reference. By default, all names that both have. The modules
            themselves are compared as "output".
        tolerance: see `compare_activations`.
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


def compare_activations(
    ours: Activations,
    reference: Activations,
    precise: Activations | None = None,
    tolerance: float | None = None,
    about: Mapping[str, Any] | None = None,
) -> Report:
    """One row for every name that both have, in our order.

    Args:
        precise: the same computation in higher precision, for the errors of each.
        tolerance: relative difference past which a row fails; by default `TOLERANCES` of our dtype. Ids and masks must
            be equal; next_ids only in float32 and wider, since half precision cannot decide near ties.
        about: what else the report should say of itself.

    Raises:
        InputError: they share no name, or a shape differs; says which.
    """
    shared = [name for name in ours if name in reference]
    if not shared:
        raise InputError(f"no activation has the same name in both; ours begin with {', '.join(list(ours)[:4])}")
    dtype = next((x.dtype for x in ours.values() if x.is_floating_point()), torch.float32)
    limit = TOLERANCES.get(dtype, 1e-5) if tolerance is None else tolerance
    rows, failed = [], []
    for name in shared:
        a, b = ours[name], reference[name]
        if a.shape != b.shape:
            raise InputError(f"{name} is {tuple(a.shape)} in ours and {tuple(b.shape)} in the reference")
        measured = a.is_floating_point()
        row = difference(name, a, b, (precise or {}).get(name) if measured else None)
        passes = row.relative <= limit if measured else row.equal  # nan does not pass
        if not passes and not (name == "next_ids" and dtype in (torch.bfloat16, torch.float16)):
            failed.append(name)
        rows.append(row)
    unpaired = sorted(set(ours) ^ set(reference))
    return Report(rows, limit, failed, unpaired, {"dtype": str(dtype).removeprefix("torch."), **(about or {})})
