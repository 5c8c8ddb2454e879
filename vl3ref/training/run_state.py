"""Checkpoints of a run: the model in its official layout, with the trainer's state beside it.

    checkpoint-000500/   config.json, model.safetensors, ...    what `vl3ref ask --model` takes
                         trainer.pt                             the optimiser's moments, and how far the run is

A checkpoint is written under another name and takes its own in one step, so that one that can be seen is whole.
"""

import os
import pickle
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from vl3ref.errors import TrainingError
from vl3ref.training.distributed import Processes


@runtime_checkable
class ModelFiles(Protocol):
    """How a model's parameters lie in a checkpoint's folder."""

    def write(self, parameters: Mapping[str, Tensor], folder: Path, /) -> None:
        """Write all parameters, by name, as the model's own files."""

    def read(self, folder: Path, /) -> Mapping[str, Tensor]:
        """The parameters that were written, by name."""


NAME = re.compile(r"checkpoint-(\d{6,})")
WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
SPREAD = StateDictOptions(full_state_dict=True, broadcast_from_rank0=False)


def checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints of a run, oldest first."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name.partition("-")[2]))


def latest_checkpoint(folder: Path) -> Path | None:
    """Where a run goes on from; None if it has not saved yet."""
    return next(iter(reversed(checkpoints(folder))), None)


def save(
    folder: Path,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    state: dict[str, Any],
    files: ModelFiles,
    keep: int = 2,
    processes: Processes | None = None,
) -> None:
    """Write the checkpoint of `state["step"]`, and forget all but the newest `keep`.

    All processes call it, and all give their share.
    """
    processes = processes or Processes()
    parameters: Any = get_model_state_dict(model, options=WHOLE)
    moments = get_optimizer_state_dict(model, optimiser, options=WHOLE)
    if processes.first:
        target = folder / f"checkpoint-{state['step']:06}"
        staging = folder / f".{target.name}"
        for leftover in folder.glob(".*checkpoint-*"):  # of runs that were killed while they wrote or removed one
            shutil.rmtree(leftover, ignore_errors=True)
        _remove(target)
        staging.mkdir(parents=True)
        files.write(parameters, staging)
        torch.save({**state, "optimiser": moments}, staging / "trainer.pt")
        os.rename(staging, target)
        for old in checkpoints(folder)[:-keep]:
            _remove(old)
    processes.wait()


def _remove(checkpoint: Path) -> None:
    """Take its name away first: what can be seen is whole."""
    if checkpoint.exists():
        hidden = checkpoint.with_name(f".old-{checkpoint.name}")
        os.rename(checkpoint, hidden)
        shutil.rmtree(hidden)


def order_of(batches: Any) -> dict[str, int]:
    """What decides which samples a step has. Steps done are counted, so a run that goes on must have it alike."""
    found = {name: getattr(batches, name, None) for name in ("batch_size", "shuffle", "seed")}
    if found["shuffle"]:  # among all of them; in their own order, more may have been added
        found["samples"] = len(batches.samples)
    return {name: int(value) for name, value in found.items() if value is not None}


def restore(
    checkpoint: Path,
    title: str,
    batches: Any,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    files: ModelFiles,
) -> dict[str, Any]:
    """Put a checkpoint's parameters and moments in place. Returns the rest of the state.

    The optimiser's settings (rates, weight decay) stay what they are: a run may go on with lower ones.

    Raises:
        TrainingError: the checkpoint is of another model, of a run of another title or with other batches, or damaged.
    """
    settings = [{name: x for name, x in group.items() if name != "params"} for group in optimiser.param_groups]
    try:
        state = torch.load(checkpoint / "trainer.pt", map_location="cpu", weights_only=True, mmap=True)
        if state.get("title", title) != title:
            raise ValueError(f"it is of {state['title']}, not of {title}")
        _check_order(state.get("order", {}), order_of(batches))
        parameters: dict[str, Any] = dict(files.read(checkpoint))
        _check_fit(parameters, model)
        set_model_state_dict(model, parameters, options=SPREAD)
        set_optimizer_state_dict(model, optimiser, state.pop("optimiser"), options=SPREAD)
    except (OSError, RuntimeError, KeyError, ValueError, pickle.UnpicklingError) as error:
        raise TrainingError(
            f"{checkpoint} does not fit this run ({str(error).splitlines()[0]}); give the options it was started "
            "with, or another folder"
        ) from None
    for group, own in zip(optimiser.param_groups, settings, strict=True):
        group.update(own)
    return dict(state)


def _check_order(before: Mapping[str, int], now: Mapping[str, int]) -> None:
    for name in sorted(before.keys() & now.keys()):
        if before[name] != now[name]:
            raise ValueError(f"its {name.replace('_', ' ')} is {before[name]}, this run's {now[name]}")


def _check_fit(parameters: Mapping[str, Tensor], model: nn.Module) -> None:
    """torch's own check passes over what is missing: it fills in what the model holds."""
    wanted = {name: tuple(x.shape) for name, x in model.state_dict().items()}
    given = {name: tuple(x.shape) for name, x in parameters.items()}
    for name in sorted(wanted.keys() | given.keys()):
        if wanted.get(name) != given.get(name):
            raise ValueError(f"{name} is {given.get(name, 'missing')}, the model's {wanted.get(name, 'missing')}")
