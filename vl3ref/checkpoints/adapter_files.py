"""An adapter's folder: peft's files, and what the official trainer writes beside them."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vl3ref.checkpoints.layouts import file_name, our_name
from vl3ref.checkpoints.tensor_files import TensorFiles, write_tensors
from vl3ref.checkpoints.values import Section
from vl3ref.config import Layout
from vl3ref.errors import CheckpointError, ConfigError, quoted
from vl3ref.extras import import_extra
from vl3ref.files import read_json
from vl3ref.hub import find_checkpoint

CONFIG, WEIGHTS, IN_FULL = "adapter_config.json", "adapter_model.safetensors", "non_lora_trainables.safetensors"
PICKLED = "non_lora_trainables.bin"
"""What the official trainer writes in place of IN_FULL."""

PREFIX = "base_model.model."
"""What peft's wrapper puts before every name."""

NOT_COMPUTED = (
    *("use_dora", "lora_bias", "target_parameters", "layer_replication", "alora_invocation_tokens", "use_qalora"),
    *("use_bdlora", "arrow_config", "velora_config", "kasa_config", "monteclora_config", "trainable_token_indices"),
    *("fan_in_fan_out", "megatron_config"),
)
"""Settings of peft that change the computation, or what a file holds, and are refused."""


class Adapter(NamedTuple):
    """What a folder holds.

    Attributes:
        tensors: by their names in our model, without the adapter's name.
        ranks, alphas: by the name of the linear layer that is adapted.
        rslora: whether an adapter is scaled by alpha / sqrt(rank) instead of alpha / rank.
        layout: of its names.
    """

    tensors: Mapping[str, Tensor]
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    rslora: bool
    layout: Layout

    @property
    def in_full(self) -> list[str]:
        """The parts of the model that it brings in full."""
        return sorted({name.partition(".")[0] for name in self.tensors if not is_lora(name)})


def read_adapter(folder: str | Path) -> Adapter:
    """An adapter's folder, as peft, this package or the official trainer wrote it.

    Raises:
        CheckpointError, ConfigError: a file is missing or damaged, or it is not a plain LoRA adapter.
    """
    folder = find_checkpoint(folder)
    path = folder / CONFIG
    raw = Section(read_json(path, ConfigError), str(path))
    raw.only("peft_type", "LORA")
    raw.only("bias", "none")
    for key in NOT_COMPUTED:
        if raw.get(key):
            raise ConfigError(f"{path}: {key} {quoted(raw.get(key))} is not implemented; only plain LoRA is")
    theirs = {name.removeprefix(PREFIX): x for name, x in _read_files(folder).items()}
    tensors = {our_name(name): x for name, x in theirs.items()}
    layers = {our_name(name): name for name in theirs if name.endswith(".lora_A.weight")}
    if len(tensors) < len(theirs) or not layers:
        raise CheckpointError(f"{folder / WEIGHTS} holds {'names twice' if layers else 'no LoRA adapters'}")
    alpha = raw.number("lora_alpha")
    patterns = raw.section("alpha_pattern") if raw.get("alpha_pattern") else Section({}, "")
    ranks, alphas = {}, {}
    for ours, name in layers.items():
        ranks[layer_of(ours)] = len(tensors[ours]) if tensors[ours].ndim == 2 else 0
        own = next((key for key in patterns.values if _meant(key, layer_of(name))), None)
        alphas[layer_of(ours)] = alpha if own is None else patterns.number(own)
    hf = any(name.startswith(("model.language_model.", "model.vision_model.", "model.projector.")) for name in theirs)
    return Adapter(tensors, ranks, alphas, raw.flag("use_rslora"), "hf" if hf else "official")


def _read_files(folder: Path) -> dict[str, Tensor]:
    files = TensorFiles(folder, WEIGHTS)
    tensors = {name: files.read(name) for name in files.where}
    if (folder / IN_FULL).exists():
        more = TensorFiles(folder, IN_FULL)
        tensors |= {name: more.read(name) for name in more.where}
    elif (path := folder / PICKLED).exists():
        try:
            tensors |= torch.load(path, map_location="cpu", weights_only=True)  # tensors alone: no code
        except Exception as error:  # whatever a damaged archive does to the library
            raise CheckpointError(f"{path} is damaged: {str(error).splitlines()[0][:200]}") from None
    if not all(isinstance(x, Tensor) and x.is_floating_point() for x in tensors.values()):
        raise CheckpointError(f"{folder} should hold tensors of real numbers by name, and holds something else")
    return tensors


def write_adapter(
    model: nn.Module, tensors: Mapping[str, Tensor], folder: Path, layout: Layout, name: str, base: str = ""
) -> None:
    """What `save_adapter` does once the folder is there.

    Args:
        tensors: the adapter's, by our names.
    """
    config = import_peft().LoraConfig(**_described(model, name, layout), base_model_name_or_path=base or None)
    named = {PREFIX + file_name(ours, layout): x.detach().cpu().contiguous() for ours, x in tensors.items()}
    in_full = {theirs: x for theirs, x in named.items() if not is_lora(theirs)}
    if layout == "hf":
        config.modules_to_save = sorted({ours.partition(".")[0] for ours in tensors if not is_lora(ours)}) or None
    elif in_full:
        write_tensors(in_full, folder / IN_FULL)
        named = {theirs: x for theirs, x in named.items() if theirs not in in_full}
    config.inference_mode = True
    config.save_pretrained(str(folder))
    write_tensors(named, folder / WEIGHTS)


def _described(model: Any, name: str, layout: Layout) -> dict[str, Any]:
    """peft's settings of an adapter that the model has. Every adapted layer is named in full: by the ends of names,
    peft would find the encoder's q_proj along with the decoder's."""
    ours = model.peft_config[name]
    layers = {
        file_name(path, layout): (module.r[name], module.lora_alpha[name])
        for path, module in model.named_modules()
        if name in getattr(module, "lora_A", ())
    }
    return {
        "r": ours.r,
        "lora_alpha": ours.lora_alpha,
        "lora_dropout": ours.lora_dropout,
        "use_rslora": ours.use_rslora,
        "target_modules": sorted(layers),
        "rank_pattern": {re.escape(path): r for path, (r, _) in layers.items() if r != ours.r},
        "alpha_pattern": {re.escape(path): alpha for path, (_, alpha) in layers.items() if alpha != ours.lora_alpha},
        "task_type": "CAUSAL_LM",
    }


def import_peft() -> Any:
    return import_extra("peft", "lora", "LoRA's files are described by peft")


def is_lora(name: str) -> bool:
    return ".lora_" in name


def layer_of(name: str) -> str:
    return name.rpartition(".lora_")[0]


def _meant(pattern: str, layer: str) -> bool:
    """Whether one of peft's patterns is for a layer; the same rule as peft's."""
    try:
        return bool(re.match(rf"(.*\.)?({pattern})$", layer))
    except re.error:
        return False
