"""Parts by name -> a report."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import torch

from vl3ref.bench.asking import ask
from vl3ref.bench.curves import curves
from vl3ref.bench.decoding import decode
from vl3ref.bench.loading import load, memory
from vl3ref.bench.machine import machine, versions
from vl3ref.bench.preprocessing import preprocessing
from vl3ref.bench.report import Report
from vl3ref.bench.result import Row
from vl3ref.bench.screen import screen
from vl3ref.bench.settings import Pair, Settings
from vl3ref.bench.towers import reading, vision
from vl3ref.errors import InputError

PARTS: dict[str, Callable[[Pair], list[Row]]] = {
    "preprocessing": preprocessing,
    "vision": vision,
    "prefill": reading,
    "decode": decode,
    "ask": ask,
    "screen": screen,
    "load": load,
    "memory": memory,
}


def run_bench(
    settings: Settings,
    parts: Sequence[str] = (),
    with_curves: bool = False,
    command: str | None = None,
    progress: Callable[[str], None] = lambda part: None,
) -> Report:
    """Measure.

    Args:
        parts: names out of `PARTS`. None given: all of them, but what cannot be measured here is left out with the
            reason instead of an error (with curves: no parts, the curves alone).
        with_curves: also measure time and memory against sizes.
        command: how it was asked for, for the report.
        progress: is told what is measured next.

    Raises:
        InputError: there is no such part; a part that was asked for cannot be measured.
    """
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise InputError(f"there is no part named {', '.join(unknown)}; there are {', '.join(PARTS)}")
    threads = torch.get_num_threads()
    pair = Pair(settings)
    rows: list[Row] = []
    skipped: dict[str, str] = {}
    try:
        if settings.threads:
            torch.set_num_threads(settings.threads)
        about = _about(settings, pair, command)
        for part in parts or ([] if with_curves else PARTS):
            progress(part)
            try:
                rows += PARTS[part](pair)
            except InputError as error:
                if parts:
                    raise
                skipped[part] = str(error)
        if with_curves:
            progress("curves")
        return Report(rows, curves(pair) if with_curves else [], skipped, about)
    finally:
        torch.set_num_threads(threads)


def _about(settings: Settings, pair: Pair, command: str | None) -> dict[str, Any]:
    return {
        "command": command or " ".join(sys.argv),
        "settings": asdict(settings),
        "machine": machine(pair.device),
        "versions": versions(),
    }
