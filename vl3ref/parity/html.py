"""A comparison as one HTML page that needs nothing else: no scripts, and pictures inside.

Every activation in the order of the data flow, the first past the tolerance marked and open; of each, how its error is
distributed, where it lies along the sequence, and where on the frames.
"""

import base64
import io
import math
from collections.abc import Sequence
from html import escape

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from vl3ref.inspection import Seen
from vl3ref.model_inputs import ModelInputs, VisualSource
from vl3ref.parity.activations import Activations
from vl3ref.parity.metrics import Difference
from vl3ref.parity.report import HEADINGS, Report, cells

LOWEST, HIGHEST = -10, 2
"""Powers of ten at the ends of the axes."""

MOST_FRAMES, FRAME_WIDTH, STRIP = 8, 200, 600
"""Frames shown, those where the first divergence is largest; pixels of one frame; most places along a strip."""

STYLE = """
body { font: 14px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em; color: #222 }
summary { cursor: pointer; font-family: ui-monospace, monospace; padding: .15em .4em }
summary b { display: inline-block; min-width: 26em }
.past > summary { background: #fde2e2 } .differs > summary { background: #fff6d8 }
.equal > summary { background: #eef6ee }
.first { outline: 3px solid #c2003c } .first > summary::after { content: "  <- the first past the tolerance" }
.body { padding: .5em 1.5em 1em } td, th { padding: 0 .8em 0 0; text-align: right }
.frames { display: flex; flex-wrap: wrap; gap: 6px } .frame { width: 200px; background-size: 100% 100% }
img { width: 100%; height: 100%; display: block; image-rendering: pixelated }
.strip { height: 24px; border: 1px solid #aaa }
"""


def html_page(
    report: Report,
    ours: Activations,
    reference: Activations,
    inputs: ModelInputs | None = None,
    visual_token_ids: Sequence[int] = (),
) -> str:
    """
    Args:
        report: made by `compare_activations` of the same two.
        inputs: what both computed from, for the frames.
        visual_token_ids: of the model's config; they say which rows of a sequence belong to a frame.
    """
    errors = {row.name: error_of_rows(ours[row.name], reference[row.name]) for row in report.rows}
    frames = Frames(inputs, ours.get("keep_mask"), visual_token_ids)
    order = [name for name in (report.first_divergence, *reversed(errors)) if name]
    shown = next((found for name in order if (found := frames.worst(name, errors[name]))), [])
    about = "".join(f"<tr><th>{escape(str(k))}</th><td>{escape(str(v))}</td></tr>" for k, v in report.about.items())
    rows = [
        _row(number, row, report, _histogram(ours[row.name], reference[row.name], report.tolerance), places)
        for number, row in enumerate(report.rows)
        for places in [_strip(errors[row.name], report.tolerance) + frames.heat(row.name, errors[row.name], shown)]
    ]
    unpaired = f"<p>Only on one side: {escape(', '.join(report.unpaired))}.</p>" if report.unpaired else ""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Parity</title><style>{STYLE}'
        f"{frames.styles(shown)}</style></head><body>\n<h1>Ours and the reference</h1>\n<table>{about}</table>\n"
        f"<p>{escape(report.summary())}</p>\n{_divergence(report)}{_overview(report)}\n{''.join(rows)}{unpaired}</body></html>\n"
    )


def error_of_rows(ours: Tensor, reference: Tensor) -> Float[Tensor, " rows"]:
    """Root mean square difference of each row (token or patch) over the root mean square of the whole reference."""
    a, b = (x.detach().cpu().double().reshape(*(x.shape or (1,)), 1).flatten(1) for x in (ours, reference))
    size = b.square().mean().sqrt().item() if b.numel() else 0.0
    return (a - b).square().mean(dim=1).sqrt() / (size or 1.0)


# ------------------------------------------------------------------------------------------------------------- frames


class Frames:
    """The frames of the inputs, and which rows of an activation belong to each place on them."""

    def __init__(self, inputs: ModelInputs | None, keep_mask: Tensor | None, visual_token_ids: Sequence[int]) -> None:
        self.visuals = [] if inputs is None else list(inputs.visuals())
        tokens = 0 if inputs is None else sum(inputs.tokens_per_visual())
        fits = keep_mask is not None and len(keep_mask) == tokens
        self.keep = keep_mask.cpu() if keep_mask is not None and fits else torch.ones(tokens, dtype=torch.bool)
        self.visual: Bool[Tensor, " sequence"] = self.keep[:0]
        """Which rows of the decoder's sequence, after pruning, are visual tokens."""
        if inputs is not None and visual_token_ids:
            visual = inputs.is_visual(visual_token_ids).cpu()
            if int(visual.sum()) == tokens:
                self.visual = visual[torch.ones_like(visual).masked_scatter(visual, self.keep)]

    def maps(self, name: str, errors: Float[Tensor, " rows"]) -> list[Float[np.ndarray, "height width"]]:
        """The errors as a map of each frame, nan where a token was dropped; none where the rows are no places."""
        patches = sum(t * h * w for _, (t, h, w), _, _ in self.visuals)
        if name.startswith("vision.") and len(errors) == patches:
            parts = errors.split([t * h * w for _, (t, h, w), _, _ in self.visuals])
            order = "(t h w m n) -> t (h m) (w n)"
            return [
                frame
                for x, (_, (t, h, w), m, _) in zip(parts, self.visuals, strict=True)
                for frame in rearrange(x, order, t=t, h=h // m, w=w // m, m=m, n=m).numpy()
            ]
        if len(errors) == len(self.visual):
            errors = errors[self.visual]
        if len(errors) != len(self.keep) and len(errors) == int(self.keep.sum()):
            errors = torch.full(self.keep.shape, math.nan, dtype=errors.dtype).masked_scatter(self.keep, errors)
        if len(errors) != len(self.keep):
            return []
        grids = [(t, h // m, w // m) for _, (t, h, w), m, _ in self.visuals]
        parts = errors.split([math.prod(grid) for grid in grids])
        return [frame for x, grid in zip(parts, grids, strict=True) for frame in x.view(grid).numpy()]

    def worst(self, name: str, errors: Float[Tensor, " rows"]) -> list[int]:
        """At most `MOST_FRAMES` frames in their order."""
        means = [np.nan_to_num(x).mean() for x in self.maps(name, errors)]
        return sorted(sorted(range(len(means)), key=lambda n: -means[n])[:MOST_FRAMES])

    def heat(self, name: str, errors: Float[Tensor, " rows"], shown: Sequence[int]) -> str:
        maps = self.maps(name, errors)
        top = max((float(np.nan_to_num(x).max()) for x in maps), default=0.0)
        if not top:
            return ""
        cells = [f'<div class="frame f{n}"><img alt="" src="{_heat_map(maps[n], top)}"></div>' for n in shown]
        return f"<p>On the frames (full colour is {top:.1e}):</p><div class='frames'>{''.join(cells)}</div>"

    def styles(self, shown: Sequence[int]) -> str:
        """The pictures, once each, as backgrounds."""
        rules, number = [], 0
        for patches, grid, merge, modal in self.visuals if shown else ():
            keep = torch.ones(grid[0], grid[1] // merge, grid[2] // merge, dtype=torch.bool)
            for picture in Seen(VisualSource("", 0, 0, 0), modal, grid, merge, patches.float().cpu(), keep).pictures():
                if number in shown:
                    height, width, _ = picture.shape
                    small = Image.fromarray(picture).resize((FRAME_WIDTH, max(1, FRAME_WIDTH * height // width)))
                    shape, picture_of = f"aspect-ratio: {width}/{height}", _data(small, "jpeg")
                    rules.append(f".f{number} {{ {shape}; background-image: url({picture_of}) }}")
                number += 1
        return "\n".join(rules)


def _heat_map(values: Float[np.ndarray, "rows columns"], top: float) -> str:
    """A picture of one pixel for each value: from clear to red."""
    alpha = np.nan_to_num(np.clip(values / top, 0, 1)) * 230
    red = np.broadcast_to(np.array([214, 0, 50]), (*values.shape, 3))
    return _data(Image.fromarray(np.concatenate([red, alpha[..., None]], axis=-1).astype(np.uint8), "RGBA"), "png")


def _data(picture: Image.Image, kind: str) -> str:
    file = io.BytesIO()
    picture.save(file, kind)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


# --------------------------------------------------------------------------------------------------------------- rows


def _divergence(report: Report) -> str:
    names = [row.name for row in report.rows]
    if report.first_divergence is None:
        return ""
    number = names.index(report.first_divergence)
    before = f", after {escape(names[number - 1])} was within it" if number else ""
    return (
        f'<p>The first past the tolerance is <a href="#row-{number}"><b>{escape(names[number])}</b></a>{before}.</p>\n'
    )


def _row(number: int, row: Difference, report: Report, histogram: str, places: str) -> str:
    kind = "past" if row.name in report.failed else "equal" if row.equal else "differs"
    first = row.name == report.first_divergence
    numbers = zip(HEADINGS[1:], cells(row)[1:], strict=True)
    table = "".join(f"<tr><th>{escape(heading)}</th><td>{escape(value)}</td></tr>" for heading, value in numbers)
    relative = "equal" if row.equal else f"relative difference {row.relative:.1e}"
    return (
        f'<details id="row-{number}" class="{kind}{" first" if first else ""}"{" open" if first else ""}>'
        f"<summary><b>{escape(row.name)}</b> {relative}</summary>"
        f'<div class="body"><table>{table}</table>{histogram}{places}</div></details>\n'
    )


def _histogram(ours: Tensor, reference: Tensor, tolerance: float) -> str:
    """How many elements differ by how much, in half powers of ten of the reference's root mean square."""
    a, b = (x.detach().cpu().double().flatten() for x in (ours, reference))
    apart = (a - b).abs() / (b.square().mean().sqrt().item() if b.numel() and b.any() else 1.0)
    equal, finite = int((apart == 0).sum()), apart[torch.isfinite(apart) & (apart > 0)]
    said = f"{equal} of {len(apart)} elements are equal"
    if odd := len(apart) - equal - len(finite):
        said += f", {odd} differ by what is no number"
    if not len(finite):
        return f"<p>{said}.</p>"
    bins = 2 * (HIGHEST - LOWEST)
    counts = torch.histc(finite.log10().clamp(LOWEST, HIGHEST), bins, LOWEST, HIGHEST).tolist()
    heights = [80 * count / max(counts) for count in counts]
    bars = [
        f'<rect x="{20 * n}" y="{80 - tall:.1f}" width="18" height="{tall:.1f}" fill="#47a">'
        f"<title>{int(counts[n])} elements</title></rect>"
        for n, tall in enumerate(heights)
    ]
    bars += [
        f'<text x="{40 * n}" y="95" font-size="10">1e{LOWEST + n}</text>' for n in range(0, HIGHEST - LOWEST + 1, 2)
    ]
    if tolerance > 0:
        x = 40 * (min(max(math.log10(tolerance), LOWEST), HIGHEST) - LOWEST)
        bars.append(f'<line x1="{x:.0f}" x2="{x:.0f}" y1="0" y2="82" stroke="#c2003c"/>')
    return (
        f"<p>{said}; the others differ, as a share of the root mean square, by (the line is the tolerance):</p>"
        f'<svg width="{20 * bins + 30}" height="100">{"".join(bars)}</svg>'
    )


def _strip(errors: Float[Tensor, " rows"], tolerance: float) -> str:
    """Where along the rows: the tokens of a sequence, the patches of all frames."""
    top = errors.nan_to_num(posinf=0).max().item() if len(errors) else 0.0
    if len(errors) < 2 or not top:
        return ""
    past = (~(errors <= tolerance)).nonzero().flatten().tolist()
    said = (
        f"rows past the tolerance: {len(past)}, from {past[0]} to {past[-1]}"
        if past
        else "no row is past the tolerance"
    )
    places = torch.nn.functional.adaptive_max_pool1d(errors.nan_to_num()[None], min(len(errors), STRIP))
    strip = f'<div class="strip"><img alt="" src="{_heat_map(places.numpy(), top)}"></div>'
    return f"<p>Along the {len(errors)} rows (full colour is {top:.1e}); {said}:</p>{strip}"


def _overview(report: Report) -> str:
    """Relative differences along the data flow; every dot leads to its row."""
    width, height = 1100, 200

    def y(value: float) -> float:
        power = math.log10(value) if value > 0 and math.isfinite(value) else HIGHEST if value != 0 else LOWEST
        return height * (HIGHEST - min(max(power, LOWEST), HIGHEST)) / (HIGHEST - LOWEST) + 10

    step = width / max(len(report.rows), 1)
    dots = [
        f'<a href="#row-{n}"><circle cx="{step * (n + 0.5) + 45:.0f}" cy="{y(row.relative):.0f}" '
        f'r="{6 if row.name == report.first_divergence else 3}" '
        f'fill="{"#c2003c" if row.name in report.failed else "#47a"}"><title>{escape(row.name)}</title></circle></a>'
        for n, row in enumerate(report.rows)
    ]
    grid = [
        f'<text x="0" y="{y(10.0**power) + 4:.0f}" font-size="10">1e{power}</text>'
        f'<line x1="40" x2="{width + 45}" y1="{y(10.0**power):.0f}" y2="{y(10.0**power):.0f}" stroke="#ddd"/>'
        for power in range(LOWEST, HIGHEST + 1, 2)
    ]
    limit = f"{y(report.tolerance):.0f}"
    line = f'<line x1="40" x2="{width + 45}" y1="{limit}" y2="{limit}" stroke="#c2003c"/>'
    return f'<svg viewBox="0 0 {width + 50} {height + 20}">{"".join(grid)}{line}{"".join(dots)}</svg>'
