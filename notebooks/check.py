"""Says whether an exercise's answer is right, and where it is not.

check("4.1", my_function)

What each exercise is checked against stands in exercises/, a file for each notebook; a solution of each in solutions/.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor


class NotYet(Exception):
    """Why an answer is not right; one sentence for the reader."""


def check(name: str, answer: Any) -> None:
    """Print whether an answer is right, and where it is not.

    Args:
        name: "4.1" is the first exercise of notebook 4.
        answer: what the exercise asks for: a function, a module, a number ...
    """
    notebook, number = name.split(".")
    try:
        right_if: Callable[[Any], None] = getattr(import_module(f"exercises.n{int(notebook):02}"), f"exercise_{number}")
        if answer is None or answer is ...:
            raise NotYet("there is nothing yet: fill in the cell above, in place of the dots")
        right_if(answer)
    except NotYet as error:
        print(f"{name} not yet: {error}")
    except Exception as error:  # of the reader's own code
        print(f"{name} not yet: it raised {type(error).__name__}: {error}")
    else:
        print(f"{name} is right.")


def same(given: Any, wanted: Any, what: str = "it", tolerance: float = 1e-5) -> None:
    """
    Raises:
        NotYet: the two differ; says by how much and where.
    """
    if given is None or given is ...:
        raise NotYet(f"{what} is missing: the function returns nothing yet")
    if not isinstance(wanted, Tensor):
        if given != wanted:
            raise NotYet(f"{what} should be {wanted!r}, not {given!r}")
        return
    if not isinstance(given, Tensor):
        raise NotYet(f"{what} should be a tensor, not {type(given).__name__}")
    if given.shape != wanted.shape:
        raise NotYet(f"{what} should have the shape {tuple(wanted.shape)}, not {tuple(given.shape)}")
    difference = (given.double() - wanted.double()).abs()
    if not bool((difference <= tolerance * max(1.0, float(wanted.double().abs().max()))).all()):  # NaN is no less
        place = tuple(int(i) for i in torch.unravel_index(difference.nan_to_num(torch.inf).argmax(), wanted.shape))
        raise NotYet(f"{what} is wrong most at {place}: {float(given[place]):.6g}, not {float(wanted[place]):.6g}")
