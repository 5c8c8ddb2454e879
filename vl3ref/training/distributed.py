"""More than one process: who else computes, and how parameters are spread over them (FSDP2).

torchrun --nproc-per-node 8 -m vl3ref train ...                                              one machine
torchrun --nnodes 2 --node-rank R --master-addr HOST --nproc-per-node 8 -m vl3ref train ...  on each of two
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from vl3ref.model.language_model import DecoderLayer
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.model.vision import EncoderLayer
from vl3ref.model_inputs import IGNORED, ModelInputs, join


@dataclass(frozen=True)
class Processes:
    """The processes of a run, and which one this is."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes logs and checkpoints."""
        return self.rank == 0

    def total(self, number: int | float) -> int | float:
        """The sum of a number over all processes."""
        return number if self.world == 1 else _reduced(number, dist.ReduceOp.SUM)

    def most(self, number: int | float) -> int | float:
        """The largest of a number over all processes."""
        return number if self.world == 1 else _reduced(number, dist.ReduceOp.MAX)

    def wait(self) -> None:
        """Until all are here."""
        if self.world > 1:
            dist.barrier()


def _reduced(number: int | float, how: dist.ReduceOp.RedOpType) -> float:
    device = torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
    value = torch.tensor(float(number), dtype=torch.float64, device=device)
    dist.all_reduce(value, how)
    return value.item()


def own_device(name: str | None) -> torch.device:
    """Where this process computes: the named device, or its own GPU, or the CPU."""
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    return torch.device(name)


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
            again: the whole model need not fit there.
        device: where this process computes.
        bfloat16: gather and compute in it; each process's share, its gradients' sum and AdamW's moments stay float32.
    """
    # Inputs are left as they are: pixels and the vision encoder's rotations have to stay float32.
    narrow = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    settings: dict[str, Any] = {
        "mesh": init_device_mesh(device.type, (dist.get_world_size(),)),
        "mp_policy": narrow if bfloat16 else MixedPrecisionPolicy(),
    }
    for module in model.modules():
        if isinstance(module, DecoderLayer | EncoderLayer):
            fully_shard(module, **settings)
    fully_shard(model, **settings)
    model.vision_encoder.chunk_patches = None  # once through its layers, however much there is to see: see `level`


def level(packs: Sequence[Any], model: nn.Module, processes: Processes) -> list[tuple[Any, float]]:
    """Packs and their weights: equally many in every process, each with something to see.

    All processes gather a sharded layer together, so all of them have to go through the same layers equally often.
    Packs that show nothing get one grey patch that nothing is learnt from; missing packs are made up for by ones that
    weigh nothing.
    """
    if processes.world == 1:
        return [(pack, 1.0) for pack in packs]
    assert isinstance(model, VideoLLaMA3)  # what else is trained, is trained in one process
    missing = int(processes.most(len(packs))) - len(packs)
    grey = _patch(model, learnt=False)
    seeing = [
        pack if pack.pixel_values is not None else join([pack, replace(grey, diff_fp=pack.diff_fp)]) for pack in packs
    ]
    return [(pack, 1.0) for pack in seeing] + [(_patch(model, learnt=True), 0.0)] * missing


def _patch(model: VideoLLaMA3, learnt: bool) -> ModelInputs:
    """A conversation of one grey patch, followed by a token that is learnt or not."""
    image = model.config.image_token_id
    after = 0 if image else 1
    return ModelInputs(
        input_ids=torch.tensor([image, after]),
        lengths=torch.tensor([2]),
        pixel_values=torch.zeros(1, model.config.vision.patch_values),
        grid_sizes=torch.ones(1, 3, dtype=torch.int64),
        merge_sizes=torch.ones(1, dtype=torch.int64),
        modals=["image"],
        labels=torch.tensor([IGNORED, after if learnt else IGNORED]),
    )


def clip_gradients(model: nn.Module, most: float) -> float:
    """Scale all gradients down to a total norm of at most `most`. Returns the norm there was."""
    norm = nn.utils.clip_grad_norm_([p for p in model.parameters() if p.grad is not None], most)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
