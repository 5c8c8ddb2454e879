"""Libraries that come with an extra: `pip install "vl3ref[plots]"`."""

from importlib import import_module
from typing import Any

from vl3ref.errors import InputError


def import_extra(module: str, extra: str, use: str) -> Any:
    """A module of a library that only some need.

    Args:
        use: what it is for, up to the library's name: "pictures are drawn by matplotlib".

    Raises:
        InputError: it is not installed, or finds no library for this machine.
    """
    try:
        return import_module(module)
    except ImportError:
        raise InputError(f"{use}, which is not installed: pip install 'vl3ref[{extra}]'") from None
