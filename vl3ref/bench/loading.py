"""Loading a checkpoint, and how much memory the two towers need: both measured in processes of their own."""

import tempfile
from pathlib import Path

import torch

from vl3ref.bench.count import parameter_bytes
from vl3ref.bench.measure import Samples
from vl3ref.bench.processes import WARM, Job, Outcome, both_sides, check_room
from vl3ref.bench.result import TOLERANCE, Check, Row, same
from vl3ref.bench.settings import Pair
from vl3ref.checkpoints import save_model
from vl3ref.parity.run import random_geometry

FEW = 3
"""Repeats of a peak of memory, which hardly varies."""


def load(pair: Pair) -> list[Row]:
    """A checkpoint file into a model, from the checkpoint's dtype to the settings'. It lies in the page cache, and
    each process has loaded a small one before, so that imports are not counted; `numbers` has what that one took."""
    settings = pair.settings
    weights = parameter_bytes(settings.config, settings.torch_dtype.itemsize)
    check_room(2 * weights, "load")
    with tempfile.TemporaryDirectory() as folder:
        _write(settings.geometry, settings.layers, settings.config.dtype, Path(folder))
        _write("tiny", 1, settings.config.dtype, Path(folder) / WARM)
        _read_once(Path(folder))
        ours, theirs = both_sides(Job("load", "ours", settings, folder), settings.repeats)
    case = f"{weights / 2**30:.2f} GiB of {settings.dtype} from {settings.config.dtype}"
    checks = [same("weights equal", ours[0].told["weights"], theirs[0].told["weights"])]
    peaks = _peaks(ours), _peaks(theirs)
    above = [peak.median / weights for peak in peaks]
    return [
        Row("load", case, _seconds(ours), _seconds(theirs), checks=checks, numbers=_first(ours, theirs)),
        Row("load", f"{case}, and every weight read once", _touched(ours), _touched(theirs), checks=checks),
        Row(
            "load",
            f"{case}: peak anonymous memory",
            peaks[0],
            peaks[1],
            unit="B",
            checks=checks,
            notes=[f"{above[0]:.3f} times the weights; transformers {above[1]:.3f} times"],
            numbers={"weights": weights, "times the weights": above},
        ),
    ]


def memory(pair: Pair) -> list[Row]:
    """Peaks above weights, inputs and cache: the vision encoder over a clip, the decoder over a prompt."""
    settings = pair.settings
    check_room(parameter_bytes(settings.config, settings.torch_dtype.itemsize), "memory")
    frames, tokens = settings.frames, settings.tokens
    video = f"vision, {frames} frames of {settings.rows}×{settings.columns} patches"
    return [
        peaks_of(video, Job("vision", "ours", settings, frames=frames)),
        peaks_of(f"prefill, {tokens} tokens", Job("prefill", "ours", settings, tokens=tokens)),
    ]


def peaks_of(case: str, job: Job) -> Row:
    settings = job.settings
    ours, theirs = both_sides(job, min(settings.repeats, FEW))
    return Row(
        "memory",
        case,
        _peaks(ours),
        _peaks(theirs),
        unit="B",
        checks=[_same_digest(ours[0], theirs[0], settings.torch_dtype)],
        notes=["peak above weights, inputs and cache"],
        numbers={"cache": ours[0].wanted, "seconds": [one.seconds for one in ours]},
    )


def _same_digest(ours: Outcome, theirs: Outcome, dtype: torch.dtype) -> Check:
    """The mean size of all features, or the next token; the parts that take the time compare every number."""
    a, b = ours.told["digest"], theirs.told["digest"]
    if isinstance(a, int):
        return Check(f"next ids {a} and {b}", a == b or dtype != torch.float32)
    return Check(f"features' mean size {a:.6g} and {b:.6g}", abs(a - b) <= TOLERANCE[dtype] * abs(b))


def _peaks(outcomes: list[Outcome]) -> Samples:
    return Samples([one.peak for one in outcomes])


def _seconds(outcomes: list[Outcome]) -> Samples:
    return Samples([one.seconds for one in outcomes])


def _first(ours: list[Outcome], theirs: list[Outcome]) -> dict[str, list[float]]:
    """Seconds of the small checkpoint, the first thing a process loads."""
    return {name: [one.told["first"] for one in side] for name, side in (("first", ours), ("their first", theirs))}


def _touched(outcomes: list[Outcome]) -> Samples:
    """With one pass over all weights: whoever only maps the file has not read it yet."""
    return Samples([one.seconds + one.told["reading"] for one in outcomes])


def _write(geometry: str, layers: int | None, dtype: str, folder: Path) -> None:
    """Drawn weights in transformers' layout, which both sides read."""
    save_model(random_geometry(geometry, layers, "cpu", getattr(torch, dtype)), folder, layout="hf")


def _read_once(folder: Path) -> None:
    """Into the page cache."""
    for file in folder.glob("*.safetensors"):
        with file.open("rb") as stream:
            while stream.read(2**24):
                pass
