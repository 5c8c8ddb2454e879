"""A comparison as a table: in the terminal, as Markdown, as JSON, as a plot."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from vl3ref.extras import import_extra
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
    def first_difference(self) -> str | None:
        """The first activation that is not the same bit for bit."""
        return next((row.name for row in self.rows if not row.equal), None)

    @property
    def first_divergence(self) -> str | None:
        """The first activation past the tolerance, where a mistake shows first: what goes into it is right."""
        return next(iter(self.failed), None)

    def summary(self) -> str:
        """Two or three sentences."""
        first = self.first_difference
        sentences = ["Every activation is the same bit for bit." if first is None else f"They first differ at {first}."]
        if verdicts := [row.verdict for row in self.rows if row.verdict]:
            nearer, as_near, farther = (verdicts.count(v) for v in ("nearer", "as near", "farther"))
            sentences.append(
                f"Measured against float64, ours is nearer in {nearer}, as near in {as_near} and farther in {farther} "
                f"of {len(verdicts)} activations."
            )
        past = f"{len(self.failed)} rows are past" if self.failed else "All rows are within"
        names = f": {', '.join(self.failed)}" if self.failed else ""
        sentences.append(f"{past} the relative tolerance of {self.tolerance:g}{names}.")
        return " ".join(sentences)

    def markdown(self) -> str:
        lines = [f"- {key}: {value}" for key, value in self.about.items()]
        lines += ["", self.summary(), "", "| " + " | ".join(HEADINGS) + " |", "|---" * len(HEADINGS) + "|"]
        lines += ["| " + " | ".join(cells(row)) + " |" for row in self.rows]
        if self.unpaired:
            lines += ["", "Only on one side: " + ", ".join(self.unpaired) + "."]
        return "\n".join(lines) + "\n"

    def table(self) -> Table:
        """For the terminal; rows past the tolerance are red, those that are not equal yellow."""
        table = Table(title="ours and the reference", caption=self.summary(), caption_justify="left", box=SIMPLE_HEAD)
        for heading in HEADINGS:
            table.add_column(heading, justify="left" if heading in ("activation", "we are") else "right", no_wrap=True)
        for row in self.rows:
            table.add_row(*cells(row), style="red" if row.name in self.failed else None if row.equal else "yellow")
        return table

    def json(self) -> str:
        """nan and inf, which JSON has not, are written as words; null says that nothing was measured."""

        def finite(value: Any) -> Any:
            return str(value) if isinstance(value, float) and not math.isfinite(value) else value

        content = {
            "about": self.about,
            "tolerance": self.tolerance,
            "passed": self.passed,
            "failed": list(self.failed),
            "first_difference": self.first_difference,
            "unpaired": list(self.unpaired),
            "rows": [{k: finite(v) for k, v in asdict(row).items()} | {"verdict": row.verdict} for row in self.rows],
        }
        return json.dumps(content, indent=1, default=str, allow_nan=False) + "\n"

    def plot(self, path: str | Path) -> None:
        """Errors along the data flow, on a logarithmic scale.

        Raises:
            InputError: matplotlib is not installed.
        """
        Figure = import_extra("matplotlib.figure", "plots", "plots are drawn by matplotlib").Figure
        rows = [row for row in self.rows if row.name not in ("keep_mask", "input_ids", "next_ids")]
        series: dict[str, list[float | None]] = {
            "ours from the reference": [row.relative for row in rows],
            "the reference from float64": [row.reference_error for row in rows],
            "ours from float64": [row.our_error for row in rows],
        }
        figure = Figure(figsize=(max(6.0, 0.09 * len(rows) + 4), 4.2), layout="constrained")
        axes = figure.add_subplot(yscale="log", ylabel="relative distance (rms)")
        for label, values in series.items():
            if any(values):
                axes.plot([value or math.nan for value in values], label=label, linewidth=1.4)
        step = max(1, len(rows) // 24)
        axes.set_xticks(range(0, len(rows), step), [row.name for row in rows[::step]], rotation=90, fontsize=7)
        axes.grid(alpha=0.3)
        axes.legend()
        figure.savefig(path, dpi=120, format="png")


def cells(row: Difference) -> tuple[str, ...]:
    """A row in the order of `HEADINGS`."""

    def number(value: float | None, form: str = ".1e") -> str:
        return "" if value is None else "0" if value == 0 else format(value, form)

    return (
        row.name,
        "×".join(map(str, row.shape)),
        number(row.max_abs),
        number(row.mean_abs),
        number(row.max_ulp, ".1f"),
        number(max(1 - row.cosine, 0.0)),
        number(row.our_error),
        number(row.reference_error),
        "equal" if row.equal else row.verdict or "different",
    )
