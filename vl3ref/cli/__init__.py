"""The command line: `vl3ref ask clip.mp4 "What happens?"`.

Only the answer goes to stdout, as it is generated; progress, notes, warnings and errors go to stderr, a line each.
Wrong input ends with one line and exit code 2, never a traceback.

    options.py       what several commands share       conversation.py  ask, chat
    files.py         inspect, download, convert        parity.py, train.py, eval.py
"""

import io
import sys
import warnings
from typing import Annotated

import typer

from vl3ref.cli.conversation import ask, chat
from vl3ref.cli.eval import evaluate
from vl3ref.cli.files import convert, download, inspect
from vl3ref.cli.options import note, say, show_warning
from vl3ref.cli.parity import parity
from vl3ref.cli.train import train
from vl3ref.errors import VL3Error

LESS = "a smaller --visual-tokens or fewer --max-frames; in training, a smaller --pack"
"""What needs less memory."""

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
for command in (ask, chat, inspect, download, convert, parity, train):
    app.command()(command)
app.command("eval")(evaluate)


def main(arguments: list[str] | None = None) -> None:
    """The entry point. Leaves by SystemExit: 0, 2 for wrong input, 130 when interrupted.

    Args:
        arguments: default: the process's.
    """
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a character that cannot be read or shown must not end the answer
    with warnings.catch_warnings():
        warnings.showwarning = show_warning
        try:
            app(arguments, prog_name="vl3ref")
        except (VL3Error, OSError) as error:
            _fail(str(error))
        except MemoryError:
            _fail(f"out of memory; try {LESS}")
        except RuntimeError as error:
            if type(error).__name__ != "OutOfMemoryError":  # torch's, by name: torch may not be imported
                raise
            _fail(f"out of memory on the GPU; try --dtype bfloat16, {LESS}")


def _fail(message: str) -> None:
    note(f"error: {message}")
    raise SystemExit(2)


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
