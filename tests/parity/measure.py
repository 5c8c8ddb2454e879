"""How far ours and transformers' are from the truth, on any device, over several inputs.

The truth is our own model with every parameter widened: to float64, or to float32 for half precision, whose rounding is
five orders of magnitude larger.
"""

import math
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import torch
import transformers
from torch import Tensor

from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.model_inputs import ModelInputs
from vl3ref.parity.reference import twin, twin_inputs
from vl3ref.parity.run import drawn_inputs, geometry, random_geometry

POINTS = ("vision features", "logits")

ROOM_TO_WORK = 6 * 2**30
"""Bytes for activations and for the largest tensor in two widths at once."""

MOST = 1.05
"""Our error over transformers', at most."""


@dataclass(frozen=True)
class Measured:
    """One kind of input through one model.

    Attributes:
        ours, theirs: root mean square error relative to the truth, over all inputs, at each of `POINTS`.
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
    truth: torch.dtype,
    grids: dict[str, tuple[int, int, int]],
    seeds: Sequence[int],
    new_tokens: int,
) -> list[Measured]:
    """A geometry with random weights, through both implementations and then through the truth.

    Args:
        grids: for "video" and "image" each, frames, rows and columns of patches.
        seeds: one input is drawn from each.
    """
    model = random_geometry(name, layers, device, dtype)
    reference = twin(model)
    drawn = {
        (modal, seed): drawn_inputs(model.config, modal, grid, seed) for modal, grid in grids.items() for seed in seeds
    }
    ours = {key: our_results(model, inputs) for key, inputs in drawn.items()}
    theirs, same = {}, {}
    for key, inputs in drawn.items():
        given = twin_inputs(model, inputs)
        theirs[key] = their_results(reference, given)
        answer = reference.generate(
            **given, max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=False, pad_token_id=0
        )
        expected = answer[0, given["input_ids"].shape[1] :].tolist()
        same[key] = model.generate(inputs, new_tokens, new_tokens)[0].tolist() == expected
    del reference
    for parameter in model.parameters():
        parameter.data = parameter.data.to(truth)
    exact = {key: our_results(model, inputs.to(dtype=truth)) for key, inputs in drawn.items()}

    config = model.config
    depth = f"{config.vision.num_hidden_layers} + {config.language.num_hidden_layers}"
    return [
        Measured(
            name,
            depth,
            str(dtype).removeprefix("torch."),
            modal,
            len(seeds),
            relative_errors([ours[modal, seed] for seed in seeds], [exact[modal, seed] for seed in seeds]),
            relative_errors([theirs[modal, seed] for seed in seeds], [exact[modal, seed] for seed in seeds]),
            sum(same[modal, seed] for seed in seeds),
        )
        for modal in grids
    ]


@torch.no_grad()
def our_results(model: VideoLLaMA3, inputs: ModelInputs) -> tuple[Tensor, ...]:
    inputs = inputs.to(model.device)
    features = model.vision_encoder(inputs.pixel_values, inputs.grid_sizes, inputs.merge_sizes)
    return features.cpu(), model(inputs).logits.cpu()


@torch.no_grad()
def their_results(reference: transformers.PreTrainedModel, given: dict[str, Tensor]) -> tuple[Tensor, ...]:
    found: list[Tensor] = []
    hook = reference.model.vision_model.register_forward_hook(
        lambda module, args, output: found.append(output.last_hidden_state.cpu())
    )
    logits = reference(**given).logits[0].cpu()
    hook.remove()
    return found[0], logits


def relative_errors(results: list[tuple[Tensor, ...]], truths: list[tuple[Tensor, ...]]) -> tuple[float, ...]:
    """Root mean square over all inputs, at each point."""
    errors = []
    for found, exact in zip(zip(*results, strict=True), zip(*truths, strict=True), strict=True):
        distance = sum(float((a.double() - b.double()).square().sum()) for a, b in zip(found, exact, strict=True))
        errors.append(math.sqrt(distance / sum(float(b.double().square().sum()) for b in exact)))
    return tuple(errors)


def fitting_layers(name: str, bytes_free: int, bytes_per_parameter: int) -> int | None:
    """How many layers of each tower fit with room to work in: None for all of them."""
    deepest = max(geometry(name).vision.num_hidden_layers, geometry(name).language.num_hidden_layers)

    def needed(layers: int) -> int:
        with torch.device("meta"):
            return bytes_per_parameter * sum(p.numel() for p in VideoLLaMA3(geometry(name, layers)).parameters())

    room = bytes_free - ROOM_TO_WORK
    for layers in range(deepest, 0, -1):
        if needed(layers) <= room:
            return None if layers == deepest else layers
    raise MemoryError(f"not even one layer of the {name} fits into {bytes_free / 2**30:.0f} GiB")


def write_report(path: Path, rows: Sequence[Measured], device: str, command: str) -> None:
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
        "Random weights, drawn inputs. Errors are root mean square distances from the same computation in float64",
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
