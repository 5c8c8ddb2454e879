"""Solutions of notebook 2, any resolution."""


def solution_1(height: int, width: int, merge: int) -> int:
    unit = 14 * merge
    return max(round(height / unit), 1) * max(round(width / unit), 1)


def solution_2(grids: list[tuple[int, int]], size: int) -> tuple[float, float]:
    def share(batches: list[list[tuple[int, int]]]) -> float:
        real = every = 0
        for batch in batches:
            real += sum(rows * columns for rows, columns in batch)
            every += len(batch) * max(rows for rows, _ in batch) * max(columns for _, columns in batch)
        return 1 - real / every

    alike = sorted(grids, key=lambda grid: grid[0] * grid[1])
    return share([grids]), share([alike[start : start + size] for start in range(0, len(alike), size)])


def solution_3(index: int, rows: int, columns: int, merge: int, height: int, width: int) -> tuple[float, ...]:
    block, inner = divmod(index, merge**2)
    block_row, block_column = divmod(block, columns // merge)
    row, column = block_row * merge + inner // merge, block_column * merge + inner % merge
    wide, high = width / columns, height / rows
    return column * wide, row * high, (column + 1) * wide, (row + 1) * high
