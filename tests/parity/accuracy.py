"""How far ours and transformers' are from a more precise computation, on any device, over several inputs.

The precise computation is our own model with every parameter widened: to float64, or to float32 for half precision,
whose rounding is five orders of magnitude larger.
"""

import math
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.model_inputs import ModelInputs
from vl3ref.parity.reference import reference_answer, reference_inputs, reference_model
from vl3ref.parity.synthetic import geometry, random_geometry, synthetic_inputs

POINTS = ("vision features", "logits")

WORKING_BYTES = 6 * 2**30
"""For activations and for the largest tensor in two widths at once."""

LIMIT = 1.05
"""Our error over transformers', at most."""


@dataclass(frozen=True)
class Accuracy:
    """One kind of input through one model.

    Attributes:
        ours, theirs: root mean square error, relative to the precise values, over all inputs, at each of `POINTS`.
        ids_equal: how many of the inputs are continued with the same greedy ids.
    """

    geometry: str
    layers: str
    dtype: str
    modal: str
    inputs: int
    ours: tuple[float, ...]
    theirs: tuple[float, ...]
    ids_equal: int

    @property
    def ratios(self) -> tuple[float, ...]:
        return tuple(a / b for a, b in zip(self.ours, self.theirs, strict=True))


def measure(
    name: str,
    layers: int | None,
    device: str,
    dtype: torch.dtype,
    precise: torch.dtype,
    grids: dict[str, tuple[int, int, int]],
    seeds: Sequence[int],
    new_tokens: int,
) -> list[Accuracy]:
    """A geometry with random weights, through both implementations and then through ours in higher precision.

    Args:
        grids: for "video" and "image" each, frames, rows and columns of patches.
        seeds: one input is made from each.
    """
    model = random_geometry(name, layers, device, dtype)
    reference: Any = reference_model(model)
    inputs = {(m, seed): synthetic_inputs(model.config, m, grid, seed) for m, grid in grids.items() for seed in seeds}
    ours, theirs, same = {}, {}, {}
    for key, one in inputs.items():
        given = reference_inputs(model, one)
        ours[key], theirs[key] = our_results(model, one), their_results(reference, given)
        answer = model.generate(one, new_tokens, min_new_tokens=new_tokens)[0]
        same[key] = answer.tolist() == reference_answer(reference, given, new_tokens).tolist()
    del reference
    for parameter in model.parameters():
        parameter.data = parameter.data.to(precise)
    exact = {key: our_results(model, one.to(dtype=precise)) for key, one in inputs.items()}

    config = model.config
    depth = f"{config.vision.num_hidden_layers} + {config.language.num_hidden_layers}"
    dtype_name = str(dtype).removeprefix("torch.")
    rows = []
    for modal in grids:
        keys = [(modal, seed) for seed in seeds]
        errors = [relative_errors([found[k] for k in keys], [exact[k] for k in keys]) for found in (ours, theirs)]
        rows.append(Accuracy(name, depth, dtype_name, modal, len(seeds), *errors, sum(same[k] for k in keys)))
    return rows


@torch.no_grad()
def our_results(model: VideoLLaMA3, inputs: ModelInputs) -> tuple[Tensor, ...]:
    inputs = inputs.to(model.device)
    features = model.vision_encoder(inputs.pixel_values, inputs.grid_sizes, inputs.merge_sizes)
    return features.cpu(), model(inputs).logits.cpu()


@torch.no_grad()
def their_results(reference: Any, given: dict[str, Tensor]) -> tuple[Tensor, ...]:
    found: list[Tensor] = []
    hook = reference.model.vision_model.register_forward_hook(
        lambda module, args, output: found.append(output.last_hidden_state.cpu())
    )
    logits = reference(**given).logits[0].cpu()
    hook.remove()
    return found[0], logits


def relative_errors(results: list[tuple[Tensor, ...]], precise: list[tuple[Tensor, ...]]) -> tuple[float, ...]:
    """Root mean square over all inputs, at each point."""
    errors = []
    for found, exact in zip(zip(*results, strict=True), zip(*precise, strict=True), strict=True):
        distance = sum(float((a.double() - b.double()).square().sum()) for a, b in zip(found, exact, strict=True))
        errors.append(math.sqrt(distance / sum(float(b.double().square().sum()) for b in exact)))
    return tuple(errors)


def fitting_layers(name: str, bytes_free: int, bytes_per_parameter: int) -> int | None:
    """How many layers of each tower fit beside `WORKING_BYTES`: None for all of them."""
    with torch.device("meta"):
        model = VideoLLaMA3(geometry(name, 1))
    towers = model.vision_encoder.encoder.layers, model.language_model.layers
    per_layer = [sum(p.numel() for p in tower.parameters()) for tower in towers]
    others = sum(p.numel() for p in model.parameters()) - sum(per_layer)
    config = geometry(name)
    depths = config.vision.num_hidden_layers, config.language.num_hidden_layers
    for layers in range(max(depths), 0, -1):
        counts = [min(layers, depth) * size for depth, size in zip(depths, per_layer, strict=True)]
        if bytes_per_parameter * (others + sum(counts)) <= bytes_free - WORKING_BYTES:
            return None if layers == max(depths) else layers
    raise MemoryError(f"not even one layer of the {name} fits into {bytes_free / 2**30:.0f} GiB")


def write_report(path: Path, rows: Sequence[Accuracy], device: str, command: str) -> None:
    """A page with one line per kind of input."""
    where = torch.cuda.get_device_name() if device == "cuda" else f"cpu, {platform.machine()}"
    lines = [
        "# Parity on CUDA" if device == "cuda" else f"# Parity on {device}",
        "",
        f"- device: {where}",
        f"- versions: torch {torch.__version__}, transformers {transformers.__version__}",
        f"- date: {date.today().isoformat()}",
        f"- made by: `{command}`",
        "",
        "Random weights, synthetic inputs. Errors are root mean square distances from the same computation in float64",
        "(float32 for bfloat16), relative, over all inputs of a line; ratio is ours over transformers' (sdpa).",
        "",
        "| geometry | layers | dtype | input | inputs | point | our error | transformers' | ratio | greedy ids equal |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        for point, ours, theirs, ratio in zip(POINTS, row.ours, row.theirs, row.ratios, strict=True):
            lines.append(
                f"| {row.geometry} | {row.layers} | {row.dtype} | {row.modal} | {row.inputs} | {point} "
                f"| {ours:.2e} | {theirs:.2e} | {ratio:.3f} | {row.ids_equal} of {row.inputs} |"
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
