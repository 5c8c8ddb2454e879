"""Checks of notebook 2, any resolution."""

from collections.abc import Callable

import torch
from check import NotYet, same

SIDE = 14
"""Pixels of a patch."""


def exercise_1(tokens_of: Callable[[int, int, int], int]) -> None:
    cases = [
        (28, 28, 1),
        (28, 28, 2),
        (300, 451, 1),
        (300, 451, 2),
        (720, 1280, 2),
        (35, 49, 1),
        (10, 500, 2),
        (5, 5, 1),
    ]
    for height, width, merge in cases:
        unit = SIDE * merge
        wanted = max(round(height / unit), 1) * max(round(width / unit), 1)
        same(tokens_of(height, width, merge), wanted, f"tokens_of({height}, {width}, {merge})")


def exercise_2(padding: Callable[[list[tuple[int, int]], int], tuple[float, float]]) -> None:
    cases = [
        ([(4, 6)], 2),
        ([(2, 2), (4, 8)], 1),
        ([(10, 10), (2, 30), (9, 11), (3, 3), (30, 2)], 2),
        ([(5, 7)] * 4, 3),
    ]
    for grids, size in cases:
        given = padding(list(grids), size)
        if not isinstance(given, tuple) or len(given) != 2:
            raise NotYet(f"padding({grids}, {size}) should return two shares, not {given!r}")
        by_size = sorted(grids, key=lambda grid: grid[0] * grid[1])
        batches = [by_size[start : start + size] for start in range(0, len(grids), size)]
        for name, share, wanted in zip(
            ("of one batch", f"of batches of {size}"), given, (_share([grids]), _share(batches)), strict=True
        ):
            same(torch.tensor(float(share)), torch.tensor(wanted), f"the share {name}, for {grids},")


def _share(batches: list[list[tuple[int, int]]]) -> float:
    real = sum(rows * columns for batch in batches for rows, columns in batch)
    every = sum(len(x) * max(rows for rows, _ in x) * max(columns for _, columns in x) for x in batches)
    return 1 - real / every


def exercise_3(box_of: Callable[..., tuple[float, float, float, float]]) -> None:
    for rows, columns, merge, height, width in ((2, 3, 1, 28, 42), (4, 6, 2, 100, 90), (6, 3, 3, 50, 200)):
        index = 0
        for top in range(0, rows, merge):
            for left in range(0, columns, merge):
                for row in range(top, top + merge):
                    for column in range(left, left + merge):
                        given = box_of(index, rows, columns, merge, height, width)
                        if given is None or given is ...:
                            raise NotYet("the function returns nothing yet")
                        wide, high = width / columns, height / rows
                        wanted = (column * wide, row * high, (column + 1) * wide, (row + 1) * high)
                        what = f"the box (left, top, right, bottom) of patch {index} of {rows} x {columns} merged by {merge}"
                        same(torch.tensor([float(x) for x in given]), torch.tensor(wanted), what)
                        index += 1
