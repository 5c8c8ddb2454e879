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

FROM, LEARNS, KEEPS = "What training starts from", "How it learns", "Where it runs, and what it keeps"


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
    resume: Annotated[bool, option("--resume", help="Go on from the newest checkpoint in --out.")] = False,
    model: Annotated[str | None, option("--model", help="Checkpoint of the stage before.", panel=FROM)] = None,
    vision: Annotated[str | None, option("--vision", help="Stage 1: SigLIP's checkpoint.", panel=FROM)] = None,
    decoder: Annotated[str | None, option("--decoder", help="Stage 1: Qwen2.5's checkpoint.", panel=FROM)] = None,
    media: Annotated[Path | None, option("--media", help="Folder of the data's relative paths.", panel=FROM)] = None,
    steps: Annotated[int | None, option("--steps", help="Default: as --epochs says.", panel=LEARNS)] = None,
    epochs: Annotated[
        float | None, option("--epochs", help="Times through the data (default: 1).", panel=LEARNS)
    ] = None,
    batch: Annotated[
        int | None, option("--batch", help="Conversations a step, over all processes (128).", panel=LEARNS)
    ] = None,
    pack: Annotated[int | None, option("--pack", help="Tokens computed together (16384).", panel=LEARNS)] = None,
    decoder_rate: Annotated[float | None, option("--decoder-rate", help="0 freezes it.", panel=LEARNS)] = None,
    projector_rate: Annotated[float | None, option("--projector-rate", help="0 freezes it.", panel=LEARNS)] = None,
    vision_rate: Annotated[float | None, option("--vision-rate", help="0 freezes it.", panel=LEARNS)] = None,
    recompute: Annotated[
        bool | None,
        option("--recompute/--no-recompute", help="Gradient checkpointing (default: on a GPU).", panel=LEARNS),
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
    others = {name: x for name, x in locals().items() if name not in ("recipe", "out", "resume", "workers", "device")}
    folder = out or Path("runs") / (recipe or f"stage-{stage}")
    if folder.is_file():
        raise InputError(f"{folder} is a file; name a folder")
    at_least("--workers", workers, 0)
    if recipe is not None:
        _check_nothing_else_given(others)
        check_device(device)
        _train_recipe(folder, resume, workers, device)
        return
    if not data:
        raise InputError("name annotation files to learn from, or --recipe tiny, which needs none")
    if stage not in (1, 2, 3, 4):
        raise InputError("--stage should be 1, 2, 3 or 4, the paper's stages")
    from vl3ref.training.stages import BATCH, MAX_TOKENS

    batch, pack = BATCH if batch is None else batch, MAX_TOKENS if pack is None else pack
    epochs, save_every = 1.0 if epochs is None else epochs, 500 if save_every is None else save_every
    chosen = _stage(stage, decoder_rate, projector_rate, vision_rate)
    for name, number in (("--steps", steps), ("--batch", batch), ("--pack", pack), ("--save-every", save_every)):
        at_least(name, number, 1)
    if not 0 < epochs < math.inf:
        raise InputError(f"--epochs should be a number above 0, not {epochs:g}")
    if media is not None and not media.is_dir():
        raise InputError(f"--media {media} is not a folder")
    check_device(device)
    from vl3ref.training import stage_run
    from vl3ref.training.annotations import Annotations, Several
    from vl3ref.training.distributed import own_device, started
    from vl3ref.training.trainer import Plan

    samples = Several([Annotations(path, media) for path in data])
    total = steps if steps is not None else max(1, round(epochs * len(samples) / batch))
    network, processor = _start(model, vision, decoder)
    dtype = network.config.dtype
    place = own_device(device)
    plan = Plan(total, save_every=save_every, workers=workers, bfloat16=place.type == "cuda")
    network.recompute(place.type == "cuda" if recompute is None else recompute)
    with started(place) as processes:
        if processes.first:
            note(f"{len(samples)} samples, {total} steps of {batch}; logs and checkpoints in {folder}")
        settings = (samples, chosen, plan, folder, batch, pack, True, resume, processes, place)
        stage_run.train_stage(network, processor, *settings)
        if processes.first:
            final = stage_run.finish(folder, dtype)
            note(f"wrote {final}")


def _check_nothing_else_given(others: dict[str, Any]) -> None:
    """A recipe brings its own data, model and stages."""
    given = sorted(name for name, value in others.items() if value not in (None, []))
    if given:
        names = ["DATA" if name == "data" else f"--{name.replace('_', '-')}" for name in given]
        raise InputError(f"--recipe brings its own data, model and stages; leave {', '.join(names)} out")


def at_least(name: str, number: int | None, least: int) -> None:
    if number is not None and number < least:
        raise InputError(f"{name} should be at least {least}, not {number}")


def _train_recipe(folder: Path, resume: bool, workers: int, device: str | None) -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("--recipe trains a small model in one process; start it without torchrun")
    from vl3ref.tinyworld.recipe import train_tiny
    from vl3ref.training.distributed import own_device

    note(f"logs and checkpoints in {folder}; interrupted, the run goes on with --resume")
    note(f"wrote {train_tiny(folder, resume=resume, workers=workers, device=own_device(device))}")


def _stage(number: int, *rates: float | None) -> "Stage":
    """A stage of the table with other rates, where some were given."""
    from vl3ref.training.stages import OFFICIAL_2B

    names = ("decoder_rate", "projector_rate", "vision_rate")
    for name, rate in zip(names, rates, strict=True):
        if rate is not None and not 0 <= rate < math.inf:
            raise InputError(f"--{name.replace('_', '-')} should be a number of at least 0, not {rate}")
    given: dict[str, Any] = {name: rate or None for name, rate in zip(names, rates, strict=True) if rate is not None}
    stage = replace(OFFICIAL_2B[number - 1], **given)
    if not any(stage.rates.values()):
        raise InputError("every part is frozen: give --decoder-rate, --projector-rate or --vision-rate above 0")
    return stage


def _start(model: str | None, vision: str | None, decoder: str | None):  # type: ignore[no-untyped-def]
    """The model and processor that a stage begins with."""
    import vl3ref
    from vl3ref.hub import find_checkpoint
    from vl3ref.training.stage_run import assemble

    if model is not None and not (vision or decoder):
        return vl3ref.load(model, "cpu", "float32")
    if model is None and vision and decoder:
        return assemble(find_checkpoint(vision), find_checkpoint(decoder))
    raise InputError("give --model, a checkpoint to go on from; or both --vision and --decoder, to put one together")
