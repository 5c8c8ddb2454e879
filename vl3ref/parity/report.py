"""A comparison as a table: in the terminal, as Markdown, as JSON, as a plot."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from vl3ref.errors import InputError
from vl3ref.parity.metrics import Difference

HEADINGS = ("activation", "shape", "max", "mean", "ulp", "1 - cosine", "our error", "its error", "we are")


@dataclass(frozen=True)
class Report:
    """The rows of a comparison, in the order of the data flow.

    Attributes:
        tolerance: relative difference that a row may have.
        failed: names of the rows past it.
        unpaired: names that only one of the two has.
        about: what was compared: models, input, device, versions.
    """

    rows: Sequence[Difference]
    tolerance: float
    failed: Sequence[str]
    unpaired: Sequence[str]
    about: dict[str, Any]

    @property
    def passed(self) -> bool:
        return not self.failed

    @property
    def first_parting(self) -> str | None:
        """The first activation that is not the same bit for bit."""
        return next((row.name for row in self.rows if not row.equal), None)

    def summary(self) -> str:
        """Two or three sentences."""
        parted = self.first_parting
        where = "Every activation is the same bit for bit." if parted is None else f"They part first at {parted}."
        measured = [row for row in self.rows if row.verdict]
        counts = {v: sum(row.verdict == v for row in measured) for v in ("nearer", "as near", "farther")}
        truth = (
            f" Beside float64, ours is nearer in {counts['nearer']}, as near in {counts['as near']} and farther in "
            f"{counts['farther']} of {len(measured)} activations."
            if measured
            else ""
        )
        ending = (
            f" All rows are within the relative tolerance of {self.tolerance:g}."
            if self.passed
            else f" {len(self.failed)} rows are past the relative tolerance of {self.tolerance:g}: "
            + ", ".join(self.failed)
            + "."
        )
        return where + truth + ending

    def markdown(self) -> str:
        lines = [f"- {key}: {value}" for key, value in self.about.items()]
        lines += ["", self.summary(), "", "| " + " | ".join(HEADINGS) + " |", "|---" * len(HEADINGS) + "|"]
        lines += ["| " + " | ".join(cells(row)) + " |" for row in self.rows]
        if self.unpaired:
            lines += ["", "Only on one side: " + ", ".join(self.unpaired) + "."]
        return "\n".join(lines) + "\n"

    def table(self) -> Table:
        """For the terminal; rows past the tolerance are red, those that are not equal yellow."""
        table = Table(
            title="ours beside the reference", caption=self.summary(), caption_justify="left", box=SIMPLE_HEAD
        )
        for heading in HEADINGS:
            words = heading in ("activation", "we are")
            table.add_column(heading, justify="left" if words else "right", no_wrap=True)
        for row in self.rows:
            style = "red" if row.name in self.failed else None if row.equal else "yellow"
            table.add_row(*cells(row), style=style)
        return table

    def json(self) -> str:
        content = {
            "about": self.about,
            "tolerance": self.tolerance,
            "passed": self.passed,
            "failed": list(self.failed),
            "first_parting": self.first_parting,
            "unpaired": list(self.unpaired),
            "rows": [{**_finite(asdict(row)), "verdict": row.verdict} for row in self.rows],
        }
        return json.dumps(content, indent=1, default=str, allow_nan=False) + "\n"

    def plot(self, path: str | Path) -> None:
        """Errors along the data flow, on a logarithmic scale.

        Raises:
            InputError: matplotlib is not installed.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError:
            raise InputError("plots need matplotlib: pip install 'vl3ref[plots]'") from None
        rows = [row for row in self.rows if row.shape and row.name not in ("keep_mask", "input_ids", "next_ids")]
        figure = Figure(figsize=(max(6.0, 0.09 * len(rows) + 4), 4.2), layout="constrained")
        axes = figure.add_subplot()
        if any(row.our_error is not None for row in rows):
            series = [("reference, error beside float64", [row.reference_error for row in rows])]
            series += [("ours, error beside float64", [row.our_error for row in rows])]
        else:
            series = [("ours beside the reference", [row.relative for row in rows])]
        for label, values in series:
            axes.plot([v or float("nan") for v in values], label=label, linewidth=1.4)
        axes.set_yscale("log")
        axes.set_ylabel("relative error (rms)")
        step = max(1, len(rows) // 24)
        axes.set_xticks(range(0, len(rows), step), [row.name for row in rows[::step]], rotation=90, fontsize=7)
        axes.grid(alpha=0.3)
        axes.legend()
        figure.savefig(path, dpi=120)


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """JSON has no nan and no infinity; as words they can be told from None, which says that nothing was measured."""
    return {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}


def cells(row: Difference) -> tuple[str, ...]:
    """A row in the order of `HEADINGS`."""

    def number(value: float | None) -> str:
        return "" if value is None else "0" if value == 0 else f"{value:.1e}"

    return (
        row.name,
        "×".join(map(str, row.shape)),
        number(row.max_abs),
        number(row.mean_abs),
        "0" if row.max_ulp == 0 else f"{row.max_ulp:.1f}",
        number(max(1 - row.cosine, 0.0)),
        number(row.our_error),
        number(row.reference_error),
        "equal" if row.equal else row.verdict or "different",
    )
