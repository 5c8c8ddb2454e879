"""What a run says about itself: a progress bar, log.csv, skipped.log, and TensorBoard's file where it is installed."""

import csv
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

STEP = re.compile(r"step (\d+): ")
COLUMNS = ("step", "loss", "rate", "norm", "tokens", "learnt", "skipped", "seconds")


class RunLog:
    """The log of one run. Processes other than the first write nothing.

    Args:
        folder: where the files go.
        steps: of the whole run.
        done: steps done already; later lines, from a run that was killed, are dropped.
    """

    def __init__(self, folder: Path, title: str, steps: int, done: int, first: bool = True) -> None:
        self.folder, self.first, self.done = folder, first, done
        self.csv_path, self.skipped_path = folder / "log.csv", folder / "skipped.log"
        console = Console(stderr=True)
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.3f}  {task.fields[speed]:,.0f} tokens/s"),
            TimeRemainingColumn(),
            console=console,
            disable=not (first and console.is_terminal),
        )
        self.task = self.progress.add_task(title, total=steps, completed=done, loss=float("nan"), speed=0.0)
        self.last = time.perf_counter()

    def __enter__(self) -> "RunLog":
        if self.first:
            self.folder.mkdir(parents=True, exist_ok=True)
            rows = [row for row in read_log(self.csv_path) if int(row["step"]) <= self.done]
            fresh = self.csv_path.with_suffix(".tmp")
            self.file = fresh.open("w", newline="", encoding="utf-8")
            self.table = csv.DictWriter(self.file, COLUMNS)
            self.table.writeheader()
            self.table.writerows(rows)
            self.file.flush()
            os.replace(fresh, self.csv_path)  # the open file goes with it
            self._forget_skipped()
            self.board = _tensorboard(self.folder, self.done)
        self.progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.progress.stop()
        if self.first:
            self.file.close()
            if self.board is not None:
                self.board.close()

    def write(self, step: int, figures: Mapping[str, int | float]) -> None:
        """A finished step."""
        now = time.perf_counter()
        speed, self.last = figures["tokens"] / (now - self.last), now
        self.progress.update(self.task, completed=step, loss=figures["loss"], speed=speed)
        if not self.first:
            return
        self.table.writerow({"step": step, **{name: f"{value:.9g}" for name, value in figures.items()}})
        self.file.flush()
        if self.board is not None:
            for name, value in {**figures, "tokens per second": speed}.items():
                self.board.add_scalar(name, value, step)

    def skipped(self, step: int, lines: Sequence[str]) -> None:
        """Samples that could not be used: said at once, and kept."""
        for line in lines:
            self.progress.console.print(f"skipped: {line}", markup=False, highlight=False, soft_wrap=True)
            with self.skipped_path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(f"step {step}: {line}\n")

    def _forget_skipped(self) -> None:
        """Drop the names of samples that this run will meet again."""
        if self.skipped_path.exists():
            lines = self.skipped_path.read_text(encoding="utf-8").split("\n")
            kept = [line for line in lines if (at := STEP.match(line)) and int(at[1]) <= self.done]
            fresh = self.skipped_path.with_suffix(".tmp")
            fresh.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
            os.replace(fresh, self.skipped_path)


def read_log(path: Path) -> list[dict[str, str]]:
    """The whole lines of a log.csv; none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if all(row.get(name) not in (None, "") for name in COLUMNS)]


def _tensorboard(folder: Path, done: int) -> Any:
    """A writer, or None where TensorBoard is not installed (`pip install "vl3ref[train]"`)."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=done + 1)
