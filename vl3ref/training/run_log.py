"""What a run says about itself: progress on stderr, log.csv, skipped.log, and TensorBoard's file where it is installed.

Progress is a live bar on a terminal; elsewhere (a Slurm log, a notebook) it is a line every so often.
"""

import csv
import os
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vl3ref.errors import TrainingError
from vl3ref.files import read_bytes, writing

STEP = re.compile(r"step (\d{1,15}): ")
NUMBER = re.compile(r"-?(\d{1,30}(\.\d{1,30})?(e[+-]\d{1,3})?|nan|inf)")
COLUMNS = ("step", "loss", "learning_rate", "gradient_norm", "tokens", "targets", "skipped", "seconds")
OLD_COLUMNS = {"rate": "learning_rate", "norm": "gradient_norm", "learnt": "targets"}
"""Names in logs of earlier versions, whose rate was a share of the peak."""

SECONDS_BETWEEN_LINES = 15.0


class RunLog:
    """The log of one run. Processes other than the first write nothing.

    Args:
        folder: where the files go.
        title: what the run is called.
        steps: of the whole run.
        done: steps done already; later lines, from a run that was killed, are dropped.
        first: whether this process writes.
    """

    def __init__(self, folder: Path, title: str, steps: int, done: int, first: bool = True) -> None:
        self.folder, self.title, self.steps, self.done, self.first = folder, title, steps, done, first
        self.csv_path, self.skipped_path = folder / "log.csv", folder / "skipped.log"
        self.console = Console(stderr=True)
        self.live = first and self.console.is_terminal
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[said]}"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.live,
        )
        self.task = self.bar.add_task(title, total=steps, completed=done, said="")

    def __enter__(self) -> "RunLog":
        self.started = self.line_at = time.perf_counter()
        self.tokens = 0.0  # since the last line
        if self.first:
            with writing(self.folder, TrainingError):
                self.folder.mkdir(parents=True, exist_ok=True)
                self._take_over_csv()
                self._forget_skipped()
                self.board = _tensorboard(self.folder, self.done)
        self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.bar.stop()
        if self.first:
            with suppress(OSError):  # a disk that is full, of which `write` has said so; every line was flushed
                self.file.close()
            if self.board is not None:
                self.board.close()

    def write(self, step: int, figures: Mapping[str, int | float]) -> None:
        """A finished step: `figures` are the columns after the first."""
        if not self.first:
            return
        with writing(self.csv_path, TrainingError):
            self.table.writerow({"step": step, **{name: f"{value:.9g}" for name, value in figures.items()}})
            self.file.flush()
        if self.board is not None:
            for name, value in figures.items():
                self.board.add_scalar(name, value, step)
        self._show(step, figures)

    def skipped(self, step: int, lines: Sequence[str]) -> None:
        """Samples that could not be used: named on stderr at once, and in skipped.log."""
        for line in lines:
            self._say(f"skipped: {line}")
            with (
                writing(self.skipped_path, TrainingError),
                self.skipped_path.open("a", encoding="utf-8", errors="backslashreplace") as file,
            ):
                file.write(f"step {step}: {line}\n")

    def _show(self, step: int, figures: Mapping[str, int | float]) -> None:
        """Progress: always on the bar; as a line for the first and last step, and when it is time for one."""
        now = time.perf_counter()
        self.tokens += figures["tokens"]
        due = step in (self.done + 1, self.steps) or now - self.line_at >= SECONDS_BETWEEN_LINES
        if not (self.live or due):
            return
        said = (
            f"loss {figures['loss']:.4f}  learning rate {figures['learning_rate']:.2e}  "
            f"gradient norm {figures['gradient_norm']:.3g}  {self.tokens / (now - self.line_at):,.0f} tokens/s"
        )
        left = (now - self.started) / (step - self.done) * (self.steps - step)
        if self.live:
            self.bar.update(self.task, completed=step, said=said)
        else:
            self._say(f"{self.title} step {step}/{self.steps}  {said}  {timedelta(seconds=round(left))} left")
        self.tokens, self.line_at = 0.0, now

    def _say(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _take_over_csv(self) -> None:
        """Begin log.csv with what an earlier run of this folder wrote up to this one's first step."""
        rows, damaged = _read_rows(self.csv_path)
        self._tell(self.csv_path, damaged)
        fresh = self.csv_path.with_suffix(".tmp")
        self.file = fresh.open("w", newline="", encoding="utf-8")
        self.table = csv.DictWriter(self.file, COLUMNS)
        self.table.writeheader()
        self.table.writerows(row for row in rows if int(row["step"]) <= self.done)
        self.file.flush()
        os.replace(fresh, self.csv_path)  # the open file goes with it

    def _forget_skipped(self) -> None:
        """Drop the names of samples that this run will meet again."""
        if os.path.lexists(self.skipped_path):
            lines = _lines(self.skipped_path)
            named = [(line, int(at[1])) for line in lines if (at := STEP.match(line))]
            self._tell(self.skipped_path, len(lines) - len(named))
            fresh = self.skipped_path.with_suffix(".tmp")
            kept = "".join(f"{line}\n" for line, step in named if step <= self.done)
            fresh.write_text(kept, encoding="utf-8")
            os.replace(fresh, self.skipped_path)

    def _tell(self, path: Path, damaged: int) -> None:
        if damaged:
            self._say(f"{path} is damaged: {damaged} of its lines make no sense, and are left out")


def read_log(path: Path) -> list[dict[str, str]]:
    """The whole lines of a log.csv; none where there is no file. Torn and damaged lines are left out.

    Raises:
        TrainingError: it is no file, or cannot be read.
    """
    return _read_rows(path)[0]


def _read_rows(path: Path) -> tuple[list[dict[str, str]], int]:
    """The whole lines of a log.csv, and how many others there are; the last one may be torn."""
    if not os.path.lexists(path):
        return [], 0
    header, *lines = _lines(path) or [""]
    names = [OLD_COLUMNS.get(name, name) for name in header.split(",")]
    if not set(COLUMNS) <= set(names):
        names = list(COLUMNS)
    rows = [dict(zip(names, line.split(","), strict=False)) for line in lines]
    whole = [all(NUMBER.fullmatch(row.get(name, "")) for name in COLUMNS) and row["step"].isdigit() for row in rows]
    kept = [{name: row[name] for name in COLUMNS} for row, good in zip(rows, whole, strict=True) if good]
    return kept, whole[:-1].count(False)


def _lines(path: Path) -> list[str]:
    """Those of a text file that anything may have happened to."""
    return (
        read_bytes(path, TrainingError)
        .decode("utf-8", "backslashreplace")
        .replace("\r\n", "\n")
        .removesuffix("\n")
        .split("\n")
    )


def _tensorboard(folder: Path, done: int) -> Any:
    """A writer, or None where TensorBoard is not installed (`pip install "vl3ref[train]"`)."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=done + 1)
