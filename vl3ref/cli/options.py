"""What several commands share: their options, and how they load a model.

Options that go together are the fields of a dataclass, whose methods say what they mean; `with_options` gives them to a
command.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vl3ref.cli.interrupts import raising
from vl3ref.cli.printing import note, status
from vl3ref.errors import InputError, quoted
from vl3ref.files import new_file

if TYPE_CHECKING:
    from vl3ref.inputs.processor import Processor
    from vl3ref.model.diff_fp import Pruner
    from vl3ref.model.videollama3 import VideoLLaMA3

TOY = (
    "note: vl3-tiny, the model in the box, knows a synthetic world of shapes, signs, charts and forms, and nothing else"
)

LARGEST = 2**63 - 1
"""Of a number on the command line: what 64 bits hold."""

# ------------------------------------------------------------------------------------------------------------ options


def option(*names: str, help: str, panel: str = "Options", **settings: Any) -> Any:
    """An option. Its name is the parameter's, unless others are given (as flags that have no --no- form need)."""
    return typer.Option(*names, help=help, rich_help_panel=panel, show_default=False, callback=_checked, **settings)


def _checked(context: Any, option: Any, value: Any) -> Any:
    """
    Raises:
        InputError: a number that is none, is infinite, or does not fit into 64 bits.
    """
    if isinstance(value, int | float) and not abs(value) <= LARGEST:
        raise InputError(f"{option.opts[0]} should be a number that fits into 64 bits, not {quoted(value)}")
    return value


def between(name: str, number: int | float | None, least: int, most: int = LARGEST) -> None:
    """
    Raises:
        InputError: an option's number, if there is one, is out of range.
    """
    if number is not None and not least <= number <= most:
        end = "" if most == LARGEST else f" and at most {most:,}"
        raise InputError(f"{name} should be at least {least}{end}, not {number}")


SEES, ANSWERS, RUNS = "What the model sees", "How it answers", "Where it runs"

Device = Annotated[str | None, option("--device", help="cpu, cuda, cuda:1, mps (default: a GPU if any).", panel=RUNS)]
Dtype = Annotated[str | None, option("--dtype", help="float32, bfloat16 or float16.", panel=RUNS)]
Adapter = Annotated[str | None, option("--adapter", help="Folder of a LoRA adapter of that model.")]
Change = Annotated[str | None, option("--change", help="FILE.py:FUNCTION that swaps parts of the model.")]
VisualTokens = Annotated[int | None, option("--visual-tokens", help="Most visual tokens, before pruning.", panel=SEES)]


@dataclass(kw_only=True)
class MediaOptions:
    """How files become what the model sees."""

    model: Annotated[str, option(help="Checkpoint folder, 2b, 7b, or a hub name (default: vl3-tiny).")] = "vl3-tiny"
    fps: Annotated[float | None, option(help="Frames taken per second of video.", panel=SEES)] = None
    max_frames: Annotated[int | None, option(help="Most frames of a video.", panel=SEES)] = None
    start: Annotated[float | None, option(help="Second at which the videos begin.", panel=SEES)] = None
    end: Annotated[float | None, option(help="Second at which the videos stop.", panel=SEES)] = None
    visual_tokens: VisualTokens = None
    merge: Annotated[int | None, option(help="Patches along the side of a visual token.", panel=SEES)] = None
    no_prune: Annotated[bool, option("--no-prune", help="Keep every visual token (no DiffFP).", panel=SEES)] = False

    def parts(self, files: list[str]) -> list[dict[str, Any]]:
        """Files as parts of a message."""
        from vl3ref.inputs.files import file_part

        return [file_part(file, self.start, self.end) for file in files]

    def check_times(self, parts: list[dict[str, Any]]) -> None:
        """
        Raises:
            InputError: times were given, but no part is a video.
        """
        if (self.start is not None or self.end is not None) and not any(part["type"] == "video" for part in parts):
            raise InputError("--start and --end are for videos, and none was given")

    @property
    def overrides(self) -> dict[str, Any]:
        """What was given, by the processor's names; the rest stays the checkpoint's."""
        merges = {"image_merge_size": self.merge, "video_merge_size": self.merge}
        given = {"fps": self.fps, "max_frames": self.max_frames, "max_tokens": self.visual_tokens, **merges}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def pruner(self) -> "Pruner | None":
        """None for the model's own."""
        from vl3ref.model.diff_fp import keep_all

        return keep_all if self.no_prune else None


@dataclass(kw_only=True)
class AnswerOptions(MediaOptions):
    """How the model answers, and where it runs."""

    adapter: Adapter = None
    change: Change = None
    system: Annotated[str | None, option(help="System prompt (default: the model's).", panel=ANSWERS)] = None
    max_tokens: Annotated[int, option(help="Most new tokens (default: 512).", panel=ANSWERS)] = 512
    min_tokens: Annotated[int, option(help="Fewest new tokens.", panel=ANSWERS)] = 0
    sample: Annotated[bool, option("--sample", help="Sample as the checkpoint recommends.", panel=ANSWERS)] = False
    temperature: Annotated[float | None, option(help="0 is greedy, the default.", panel=ANSWERS)] = None
    top_k: Annotated[int | None, option(help="Sample among the k likeliest tokens.", panel=ANSWERS)] = None
    top_p: Annotated[float | None, option(help="Sample among the likeliest that sum to p.", panel=ANSWERS)] = None
    repetition_penalty: Annotated[float | None, option(help="Above 1: repeat less.", panel=ANSWERS)] = None
    seed: Annotated[int | None, option(help="Seed of the sampling.", panel=ANSWERS)] = None
    stop: Annotated[list[str] | None, option(help="Text that ends an answer; may be repeated.", panel=ANSWERS)] = None
    allow_long: Annotated[bool, option("--allow-long", help="Go on past the trained length.", panel=ANSWERS)] = False
    device: Device = None
    dtype: Dtype = None

    def generation(self, model: "VideoLLaMA3") -> dict[str, Any]:
        """Options of `vl3ref.generation.stream`: the recommended sampling, if asked for, and what was given.

        Raises:
            InputError: a value out of range.
        """
        from vl3ref.sampling import Sampling

        if self.sample and not model.recommended_sampling:
            raise InputError("this checkpoint recommends no sampling; give --temperature instead of --sample")
        names = ("temperature", "top_k", "top_p", "repetition_penalty", "seed")
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        sampling = (model.recommended_sampling if self.sample else {}) | given
        greedy = Sampling(**sampling).temperature == 0
        unused = [f"--{name.replace('_', '-')}" for name in ("top_k", "top_p", "seed") if name in given]
        if greedy and unused:
            note(f"note: greedy decoding does not use {', '.join(unused)}; give --temperature or --sample")
        lengths = {"max_new_tokens": self.max_tokens, "min_new_tokens": self.min_tokens}
        return {**lengths, **sampling, "pruner": self.pruner, "allow_long": self.allow_long, "stop": self.stop or ()}


def with_options(options: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the fields of a dataclass as command-line options; it takes the dataclass as `options`.

    typer reads a command's options from its signature, so the command gets one that lists the fields.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [parameter for name, parameter in signature(command).parameters.items() if name != "options"]
        shared = [
            Parameter(field.name, Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type)
            for field in fields(options)
        ]

        def run(**given: Any) -> None:
            chosen = options(**{field.name: given.pop(field.name) for field in fields(options)})
            command(**given, options=chosen)

        run.__name__, run.__doc__ = command.__name__, command.__doc__
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *shared)}
        run.__signature__ = Signature([*own, *shared])  # type: ignore[attr-defined]
        return run

    return decorate


# ------------------------------------------------------------------------------------------------------------ loading


def load(
    name: str, device: str | None, dtype: str | None, adapter: str | None = None, change: str | None = None
) -> tuple["VideoLLaMA3", "Processor"]:
    """A checkpoint's model and processor, downloaded if need be."""
    import vl3ref

    check_device(device)
    changing = chosen_change(change)
    folder = vl3ref.find_checkpoint(name)
    if name == "vl3-tiny":
        note(TOY)
    with status(f"loading {name}"):
        return vl3ref.load(folder, device, dtype, change=changing, adapter=adapter)


def chosen_change(place: str | None) -> Any:
    """The function that --change names; None if it was not given."""
    from vl3ref.checkpoints import read_change

    return None if place is None else read_change(place)


def labels(models: list[str]) -> list[str]:
    """Short names of several checkpoints; their whole ones where the short are the same, as the `final` of runs."""
    short = [Path(name).name for name in models]
    return short if len(set(short)) == len(short) else models


def check_device(name: str | None) -> None:
    """
    Raises:
        InputError: it is none, or cannot be computed on: a kind that this torch was built without, a number too high.
    """
    import torch

    try:
        torch.ones(1, device=name).item()
    except Exception as error:  # torch's kinds of device each have an error of their own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"device {quoted(name)} cannot be used: {reason[:200]}") from None


# ------------------------------------------------------------------------------------------------------------ writing


def check_outputs(*paths: Path | None) -> None:
    """Before the work is done, rather than after it.

    Raises:
        InputError: a file that could not be written: it is a folder, or its folder is not there.
    """
    for path in paths:
        if path is not None and (os.path.isdir(path) or not os.path.isdir(path.absolute().parent)):
            raise InputError(f"{quoted(str(path), 300)} cannot be written: it is a folder, or its folder is not there")


def write_text(path: Path, text: str) -> None:
    """Write a whole file or none."""
    with raising(), new_file(path, InputError) as fresh:
        fresh.write_text(text, encoding="utf-8", errors="backslashreplace")
