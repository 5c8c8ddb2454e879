"""Checkpoints of a run: the model in its official layout, with the trainer's state beside it.

    checkpoint-000500/   config.json, model.safetensors, ...    what `vl3ref ask --model` takes
                         trainer.pt                             the optimiser's moments, and how far the run is

A checkpoint is written under another name and takes its own in one step, so that one that can be seen is whole.
"""

import os
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
        for leftover in (staging, target):
            shutil.rmtree(leftover, ignore_errors=True)
        staging.mkdir(parents=True)
        files.write(parameters, staging)
        torch.save({**state, "optimiser": moments}, staging / "trainer.pt")
        os.rename(staging, target)
        for old in checkpoints(folder)[:-keep]:
            shutil.rmtree(old)
    processes.wait()


def restore(checkpoint: Path, model: nn.Module, optimiser: torch.optim.Optimizer, files: ModelFiles) -> dict[str, Any]:
    """Put a checkpoint's parameters and moments in place. Returns the rest of the state.

    Raises:
        TrainingError: the checkpoint is of another model.
    """
    state = torch.load(checkpoint / "trainer.pt", map_location="cpu", weights_only=True, mmap=True)
    try:
        set_model_state_dict(model, dict(files.read(checkpoint)), options=SPREAD)
        set_optimizer_state_dict(model, optimiser, state.pop("optimiser"), options=SPREAD)
    except (RuntimeError, KeyError, ValueError) as error:
        raise TrainingError(
            f"{checkpoint} does not fit this run ({str(error).splitlines()[0]}); give the options it was started "
            "with, or another folder"
        ) from None
    return dict(state)
