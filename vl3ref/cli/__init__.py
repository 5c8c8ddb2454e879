"""The command line: `vl3ref ask clip.mp4 "What happens?"`.

Only the answer goes to stdout, as it is generated; progress, notes, warnings and errors go to stderr, a line each.
Wrong input ends with one line and exit code 2, never a traceback.

    app.py           all commands, their errors        files.py         inspect, download, convert
    options.py       what several commands share       conversation.py  ask, chat
    printing.py      everything that is printed        parity.py, train.py, eval.py, watch.py
"""

import signal

from vl3ref.cli.interrupts import leaving_at_once


def main(arguments: list[str] | None = None) -> None:
    """The entry point. Leaves by SystemExit: 0, 2 for wrong input, 130 when interrupted, 141 when nobody reads stdout.

    Args:
        arguments: default: the process's, which then ends.
    """
    with leaving_at_once(then=signal.SIG_IGN if arguments is None else None):
        from vl3ref.cli.app import run  # typer and rich take a while

        raise SystemExit(run(arguments))
