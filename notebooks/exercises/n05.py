"""Checks of notebook 5, DiffFP."""

from collections.abc import Callable
from typing import Any

import torch
from check import NotYet, same
from torch import Tensor

from vl3ref.model.diff_fp import DiffFP
from vl3ref.model_inputs import ModelInputs


def exercise_1(threshold_for: Callable[[float], float]) -> None:
    for levels in (0.5, 0.05, 3.0):
        threshold = threshold_for(levels)
        if not isinstance(threshold, int | float):
            raise NotYet(f"threshold_for({levels}) should be a number, not {type(threshold).__name__}")
        for more, wanted in ((1.02, True), (0.98, False)):
            pixels = torch.zeros(2, 12)
            pixels[1] = levels * more / 127.5  # of one second frame, all of whose numbers change alike
            inputs = _video(torch.cat([torch.zeros(2, 12), torch.ones(1, 12), pixels[1:]]), [(2, 1, 2)], [1], ["video"])
            kept = bool(DiffFP(threshold)(inputs)[3])
            if kept is not wanted:
                change = f"{levels * more:.3g} levels"
                raise NotYet(f"threshold_for({levels}) {'keeps' if kept else 'drops'} a token that changes by {change}")


def exercise_2(threshold_for_budget: Callable[[Tensor, int], float]) -> None:
    generator = torch.Generator().manual_seed(0)
    change = torch.rand(3, 5, generator=generator) * 10
    change[1, 2] = change[0, 3] = change[2, 4]  # ties
    change[2, :2] = 0
    for budget in (0, 1, 4, 5, 6, 7, 12, 13, 14, 15, 100):
        candidates = sorted({0.0, *change.flatten().tolist()})
        wanted = next(x for x in candidates if int((change > x).sum()) <= budget)
        given = threshold_for_budget(change, budget)
        same(torch.as_tensor(float(given)) if given not in (None, ...) else None, torch.tensor(wanted), f"at {budget}")


def exercise_3(since_last_kept: Callable[..., Tensor]) -> None:
    slow = torch.linspace(0, 0.004, 12)[:, None, None].expand(12, 4, 12).reshape(48, 12)
    generator = torch.Generator().manual_seed(0)
    fast = torch.randn(5 * 8, 12, generator=generator) * torch.tensor([1e-4, 3e-4, 1e-3, 1e-2]).repeat(10)[:, None]
    picture = torch.randn(4, 12, generator=generator)
    cases: list[tuple[str, Any]] = [
        ("a slow change", ([slow], [(12, 2, 2)], [1], ["video"])),
        ("a video merged by 2", ([fast], [(5, 2, 4)], [2], ["video"])),
        (
            "an image, a slow and a fast video",
            ([picture, slow, fast], [(1, 2, 2), (12, 2, 2), (5, 4, 2)], [2, 1, 1], None),
        ),
    ]
    for name, (parts, grids, merges, modals) in cases:
        inputs = _video(torch.cat(parts), grids, merges, modals or ["image", "video", "video"])
        for threshold in (0.1, 0.3):
            given = since_last_kept(inputs, None, threshold=threshold)
            same(given, _wanted(inputs, threshold), f"for {name}, at {threshold}, the mask")
            same(given.dtype, torch.bool, "the dtype")


def _wanted(inputs: ModelInputs, threshold: float) -> Tensor:
    out: list[bool] = []
    for pixels, (frames, rows, columns), merge, modal in inputs.visuals():
        places = rows * columns // merge**2
        tokens = pixels.double().view(frames, places, -1)
        last = list(tokens[0])
        out += [True] * places
        for frame in range(1, frames):
            far = [float((now - before).abs().mean()) * 255 for now, before in zip(tokens[frame], last, strict=True)]
            keep = [modal == "image" or x > threshold for x in far]
            keep[0] = keep[0] or not any(keep)
            last = [tokens[frame, n] if keep[n] else last[n] for n in range(places)]
            out += keep
    return torch.tensor(out)


def _video(pixels: Tensor, grids: list[tuple[int, int, int]], merges: list[int], modals: list[str]) -> ModelInputs:
    tokens = sum(t * h * w // m**2 for (t, h, w), m in zip(grids, merges, strict=True))
    ids, lengths = torch.ones(tokens, dtype=torch.int64), torch.tensor([tokens])
    return ModelInputs(ids, lengths, pixels, torch.tensor(grids), torch.tensor(merges), modals)
