"""Bars of the ratios, and the curves, as one PNG."""

from pathlib import Path
from typing import Any

from vl3ref.bench.curves import Curve
from vl3ref.bench.report import Report
from vl3ref.errors import InputError

LEAST = 10
"""MiB that an axis of memory shows at least: below, an allocator's moods would look like a curve."""


def plot(report: Report, path: Path) -> None:
    """
    Raises:
        InputError: matplotlib is not installed, or there is nothing to draw.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("plots need matplotlib: pip install 'vl3ref[plots]'") from None
    bars = [(f"{row.part}: {row.case}"[:60], row.ratio) for row in report.rows if row.ratio is not None]
    panels = bool(bars) + len(report.curves)
    if not panels:
        raise InputError("there is nothing to draw: no part was compared, and no curve measured")
    figure = Figure(figsize=(9, 3.4 * panels), layout="constrained")
    axes = figure.subplots(panels, 2, squeeze=False)
    if bars:
        _bars(figure, axes[0], bars)
    for curve, (time, memory) in zip(report.curves, axes[bool(bars) :], strict=True):
        _curve(curve, time, memory)
    figure.savefig(path, dpi=120)


def _bars(figure: Any, row: Any, bars: list[tuple[str, float]]) -> None:
    for axes in row:
        axes.remove()
    axes = figure.add_subplot(row[0].get_gridspec()[0, :])
    names, ratios = zip(*reversed(bars), strict=True)
    axes.barh(names, ratios, height=0.6)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("theirs / ours, medians (above 1: ours takes less)")
    axes.tick_params(axis="y", labelsize=6)


def _curve(curve: Curve, time: Any, memory: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    sizes = [point.size for point in curve.points]
    sides: dict[str, tuple[Any, Any]] = {
        "ours": ([p.seconds for p in curve.points], [p.peak for p in curve.points]),
        "transformers": ([p.their_seconds for p in curve.points], [p.their_peak for p in curve.points]),
    }
    for side, (seconds, peaks) in sides.items():
        known = [s for s in seconds if s is not None]
        if known:
            time.plot(sizes, [s.median for s in known], marker="o", markersize=3, label=side)
            low, high = zip(*(s.quartiles for s in known), strict=True)
            time.fill_between(sizes, low, high, alpha=0.2)
        mebibytes = [max(peak / 2**20, 0) for peak in peaks if peak is not None]
        if mebibytes:
            memory.plot(sizes, mebibytes, marker="o", markersize=3, label=side)
    for axes, label, least in ((time, "seconds", 0), (memory, f"MiB above {curve.memory}", LEAST)):
        axes.set_xlabel(curve.size)
        axes.set_ylabel(label)
        axes.set_title(curve.name, fontsize=9)
        axes.set_ylim(0, max(1.05 * axes.get_ylim()[1], least))
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
