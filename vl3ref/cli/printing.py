"""Everything that commands print. Nothing that came from outside acts on the terminal or is taken for markup.

stdout gets the characters of an answer as they are, unless it is a terminal. There, and on stderr always, characters
that act (escape sequences, carriage returns, bells, bidirectional overrides) are spelled out, as \\x1b.
"""

import json
import os
import re
import sys
from contextlib import suppress
from typing import Any

from rich.console import Console
from rich.status import Status
from rich.text import Text

ACTING = {n: f"\\x{n:02x}" for n in (*range(0x20), *range(0x7F, 0xA0)) if chr(n) not in "\n\t"}
ACTING |= {n: f"\\u{n:04x}" for n in (0x061C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A))}
"""Control characters and those that turn the direction of text, spelled out."""

BROKEN_PIPE = 141
"""The exit code when nobody reads stdout any more: what a shell says of `yes | head`."""


def say(text: str, end: str = "\n") -> None:
    """Print to stdout, at once."""
    _write_out((text.translate(ACTING) if _is_terminal() else text) + end)


def note(line: str, end: str = "\n") -> None:
    """Print one line to stderr, at once. Of line breaks, only those of a list, which go on two spaces further, stay."""
    with suppress(OSError):  # a full disk or a reader who left take no notes, and the exit code says what it would have
        _write(sys.stderr, re.sub(r"\n(?!  )", r"\\n", line).translate(ACTING) + end)


def say_json(content: Any) -> None:
    """Print JSON on one line: with characters as they are, or in ASCII where stdout cannot have one of them."""
    text = json.dumps(content, ensure_ascii=False)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
        plain = not _is_terminal() or text == text.translate(ACTING)
    except UnicodeEncodeError:
        plain = False
    say(text if plain else json.dumps(content))


def say_table(table: Any, width: int | None = None) -> None:
    """Print one of rich's tables to stdout: as wide as it needs in a file or pipe, which has no edge to fit to."""
    console = _Console()
    if width is not None or not console.is_terminal:
        console.width = width or 120
    with console.capture() as printed:
        console.print(table)
    _write_out(printed.get())


def show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Replaces `warnings.showwarning`, which prints a line of code as well."""
    note("warning: " + " ".join(str(message).split()))


def status(text: str) -> Status:
    """A context within which a terminal shows what is being done."""
    return Status(Text(text.translate(ACTING).replace("\n", " ")), console=_stderr)


class _Console(Console):
    """Text is never markup."""

    def render_str(self, text: str, **options: Any) -> Text:
        return Text(text.translate(ACTING), style=options.get("style") or "", justify=options.get("justify"))


_stderr = _Console(stderr=True)


def _is_terminal() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()


def _write_out(text: str) -> None:
    try:
        _write(sys.stdout, text)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python tries once more as it ends
        raise SystemExit(BROKEN_PIPE) from None


def _write(stream: Any, text: str) -> None:
    if stream is not None:  # closed: vl3ref ask ... >&-
        stream.write(text)
        stream.flush()
