"""More than one process: who else computes, and how parameters are spread over them (FSDP2).

torchrun --nproc-per-node 8 -m vl3ref train ...                                              one machine
torchrun --nnodes 2 --node-rank R --master-addr HOST --nproc-per-node 8 -m vl3ref train ...  on each of two
"""

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from vl3ref.checkpoints import find_device
from vl3ref.errors import TrainingError
from vl3ref.model.videollama3 import VideoLLaMA3

LAYER = re.compile(r"(vision_encoder\.encoder|language_model)\.layers\.\d+\.")
"""How the names of a layer's parameters begin."""


@dataclass(frozen=True)
class Processes:
    """The processes of a run, and which one this is."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes logs and checkpoints."""
        return self.rank == 0

    def total(self, *numbers: int | float) -> list[float]:
        """The sum of each number over all processes."""
        return _reduced(numbers, dist.ReduceOp.SUM) if self.world > 1 else [*map(float, numbers)]

    def most(self, number: int | float) -> float:
        """The largest of a number over all processes."""
        return _reduced([number], dist.ReduceOp.MAX)[0] if self.world > 1 else float(number)

    def wait(self) -> None:
        """Until all are here."""
        if self.world > 1:
            dist.barrier()


def _reduced(numbers: Sequence[int | float], how: dist.ReduceOp.RedOpType) -> list[float]:
    device = torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
    values = torch.tensor([*numbers], dtype=torch.float64, device=device)
    dist.all_reduce(values, how)
    return values.tolist()


def own_device(name: str | torch.device | None) -> torch.device:
    """Where this process computes: the named device, or its own GPU, or the CPU.

    Raises:
        CheckpointError: there is no such device, or this torch cannot use it.
    """
    name = str("cuda" if name is None and torch.cuda.is_available() else "cpu" if name is None else name)
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    return find_device(name)


@contextmanager
def started(device: torch.device) -> Iterator[Processes]:
    """The processes that torchrun started; one, where it did not."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Processes()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Processes(dist.get_rank(), world)
    finally:
        dist.destroy_process_group()


def shard(model: VideoLLaMA3, device: torch.device, bfloat16: bool = False) -> None:
    """Spread every parameter over all processes. A layer's are gathered while it computes, and forgotten after it.

    Args:
        model: on the CPU. One layer after another goes to the device, and all but this process's share of it away
            again: the whole model need not fit there. What a change put in place of a layer is a layer too.
        device: where this process computes.
        bfloat16: gather and compute in it; each process's share, its gradients' sum and AdamW's moments stay float32.

    Raises:
        TrainingError: a parameter cannot be spread: it is a single number, or more than one layer has it; or this torch
            cannot spread a model over processes on a CPU (2.6).
    """
    if device.type == "cpu" and not hasattr(torch.cpu.Stream, "record_event"):
        raise TrainingError(f"torch {torch.__version__} cannot spread a model over processes on a CPU; a later one can")
    _check_shardable(model)
    layers = [*model.vision_encoder.encoder.layers, *model.language_model.layers]
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    # Inputs are left as they are: pixels and the vision encoder's rotations have to stay float32.
    narrow = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    for module in [*layers, model]:
        fully_shard(module, mesh=mesh, mp_policy=narrow if bfloat16 else MixedPrecisionPolicy())
    model.vision_encoder.chunk_patches = sys.maxsize  # once through its layers, however much there is to see


def _check_shardable(model: nn.Module) -> None:
    layer_of: dict[nn.Parameter, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if not parameter.ndim:
            raise TrainingError(f"{name} is a single number, which cannot be spread over processes; give it shape (1,)")
        found = LAYER.match(name)
        if layer_of.setdefault(parameter, layer := found[0] if found else "") != layer:
            raise TrainingError(f"another layer has the parameter {name} too; such a model trains in one process")


def clip_gradients(model: nn.Module, most: float) -> float:
    """Scale all gradients down to a total norm of at most `most`. Returns the norm there was."""
    norm = nn.utils.clip_grad_norm_([p for p in model.parameters() if p.grad is not None], most)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
