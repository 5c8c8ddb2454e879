"""Checks of notebook 1, from file to words."""

from collections.abc import Callable

import torch
from check import same
from torch import Tensor

SIDE = 14
"""Pixels of a patch."""


def exercise_1(answer: Callable[[int, int, int, int], tuple[int, int]]) -> None:
    for frames, rows, columns, merge in ((1, 4, 6, 1), (1, 4, 6, 2), (180, 24, 26, 2), (3, 3, 6, 3)):
        given = (frames, rows * SIDE, columns * SIDE, merge)
        wanted = (frames * rows * columns, frames * (rows // merge) * (columns // merge))
        same(answer(*given), wanted, f"patches_and_tokens{given}")


def exercise_2(to_pictures: Callable[[Tensor, tuple[int, int, int], int], Tensor]) -> None:
    generator = torch.Generator().manual_seed(0)
    for grid, merge in (((1, 1, 1), 1), ((1, 2, 3), 1), ((2, 4, 2), 2), ((2, 3, 6), 3)):
        frames, rows, columns = grid
        size = (frames, rows * SIDE, columns * SIDE, 3)
        pictures = torch.randint(0, 256, size, generator=generator).to(torch.uint8)
        patches = []
        for picture in pictures:
            for top in range(0, rows, merge):
                for left in range(0, columns, merge):
                    for row in range(top, top + merge):
                        for column in range(left, left + merge):
                            box = picture[row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE]
                            patches.append(box.permute(2, 0, 1).flatten())
        given = to_pictures(torch.stack(patches).float() / 127.5 - 1, grid, merge)
        what = f"the pictures of a grid {grid} merged by {merge} (frame, row, column, channel)"
        same(given, pictures, what)
        same(given.dtype, torch.uint8, "the dtype")


def exercise_3(answer: Callable[[Tensor, int, Tensor], Tensor]) -> None:
    generator = torch.Generator().manual_seed(0)
    for frames, tokens in ((1, 1), (3, 4), (5, 6)):
        visual, frame_of = [False], []
        for frame in range(frames):
            visual += [False] * int(torch.randint(1, 4, (), generator=generator)) + [True] * tokens
            frame_of += [frame] * tokens
        visual += [False, False]
        keep = torch.rand(frames * tokens, generator=generator) < 0.5
        wanted, number = [], 0
        for is_visual in visual:
            if not is_visual:
                wanted.append(-1)
                continue
            if keep[number]:
                wanted.append(frame_of[number])
            number += 1
        given = answer(torch.tensor(visual), tokens, keep)
        same(given, torch.tensor(wanted), f"the frame of each place, for {frames} frames of {tokens} tokens")
