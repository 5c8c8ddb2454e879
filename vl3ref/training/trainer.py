"""The training loop: accumulate, clip, step, log, save; and continue where a killed run stopped.

for each step:   packs of the batch -> summed losses / targets of the whole batch -> gradients
                 -> clipped -> AdamW at this step's learning rate -> a line of the log -> now and then a checkpoint
"""

import gc
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from vl3ref.errors import TrainingError, quoted
from vl3ref.training.batches import Batch
from vl3ref.training.checkpoints import Checkpoints, ModelFiles, latest_checkpoint
from vl3ref.training.distributed import Processes, clip_gradients
from vl3ref.training.run_log import RunLog
from vl3ref.training.stages import BATCH, BETAS, CLIP, EPSILON, MAX_TOKENS, WARM_UP

MOST_STEPS = 100_000_000

PLAN_LIMITS: dict[str, tuple[Any, float, float]] = {
    "steps": (int, 1, MOST_STEPS),
    "epochs": ((int, float), 1e-9, 1_000_000),
    "batch_size": (int, 1, 100_000),
    "pack_tokens": (int, 1, 10**12),
    "warm_up": ((int, float), 0, 1),
    "clip": ((int, float), 1e-9, 1e9),
    "weight_decay": ((int, float), 0, 1000),
    "save_every": (int, 1, MOST_STEPS),
    "keep": (int, 1, 1_000_000),
    "workers": (int, 0, 64),
    "most_broken": ((int, float), 0, 1),
}
"""What a plan's numbers are, and their least and most: far more than anybody needs, and less than hangs a machine."""


@dataclass(frozen=True)
class Plan:
    """How long and how a model is trained.

    Attributes:
        steps: optimiser steps; None: as many as `epochs` times through the samples take.
        batch_size: conversations per step, over all processes.
        pack_tokens: of a packed sequence, as far as conversations are shorter.
        shuffle: visit the samples in another order each epoch.
        warm_up: share of the steps in which the learning rates rise.
        clip: largest gradient norm.
        weight_decay: of AdamW.
        save_every: steps between checkpoints; the last step always has one.
        keep: checkpoints kept at a time.
        workers: processes that prepare batches ahead; 0 for none.
        most_broken: share of the samples that may be broken, once a hundred have been seen, before the run stops.
        bfloat16: compute in it (weights and their updates stay float32). None: on a GPU.
        gradient_checkpointing: compute layers again in the backward pass instead of holding them. None: on a GPU.

    Raises:
        TrainingError: a number is none, or beyond PLAN_LIMITS.
    """

    steps: int | None = None
    epochs: int | float = 1
    batch_size: int = BATCH
    pack_tokens: int = MAX_TOKENS
    shuffle: bool = True
    warm_up: int | float = WARM_UP
    clip: int | float = CLIP
    weight_decay: int | float = 0
    save_every: int = 500
    keep: int = 2
    workers: int = 1
    most_broken: int | float = 0.05
    bfloat16: bool | None = None
    gradient_checkpointing: bool | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is None and name in ("steps", "bfloat16", "gradient_checkpointing"):
                continue
            if name not in PLAN_LIMITS:
                if not isinstance(value, bool):
                    raise TrainingError(f"{name} should be True or False, not {quoted(value)}")
                continue
            kinds, least, most = PLAN_LIMITS[name]
            if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value <= most:
                what = "a whole number" if kinds is int else "a number"
                raise TrainingError(f"{name} should be {what} from {least:g} to {most:g}, not {quoted(value)}")

    def total_steps(self, samples: int) -> int:
        """
        Raises:
            TrainingError: there are more than a run may have.
        """
        steps = self.steps if self.steps is not None else max(1, round(self.epochs * samples / self.batch_size))
        if steps > MOST_STEPS:
            raise TrainingError(
                f"{self.epochs:g} epochs of {samples} samples are {steps} steps of {self.batch_size}, and a run has at "
                f"most {MOST_STEPS}; lower epochs"
            )
        return steps


def schedule(step: int, steps: int, warm_up: float = WARM_UP) -> float:
    """The share of the peak learning rate at a step: a straight rise, then half a cosine down to nothing (official)."""
    rise = math.ceil(steps * warm_up)
    if step < rise:
        return (step + 1) / (rise + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


@dataclass
class Trainer:
    """One run.

    Attributes:
        model: in train mode and where it is to be computed; parameters without gradients stay as they are.
        loss: (model, pack) -> the loss of a pack, summed over its targets.
        batches: the batch of every step; `order` says what decides which samples a step has.
        groups: AdamW's parameter groups, each with its peak learning rate.
        plan: with its steps known.
        folder: where logs and checkpoints go.
        files: how the model's parameters lie in a checkpoint's folder.
        title: what the run is called; a checkpoint of another title is refused.
        processes: who else computes.
    """

    model: nn.Module
    loss: Callable[[Any, Any], Tensor]
    batches: Dataset[Batch]
    groups: Iterable[dict[str, Any]]
    plan: Plan
    folder: Path
    files: ModelFiles
    title: str = "training"
    processes: Processes = field(default_factory=Processes)

    def __post_init__(self) -> None:
        groups = [{**group, "peak": group["lr"]} for group in self.groups]
        self.optimiser = torch.optim.AdamW(
            groups, betas=BETAS, eps=EPSILON, weight_decay=self.plan.weight_decay, fused=True
        )
        self.checkpoints = Checkpoints(
            self.folder, self.model, self.optimiser, self.files, self.plan.keep, self.processes
        )
        self.device = next(self.model.parameters()).device
        assert self.plan.steps is not None
        self.steps = self.plan.steps
        self.step = self.seen = self.broken = 0

    def run(self, resume: bool = False) -> None:
        """Train to the last step.

        Args:
            resume: continue from the newest whole checkpoint in the folder, if there is one.

        Raises:
            TrainingError: the folder holds another run, its checkpoints could not be saved, too many samples are
                broken, or the loss is no number.
        """
        self._begin(resume)
        log = RunLog(self.folder, self.title, self.steps, self.step, self.processes.first)
        with log, torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            self.processes.wait()  # for the folder that the first one makes
            for batch in self._prepared_ahead():
                began = time.perf_counter()
                self._count_broken(batch, log)
                tokens, targets = self.processes.total(batch.tokens, batch.targets)
                share = schedule(self.step, self.steps, self.plan.warm_up)
                for group in self.optimiser.param_groups:
                    group["lr"] = group["peak"] * share
                loss, norm = math.nan, 0.0  # of a step that has no sample to use: it changes nothing
                if targets:
                    loss = self._accumulate(batch, targets)
                    norm = clip_gradients(self.model, self.plan.clip)
                    self._check_finite(loss, norm)
                    self.optimiser.step()
                    self.optimiser.zero_grad()
                self.step += 1
                figures = {
                    "loss": loss,
                    "learning_rate": max(group["lr"] for group in self.optimiser.param_groups),
                    "gradient_norm": norm,
                    "tokens": tokens,
                    "targets": targets,
                    "skipped": self.broken,
                    "seconds": time.perf_counter() - began,
                }
                log.write(self.step, figures)
                if self.step % self.plan.save_every == 0 or self.step == self.steps:
                    self.checkpoints.save(self._state())

    def _accumulate(self, batch: Batch, targets: float) -> float:
        """The gradients of the mean loss over all targets of the step, however it is cut into packs or spread over
        processes. Returns that mean."""
        torch.manual_seed(self.step)  # dropout and the like, which a change may bring, are a function of the step too
        packs = [(pack, 1.0) for pack in batch.packs]
        packs += [(batch.filler, 0.0)] * (int(self.processes.most(len(packs))) - len(packs))
        summed = 0.0
        for pack, weight in packs:
            pack = pack.to(self.device)  # one at a time: the pixels of a whole step can be 10 GB
            with torch.autocast(self.device.type, torch.bfloat16, enabled=bool(self.plan.bfloat16)):
                loss = self.loss(self.model, pack)
            if loss.requires_grad:  # a pack of text depends on nothing that trains if the decoder is frozen
                # Processes average their gradients, but the loss is a sum over all of them.
                (loss * (weight * self.processes.world / targets)).backward()
            summed += weight * float(loss.detach())
        for group in self.optimiser.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:  # nothing to see in this step; AdamW would not even decay its moments
                    parameter.grad = torch.zeros_like(parameter)
        return self.processes.total(summed)[0] / targets

    def _begin(self, resume: bool) -> None:
        """Make sure that checkpoints can be written; or continue from the newest whole one."""
        if latest_checkpoint(self.folder) is None:
            self.checkpoints.rehearse()
        elif not resume:
            raise TrainingError(f"{self.folder} holds a run already; give --resume to continue it, or another folder")
        else:
            state = self.checkpoints.restore(self._state())
            self.step, self.seen, self.broken = state["step"], state["seen"], state["broken"]

    def _state(self) -> dict[str, Any]:
        order = getattr(self.batches, "order", {})
        return {"title": self.title, "order": order, "step": self.step, "seen": self.seen, "broken": self.broken}

    def _prepared_ahead(self) -> Iterator[Batch]:
        """Batches in order from the current step, made by workers while the model computes."""
        gc.collect()  # a decoder that waits to be freed waits for ever in a forked worker, which has not its threads
        yield from DataLoader(
            self.batches,
            batch_size=None,
            sampler=range(self.step, self.steps),
            num_workers=self.plan.workers,
            prefetch_factor=2 if self.plan.workers else None,  # as many steps' pixels are held ahead by each worker
            worker_init_fn=_one_thread,
        )

    def _count_broken(self, batch: Batch, log: RunLog) -> None:
        log.skipped(self.step + 1, batch.skipped)
        seen, broken = self.processes.total(batch.samples, len(batch.skipped))
        self.seen, self.broken = self.seen + int(seen), self.broken + int(broken)
        if self.broken == self.seen:
            raise TrainingError(f"step {self.step + 1}: no sample could be used so far; see skipped.log")
        if self.seen >= 100 and self.broken > self.plan.most_broken * self.seen:
            raise TrainingError(
                f"{self.broken} of {self.seen} samples could not be used, more than {self.plan.most_broken:.0%}; "
                f"{log.skipped_path} names them"
            )

    def _check_finite(self, loss: float, norm: float) -> None:
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise TrainingError(
                f"step {self.step + 1}: the loss is {loss} and the gradient norm {norm}; lower the learning rate, and "
                "continue from the last checkpoint with --resume"
            )


def _one_thread(_: int) -> None:
    """Workers prepare samples; the cores belong to the model."""
    torch.set_num_threads(1)
