"""Files that come from elsewhere: what is opened at all."""

import os
import stat
from pathlib import Path

from vl3ref.errors import VL3Error, quoted


def check_regular(path: str | Path, error: type[VL3Error]) -> None:
    """Only regular files are opened: a pipe, a socket or a device may never end.

    Args:
        path: of a file, or of a link to one.
        error: raised if it does not exist, is a folder, or is something else than a file.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # ValueError: a null byte in the name
        raise error(f"{quoted(str(path), 300)} does not exist") from None
    if stat.S_ISDIR(mode):
        raise error(f"{path} is a folder, not a file")
    if not stat.S_ISREG(mode):
        raise error(f"{path} is no regular file (a pipe, a socket or a device): copy what it gives to a file first")
