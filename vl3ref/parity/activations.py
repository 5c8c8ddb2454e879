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
    """While open, every call of a named module leaves its output; calls of the same module are joined along rows.

    They stand in the order in which the modules were done, so that the first that differs is where a difference began.
    A module that gives no tensor leaves nothing.
    """
    parts: dict[str, list[Tensor]] = {}
    activations: Activations = {}
    with ExitStack() as hooks:
        for name, module in points.items():
            hooks.enter_context(_removed(module.register_forward_hook(_keep(parts, name))))
        yield activations
    activations.update({name: _joined(found) for name, found in parts.items()})


@torch.no_grad()
def record(model: VideoLLaMA3, inputs: ModelInputs, new_tokens: int = 8) -> Activations:
    """Every named activation of our model for these inputs, and the ids it goes on with."""
    with _one_frame_at_a_time(model, inputs), record_modules(our_points(model)) as inside:
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


@contextmanager
def _one_frame_at_a_time(model: VideoLLaMA3, inputs: ModelInputs) -> Iterator[None]:
    """The chunks of the fast order without what would leave rows of its own: frames that fill a last chunk up, and
    frames that are left out because they were seen before."""
    encoder = model.vision_encoder
    before = encoder.chunk_patches, encoder.reuse_frames
    if before[0] is not None and inputs.grid_sizes is not None:
        encoder.chunk_patches = max(h * w for _, h, w in inputs.grid_sizes.tolist())
    encoder.reuse_frames = False
    try:
        yield
    finally:
        encoder.chunk_patches, encoder.reuse_frames = before


def in_order(activations: Activations) -> Activations:
    """Sorted along the data flow; names that are not ours come last, as they were."""
    branches = ("attention", "mlp", "")

    def place(name: str) -> tuple[int, int, int]:
        tower, _, rest = name.partition(".layers.")
        number, _, branch = rest.partition(".")
        if f"{tower}.layers" in FLOW and number.isdecimal() and branch in branches:
            return FLOW.index(f"{tower}.layers"), int(number), branches.index(branch)
        return (FLOW.index(name) if name in FLOW else len(FLOW), 0, 0)

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
    _check_inputs(path, given)
    for name in ("input_ids", "lengths", "grid_sizes", "merge_sizes"):
        if given[name] is not None:
            given[name] = given[name].long()  # others write int32
    if given["lengths"] is None:
        given["lengths"] = torch.tensor([len(given["input_ids"])])
    frames = given["grid_sizes"][:, 0].tolist() if given["grid_sizes"] is not None else []
    modals = metadata.get("modals") or ",".join("video" if count > 1 else "image" for count in frames)
    return in_order(tensors), ModelInputs(**given, modals=modals.split(",") if modals else [])


def _check_inputs(path: str | Path, given: Mapping[str, Any]) -> None:
    """Each of the right rank and kind; whether they fit together, the model asks (`ModelInputs.check`)."""
    ranks = {"input_ids": 1, "lengths": 1, "pixel_values": 2, "grid_sizes": 2, "merge_sizes": 1}
    for name, rank in ranks.items():
        x = given[name]
        if x is None:
            continue
        if x.ndim != rank or (name == "grid_sizes" and x.shape[1] != 3):
            raise InputError(f"input.{name} in {path} is {tuple(x.shape)}, but should have {rank} axes, packed")
        if x.is_floating_point() != (name == "pixel_values"):
            raise InputError(f"input.{name} in {path} holds {str(x.dtype).removeprefix('torch.')}")


def _keep(parts: dict[str, list[Tensor]], name: str) -> Callable[[nn.Module, Any, Any], None]:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        found = _main_tensor(output)
        if found is not None:
            found = found.detach().cpu()
            parts[name] = [*parts.pop(name, []), found.flatten(0, -2) if found.ndim > 2 else found]  # now the latest

    return hook


def _main_tensor(output: Any) -> Tensor | None:
    """What a module computes, where it gives more than a tensor: the first of a tuple, the main field of a transformers
    output."""
    if isinstance(output, tuple | list):
        output = output[0] if output else None
    for field in ("last_hidden_state", "logits"):
        output = getattr(output, field, output)
    return output if isinstance(output, Tensor) else None


def _joined(parts: list[Tensor]) -> Tensor:
    """Along rows; an activation function that serves several widths has no rows to join."""
    if len(parts) > 1 and (parts[0].ndim == 0 or len({part.shape[1:] for part in parts}) > 1):
        return torch.cat([part.flatten() for part in parts])
    return torch.cat(parts) if len(parts) > 1 else parts[0]


@contextmanager
def _removed(handle: Any) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()
