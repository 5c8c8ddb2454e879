"""From a video file to patches, beside decord alone and beside decord with transformers' image processor."""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vl3ref.bench.asking import any_processor, question
from vl3ref.bench.clips import RATE, SHORT_GOP, write_clip
from vl3ref.bench.measure import Samples, in_turn, timed
from vl3ref.bench.processes import Job, in_process
from vl3ref.bench.result import Check, Row, close
from vl3ref.bench.settings import MERGE, Pair
from vl3ref.inputs.videos import open_video
from vl3ref.model_inputs import ModelInputs
from vl3ref.parity.reference import reference_pixels

FRAMES_FOR_MEMORY = 8
"""Taken of every clip, however long, to see whether memory grows with its length."""

CPU = torch.device("cpu")


def preprocessing(pair: Pair) -> list[Row]:
    """A clip at one frame a second, with a key frame every second and with a single one; then memory against length."""
    seconds, height = pair.settings.clip_seconds, pair.settings.clip_height
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for name, gop in (("a key frame a second", SHORT_GOP), ("one key frame in all", seconds * RATE)):
            path = write_clip(Path(folder) / f"{gop}.mp4", seconds, height, gop)
            rows += _times(pair, path, f"{seconds} s of {height}p at 1 fps, {name}")
        return rows + _peaks(pair, Path(folder))


def _times(pair: Pair, path: Path, case: str) -> list[Row]:
    """Ours makes a whole prompt of the file; decord opens it and gives the same frames; transformers' processor resizes
    and cuts what decord gives."""
    processor, chosen = any_processor(pair.settings), open_video(path).indices
    inputs: ModelInputs = processor(question(path))
    opening: list[float] = []

    def decode() -> np.ndarray:
        start = time.perf_counter()
        reader = _reader(path)
        opening.append(time.perf_counter() - start)
        return reader.get_batch(chosen).asnumpy()

    samples = in_turn(
        {
            "ours": timed(lambda: processor(question(path)), CPU),
            "decord": timed(decode, CPU),
            "theirs": timed(lambda: _their_patches(decode(), inputs), CPU),
        },
        pair.settings.repeats,
        pair.settings.budget,
    )
    assert inputs.pixel_values is not None and inputs.grid_sizes is not None
    _, rows, columns = inputs.grid_sizes[0].tolist()
    frames = decode()
    cost = samples["ours"].median / samples["decord"].median
    equal = np.array_equal(frames, np.stack(list(open_video(path).frames())))
    return [
        Row(
            "preprocessing",
            case,
            samples["ours"],
            samples["decord"],
            rival="decord alone",
            checks=[Check(f"{len(chosen)} frames {'equal bit for bit' if equal else 'differ'}", equal)],
            notes=[
                f"the whole, to {rows}×{columns} patches a frame, costs {cost:.2f} times what decord takes to open the "
                "file and to get those frames"
            ],
            numbers={"cost over decord": cost, "decord's opening": opening},
        ),
        Row(
            "preprocessing",
            case,
            samples["ours"],
            samples["theirs"],
            rival="decord and transformers' Pillow processor",
            checks=[close("pixels", inputs.pixel_values, _their_patches(frames, inputs))],
        ),
    ]


def _peaks(pair: Pair, folder: Path) -> list[Row]:
    """Peak memory beside the pixels that are returned, of as many frames out of longer and longer clips."""
    settings = pair.settings
    longest = settings.clip_seconds
    lengths = sorted({max(longest // part, 1) for part in (4, 2, 1)})
    rows = []
    for seconds in lengths:
        path = write_clip(folder / f"{seconds}s.mp4", seconds, settings.clip_height)
        job = Job("preprocess", "ours", settings, str(path), frames=min(FRAMES_FOR_MEMORY, lengths[0]))
        found = [in_process(job) for _ in range(min(settings.repeats, 3))]
        rows.append(
            Row(
                "preprocessing",
                f"peak memory, {job.frames} frames of a clip of {seconds} s",
                Samples([one.peak for one in found]),
                unit="B",
                notes=["above the pixels that are returned"],
                numbers={"clip seconds": seconds, "pixels": found[0].wanted},
            )
        )
    return rows


def _reader(path: Path) -> Any:
    import decord

    return decord.VideoReader(str(path))


def _their_patches(frames: np.ndarray, inputs: ModelInputs) -> Tensor:
    """At the size that ours chose."""
    assert inputs.grid_sizes is not None
    _, rows, columns = inputs.grid_sizes[0].tolist()
    return reference_pixels(list(frames), (rows * 14, columns * 14), MERGE).float()
