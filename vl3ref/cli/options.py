"""Options that several commands share, and what they turn into."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from vl3ref.errors import InputError

if TYPE_CHECKING:
    from vl3ref.generation import Sampling
    from vl3ref.inputs.processor import Processor
    from vl3ref.model.videollama3 import VideoLLaMA3

stderr = Console(stderr=True)

TOY = "note: vl3-tiny, the model in the box, knows a drawn world of shapes, signs, charts and forms, and nothing else"


def note(line: str) -> None:
    """One line on stderr."""
    typer.echo(line, err=True)


def show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """In place of `warnings.showwarning`, which names a line of code."""
    note("warning: " + " ".join(str(message).split()))


def option(*names: str, help: str, panel: str = "Options", **settings: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, show_default=False, **settings)


SEES, ANSWERS, RUNS = "What the model sees", "How it answers", "Where it runs"

ModelName = Annotated[str, option("--model", help="Checkpoint folder, 2b, 7b, or a hub name (default: vl3-tiny).")]

Fps = Annotated[float | None, option("--fps", help="Frames taken per second of video.", panel=SEES)]
MaxFrames = Annotated[int | None, option("--max-frames", help="Frames of a video at most.", panel=SEES)]
Start = Annotated[float | None, option("--start", help="Second of the videos to begin at.", panel=SEES)]
End = Annotated[float | None, option("--end", help="Second of the videos to stop at.", panel=SEES)]
VisualTokens = Annotated[int | None, option("--visual-tokens", help="At most so many, before DiffFP.", panel=SEES)]
Merge = Annotated[int | None, option("--merge", help="Patches along the side of a visual token.", panel=SEES)]
NoPrune = Annotated[bool, option("--no-prune", help="Keep every visual token (no DiffFP).", panel=SEES)]

System = Annotated[str | None, option("--system", help="System prompt in place of the usual one.", panel=ANSWERS)]
MaxTokens = Annotated[int, option("--max-tokens", help="New tokens at most (default: 512).", panel=ANSWERS)]
MinTokens = Annotated[int, option("--min-tokens", help="New tokens at least.", panel=ANSWERS)]
Sample = Annotated[bool, option("--sample", help="Sample as the checkpoint recommends.", panel=ANSWERS)]
Temperature = Annotated[float | None, option("--temperature", help="0 is greedy, the default.", panel=ANSWERS)]
TopK = Annotated[int | None, option("--top-k", help="Draw among the k likeliest.", panel=ANSWERS)]
TopP = Annotated[float | None, option("--top-p", help="Draw among the likeliest, p together.", panel=ANSWERS)]
Penalty = Annotated[float | None, option("--repetition-penalty", help="Above 1: repeat less.", panel=ANSWERS)]
Seed = Annotated[int | None, option("--seed", help="Of the draws.", panel=ANSWERS)]

Device = Annotated[str | None, option("--device", help="cpu, cuda, cuda:1, mps (default: a GPU if any).", panel=RUNS)]
Dtype = Annotated[str | None, option("--dtype", help="float32, bfloat16 or float16.", panel=RUNS)]


def processor_overrides(
    fps: float | None, max_frames: int | None, visual_tokens: int | None, merge: int | None, no_prune: bool
) -> dict[str, Any]:
    """What was given, by the processor's names; the rest stays the checkpoint's."""
    overrides = {
        "fps": fps,
        "max_frames": max_frames,
        "max_tokens": visual_tokens,
        "image_merge_size": merge,
        "video_merge_size": merge,
        "diff_fp": False if no_prune else None,
    }
    return {name: value for name, value in overrides.items() if value is not None}


def sampling_rule(model: "VideoLLaMA3", sample: bool, **given: Any) -> "Sampling":
    """The checkpoint's recommended sampling, if asked for, with what was given in its place."""
    from vl3ref.generation import Sampling

    if sample and not model.recommended_sampling:
        raise InputError("this checkpoint recommends no sampling; give --temperature instead of --sample")
    recommended = model.recommended_sampling if sample else {}
    rule = Sampling(**(recommended | {name: value for name, value in given.items() if value is not None}))
    unused = [f"--{name.replace('_', '-')}" for name in ("top_k", "top_p", "seed") if given.get(name) is not None]
    if unused and rule.temperature == 0:
        note(f"note: greedy decoding does not use {', '.join(unused)}; give --temperature or --sample")
    return rule


def message_parts(files: list[str], start: float | None, end: float | None) -> list[dict[str, Any]]:
    """Files as a message's parts."""
    from vl3ref.inputs.files import file_part

    return [file_part(file, start, end) for file in files]


def check_times(parts: list[dict[str, Any]], start: float | None, end: float | None) -> None:
    if (start is not None or end is not None) and not any(part["type"] == "video" for part in parts):
        raise InputError("--start and --end are for videos, and none was given")


def find_model(name: str) -> Path:
    """A checkpoint's folder, downloaded if need be; says what there is to say about it."""
    from vl3ref.hub import TINY, find_checkpoint

    folder = find_checkpoint(name)
    if name == TINY:
        note(TOY)
    return folder


def load(name: str, device: str | None, dtype: str | None) -> tuple["VideoLLaMA3", "Processor"]:
    import vl3ref

    check_device(device)
    folder = find_model(name)
    with stderr.status(f"loading {name}"):
        return vl3ref.load(folder, device, dtype)


def check_device(name: str | None) -> None:
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # an unknown name; a kind this torch was built without
        raise InputError(f"device {name} cannot be used: {str(error).splitlines()[0]}") from None
