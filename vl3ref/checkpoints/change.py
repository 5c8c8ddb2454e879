"""One door for changes: a function that swaps parts of a freshly built model, before its weights are read.

    def change(model):
        model.projector = MyProjector(model.config)

A checkpoint never names code to run: whoever loads a changed model's checkpoint hands over the same function.
"""

import importlib.util
import os
import sys
import warnings
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vl3ref.errors import ChangeError, quoted
from vl3ref.files import check_regular
from vl3ref.model.videollama3 import VideoLLaMA3

Change = Callable[[VideoLLaMA3], Any]
"""Changes the model in place, and returns nothing or the model."""


def apply_change(model: VideoLLaMA3, change: Change) -> None:
    """Call it on a model whose parameters have no memory yet.

    Modules that the change makes are made on the CPU from seed 0, so that every process of a training run has the same
    values in them. A name that it adds, and that looks like one of the model's own misspelt, brings a warning.

    Raises:
        ChangeError: the change raised something, or returned something else than the model.
    """
    name = getattr(change, "__qualname__", repr(change))
    parts = {path: (part, _names(part)) for path, part in model.named_modules()}
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            result = change(model)
    except Exception as error:
        inside = error.__traceback__.tb_next if error.__traceback__ else None
        line = f" in line {inside.tb_lineno}" if inside else ""
        raise ChangeError(f"the change {name} failed{line}: {type(error).__name__}: {error}") from error
    if result is not None and result is not model:
        raise ChangeError(
            f"the change {name} should change the model in place and return nothing or the model, "
            f"not a {type(result).__name__}"
        )
    for path, (part, before) in parts.items():
        for added in sorted(_names(part) - before):
            if alike := get_close_matches(added, before, n=1, cutoff=0.8):
                where = f"{path}.{added}" if path else f"model.{added}"
                warnings.warn(f"the change {name} set {where}, which was not there; is {alike[0]} meant?", stacklevel=3)


def _names(part: nn.Module) -> set[str]:
    """Names of a module's attributes, parts and parameters."""
    return {*vars(part), *part._modules, *part._parameters, *part._buffers}


def read_change(place: str, what: str = "a change") -> Any:
    """The function that "file.py:function" names. The file is run; modules beside it can be imported from it.

    Args:
        what: it is, for messages: a `Change`, or another function of one's own.

    Raises:
        ChangeError: there is no such file or function, or the file cannot be imported.
    """
    file, _, function = place.rpartition(":") if isinstance(place, str) else ("", "", "")
    path = Path(os.path.expanduser(file)).absolute()
    if not file.endswith(".py") or not function.isidentifier():
        raise ChangeError(f"{what} is given as file.py:function, not {quoted(place)}")
    check_regular(path, ChangeError)
    spec = importlib.util.spec_from_file_location(f"vl3ref_change_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    sys.path.append(str(path.parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ChangeError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    if not callable(found := getattr(module, function, None)):
        raise ChangeError(f"{path} has no function {function}")
    return found
