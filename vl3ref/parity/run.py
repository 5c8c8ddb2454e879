"""One comparison from end to end: a model, an input, both implementations, and ours again in float64."""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch

from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.model_inputs import ModelInputs
from vl3ref.parity.activations import Activations, record
from vl3ref.parity.compare import compare_activations
from vl3ref.parity.exact import exact
from vl3ref.parity.reference import record_reference
from vl3ref.parity.report import Report


def run_parity(
    model: VideoLLaMA3,
    inputs: ModelInputs,
    reference: Activations | None = None,
    attention: str = "sdpa",
    in_exact_mode: bool = False,
    float64: bool = True,
    new_tokens: int = 8,
    tolerance: float | None = None,
    before: tuple[Activations, Activations] = ({}, {}),
    about: Mapping[str, Any] | None = None,
) -> tuple[Report, Activations]:
    """
    Args:
        model: its parameters are float64 afterwards if `float64` is asked for: load it again to use it further.
        inputs: one conversation, with text, and images or videos but not both.
        reference: somebody else's activations; default: transformers' on the same parameters.
        float64: also run ours in float64, to say which of the two is nearer to it. (transformers cannot be run in
            float64: its norms and rotations go through float32.)
        before: our activations ahead of the model, and transformers' (`compare_processing`).
        attention, new_tokens, tolerance, about: see `record_reference` and `compare_activations`.

    Returns:
        The report, and our activations.
    """
    with exact(model) if in_exact_mode else nullcontext():
        ours = before[0] | record(model, inputs, new_tokens)
    if reference is None:
        reference = before[1] | record_reference(model, inputs, attention, new_tokens)
    precise = None
    if float64:  # last, in place, and one parameter at a time, so that the model is never held twice
        for parameter in model.parameters():
            parameter.data = parameter.data.double()
        precise = record(model, inputs.to(dtype=torch.float64), 1)
    return compare_activations(ours, reference, precise, tolerance, about), ours
