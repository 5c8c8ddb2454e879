"""LoRA adapters: peft's layers in a model, and peft's files in a folder, under the names of either layout.

    add_adapter(model, "runs/cats/final", "cats")   reads one into a loaded model, beside those it has already
    use_adapter(model, "cats")                      says which of them is computed with; None for the model alone
    merge_adapters(model, {"cats": 0.5})            puts them into the weights: a plain model again
    save_adapter(model, folder, "hf")               a folder that peft loads into transformers' model

An adapter may bring modules of its own, in full: the projector, as the official trainer has it. In the hf layout they
are peft's `modules_to_save`, in the official one they lie in a file of their own, non_lora_trainables.safetensors.
"""

import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vl3ref.checkpoints.adapter_files import (
    CONFIG,
    IN_FULL,
    WEIGHTS,
    Adapter,
    import_peft,
    is_lora,
    layer_of,
    read_adapter,
    write_adapter,
)
from vl3ref.config import Layout
from vl3ref.errors import CheckpointError, quoted
from vl3ref.files import listed, new_folder
from vl3ref.model.videollama3 import VideoLLaMA3

IN_MEMORY = re.compile(r"(.+\.lora_[AB])\.([^.]+)(\.weight)|([^.]+)\.modules_to_save\.([^.]+)(\..+)")
"""How peft calls an adapter's tensors in a model: the adapter's name is within."""


def add_adapter(model: VideoLLaMA3, folder: str | Path, name: str = "default") -> None:
    """Read an adapter into a model, which is computed with it from now on; only its parameters have gradients then.

    Args:
        folder: or a hub name.
        name: letters, digits and _, to tell several adapters apart.

    Raises:
        CheckpointError: lists every tensor that does not fit the model; or there is an adapter of that name.
        ConfigError: it is not a plain LoRA adapter.
        InputError: peft is not installed.
    """
    adapter = read_adapter(folder)
    problems = _problems(model, adapter)
    if problems:
        raise CheckpointError(f"the adapter in {folder} does not fit the model:{listed(problems)}")
    inject(model, name, adapter.ranks, adapter.alphas, adapter.rslora, 0.0, adapter.in_full)
    with torch.no_grad():
        for ours, place in adapter_tensors(model, name).items():
            place.copy_(adapter.tensors[ours])


def _problems(model: VideoLLaMA3, adapter: Adapter) -> list[str]:
    """What of an adapter does not fit a model."""
    shapes = {ours: tuple(x.shape) for ours, x in adapter_tensors(model, None).items()}
    problems = [
        f"{ours} is {shape}, the model's {shapes.get(ours, 'missing')}"
        for ours, x in adapter.tensors.items()
        if not is_lora(ours) and (shape := tuple(x.shape)) != shapes.get(ours)
    ]
    linear = {ours: x for ours, x in model.named_modules() if isinstance(_base(x), nn.Linear)}
    for layer in sorted({layer_of(name) for name in adapter.tensors if is_lora(name)}):
        a, b = (adapter.tensors.get(f"{layer}.lora_{x}.weight", torch.empty(0)) for x in "AB")
        place, r = linear.get(layer), adapter.ranks.get(layer, 0)
        wanted = None if place is None else ((r, _base(place).in_features), (_base(place).out_features, r))
        if (found := (tuple(a.shape), tuple(b.shape))) != wanted or not r:
            problems.append(f"{layer} has A and B {found}, the model's would be {wanted or 'missing'}")
    for part in adapter.in_full:
        if part in ("vision_encoder", "language_model"):
            problems.append(f"it holds weights of the {part} itself, beside adapters; that is not implemented")
        else:
            missing = [ours for ours in shapes if ours.startswith(f"{part}.") and ours not in adapter.tensors]
            problems += [f"{ours} is missing" for ours in missing]
    return problems


def inject(
    model: VideoLLaMA3,
    name: str,
    ranks: Mapping[str, int],
    alphas: Mapping[str, float],
    rslora: bool,
    dropout: float,
    in_full: Sequence[str],
) -> None:
    """Put peft's layers around linear layers, and copies beside the modules that an adapter has in full. It changes
    nothing yet: B is 0. A is drawn from seed 0.

    Raises:
        CheckpointError: the model has an adapter of that name, or it is no name.
        InputError: peft is not installed.
    """
    peft = import_peft()
    from peft.utils import ModulesToSaveWrapper

    if not re.fullmatch(r"\w{1,60}", name) or name in adapter_names(model):
        taken = ", another than those the model has" if name in adapter_names(model) else ""
        raise CheckpointError(f"an adapter's name has letters, digits and _{taken}, unlike {quoted(name)}")
    r, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
    config = peft.LoraConfig(
        r=r,
        lora_alpha=alpha,
        rank_pattern={re.escape(layer): x for layer, x in ranks.items() if x != r},
        alpha_pattern={re.escape(layer): x for layer, x in alphas.items() if x != alpha},
        target_modules=[*ranks],
        lora_dropout=dropout,
        use_rslora=rslora,
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")
        torch.default_generator.manual_seed(0)
        peft.inject_adapter_in_model(config, model, name)
    for part in in_full:
        module = getattr(model, part)
        if isinstance(module, ModulesToSaveWrapper):
            module.update(name)
        else:
            setattr(model, part, ModulesToSaveWrapper(module, name))
    model.train(model.training)
    use_adapter(model, name)


# ------------------------------------------------------------------------------------------------ adapters of a model


def adapter_names(model: nn.Module) -> list[str]:
    return [*getattr(model, "peft_config", {})]


def use_adapter(model: VideoLLaMA3, name: str | None) -> None:
    """Compute with one adapter, or with none.

    Raises:
        CheckpointError: the model has no adapter of that name.
    """
    if name is not None:
        _check_names(model, [name])
    for module in _peft_modules(model):
        if name in (module.lora_A if hasattr(module, "lora_A") else module.modules_to_save):
            module._disable_adapters = False  # enable_adapters(True) would ask for the one before as well
            module.set_adapter(name)
        else:
            module.enable_adapters(False)


def merge_adapters(model: VideoLLaMA3, weights: Mapping[str, float] | None = None) -> VideoLLaMA3:
    """Put adapters into the weights, in place: W + weight · scale · B A, summed over the adapters. Modules that they
    have in full move by weight times the difference to the model's own. What is left is a plain model, without
    adapters.

    Args:
        weights: by adapter; by default the one that is computed with, whole.

    Raises:
        CheckpointError: the model has no such adapters, or none at all.
    """
    if weights is None:
        weights = dict.fromkeys(active_adapters(model), 1.0)
    _check_names(model, [*weights])
    paths = {module: path for path, module in model.named_modules()}
    for module in _peft_modules(model):
        if not hasattr(module, "lora_A"):
            model.set_submodule(paths[module], _moved(module, weights))
            continue
        for name, weight in weights.items():
            module.set_scale(name, weight)
        if own := [name for name in weights if name in module.lora_A]:
            module.merge(adapter_names=own)
        model.set_submodule(paths[module], module.base_layer)
    del model.peft_config
    return model.requires_grad_(True)


def active_adapters(model: nn.Module) -> list[str]:
    """The adapters that are computed with."""
    found = {name for module in _peft_modules(model) if not module.disable_adapters for name in module.active_adapters}
    return [name for name in adapter_names(model) if name in found]


def _peft_modules(model: nn.Module) -> list[Any]:
    """peft's layers, and its wrappers of modules that adapters have in full."""
    if not adapter_names(model):
        return []
    from peft.tuners.lora import LoraLayer
    from peft.utils import ModulesToSaveWrapper

    return [module for module in model.modules() if isinstance(module, LoraLayer | ModulesToSaveWrapper)]


@torch.no_grad()
def _moved(wrapper: Any, weights: Mapping[str, float]) -> nn.Module:
    own = wrapper.original_module
    others = {name: wrapper.modules_to_save[name] for name in weights if name in wrapper.modules_to_save}
    if [weights[name] for name in others] == [1.0]:  # to the bit
        return next(iter(others.values()))
    tensors = {name: dict(other.state_dict()) for name, other in others.items()}
    for key, x in own.state_dict().items():
        if x.is_floating_point():
            x += sum((weights[name] * (tensors[name][key] - x) for name in others), torch.zeros_like(x))
    return own


def adapter_tensors(model: nn.Module, name: str | None) -> dict[str, Tensor]:
    """Our names -> the tensors of an adapter; for None, of the model itself."""
    found = {}
    for inside, x in model.state_dict(keep_vars=True).items():
        owner, plain = plain_name(inside)
        if owner == name:
            found[plain] = x
    return found


def plain_name(inside: str) -> tuple[str | None, str]:
    """A tensor's name in a model with adapters -> the adapter it belongs to (None: the model), and its plain name."""
    if match := IN_MEMORY.fullmatch(inside):
        layer, name, weight, part, of_part, rest = match.groups()
        return (name, layer + weight) if layer else (of_part, part + rest)
    return None, inside.replace(".base_layer.", ".").replace(".original_module.", ".")


# ------------------------------------------------------------------------------------------------------------- writing


def save_adapter(
    model: VideoLLaMA3, folder: str | Path, layout: Layout = "official", name: str | None = None, base: str = ""
) -> Path:
    """Write an adapter's folder, in peft's format; returns it.

    In the hf layout `peft.PeftModel.from_pretrained(transformers_model, folder)` takes it.

    Args:
        name: of the adapter; the one that is computed with by default.
        base: what is noted as the model it belongs to.

    Raises:
        CheckpointError: the model has no such adapter, or the folder cannot be written.
    """
    name = name or next(iter(active_adapters(model)), "")
    _check_names(model, [name])
    folder = Path(folder).absolute()
    with new_folder(folder, CheckpointError, re.compile(f"{CONFIG}|{WEIGHTS}|{IN_FULL}")) as staging:
        write_adapter(model, adapter_tensors(model, name), staging, layout, name, base)
    return folder


def _check_names(model: nn.Module, names: Sequence[str]) -> None:
    known = adapter_names(model)
    if not names or not set(names) <= set(known):
        has = f"has {', '.join(known)}" if known else "has no adapters"
        raise CheckpointError(f"no adapter is named {', '.join(map(quoted, names)) or 'that way'}: the model {has}")


def _base(module: nn.Module) -> Any:
    """The linear layer that peft's layer stands around; any other module itself."""
    return module.base_layer if hasattr(module, "lora_A") else module
