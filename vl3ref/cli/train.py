"""`vl3ref train`."""

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vl3ref.cli.interrupts import raising
from vl3ref.cli.options import Device, between, check_device, chosen_change, option
from vl3ref.cli.printing import note
from vl3ref.errors import InputError

if TYPE_CHECKING:
    from vl3ref.training.stages import Stage

FROM, LEARNS, KEEPS = "What training starts from", "How it trains", "Where it runs, and what it keeps"


def train(
    data: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[DATA]...", help="Annotation files, .json or .jsonl.", show_default=False),
    ] = None,
    recipe: Annotated[
        Literal["tiny"] | None, option("--recipe", help="tiny: vl3-tiny from nothing, no data needed.")
    ] = None,
    stage: Annotated[int | None, option("--stage", help="1 to 4 of the paper.")] = None,
    out: Annotated[Path | None, option("--out", help="Folder of the run (default: runs/NAME).")] = None,
    resume: Annotated[bool, option("--resume", help="Continue from the newest checkpoint in --out.")] = False,
    model: Annotated[str | None, option("--model", help="Checkpoint of the stage before.", panel=FROM)] = None,
    vision: Annotated[str | None, option("--vision", help="Stage 1: SigLIP's checkpoint.", panel=FROM)] = None,
    decoder: Annotated[str | None, option("--decoder", help="Stage 1: Qwen2.5's checkpoint.", panel=FROM)] = None,
    change: Annotated[
        str | None, option("--change", help="file.py:function that swaps parts of the model.", panel=FROM)
    ] = None,
    media: Annotated[Path | None, option("--media", help="Folder of the data's relative paths.", panel=FROM)] = None,
    steps: Annotated[int | None, option("--steps", help="Default: as --epochs says.", panel=LEARNS)] = None,
    epochs: Annotated[
        float | None, option("--epochs", help="Times through the data (default: 1).", panel=LEARNS)
    ] = None,
    batch: Annotated[
        int | None, option("--batch", help="Conversations a step, over all processes (128).", panel=LEARNS)
    ] = None,
    pack: Annotated[int | None, option("--pack", help="Tokens computed together (16384).", panel=LEARNS)] = None,
    decoder_lr: Annotated[
        float | None, option("--decoder-lr", help="Learning rate of the decoder; 0 freezes it.", panel=LEARNS)
    ] = None,
    projector_lr: Annotated[
        float | None, option("--projector-lr", help="Of the projector; 0 freezes it.", panel=LEARNS)
    ] = None,
    vision_lr: Annotated[
        float | None, option("--vision-lr", help="Of the vision encoder; 0 freezes it.", panel=LEARNS)
    ] = None,
    lora: Annotated[
        str | None,
        option("--lora", help="Train LoRA adapters instead: r=64,alpha=16,dropout=0.05; bits=4: QLoRA.", panel=LEARNS),
    ] = None,
    lora_targets: Annotated[
        Literal["decoder", "vision", "both"] | None, option("--lora-targets", help="Default: decoder.", panel=LEARNS)
    ] = None,
    added_lr: Annotated[
        float | None, option("--added-lr", help="Of what --change adds (default: the projector's).", panel=LEARNS)
    ] = None,
    gradient_checkpointing: Annotated[
        bool | None,
        option("--gradient-checkpointing/--no-gradient-checkpointing", help="Default: on a GPU.", panel=LEARNS),
    ] = None,
    save_every: Annotated[
        int | None, option("--save-every", help="Steps between checkpoints (500).", panel=KEEPS)
    ] = None,
    workers: Annotated[int, option("--workers", help="Processes that prepare batches (1).", panel=KEEPS)] = 1,
    device: Device = None,
) -> None:
    """Train a stage of the paper on annotated data, or vl3-tiny from nothing.

    Several GPUs: torchrun --nproc-per-node 8 -m vl3ref train ...
    """
    folder = out or Path("runs") / (recipe or f"stage-{stage}")
    if folder.is_file():
        raise InputError(f"{folder} is a file; name a folder")
    between("--workers", workers, 0)
    lrs = {
        "--decoder-lr": decoder_lr,
        "--projector-lr": projector_lr,
        "--vision-lr": vision_lr,
        "--added-lr": added_lr,
    }
    counts = {"--steps": steps, "--batch": batch, "--pack": pack, "--save-every": save_every}
    if recipe is not None:
        start = {"DATA": data, "--stage": stage, "--model": model, "--vision": vision, "--decoder": decoder}
        others = {"--media": media, "--epochs": epochs, "--lora": lora, "--lora-targets": lora_targets}
        others["--gradient-checkpointing"] = gradient_checkpointing
        _train_recipe({**start, **others, **lrs, **counts}, folder, change, resume, workers, device)
        return
    if not data:
        raise InputError("name annotation files to train on, or --recipe tiny, which needs none")
    if stage not in (1, 2, 3, 4):
        raise InputError("--stage should be 1, 2, 3 or 4, the paper's stages")
    for name, count in counts.items():
        between(name, count, 1)
    if epochs is not None and epochs <= 0:
        raise InputError(f"--epochs should be a number above 0, not {epochs:g}")
    if media is not None and not media.is_dir():
        raise InputError(f"--media {media} is not a folder")
    own = _with_learning_rates(stage, lrs)
    if lora_targets is not None and lora is None:
        raise InputError("--lora-targets says what --lora adapts: give --lora r=64,alpha=16 too")
    check_device(device)
    from vl3ref.training import run
    from vl3ref.training.annotations import Annotations
    from vl3ref.training.assemble import assemble
    from vl3ref.training.lora import read_lora
    from vl3ref.training.trainer import Plan

    changed = chosen_change(change)
    adapting = None if lora is None else read_lora(lora, lora_targets or "decoder")
    samples = Annotations(data, media)
    source: Any = model
    if model is None and vision and decoder:
        source = assemble(vision, decoder, changed)
    elif model is None or vision or decoder:
        raise InputError("give --model, a checkpoint to start from; or both --vision and --decoder, to assemble one")
    given: dict[str, Any] = {
        "steps": steps,
        "epochs": epochs,
        "batch_size": batch,
        "pack_tokens": pack,
        "save_every": save_every,
        "workers": workers,
        "gradient_checkpointing": gradient_checkpointing,
    }
    plan = Plan(**{name: x for name, x in given.items() if x is not None})
    with raising():
        final = run.train(
            samples, own, source, folder, plan, change=changed, resume=resume, device=device, lora=adapting
        )
    if os.environ.get("RANK", "0") == "0":
        note(f"wrote {final}")


def _train_recipe(
    others: dict[str, Any], folder: Path, change: str | None, resume: bool, workers: int, device: str | None
) -> None:
    if given := sorted(name for name, value in others.items() if value not in (None, [])):
        raise InputError(f"--recipe brings its own data, model and stages; leave {', '.join(given)} out")
    check_device(device)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("--recipe trains a small model in one process; start it without torchrun")
    from vl3ref.tinyworld import recipe
    from vl3ref.training.distributed import own_device

    changed = chosen_change(change)
    note(f"logs and checkpoints in {folder}; interrupted, the run continues with --resume")
    with raising():
        final = recipe.train_tiny(folder, resume=resume, workers=workers, device=own_device(device), change=changed)
    note(f"wrote {final}")


def _with_learning_rates(number: int, given: dict[str, float | None]) -> "Stage":
    """A stage of the table with other learning rates, where some were given."""
    from vl3ref.training.stages import OFFICIAL_2B

    chosen: dict[str, Any] = {}
    for name, lr in given.items():
        if lr is not None and lr < 0:
            raise InputError(f"{name} should be a number of at least 0, not {lr}")
        if lr is not None:
            chosen[name.removeprefix("--").replace("-", "_")] = lr or None
    stage = replace(OFFICIAL_2B[number - 1], **chosen)
    if not any(stage.learning_rates.values()):
        raise InputError(f"every part is frozen: give {', '.join([*given][:3])} or --added-lr above 0")
    return stage
