"""LoRA: small matrices beside frozen linear layers train, and so does the projector, in full, as the official trainer
has it. A run's checkpoints hold these alone, in the files of `vl3ref.checkpoints.adapters`.

vl3ref train data.jsonl --stage 4 --model 2b --lora r=64,alpha=16 --lora-targets decoder
"""

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from vl3ref.checkpoints import read_adapter, write_json
from vl3ref.checkpoints.adapter_files import write_adapter
from vl3ref.checkpoints.adapters import adapter_names, inject, plain_name
from vl3ref.checkpoints.layouts import module_of
from vl3ref.errors import InputError, TrainingError, quoted
from vl3ref.files import new_folder
from vl3ref.inputs.processor import Processor
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.training.checkpoints import ModelFiles, latest_checkpoint
from vl3ref.training.stages import Stage

NAME = "default"
"""The adapter's, while it is trained."""

_DECODER, _VISION = "language_model.layers.", "vision_encoder.encoder.layers."
TOWERS: dict[str, tuple[str, ...]] = {"decoder": (_DECODER,), "vision": (_VISION,), "both": (_DECODER, _VISION)}
"""Where the linear layers are that are adapted: all those in the layers of these."""


@dataclass(frozen=True)
class LoRA:
    """How a model is adapted: W x becomes W x + alpha / r · B A x.

    Attributes:
        r: rows of A and columns of B.
        alpha: see above.
        dropout: of x, on its way to A.
        targets: decoder, vision or both. (The official trainer means the decoder, but its list of names also finds the
            encoder's q_proj, k_proj and v_proj.)
        bits: of the frozen weights beside them: 16 leaves them as they are, 4 is QLoRA (`vl3ref.training.qlora`).

    Raises:
        InputError: a number is none, or out of range.
    """

    r: int = 64
    alpha: int | float = 16
    dropout: int | float = 0.05
    targets: Literal["decoder", "vision", "both"] = "decoder"
    bits: int = 16

    def __post_init__(self) -> None:
        for name, kinds, least, most in (("r", int, 1, 65536), ("alpha", (int, float), 1e-9, 1e9)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value <= most:
                what = "a whole number" if kinds is int else "a number"
                raise InputError(f"LoRA's {name} should be {what} from {least:g} to {most:g}, not {quoted(value)}")
        if isinstance(self.dropout, bool) or not isinstance(self.dropout, int | float) or not 0 <= self.dropout < 1:
            raise InputError(f"LoRA's dropout should be a number from 0 to below 1, not {quoted(self.dropout)}")
        if isinstance(self.bits, bool) or self.bits not in (4, 16):
            raise InputError(f"LoRA's bits should be 16, or 4 for QLoRA, not {quoted(self.bits)}")
        if self.targets not in TOWERS:
            raise InputError(f"LoRA's targets should be decoder, vision or both, not {quoted(self.targets)}")

    def __str__(self) -> str:
        name = "QLoRA" if self.bits == 4 else "LoRA"
        return f"{name} r={self.r},alpha={self.alpha:g},dropout={self.dropout:g} of {self.targets}"


REAL = r"\d{1,9}(\.\d{1,9})?"


def read_lora(text: str, targets: Any = "decoder") -> LoRA:
    """ "r=64,alpha=16,dropout=0.05,bits=16", each of which may be left out.

    Raises:
        InputError: it says something else.
    """
    given: dict[str, Any] = {}
    for item in filter(None, text.split(",")):
        name, _, value = item.strip().partition("=")
        number = {"r": r"\d{1,9}", "alpha": REAL, "dropout": REAL, "bits": r"\d{1,9}"}.get(name)
        if number is None or not re.fullmatch(number, value):
            raise InputError(f"--lora is given as r=64,alpha=16,dropout=0.05,bits=16; {quoted(item)} is not understood")
        given[name] = int(value) if value.isdigit() else float(value)
    return LoRA(**given, targets=targets)


def adapted_stage(stage: Stage, lora: LoRA) -> Stage:
    """The stage with what LoRA leaves alone frozen.

    Raises:
        InputError: it freezes what is to be adapted.
    """
    rates = {"decoder": stage.decoder_lr, "vision": stage.vision_lr}
    wanted = [*rates] if lora.targets == "both" else [lora.targets]
    if frozen := [tower for tower in wanted if rates[tower] is None]:
        raise InputError(f"LoRA of the {frozen[0]} takes a learning rate: give --{frozen[0]}-lr above 0")
    kept = {f"{tower}_lr": rate if tower in wanted else None for tower, rate in rates.items()}
    return replace(stage, **kept)  # type: ignore[arg-type]


def adapt(model: VideoLLaMA3, lora: LoRA, stage: Stage) -> None:
    """Put a new adapter into a model, in place: of the linear layers in its towers' layers; and in full of the
    projector, if the stage trains it, and of what a change added.

    Raises:
        InputError: peft is not installed.
        TrainingError: the model has an adapter already, nothing to adapt, or parameters outside its modules.
    """
    if adapter_names(model):
        raise TrainingError(
            "the model has LoRA adapters already: merge them (merge_adapters) before others are trained"
        )
    if loose := [name for name, _ in model.named_parameters(recurse=False)]:
        raise TrainingError(f"{loose[0]} lies outside the model's modules; LoRA needs it in a module of its own")
    layers = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.startswith(TOWERS[lora.targets])
    ]
    if not layers:
        raise TrainingError(f"there is no linear layer in {lora.targets} to adapt")
    left = {"vision_encoder", "language_model", *([] if stage.projector_lr is not None else ["projector"])}
    in_full = [
        name for name, part in model.named_children() if name not in left and any(True for _ in part.parameters())
    ]
    ranks, alphas = dict.fromkeys(layers, lora.r), dict.fromkeys(layers, float(lora.alpha))
    inject(model, NAME, ranks, alphas, False, lora.dropout, in_full)


def freeze_base(model: nn.Module, bfloat16: bool) -> None:
    """Freeze all but adapters and modules trained in full.

    Args:
        bfloat16: hold frozen linear layers in it, in which autocast computes them at every step: the same numbers in
            half the memory.
    """
    for name, parameter in model.named_parameters():
        if plain_name(name)[0] is None:
            parameter.requires_grad_(False)
    for module in model.modules() if bfloat16 else ():
        if isinstance(module, nn.Linear) and not module.weight.requires_grad:
            module.bfloat16()


def adapter_files(model: VideoLLaMA3, processor: Processor, base: str) -> ModelFiles:
    """Checkpoints that are an adapter's folder, in the layout of the model, with the processor's settings beside."""
    layout = model.config.layout

    def write(parameters: Mapping[str, Tensor], folder: Path) -> None:
        tensors = {plain_name(name)[1]: x for name, x in parameters.items()}
        write_adapter(model, tensors, folder, layout, NAME, base)
        for name, content in module_of(layout).write_processor(processor.config, model.config).items():
            write_json(folder / name, content)

    def read(folder: Path) -> Mapping[str, Tensor]:
        tensors, places = read_adapter(folder).tensors, {}
        for inside in model.state_dict(keep_vars=True):
            owner, plain = plain_name(inside)
            if owner is not None:
                places[plain] = inside
        return {places.get(ours, ours): x for ours, x in tensors.items()}

    return ModelFiles(write, read, trained_only=True)


def finish_adapter(folder: Path) -> Path:
    """The last checkpoint of a run without the trainer's state: `folder / "final"`."""
    checkpoint = latest_checkpoint(folder)
    assert checkpoint is not None
    with new_folder(folder / "final", TrainingError, re.compile(".*")) as staging:
        for file in checkpoint.iterdir():
            if file.name != "trainer.pt":
                shutil.copyfile(file, staging / file.name)
    return folder / "final"
