"""`vl3ref train`."""

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vl3ref.cli.options import Device, check_device, note, option
from vl3ref.errors import InputError

if TYPE_CHECKING:
    from vl3ref.training.stages import Stage

FROM, LEARNS, KEEPS = "What training starts from", "How it trains", "Where it runs, and what it keeps"

WITH_RECIPE = ("recipe", "out", "resume", "workers", "device")
"""Options that --recipe leaves open."""


def train(
    context: typer.Context,
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
    epochs: Annotated[float, option("--epochs", help="Times through the data (default: 1).", panel=LEARNS)] = 1.0,
    batch: Annotated[
        int, option("--batch", help="Conversations a step, over all processes (128).", panel=LEARNS)
    ] = 128,
    pack: Annotated[int, option("--pack", help="Tokens computed together (16384).", panel=LEARNS)] = 16384,
    decoder_lr: Annotated[
        float | None, option("--decoder-lr", help="Learning rate of the decoder; 0 freezes it.", panel=LEARNS)
    ] = None,
    projector_lr: Annotated[
        float | None, option("--projector-lr", help="Of the projector; 0 freezes it.", panel=LEARNS)
    ] = None,
    vision_lr: Annotated[
        float | None, option("--vision-lr", help="Of the vision encoder; 0 freezes it.", panel=LEARNS)
    ] = None,
    added_lr: Annotated[
        float | None, option("--added-lr", help="Of what --change adds (default: the projector's).", panel=LEARNS)
    ] = None,
    gradient_checkpointing: Annotated[
        bool | None,
        option("--gradient-checkpointing/--no-gradient-checkpointing", help="Default: on a GPU.", panel=LEARNS),
    ] = None,
    save_every: Annotated[int, option("--save-every", help="Steps between checkpoints (500).", panel=KEEPS)] = 500,
    workers: Annotated[int, option("--workers", help="Processes that prepare batches (1).", panel=KEEPS)] = 1,
    device: Device = None,
) -> None:
    """Train a stage of the paper on annotated data, or vl3-tiny from nothing.

    Several GPUs: torchrun --nproc-per-node 8 -m vl3ref train ...
    """
    folder = out or Path("runs") / (recipe or f"stage-{stage}")
    if folder.is_file():
        raise InputError(f"{folder} is a file; name a folder")
    at_least("--workers", workers, 0)
    if recipe is not None:
        _refuse_options_beside_recipe(context)
        check_device(device)
        _train_recipe(folder, resume, workers, device)
        return
    if not data:
        raise InputError("name annotation files to train on, or --recipe tiny, which needs none")
    if stage not in (1, 2, 3, 4):
        raise InputError("--stage should be 1, 2, 3 or 4, the paper's stages")
    for name, number in (("--steps", steps), ("--batch", batch), ("--pack", pack), ("--save-every", save_every)):
        at_least(name, number, 1)
    if not 0 < epochs < math.inf:
        raise InputError(f"--epochs should be a number above 0, not {epochs:g}")
    if media is not None and not media.is_dir():
        raise InputError(f"--media {media} is not a folder")
    own = _with_learning_rates(
        stage, decoder_lr=decoder_lr, projector_lr=projector_lr, vision_lr=vision_lr, added_lr=added_lr
    )
    check_device(device)
    from vl3ref.checkpoints import read_change
    from vl3ref.training import run
    from vl3ref.training.assemble import assemble
    from vl3ref.training.trainer import Plan

    changed = None if change is None else read_change(change)
    start: Any = model
    if model is None and vision and decoder:
        start = assemble(vision, decoder, changed)
    elif model is None or vision or decoder:
        raise InputError("give --model, a checkpoint to start from; or both --vision and --decoder, to assemble one")
    plan = Plan(
        steps=steps,
        epochs=epochs,
        batch_size=batch,
        pack_tokens=pack,
        save_every=save_every,
        workers=workers,
        gradient_checkpointing=gradient_checkpointing,
    )
    final = run.train(data, own, start, folder, plan, change=changed, media=media, resume=resume, device=device)
    if os.environ.get("RANK", "0") == "0":
        note(f"wrote {final}")


def at_least(name: str, number: int | None, least: int) -> None:
    if number is not None and number < least:
        raise InputError(f"{name} should be at least {least}, not {number}")


def _refuse_options_beside_recipe(context: typer.Context) -> None:
    """A recipe brings its own data, model and stages."""
    given = [
        name for name in context.params if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
    ]
    if others := sorted(name for name in given if name not in WITH_RECIPE):
        names = ["DATA" if name == "data" else f"--{name.replace('_', '-')}" for name in others]
        raise InputError(f"--recipe brings its own data, model and stages; leave {', '.join(names)} out")


def _train_recipe(folder: Path, resume: bool, workers: int, device: str | None) -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("--recipe trains a small model in one process; start it without torchrun")
    from vl3ref.tinyworld import recipe
    from vl3ref.training.distributed import own_device

    note(f"logs and checkpoints in {folder}; interrupted, the run continues with --resume")
    note(f"wrote {recipe.train_tiny(folder, resume=resume, workers=workers, device=own_device(device))}")


def _with_learning_rates(number: int, **given: float | None) -> "Stage":
    """A stage of the table with other learning rates, where some were given."""
    from vl3ref.training.stages import OFFICIAL_2B

    for name, lr in given.items():
        if lr is not None and not 0 <= lr < math.inf:
            raise InputError(f"--{name.replace('_', '-')} should be a number of at least 0, not {lr}")
    chosen: dict[str, Any] = {name: lr or None for name, lr in given.items() if lr is not None}
    stage = replace(OFFICIAL_2B[number - 1], **chosen)
    if not any(stage.learning_rates.values()):
        raise InputError("every part is frozen: give --decoder-lr, --projector-lr, --vision-lr or --added-lr above 0")
    return stage
