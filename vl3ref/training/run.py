"""One stage: from annotation files and a checkpoint to the next checkpoint. `train` is what `vl3ref train` calls."""

import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

import vl3ref
from vl3ref.checkpoints import Change
from vl3ref.errors import InputError, TrainingError
from vl3ref.inputs.processor import Processor
from vl3ref.model.diff_fp import keep_all
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.model_inputs import ModelInputs
from vl3ref.training.annotations import Annotations
from vl3ref.training.batches import Conversations, Samples, count_targets
from vl3ref.training.checkpoints import finish, model_files
from vl3ref.training.distributed import Processes, own_device, shard, started
from vl3ref.training.lora import LoRA, adapt, adapted_stage, adapter_files, finish_adapter, freeze_base
from vl3ref.training.qlora import quantise_base
from vl3ref.training.stages import OFFICIAL_2B, Stage, cautions, freeze, parameter_groups
from vl3ref.training.trainer import Plan, Trainer


def train(
    data: Samples | str | Path | Sequence[str | Path],
    stage: Stage | int,
    model: str | Path | tuple[VideoLLaMA3, Processor],
    folder: str | Path,
    plan: Plan | None = None,
    change: Change | None = None,
    media: str | Path | None = None,
    resume: bool = False,
    device: torch.device | str | None = None,
    lora: LoRA | None = None,
) -> Path:
    """Train a checkpoint through one stage, in as many processes as torchrun started.

    Args:
        data: annotation files, or samples.
        stage: 1 to 4 of the paper, or your own.
        model: the checkpoint to start from; or a model in float32 and its processor, as from `assemble`.
        folder: of the run: logs and checkpoints.
        plan: default: the official one.
        change: called on the freshly built model before its weights are filled; what it adds is trained and saved with
            the rest, and loaded by `vl3ref.load(checkpoint, change=change)`.
        media: the folder of relative paths in the data; default: each annotation file's own.
        resume: continue from the newest checkpoint in the folder, if there is one.
        device: default: the GPU if there is one.
        lora: train adapters, and the projector, in place of the whole model.

    Returns:
        `folder / "final"`: the trained checkpoint, in the dtype that the one before had; or, with `lora`, the adapter,
        for `vl3ref.load(model, adapter=folder / "final")`.

    Raises:
        TrainingError: the run cannot go on; or, before its first step, its checkpoints could not be saved.
        CheckpointError, InputError: what it should start from cannot be read.
    """
    if isinstance(stage, int):
        if not 1 <= stage <= 4:
            raise InputError(f"the paper has stages 1, 2, 3 and 4, not {stage}")
        stage = OFFICIAL_2B[stage - 1]
    samples = data if isinstance(data, Samples) else Annotations(data, media)
    folder, device, plan = Path(folder), own_device(device), plan or Plan()
    base = "" if isinstance(model, tuple) else str(model)
    if lora is not None:
        stage = adapted_stage(stage, lora)
    if not isinstance(model, tuple):
        model = vl3ref.load(model, "cpu", "float32", change=change)
    with started(device) as processes:
        if processes.first:
            steps = f"{len(samples)} samples, {plan.total_steps(len(samples))} steps of {plan.batch_size}"
            print(f"{steps}; logs and checkpoints in {folder}", file=sys.stderr, flush=True)
        train_stage(*model, samples, stage, plan, folder, change, resume, processes, device, lora, base)
        if not processes.first:
            return folder / "final"
        return finish_adapter(folder) if lora else finish(folder, model[0].config.dtype, change)


def train_stage(
    model: VideoLLaMA3,
    processor: Processor,
    samples: Samples,
    stage: Stage,
    plan: Plan,
    folder: Path,
    change: Change | None = None,
    resume: bool = False,
    processes: Processes | None = None,
    device: torch.device | None = None,
    lora: LoRA | None = None,
    base: str = "",
) -> None:
    """Train a model, in place, through one stage: `train` without its beginning and end.

    Args:
        model: float32, and changed already. It goes to the device; with several processes it should come from the CPU,
            and is spread over their devices.
        device: where this process computes; None for where the model is.
        lora: see `train`; the adapter stays in the model. `base` is noted in its folder.
    """
    processes, device = processes or Processes(), device or model.device
    bfloat16, checkpointing = (
        device.type == "cuda" if chosen is None else chosen for chosen in (plan.bfloat16, plan.gradient_checkpointing)
    )
    if lora is not None:
        if lora.bits == 4 and processes.world > 1:
            raise TrainingError("QLoRA trains in one process: layers of 4 bits are not spread over several")
        stage = adapted_stage(stage, lora)
        adapt(model, lora, stage)
    for caution in cautions(stage, model, processor) if processes.first else ():
        warnings.warn(caution, stacklevel=2)
    merge = {"image_merge_size": stage.image_merge_size, "video_merge_size": stage.video_merge_size}
    processor = Processor(processor.tokenizer, replace(processor.config, **merge))
    batches = Conversations(
        samples,
        processor,
        plan.batch_size,
        plan.pack_tokens,
        plan.shuffle,
        rank=processes.rank,
        world=processes.world,
    )
    pruner = None if stage.prune else keep_all  # None is the model's own

    def summed_loss(model: VideoLLaMA3, pack: ModelInputs) -> Tensor:
        mean = model(pack, pack.labels, pruner=pruner).loss
        assert mean is not None
        return mean * count_targets(pack)

    model.unsure_below = None  # it was measured on the weights there were
    freeze(model, stage)
    if lora is not None:
        freeze_base(model, bfloat16 and processes.world == 1)
        if lora.bits == 4:
            quantise_base(model, device, torch.bfloat16 if bfloat16 else torch.float32)
    model.gradient_checkpointing(checkpointing)
    files = adapter_files(model, processor, base) if lora else model_files(model, processor, change)
    if processes.world > 1:
        shard(model, device, bfloat16)
    else:
        model.to(device)
    Trainer(
        model=model.train(),
        loss=summed_loss,
        batches=batches,
        groups=parameter_groups(model, stage),
        plan=replace(plan, steps=plan.total_steps(len(samples)), bfloat16=bfloat16),
        folder=folder,
        files=files,
        title=f"{stage.name}, {lora}" if lora else stage.name,
        processes=processes,
    ).run(resume)
    model.eval()
