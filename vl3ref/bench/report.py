"""Rows as a table: in the terminal, as Markdown, as JSON."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from vl3ref.bench.curves import Curve
from vl3ref.bench.measure import Samples
from vl3ref.bench.result import Limit, Row, verdict

HEADINGS = ("part", "case", "ours", "theirs", "theirs / ours", "of the limit", "output")
LEFT = ("part", "case", "output")
WHOLE = ("part", "theirs / ours", "of the limit", "output")


@dataclass(frozen=True)
class Report:
    """Everything that was measured.

    Attributes:
        rows: in the order of measuring.
        curves: against a size each.
        skipped: parts that could not be measured, and why.
        about: command, settings, machine, versions.
    """

    rows: list[Row]
    curves: list[Curve]
    skipped: dict[str, str]
    about: dict[str, Any]

    @property
    def unequal(self) -> list[str]:
        """What the two sides did not compute alike."""
        checks = [(row.part, check) for row in self.rows for check in row.checks]
        checks += [(curve.name, check) for curve in self.curves for check in curve.checks]
        return [f"{part}: {check.what}" for part, check in checks if not check.passed]

    def table(self) -> Table:
        table = Table(title="ours beside others", caption=self._notes("\n"), caption_justify="left", box=SIMPLE_HEAD)
        for heading in HEADINGS:
            table.add_column(heading, justify="left" if heading in LEFT else "right", no_wrap=heading in WHOLE)
        for row in self.rows:
            table.add_row(*cells(row), style=None if row.equal else "red")
        for curve in self.curves:
            table.add_section()
            for point in curve.cells():
                table.add_row(*point)
        return table

    def markdown(self) -> str:
        lines = ["# vl3ref bench", "", f"`{self.about['command']}`", ""]
        lines += [f"- {key}: {_plain(value)}" for key, value in self.about.items() if key != "command"]
        lines += ["", "Medians of interleaved runs; the quartiles are in brackets.", ""]
        lines += ["| " + " | ".join(HEADINGS) + " |", "|---" * len(HEADINGS) + "|"]
        lines += ["| " + " | ".join(cells(row)) + " |" for row in self.rows]
        lines += ["| " + " | ".join(point) + " |" for curve in self.curves for point in curve.cells()]
        if notes := self._notes("\n- "):
            lines += ["", f"- {notes}"]
        return "\n".join(lines) + "\n"

    def json(self) -> str:
        content = {
            "about": self.about,
            "equal": not self.unequal,
            "skipped": self.skipped,
            "rows": [_row(row) for row in self.rows],
            "curves": [asdict(curve) for curve in self.curves],
        }
        return json.dumps(content, indent=1, default=str) + "\n"

    def _notes(self, between: str) -> str:
        """What the rows say beside their numbers, each sentence once, and what the limits were."""
        notes = []
        for row in self.rows:
            compared = "; ".join(check.what for check in row.checks)
            said = [note for note in (compared, *row.notes) if note]
            notes += [f"{row.part}, {row.case}: {'; '.join(said)}"] * bool(said)
            notes += [f"{row.part}: {_limit(row, limit)}" for limit in row.limits]
        for curve in self.curves:
            notes += [f"{curve.name}, peaks above {curve.memory}: {check.what}" for check in curve.checks]
        notes += [f"{part} was left out: {why}" for part, why in self.skipped.items()]
        return between.join(dict.fromkeys(notes))


def cells(row: Row) -> tuple[str, ...]:
    """A row in the order of `HEADINGS`."""
    fraction = row.fraction(row.limits[0]) if row.limits else None
    return (
        row.part,
        row.case if row.rival == "transformers" else f"{row.case}; theirs: {row.rival}",
        spread(row.ours, row.unit),
        "" if row.theirs is None else spread(row.theirs, row.unit),
        "" if row.ratio is None else f"{row.ratio:.2f}",
        "" if fraction is None else f"{fraction:.0%}",
        verdict(row.checks),
    )


def spread(samples: Samples, unit: str) -> str:
    """The median and, in brackets, the quartiles."""
    scale, name = _scale(samples.median, unit)
    low, high = (f"{value / scale:.3g}" for value in samples.quartiles)
    return f"{samples.median / scale:.3g} {name} ({low} to {high})"


def _scale(value: int | float, unit: str) -> tuple[float, str]:
    if unit == "B":
        return (2.0**30, "GiB") if value >= 2**30 else (2.0**20, "MiB")
    return (1.0, "s") if value >= 1 else (1e-3, "ms") if value >= 1e-3 else (1e-6, "µs")


def _limit(row: Row, limit: Limit) -> str:
    fraction = row.fraction(limit)
    reached = "" if fraction is None else f"; ours reaches {fraction:.0%}"
    their = None if row.theirs is None or row.work is None else row.work / row.theirs.median / limit.rate
    theirs = "" if their is None else f", {row.rival} {their:.0%}"
    return f"{limit.name}: {limit.rate / 1e9:.4g} G{limit.unit}/s{reached}{theirs}"


def _row(row: Row) -> dict[str, Any]:
    limits = [
        {**asdict(limit), "rate": limit.rate, "fraction": row.fraction(limit)} for limit in row.limits
    ]  # raw samples are among asdict's
    described = {key: value for key, value in asdict(row).items() if key not in ("ours", "theirs", "limits")}
    sides = {name: getattr(row, name) for name in ("ours", "theirs")}
    return {
        **described,
        "equal": row.equal,
        "ratio": row.ratio,
        "limits": limits,
        **{name: None if side is None else _samples(side) for name, side in sides.items()},
    }


def _samples(samples: Samples) -> dict[str, Any]:
    return {"median": samples.median, "quartiles": samples.quartiles, "values": samples.values}


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(inner)}" for key, inner in value.items() if inner is not None)
    return " ".join(map(_plain, value)) if isinstance(value, list | tuple) else str(value)
