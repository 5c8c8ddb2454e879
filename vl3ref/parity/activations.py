"""Named activations of a forward pass, in the order in which they are computed.

Names do not depend on the implementation, so that a port in any language can write the same ones:

    input_ids, pixels, keep_mask                             before the model: what goes in, and which tokens are kept
    vision.patch_embedding
    vision.layers.N.attention, .mlp, (nothing)               what each branch adds, and the residual stream after it
    vision.norm, vision.merged                               after the last norm; after the token merge
    projected, embeddings                                    of kept tokens; after the splice
    language.layers.N.attention, .mlp, (nothing)
    language.norm, logits, next_ids

Patches are in merge-block order, as the processor writes them and transformers has them.

Inside a block, where a difference is looked for more closely, names are our modules' own, and of queries and keys:

    vision.layers.N.layer_norm1, language.layers.N.self_attn.q_proj, ...     any module of a block
    language.layers.N.queries, .keys                         (tokens, heads * head_dim), after the rotation; vision too
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from vl3ref.checkpoints import write_tensors
from vl3ref.errors import InputError, quoted
from vl3ref.files import check_regular, new_file
from vl3ref.generation import generate
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.model_inputs import ModelInputs

Activations = dict[str, Tensor]
"""Name -> tensor on the CPU, packed (no batch axis)."""

ROTATED = ("queries", "keys")
"""The first arguments of an attention, after the rotation."""

INPUT_AXES = {"input_ids": 1, "lengths": 1, "pixel_values": 2, "grid_sizes": 2, "merge_sizes": 1}
"""What a file of activations holds of the inputs, as `input.*`."""


@torch.no_grad()
def record(model: VideoLLaMA3, inputs: ModelInputs, new_tokens: int = 8, closer: Iterable[str] = ()) -> Activations:
    """Every named activation of our model for these inputs, and the `new_tokens` greedy ids that follow them.

    Args:
        closer: names inside a block to record too; those that are none are passed over.
    """
    with record_towers(model.vision_encoder, model.projector, model.language_model, closer) as found:
        output = model(inputs)
    ids = torch.cat(generate(model, inputs, max_new_tokens=new_tokens, min_new_tokens=new_tokens))
    keep_mask = output.keep_mask.cpu()
    if "projected" in found:
        found["projected"] = found["projected"][keep_mask]
    return {"keep_mask": keep_mask, **found, "logits": output.logits.cpu(), "next_ids": ids.cpu()}


def record_in_float64(model: VideoLLaMA3, inputs: ModelInputs, closer: Iterable[str] = ()) -> Activations:
    """`record` with every parameter widened, in place and one at a time, so that the model is never held twice: load it
    again to use it further. (transformers cannot be run in float64: its norms and rotations go through float32.)"""
    for parameter in model.parameters():
        parameter.data = parameter.data.double()
    return record(model, inputs.to(dtype=torch.float64), 1, closer)


@contextmanager
def record_towers(
    vision: nn.Module, projector: nn.Module, language: nn.Module, closer: Iterable[str] = ()
) -> Iterator[Activations]:
    """`record_modules` for a whole model. Ours and transformers' name the modules inside their towers alike; queries
    and keys can be recorded of ours alone."""
    modules = {
        "vision.patch_embedding": vision.get_submodule("embeddings"),
        "vision.norm": vision.get_submodule("post_layernorm"),
        "vision.merged": vision,
        "projected": projector,
        "language.norm": language.get_submodule("norm"),
    }
    towers = {"vision": vision.get_submodule("encoder.layers"), "language": language.get_submodule("layers")}
    for tower, layers in towers.items():
        for index, layer in layers.named_children():
            modules[f"{tower}.layers.{index}.attention"] = layer.get_submodule("self_attn")
            modules[f"{tower}.layers.{index}.mlp"] = layer.get_submodule("mlp")
            modules[f"{tower}.layers.{index}"] = layer
    arguments: dict[str, nn.Module | tuple[nn.Module, int]] = {"embeddings": towers["language"].get_submodule("0")}
    for name in [name for name in closer if name not in modules]:
        tower, _, path = name.partition(".layers.")
        inside = dict(towers[tower].named_modules()) if tower in towers else {}
        block, _, part = path.partition(".")
        if part in ROTATED and f"{block}.self_attn.attend" in inside:
            arguments[name] = inside[f"{block}.self_attn.attend"], ROTATED.index(part)
        elif path in inside:
            modules[name] = inside[path]
    with record_modules(modules, arguments) as found:
        yield found
    for name in arguments.keys() & found.keys() - {"embeddings"}:  # one row for each token, not for each head
        found[name] = found[name].reshape(len(found[name.rpartition(".")[0]]), -1)


@contextmanager
def record_by_name(module: nn.Module, names: Mapping[str, str]) -> Iterator[Activations]:
    """`record_modules` for anybody's module, by a table of names: ours -> the path of its module inside theirs.

        names = {"embeddings": "input of model.layers.0", "language.layers.{n}.mlp": "model.layers.{n}.feed_forward"}
        with record_by_name(their_model, names) as found:
            their_model(...)

    `{n}` stands for every number that there is; `input of` takes the first argument instead of the output; an empty
    path is the module itself.

    Raises:
        InputError: a path leads to no module.
    """
    there = dict(module.named_modules())
    outputs: dict[str, nn.Module] = {}
    inputs: dict[str, nn.Module] = {}
    for name, path in names.items():
        into, path = (inputs, path.removeprefix("input of ")) if path.startswith("input of ") else (outputs, path)
        pattern = re.compile(re.escape(path).replace(r"\{n\}", r"(\d+)"))
        found = [(match, where) for where in there if (match := pattern.fullmatch(where))]
        if not found:
            raise InputError(
                f"there is no module {quoted(path)} for {quoted(name)}; there are {quoted([*there][1:], 300)}"
            )
        for match, where in found:
            into[name.replace("{n}", match[1]) if match.groups() else name] = there[where]
    with record_modules(outputs, inputs) as activations:
        yield activations


@contextmanager
def record_modules(
    outputs: Mapping[str, nn.Module], inputs: Mapping[str, nn.Module | tuple[nn.Module, int]] | None = None
) -> Iterator[Activations]:
    """Record what named modules compute, in the order in which they finish. The dictionary is filled on exit.

    The first activation that differs is therefore where a difference began. Several calls of one module (chunks of a
    video) are joined along rows. A module that returns no tensor records nothing.

    Args:
        outputs: name -> module whose output is recorded.
        inputs: name -> module whose first argument is recorded, or a module and which of its arguments.
    """
    calls: dict[str, list[Tensor]] = {}
    activations: Activations = {}
    with ExitStack() as hooks:
        for name, module in outputs.items():
            hooks.callback(module.register_forward_hook(partial(_keep, calls, name, 0)).remove)
        for name, given in (inputs or {}).items():
            module, which = given if isinstance(given, tuple) else (given, 0)
            hooks.callback(module.register_forward_pre_hook(partial(_keep, calls, name, which)).remove)
        yield activations
    activations |= {name: _joined(parts) for name, parts in calls.items()}


def _keep(calls: dict[str, list[Tensor]], name: str, which: int, module: nn.Module, *values: Any) -> None:
    """A hook; the last of the values is a call's arguments before it, and its output after it."""
    value = values[-1]
    if isinstance(value, tuple | list):
        value = value[which] if value else None
    for field in ("last_hidden_state", "logits"):  # of transformers' outputs
        value = getattr(value, field, value)
    if isinstance(value, Tensor):
        x = value.detach().cpu()
        calls[name] = [*calls.pop(name, []), x.flatten(0, -2) if x.ndim > 2 else x]  # now the last of the dictionary


def _joined(parts: list[Tensor]) -> Tensor:
    """Along rows; flat where the calls had different widths (one activation function for several layers)."""
    if len(parts) == 1:
        return parts[0]
    rows = parts[0].ndim > 0 and len({part.shape[1:] for part in parts}) == 1
    return torch.cat(parts if rows else [part.flatten() for part in parts])


def save_activations(path: str | Path, activations: Activations, inputs: ModelInputs | None = None) -> None:
    """Write activations, and the inputs they come from, to a safetensors file.

    Raises:
        InputError: it cannot be written; what was there before stays.
    """
    tensors = dict(activations)
    metadata = {"order": ",".join(activations)}
    if inputs is not None:
        given = {name: getattr(inputs, name) for name in INPUT_AXES}
        tensors |= {f"input.{name}": x for name, x in given.items() if x is not None}
        metadata["modals"] = ",".join(inputs.modals)
    with new_file(path, InputError) as fresh:
        write_tensors({name: x.detach().cpu().contiguous() for name, x in tensors.items()}, fresh, metadata)


def load_activations(path: str | Path) -> tuple[Activations, ModelInputs | None]:
    """Read a file of activations, ours or somebody else's, and the inputs, where it holds any.

    Integers may have any width. Lengths default to one conversation. Where the metadata has no `modals`, a visual of
    several frames is a video.

    Raises:
        InputError: the file is not a safetensors file, or an input has a wrong number of axes or type.
    """
    check_regular(path, InputError)
    try:
        with safe_open(path, framework="pt") as file:
            metadata, names = file.metadata() or {}, set(file.keys())
            order = [name for name in metadata.get("order", "").split(",") if name in names]
            tensors = {name: file.get_tensor(name) for name in [*order, *sorted(names - set(order))]}
    except (SafetensorError, OSError, RecursionError, LookupError, AttributeError) as error:  # types torch has not
        raise InputError(f"{path} cannot be read as a safetensors file: {str(error)[:200]}") from None
    given = {name: _input(path, name, tensors.pop(f"input.{name}", None)) for name in INPUT_AXES}
    ids, grids = given["input_ids"], given["grid_sizes"]
    if ids is None:
        return tensors, None
    if given["lengths"] is None:
        given["lengths"] = torch.tensor([len(ids)])
    modals = ["video" if frames > 1 else "image" for frames, *_ in grids.tolist()] if grids is not None else []
    if metadata.get("modals"):
        modals = metadata["modals"].split(",")
    return tensors, ModelInputs(**given, modals=modals)  # type: ignore[arg-type]


def _input(path: str | Path, name: str, x: Tensor | None) -> Tensor | None:
    if x is None:
        return None
    axes = INPUT_AXES[name]
    if x.ndim != axes or (name == "grid_sizes" and x.shape[1] != 3):
        raise InputError(f"input.{name} in {path} is {tuple(x.shape)}, but should have {axes} axes, packed")
    if x.is_floating_point() != (name == "pixel_values"):
        raise InputError(f"input.{name} in {path} holds {str(x.dtype).removeprefix('torch.')}")
    return x if x.is_floating_point() else x.long()
