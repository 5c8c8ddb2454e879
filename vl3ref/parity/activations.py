"""Named activations of a forward pass, in the order of the data flow.

Names do not depend on the implementation, so that a port in any language can write the same ones:

    pixels, input_ids                                        what goes in (input.* in a file, whole)
    vision.patch_embedding
    vision.layers.N.attention, .mlp, (nothing)               what each branch adds, and the residual stream after it
    vision.norm, vision.merged                               after the last norm; after the token merge
    keep_mask, projected, embeddings                         projected: of kept tokens; embeddings: after the splice
    language.layers.N.attention, .mlp, (nothing)
    language.norm, logits, next_ids
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from vl3ref.errors import InputError
from vl3ref.generation import generate
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.model_inputs import ModelInputs

Activations = dict[str, Tensor]
"""Name -> tensor on the CPU, packed (no batch axis), in the order in which they are computed."""

FLOW = (
    "pixels",
    "input_ids",
    "vision.patch_embedding",
    "vision.layers",
    "vision.norm",
    "vision.merged",
    "keep_mask",
    "projected",
    "embeddings",
    "language.layers",
    "language.norm",
    "logits",
    "next_ids",
)

INPUT_FIELDS = ("input_ids", "lengths", "pixel_values", "grid_sizes", "merge_sizes")


def tower_points(prefix: str, layers: nn.ModuleList) -> dict[str, nn.Module]:
    """Both towers, ours and transformers', name their blocks alike."""
    points: dict[str, nn.Module] = {}
    for index, layer in enumerate(layers):
        points[f"{prefix}.layers.{index}.attention"] = layer.get_submodule("self_attn")
        points[f"{prefix}.layers.{index}.mlp"] = layer.get_submodule("mlp")
        points[f"{prefix}.layers.{index}"] = layer
    return points


def our_points(model: VideoLLaMA3) -> dict[str, nn.Module]:
    """Which module of ours computes which activation."""
    vision, language = model.vision_encoder, model.language_model
    return {
        "vision.patch_embedding": vision.embeddings,
        **tower_points("vision", vision.encoder.layers),
        "vision.norm": vision.post_layernorm,
        "vision.merged": vision,
        "projected": model.projector,
        **tower_points("language", language.layers),
        "language.norm": language.norm,
    }


@contextmanager
def record_modules(points: Mapping[str, nn.Module]) -> Iterator[Activations]:
    """While open, every call of a named module leaves its output; calls of the same module are joined along rows."""
    parts: dict[str, list[Tensor]] = {name: [] for name in points}
    activations: Activations = {}
    with ExitStack() as hooks:
        for name, module in points.items():
            hooks.enter_context(_removed(module.register_forward_hook(_keep(parts[name]))))
        yield activations
    activations.update({name: torch.cat(found) for name, found in parts.items() if found})


@torch.no_grad()
def record(model: VideoLLaMA3, inputs: ModelInputs, new_tokens: int = 8) -> Activations:
    """Every named activation of our model for these inputs, and the ids it goes on with."""
    with record_modules(our_points(model)) as inside:
        spliced = model.splice(inputs)
        hidden = model.language_model.hidden(spliced.embeddings, spliced.lengths)
        logits = model.language_model.head(hidden)
    ids = generate(model, inputs, new_tokens, new_tokens)
    if model.project_before_pruning and "projected" in inside:
        inside["projected"] = inside["projected"][spliced.keep_mask.cpu()]
    return in_order(
        {
            **inside,
            "keep_mask": spliced.keep_mask.cpu(),
            "embeddings": spliced.embeddings.cpu(),
            "logits": logits.cpu(),
            "next_ids": torch.cat(ids),
        }
    )


def in_order(activations: Activations) -> Activations:
    """Sorted along the data flow."""

    def place(name: str) -> tuple[int, int, int]:
        tower, _, rest = name.partition(".layers.")
        if not rest:
            return (FLOW.index(name) if name in FLOW else len(FLOW), 0, 0)
        number, _, branch = rest.partition(".")
        return FLOW.index(f"{tower}.layers"), int(number), ("attention", "mlp", "").index(branch)

    return {name: activations[name] for name in sorted(activations, key=place)}


def save_activations(path: str | Path, activations: Activations, inputs: ModelInputs | None = None) -> None:
    """Write activations, and the inputs they come from as `input.*`, to a safetensors file."""
    tensors = dict(activations)
    metadata = {"format": "pt"}
    if inputs is not None:
        given = {name: getattr(inputs, name) for name in INPUT_FIELDS}
        tensors |= {f"input.{name}": x for name, x in given.items() if x is not None}
        metadata["modals"] = ",".join(inputs.modals)
    save_file({name: x.detach().cpu().contiguous() for name, x in tensors.items()}, path, metadata=metadata)


def load_activations(path: str | Path) -> tuple[Activations, ModelInputs | None]:
    """Read a file of activations, ours or somebody else's, and the inputs it holds, if it does.

    Raises:
        InputError: the file is not a safetensors file, or its inputs are incomplete.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} cannot be read as a safetensors file: {error}") from None
    given = {name: tensors.pop(f"input.{name}", None) for name in INPUT_FIELDS}
    if given["input_ids"] is None:
        return in_order(tensors), None
    if given["lengths"] is None:
        given["lengths"] = torch.tensor([len(given["input_ids"])])
    modals = metadata.get("modals") or ",".join(
        "video" if frames > 1 else "image" for frames, _, _ in (given["grid_sizes"].tolist() if visual(given) else [])
    )
    return in_order(tensors), ModelInputs(**given, modals=modals.split(",") if modals else [])


def visual(given: Mapping[str, Any]) -> bool:
    return given["grid_sizes"] is not None


def _keep(parts: list[Tensor]) -> Callable[[nn.Module, Any, Any], None]:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        output = output[0] if isinstance(output, tuple) else getattr(output, "last_hidden_state", output)
        parts.append(output.detach().flatten(0, -2).cpu())

    return hook


@contextmanager
def _removed(handle: Any) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()
