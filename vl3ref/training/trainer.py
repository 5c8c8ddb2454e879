"""The training loop: accumulate, clip, step, log, save, and go on where a killed run left off.

for each step:   packs of the batch -> summed losses / learnt tokens of the whole batch -> gradients
                 -> clip -> AdamW at this step's rates -> a line of the log -> now and then a checkpoint
"""

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn
from torch.utils.data import DataLoader

from vl3ref.errors import TrainingError
from vl3ref.training.batches import Batch
from vl3ref.training.distributed import Processes, clip_gradients, level
from vl3ref.training.objectives import Objective
from vl3ref.training.run_log import RunLog
from vl3ref.training.run_state import ModelFiles, latest_checkpoint, order_of, restore, save
from vl3ref.training.stages import BETAS, CLIP, EPSILON, WARM_UP


@runtime_checkable
class Batches(Protocol):
    """Anything that has the batch of every step."""

    def __getitem__(self, step: int, /) -> Batch: ...


@dataclass(frozen=True)
class Plan:
    """How long and how a model is trained.

    Attributes:
        steps: optimiser steps.
        warm_up: share of the steps in which the rates rise.
        clip: largest norm of the gradient.
        save_every: steps between checkpoints; the last step always has one.
        keep: checkpoints kept at a time.
        workers: processes that prepare batches ahead; 0 for none.
        most_broken: share of the samples that may be broken, once a hundred have been seen, before the run stops.
        weight_decay: of AdamW.
        bfloat16: compute in it (weights and their updates stay float32).
    """

    steps: int
    warm_up: float = WARM_UP
    clip: float = CLIP
    save_every: int = 500
    keep: int = 2
    workers: int = 1
    most_broken: float = 0.05
    weight_decay: float = 0.0
    bfloat16: bool = False


def rate_at(step: int, steps: int, warm_up: float = WARM_UP) -> float:
    """The share of the peak learning rate at a step: a straight rise, then half a cosine down to nothing (official)."""
    rise = math.ceil(steps * warm_up)
    if step < rise:
        return (step + 1) / (rise + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


@dataclass
class Trainer:
    """One run of one objective.

    Attributes:
        model: in train mode and where it is to be computed; parameters without gradients stay as they are.
        objective: what a pack is worth.
        batches: the batch of every step.
        groups: AdamW's parameter groups, each with its name and peak rate.
        folder: where logs and checkpoints go.
        files: how the model's parameters lie in a checkpoint's folder.
        processes: who else computes.
    """

    model: nn.Module
    objective: Objective
    batches: Batches
    groups: Iterable[dict[str, Any]]
    plan: Plan
    folder: Path
    files: ModelFiles
    processes: Processes = field(default_factory=Processes)
    title: str = "training"

    def __post_init__(self) -> None:
        groups = [{**group, "peak": group["lr"]} for group in self.groups]
        self.optimiser = torch.optim.AdamW(
            groups, betas=BETAS, eps=EPSILON, weight_decay=self.plan.weight_decay, fused=True
        )
        self.step = self.seen = self.broken = 0

    def run(self, resume: bool = False) -> None:
        """Train to the last step.

        Args:
            resume: go on from the newest checkpoint in the folder, if there is one.

        Raises:
            TrainingError: see there.
        """
        checkpoint = latest_checkpoint(self.folder)
        if checkpoint is not None and not resume:
            raise TrainingError(f"{self.folder} holds a run already; give --resume to go on with it, or another folder")
        if checkpoint is not None:
            state = restore(checkpoint, self.title, self.batches, self.model, self.optimiser, self.files)
            self.step, self.seen, self.broken = state["step"], state["seen"], state["broken"]
        log = RunLog(self.folder, self.title, self.plan.steps, self.step, self.processes.first)
        with log:
            self.processes.wait()  # for the folder that the first one makes
            for batch in self._ahead():
                started = time.perf_counter()
                self._count_broken(batch, log)
                figures = self._learn(batch)
                self.step += 1
                log.write(self.step, {**figures, "seconds": time.perf_counter() - started, "skipped": self.broken})
                if self.step % self.plan.save_every == 0 or self.step == self.plan.steps:
                    self._save()

    def _ahead(self) -> Iterator[Batch]:
        """Batches in order from the current step, made by workers while the model computes."""
        yield from DataLoader(
            self.batches,  # type: ignore[arg-type]
            batch_size=None,
            sampler=range(self.step, self.plan.steps),
            num_workers=self.plan.workers,
            prefetch_factor=2 if self.plan.workers else None,  # as many steps' pixels are held ahead by each worker
            worker_init_fn=_one_thread,
        )

    def _learn(self, batch: Batch) -> dict[str, int | float]:
        """One optimiser step. Returns what the log says about it."""
        rate = rate_at(self.step, self.plan.steps, self.plan.warm_up)
        for group in self.optimiser.param_groups:
            group["lr"] = group["peak"] * rate
        device = next(self.model.parameters()).device
        tokens = self.processes.total(sum(pack.lengths.sum().item() for pack in batch.packs))
        packs = level(batch.packs, self.model, self.processes)
        learnt = self.processes.total(sum(weight * self.objective.count(pack) for pack, weight in packs))
        if not learnt:
            return self._pass_over(rate)
        summed = 0.0
        for pack, weight in packs:
            pack = pack.to(device)  # one at a time: the pixels of a whole step can be 10 GB
            with torch.autocast(device.type, torch.bfloat16, enabled=self.plan.bfloat16):
                loss = self.objective.loss(self.model, pack)
            if loss.requires_grad:  # text, where the decoder is frozen, passes by all that is trained
                # Processes average their gradients, but the loss is a sum over all of them.
                (loss * (weight * self.processes.world / learnt)).backward()
            summed += weight * float(loss.detach())
        self._fill_gradients()
        norm = clip_gradients(self.model, self.plan.clip)
        loss_value = self.processes.total(summed) / learnt
        if not math.isfinite(loss_value) or not math.isfinite(norm):
            raise TrainingError(
                f"step {self.step + 1}: the loss is {loss_value} and its gradient's norm {norm}; lower the learning "
                "rate, and go on from the last checkpoint with --resume"
            )
        self.optimiser.step()
        self.optimiser.zero_grad()
        return {"loss": loss_value, "rate": rate, "norm": norm, "tokens": tokens, "learnt": learnt}

    def _pass_over(self, rate: float) -> dict[str, int | float]:
        """A step that no sample could be used of changes nothing. If there was no other kind yet, the run ends."""
        if self.broken == self.seen:
            raise TrainingError(f"step {self.step + 1}: no sample could be used so far; see skipped.log")
        return {"loss": math.nan, "rate": rate, "norm": 0.0, "tokens": 0, "learnt": 0}

    def _fill_gradients(self) -> None:
        """Zeros where a batch without pictures left none: AdamW passes over a parameter without a gradient, moments and
        all, and whether it has one should not depend on how many processes there are (see `level`)."""
        for group in self.optimiser.param_groups:
            for parameter in group["params"]:
                if parameter.requires_grad and parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)

    def _count_broken(self, batch: Batch, log: RunLog) -> None:
        log.skipped(self.step + 1, batch.skipped)
        here = sum(len(pack.lengths) for pack in batch.packs) + len(batch.skipped)
        self.seen += int(self.processes.total(here))
        self.broken += int(self.processes.total(len(batch.skipped)))
        if self.seen >= 100 and self.broken > self.plan.most_broken * self.seen:
            raise TrainingError(
                f"{self.broken} of {self.seen} samples could not be used, more than {self.plan.most_broken:.0%}; "
                f"{log.skipped_path} names them"
            )

    def _save(self) -> None:
        progress = {"step": self.step, "seen": self.seen, "broken": self.broken}
        state = {"title": self.title, "order": order_of(self.batches), **progress}
        save(self.folder, self.model, self.optimiser, state, self.files, self.plan.keep, self.processes)


def _one_thread(_: int) -> None:
    """Workers prepare samples; the cores belong to the model."""
    torch.set_num_threads(1)
