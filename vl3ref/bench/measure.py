"""Calls in turn -> samples.

Candidates take turns (A B C, A B C, ...), so that a machine that is slower for a while is slower for all of them, and
medians are compared. A limit of the machine is a candidate like any other.
"""

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from vl3ref.errors import InputError


@dataclass(frozen=True)
class Samples:
    """Every raw value, in the order it was measured: seconds, or bytes."""

    values: list[float]

    def __post_init__(self) -> None:
        if not self.values:
            raise InputError("nothing was measured")

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The first and the third: half of all values lie between them."""
        if len(self.values) == 1:
            return self.values[0], self.values[0]
        low, _, high = statistics.quantiles(self.values, n=4, method="inclusive")
        return low, high

    def divided(self, by: int | float) -> "Samples":
        return Samples([value / by for value in self.values])


def in_turn(
    candidates: Mapping[str, Callable[[], float]], repeats: int, budget: float, warm_up: bool = True
) -> dict[str, Samples]:
    """Run every candidate once to warm up, then all of them in turn, `repeats` times.

    Args:
        candidates: each returns what it measured.
        budget: seconds. No new turn begins once turns have taken this long together; there is always one.
        warm_up: whether there is a turn that does not count.
    """
    if warm_up:
        for run in candidates.values():
            run()
    values: dict[str, list[float]] = {name: [] for name in candidates}
    start = time.perf_counter()
    with no_collection():
        for _ in range(repeats):
            for name, run in candidates.items():
                values[name].append(run())
            if time.perf_counter() - start > budget:
                break
    return {name: Samples(found) for name, found in values.items()}


def timed(run: Callable[[], object], device: torch.device, times: int = 1) -> Callable[[], float]:
    """A candidate: seconds that `run` takes, on a GPU until its last kernel is done.

    Args:
        run: what it returns is dropped.
        times: it is run in one turn; their mean counts. What takes milliseconds is measured over more of them, so that
            a turn of it sees as much of the machine's noise as the others' do.
    """

    def measured() -> float:
        synchronise(device)
        start = time.perf_counter()
        for _ in range(times):
            result = run()
        synchronise(device)
        seconds = (time.perf_counter() - start) / times
        del result  # freed outside the clock
        return seconds

    return measured


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


@contextmanager
def no_collection() -> Iterator[None]:
    """Python's garbage collector runs before and after, not within."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
