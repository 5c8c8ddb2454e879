"""The commands, and what becomes of their errors."""

import io
import sys
import warnings
from typing import Annotated, Any

import typer

from vl3ref.cli.conversation import ask, chat
from vl3ref.cli.eval import evaluate
from vl3ref.cli.files import convert, download, inspect
from vl3ref.cli.parity import parity
from vl3ref.cli.printing import note, say, show_warning
from vl3ref.cli.train import train
from vl3ref.cli.watch import watch
from vl3ref.errors import VL3Error

LESS = "a smaller --visual-tokens or fewer --max-frames; in training, a smaller --pack"
"""What needs less memory."""

LONGEST = 600
"""Characters of an error. Paths and values in it may be thousands; its beginning and its end say what to do."""

UsageError: Any = typer.BadParameter.__base__
"""click's; newer typers bring a click of their own."""

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
for command in (ask, chat, watch, inspect, download, convert, parity, train):
    app.command()(command)
app.command("eval")(evaluate)


def run(arguments: list[str] | None) -> int:
    """Run a command and return its exit code (see `vl3ref.cli.main`)."""
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a character that cannot be read or shown must not end the answer
    with warnings.catch_warnings():
        warnings.showwarning = show_warning
        try:
            return app(arguments, prog_name="vl3ref", standalone_mode=False) or 0
        except UsageError as error:
            return _usage(error)
        except (VL3Error, OSError) as error:
            return _fail(str(error))
        except MemoryError:
            return _fail(f"out of memory; try {LESS}")
        except RuntimeError as error:
            if type(error).__name__ != "OutOfMemoryError":  # torch's, by name: torch may not be imported
                raise
            return _fail(f"out of memory on the GPU; try --dtype bfloat16, {LESS}")


def _usage(error: Any) -> int:
    if type(error).__name__ == "NoArgsIsHelpError":  # the help is printed already
        return 2
    path = error.ctx.command_path if error.ctx else "vl3ref"
    return _fail(f"{error.format_message().rstrip('.')} (see {path} --help)")


def _fail(message: str) -> int:
    if len(message) > LONGEST:
        message = f"{message[: LONGEST - 200]} ... {message[-180:]}"
    note(f"error: {message}")
    return 2


def _print_version(wanted: bool) -> bool:
    if wanted:
        from vl3ref import __version__

        say(f"vl3ref {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def about(
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True)] = False,
) -> None:
    """VideoLLaMA 3 in plain PyTorch."""
