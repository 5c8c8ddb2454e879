"""Ctrl-C ends a command with exit code 130 and without a word, whatever it is doing."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def leaving_at_once(then: Any = None) -> Iterator[None]:
    """Within it, Ctrl-C ends the process on the spot.

    KeyboardInterrupt would come out of the middle of an import, where C code prints it, swallows it or makes another
    error of it. Nothing has to be cleared away then; where something has, see `raising`.

    Args:
        then: what handles Ctrl-C afterwards; default: what did before.
    """
    with _handled(_leave, then):
        yield


@contextmanager
def raising() -> Iterator[None]:
    """Within it, Ctrl-C raises KeyboardInterrupt, so that what is being written can be cleared away."""
    with _handled(signal.default_int_handler):
        yield


@contextmanager
def _handled(handler: Callable[..., Any], then: Any = None) -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before in (None, signal.SIG_IGN):
        yield  # signals are the main thread's; a process that was started to ignore them (nohup) goes on doing so
        return
    signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before if then is None else then)


def _leave(*_: object) -> None:
    if sys.stderr is not None and sys.stderr.isatty():
        os.write(sys.stderr.fileno(), b"\x1b[?25h\n")  # the cursor, which the status hides
    os._exit(130)
