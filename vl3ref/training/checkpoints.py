"""Checkpoints of a run: the model in its official layout, with the trainer's state beside it.

    checkpoint-000500/   config.json, model.safetensors, ...    what `vl3ref ask --model` takes
                         trainer.pt                             the optimiser's moments, and how far the run is

A checkpoint is written under another name and takes its own in one step, so that one that can be seen is whole. One
that is damaged all the same is set aside, and the run goes on from the one before.
"""

import errno
import os
import re
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor

from vl3ref import checkpoints as model_folders
from vl3ref.checkpoints import (
    Change,
    TensorFiles,
    apply_change,
    load_model,
    load_processor,
    read_adapter,
    write_tensors,
)
from vl3ref.checkpoints.adapter_files import CONFIG as ADAPTER
from vl3ref.errors import TrainingError, VL3Error
from vl3ref.files import check_regular, clear, new_folder, read_json_if_there, writing
from vl3ref.inputs.processor import Processor
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.training.distributed import Processes

NAME = re.compile(r"checkpoint-(\d{6,})")
STATE = {"title": str, "order": dict, "step": int, "seen": int, "broken": int, "optimiser": dict}
"""What trainer.pt holds."""

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
SPREAD = StateDictOptions(full_state_dict=True, broadcast_from_rank0=False)


class ModelFiles(NamedTuple):
    """How a model's parameters, by name, are written to a folder that is there, and read from it.

    Attributes:
        trained_only: only those that train.
    """

    write: Callable[[Mapping[str, Tensor], Path], Any]
    read: Callable[[Path], Mapping[str, Tensor]]
    trained_only: bool = False


def model_files(model: VideoLLaMA3, processor: Processor, change: Change | None = None) -> ModelFiles:
    """Whole checkpoints in the official layout, which `vl3ref.load` takes."""

    def write(parameters: Mapping[str, Tensor], folder: Path) -> None:
        whole = model
        if any(isinstance(parameter, DTensor) for parameter in model.parameters()):  # spread over processes
            with torch.device("meta"):
                whole = VideoLLaMA3(model.config)
            if change is not None:
                apply_change(whole, change)
            whole.load_state_dict(parameters, assign=True)
            whole.recommended_sampling = model.recommended_sampling
        model_folders.write_model(whole, folder, processor=processor)

    def read(folder: Path) -> Mapping[str, Tensor]:
        return load_model(folder, "cpu", "float32", change=change).state_dict()

    return ModelFiles(write, read)


def _write_plain(parameters: Mapping[str, Tensor], folder: Path) -> None:
    write_tensors({name: tensor.contiguous() for name, tensor in parameters.items()}, folder / "model.safetensors")


PLAIN_FILES = ModelFiles(_write_plain, lambda folder: load_file(folder / "model.safetensors"))
"""Parameters as they are, for what has no official layout."""


def checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints of a run, oldest first."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name.partition("-")[2]))


def latest_checkpoint(folder: Path) -> Path | None:
    """Where a run is resumed from; None if it has not saved yet."""
    return next(iter(reversed(checkpoints(folder))), None)


def finish(folder: Path, dtype: str, change: Change | None = None) -> Path:
    """The last checkpoint of a run without the trainer's state, in the model's own dtype: `folder / "final"`."""
    checkpoint = latest_checkpoint(folder)
    assert checkpoint is not None
    model = load_model(checkpoint, "cpu", dtype, change=change)
    model_folders.save(model, load_processor(checkpoint), folder / "final")
    return folder / "final"


@dataclass
class Checkpoints:
    """A run's checkpoints. Every process of the run calls every method, and gives or takes its share.

    Attributes:
        folder: of the run.
        model, optimiser: what is saved and restored.
        files: how the model's parameters lie in a checkpoint's folder.
        keep: checkpoints kept at a time.
        processes: the first of them writes.
    """

    folder: Path
    model: nn.Module
    optimiser: torch.optim.Optimizer
    files: ModelFiles
    keep: int
    processes: Processes

    def rehearse(self) -> None:
        """Write the model and read it back, so that no step is lost because it cannot be saved.

        Raises:
            TrainingError: it cannot be, or the disk has no room for a checkpoint.
        """
        parameters = self._parameters()
        if self.processes.first:
            with writing(self.folder, TrainingError):
                self.folder.mkdir(parents=True, exist_ok=True)
            # AdamW's two moments lie beside the weights; all are float32.
            frozen = 0 if self.files.trained_only else 1
            needed = sum(4 * x.numel() * (3 if x.requires_grad else frozen) for x in self.model.parameters())
            if (free := shutil.disk_usage(self.folder).free) < needed:
                raise TrainingError(
                    f"{self.folder} has {free / 1e9:.1f} GB free; a checkpoint takes {needed / 1e9:.1f}"
                )
            trial = self.folder / ".checkpoint-trial"
            try:
                with writing(trial, TrainingError):
                    shutil.rmtree(trial, ignore_errors=True)
                    trial.mkdir()
                    self.files.write(parameters, trial)
                found = self.files.read(trial)
                self._check_fit(found)
                for name, tensor in found.items():
                    if not torch.equal(tensor.nan_to_num(), parameters[name].nan_to_num()):
                        raise ValueError(f"{name} comes back with other numbers")
            except (ValueError, RuntimeError) as error:
                raise TrainingError(
                    f"this run's checkpoints could not be saved and loaded again: {error}\nA model whose parts were "
                    "swapped needs the function that swaps them: --change file.py:function, or change="
                ) from None
            finally:
                shutil.rmtree(trial, ignore_errors=True)
        self.processes.wait()

    def save(self, state: dict[str, Any]) -> None:
        """Write the checkpoint of `state["step"]`, and remove all but the newest `keep`.

        Raises:
            TrainingError: it cannot be written. The checkpoints before it stay.
        """
        parameters = self._parameters()
        moments = get_optimizer_state_dict(self.model, self.optimiser, options=WHOLE)
        if self.processes.first:
            clear(self.folder, ".*checkpoint-*")  # of runs that were killed while they wrote or removed
            target = self.folder / f"checkpoint-{state['step']:06}"
            with new_folder(target, TrainingError, own=re.compile(".*")) as staging:
                self.files.write(parameters, staging)
                _write_state({**state, "optimiser": moments}, staging / "trainer.pt")
            for old in checkpoints(self.folder)[: -self.keep]:
                _remove(old)
        self.processes.wait()

    def restore(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Put the parameters and moments of the newest whole checkpoint in place. Returns the state that was saved with
        them. Damaged ones are renamed, with a warning.

        The optimiser keeps its own settings (learning rates, weight decay): a run may be resumed with lower ones.

        Args:
            state: of this run; its title and order have to be those of the run that wrote the checkpoint.

        Raises:
            TrainingError: every checkpoint is damaged; or the newest whole one is of another model, of a run of another
                title or with other batches.
        """
        damaged: list[tuple[Path, VL3Error]] = []
        for checkpoint in reversed(checkpoints(self.folder)):
            try:
                saved = read_state(checkpoint)
            except VL3Error as error:
                damaged.append((checkpoint, error))
                continue
            self._put(checkpoint, saved, state)
            self.processes.wait()  # all have found them damaged
            for bad, reason in damaged if self.processes.first else ():
                aside = bad.with_name(f"damaged-{bad.name}")
                shutil.rmtree(aside, ignore_errors=True)
                os.rename(bad, aside)
                warnings.warn(
                    f"{reason}; {bad.name} is now {aside.name}, the run goes on from {checkpoint.name}", stacklevel=2
                )
            return saved
        raise TrainingError(
            f"{damaged[0][1]}; no checkpoint in {self.folder} is whole: name another folder to begin anew"
        )

    def _parameters(self) -> dict[str, Any]:
        """What a checkpoint holds of the model, whole and on the CPU."""
        held = get_model_state_dict(self.model, options=replace(WHOLE, ignore_frozen_params=self.files.trained_only))
        if not self.files.trained_only:
            return held
        # The scales of layers in 4 bits are no parameters, so torch has not left them out.
        return {name: x for name, x in held.items() if ".base_layer." not in name}

    def _check_fit(self, parameters: Mapping[str, Tensor]) -> None:
        """torch's own check passes over what is missing: it fills in what the model holds."""
        held = self.model.state_dict(keep_vars=True).items()
        wanted = {name: tuple(x.shape) for name, x in held if not self.files.trained_only or x.requires_grad}
        given = {name: tuple(x.shape) for name, x in parameters.items()}
        for name in sorted(wanted.keys() | given.keys()):
            if wanted.get(name) != given.get(name):
                raise ValueError(f"{name} is {given.get(name, 'missing')}, the model's {wanted.get(name, 'missing')}")

    def _put(self, checkpoint: Path, saved: dict[str, Any], state: Mapping[str, Any]) -> None:
        settings = [{name: x for name, x in group.items() if name != "params"} for group in self.optimiser.param_groups]
        try:
            if saved["title"] != state["title"]:
                raise ValueError(f"it is of {saved['title']}, not of {state['title']}")
            for name in sorted(saved["order"].keys() & state["order"].keys()):
                if (before := saved["order"][name]) != (now := state["order"][name]):
                    raise ValueError(f"its {name.replace('_', ' ')} is {before}, this run's {now}")
            parameters: dict[str, Any] = dict(self.files.read(checkpoint))
            self._check_fit(parameters)
            trained = {name for name, parameter in self.model.named_parameters() if parameter.requires_grad}
            if lost := sorted(trained ^ saved["optimiser"]["state"].keys()):  # torch would begin with none
                raise ValueError(f"it and the model do not both have moments of {lost[0]}")
            set_model_state_dict(self.model, parameters, options=replace(SPREAD, strict=not self.files.trained_only))
            set_optimizer_state_dict(self.model, self.optimiser, saved.pop("optimiser"), options=SPREAD)
        except (OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError) as error:
            reason = " ".join(" ".join(str(error).splitlines()[:2]).split())[:500]
            raise TrainingError(
                f"{checkpoint} does not fit this run ({reason}); give the options it was started with, --change among "
                "them, or another folder"
            ) from None
        for group, own in zip(self.optimiser.param_groups, settings, strict=True):
            group.update(own)


def read_state(checkpoint: Path) -> dict[str, Any]:
    """What trainer.pt holds, as in STATE.

    Raises:
        TrainingError, CheckpointError: a file of the checkpoint is damaged; says which.
    """
    path = checkpoint / "trainer.pt"
    check_regular(path, TrainingError)
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # whatever a damaged archive does to the library
        reason = " ".join(str(error).split()).partition(". ")[0][:200] or type(error).__name__
        raise TrainingError(f"{path} is damaged: {reason}") from None
    for name, kind in STATE.items():
        if not isinstance(saved, dict) or type(saved.get(name)) is not kind:
            raise TrainingError(f"{path} is damaged: it should hold the {name} of a run")
    if checkpoint.name != f"checkpoint-{saved['step']:06}" or not 0 <= saved["broken"] <= saved["seen"]:
        raise TrainingError(
            f"{path} is damaged: it says step {saved['step']}, {saved['broken']} of {saved['seen']} broken"
        )
    if (checkpoint / ADAPTER).exists():
        read_adapter(checkpoint)
    else:
        read_json_if_there(checkpoint / "config.json", TrainingError)
        TensorFiles(checkpoint)
    return saved


def _write_state(state: dict[str, Any], path: Path) -> None:
    """
    Raises:
        OSError: it cannot be written.
    """
    try:
        torch.save(state, path)
    except RuntimeError:  # how torch says that not all of a file could be written
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from None


def _remove(checkpoint: Path) -> None:
    """Take its name away first: what can be seen is whole."""
    if checkpoint.exists():
        hidden = checkpoint.with_name(f".old-{checkpoint.name}")
        os.rename(checkpoint, hidden)
        shutil.rmtree(hidden)
