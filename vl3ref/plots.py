"""Pictures of what the model sees and does, for `vl3ref inspect`, the notebooks and slides.

matplotlib draws them, which is an extra: pip install "vl3ref[plots]".

Every function returns a matplotlib Figure: show it, or `figure.savefig("name.png")`. Small frames are enlarged, each of
their pixels to a square, so that nothing is seen that the model does not get.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from vl3ref.extras import import_extra
from vl3ref.inspection import Seen, dim, seconds

WIDTH = 10.0
"""Inches of a figure: at 150 dots an inch, a slide's 1,500 pixels."""

GAP, CAPTION = 0.06, 0.2
"""Inches between frames, and of the line below one."""


def import_pyplot() -> Any:
    return import_extra("matplotlib.pyplot", "plots", "pictures are drawn by matplotlib")


def frames(
    pictures: UInt8[np.ndarray, "frames height width 3"],
    titles: Sequence[str] = (),
    columns: int | None = None,
    width: float = WIDTH,
) -> Any:
    """Frames side by side, in rows.

    Args:
        titles: one below each frame, or none.
        columns: frames in a row; default: about as many as there are rows, six at least.
    """
    count, height, across, _ = pictures.shape
    columns = columns or min(count, max(6, math.ceil(math.sqrt(count))))
    rows = math.ceil(count / columns)
    cell = width / columns
    shown = (cell - GAP, (cell - GAP) * height / across)
    row = shown[1] + GAP + (CAPTION if titles else 0)
    figure = import_pyplot().figure(figsize=(width, rows * row), dpi=150)
    for place, picture in enumerate(pictures):
        left, top = place % columns * cell + GAP / 2, (rows - place // columns) * row - GAP / 2
        axis = figure.add_axes(
            (left / width, (top - shown[1]) / (rows * row), shown[0] / width, shown[1] / (rows * row))
        )
        axis.imshow(picture, interpolation="nearest" if across < 400 else "antialiased")
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
        axis.set_xlabel(titles[place] if titles else "", fontsize=8, labelpad=2)
    return figure


def contact_sheet(seen: Seen, width: float = WIDTH) -> Any:
    """All frames as the model gets them, dropped tokens dimmed; below each its time, and kept tokens of all."""
    dimmed = [dim(picture, keep) for picture, keep in zip(seen.pictures(), seen.keep, strict=True)]
    per_frame = zip(seen.times, seen.kept_per_frame, strict=True)
    titles = [f"{seconds(time)}  {kept}/{seen.tokens_per_frame}".strip() for time, kept in per_frame]
    return frames(np.stack(dimmed), titles, width=width)


def patches(seen: Seen, frame: int = 0, width: float = 5.0) -> Any:
    """One frame with its patches (thin lines) and visual tokens (thick lines)."""
    picture = seen.pictures()[frame]
    _, rows, columns = seen.grid
    figure = frames(picture[None], columns=1, width=width)
    axis, side, thick = figure.axes[0], picture.shape[0] / rows, min(1.6, 40 / columns)
    for count, draw in ((rows, axis.axhline), (columns, axis.axvline)):
        for line in range(count + 1):
            draw(line * side - 0.5, color="white", linewidth=thick if line % seen.merge == 0 else thick / 4)
    return figure


def heat(
    pictures: UInt8[np.ndarray, "frames height width 3"],
    values: Float[Tensor, "frames rows columns"],
    titles: Sequence[str] = (),
    width: float = WIDTH,
) -> Any:
    """Values drawn on the frames that they belong to: attention, errors, differences. The largest of all is opaque."""
    figure = frames(pictures, titles, width=width)
    top = max(float(values.max()), 1e-12)
    _, height, across, _ = pictures.shape
    for axis, one in zip(figure.axes, values.float().cpu().numpy(), strict=False):
        axis.imshow(
            one,
            cmap="inferno",
            vmin=0,
            vmax=top,
            alpha=np.clip(one / top, 0.15, 0.8),
            interpolation="nearest",
            extent=(-0.5, across - 0.5, height - 0.5, -0.5),
        )
    return figure


def colours(
    features: Float[Tensor, "tokens dim"], frames: int, rows: int, columns: int
) -> UInt8[np.ndarray, "frames rows columns 3"]:
    """Features as pictures, a pixel for each token: the three directions in which they vary most are red, green, blue.

    What is alike has one colour. The colours of two calls are not the same directions.
    """
    centred = (features - features.mean(dim=0)).double().cpu()
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)
    values = centred @ directions[:3].T
    values = torch.nn.functional.pad(values, (0, 3 - values.shape[1]))  # of fewer than three tokens
    values = values * torch.sign(values.gather(0, values.abs().argmax(0, keepdim=True)))  # a direction has no sign
    low, high = values.quantile(0.01, dim=0), values.quantile(0.99, dim=0)
    levels = ((values - low) / (high - low).clamp(min=1e-12)).clamp(0, 1) * 255
    return levels.round().to(torch.uint8).reshape(frames, rows, columns, -1).numpy()


def matrix(
    values: Float[Tensor, "rows columns"],
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    title: str = "",
    diverging: bool = False,
    width: float = 6.0,
) -> Any:
    """A matrix as colours, with names beside its rows and below its columns."""
    pyplot = import_pyplot()
    shown = values.float().cpu().numpy()
    size = (width, width * max(0.25, min(1.2, len(shown) / shown.shape[1])))
    figure, axis = pyplot.subplots(figsize=size, layout="constrained", dpi=150)
    most = float(np.abs(shown).max()) or 1.0
    limits = {"cmap": "RdBu_r", "vmin": -most, "vmax": most} if diverging else {"cmap": "viridis"}
    figure.colorbar(axis.imshow(shown, aspect="auto", interpolation="nearest", **limits))
    for names, place in ((rows, axis.set_yticks), (columns, axis.set_xticks)):
        if names:
            place(range(len(names)), labels=names, fontsize=7, **({"rotation": 90} if names is columns else {}))
    axis.set_title(title, fontsize=9)
    return figure


def lines(
    curves: Mapping[str, Any],
    x: str = "",
    y: str = "",
    title: str = "",
    log_x: bool = False,
    log_y: bool = False,
    width: float = 6.0,
) -> Any:
    """Curves by name: values in order, or (x values, y values)."""
    figure, axis = import_pyplot().subplots(figsize=(width, width * 0.6), layout="constrained", dpi=150)
    for name, curve in curves.items():
        axis.plot(*(curve if isinstance(curve, tuple) else (curve,)), label=name, linewidth=1.4)
    if len(curves) > 1:
        axis.legend(fontsize=8)
    axis.set(xlabel=x, ylabel=y, title=title, xscale="log" if log_x else "linear", yscale="log" if log_y else "linear")
    axis.grid(alpha=0.3)
    return figure
