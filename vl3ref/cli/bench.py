"""`vl3ref bench`: our speed and memory beside transformers', and beside what the machine can do."""

import re
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from vl3ref.cli.options import Device, Dtype, note, option, stderr
from vl3ref.errors import InputError

SIZES, RUNS, OUTPUTS = "Sizes", "Where it runs", "What it writes"
WIDTH = 140


def bench(
    parts: Annotated[
        list[str] | None,
        typer.Argument(
            help="preprocessing, vision, prefill, decode, ask, screen, load, memory (default: all that work here)."
        ),
    ] = None,
    geometry: Annotated[
        Literal["tiny", "2b", "7b"], option("--geometry", help="Of the model; its weights are drawn (default: tiny).")
    ] = "tiny",
    layers: Annotated[int | None, option("--layers", help="So many layers in each tower.")] = None,
    curves: Annotated[
        bool,
        option("--curves", help="Time and memory against frames, tokens, batch and new tokens, up to those given."),
    ] = False,
    frames: Annotated[int | None, option("--frames", help="Of the drawn video (default: 8).", panel=SIZES)] = None,
    patches: Annotated[str, option("--patches", help="Rows x columns of a frame.", panel=SIZES)] = "24x24",
    tokens: Annotated[int | None, option("--tokens", help="Of the prompt (default: 512).", panel=SIZES)] = None,
    context: Annotated[int, option("--context", help="Tokens before a decode (default: 64).", panel=SIZES)] = 64,
    new_tokens: Annotated[int | None, option("--new-tokens", help="Generated (default: 32).", panel=SIZES)] = None,
    batch: Annotated[int | None, option("--batch", help="Conversations at most (default: 8).", panel=SIZES)] = None,
    compiled: Annotated[bool, option("--compiled", help="Decode with torch.compile, too.", panel=SIZES)] = False,
    clip_seconds: Annotated[int, option("--clip-seconds", help="Of the preprocessed clip.", panel=SIZES)] = 60,
    clip_height: Annotated[int, option("--clip-height", help="Its lines of pixels; 16:9.", panel=SIZES)] = 720,
    video: Annotated[
        list[str] | None, option("--video", help="File to ask about, or drawn: 30 s; repeatable.", panel=SIZES)
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    repeats: Annotated[int, option("--repeats", help="Of every measurement (default: 5).", panel=RUNS)] = 5,
    threads: Annotated[int | None, option("--threads", help="Of torch.", panel=RUNS)] = None,
    budget: Annotated[float, option("--budget", help="Seconds after which nothing is repeated.", panel=RUNS)] = 120.0,
    json: Annotated[Path | None, option("--json", help="Everything, every raw sample too.", panel=OUTPUTS)] = None,
    markdown: Annotated[Path | None, option("--markdown", help="The table.", panel=OUTPUTS)] = None,
    plot: Annotated[Path | None, option("--plot", help="Ratios and curves, as a PNG.", panel=OUTPUTS)] = None,
) -> None:
    """Measure speed and memory beside transformers, in turn, on the same weights and inputs.

    Ends with exit code 1 if the two sides did not compute the same.
    """
    from vl3ref.bench.curves import for_curves
    from vl3ref.bench.run import run_bench
    from vl3ref.bench.settings import Settings

    rows, columns = _grid(patches)
    place = _device(device)
    sizes: dict[str, Any] = {"frames": frames, "tokens": tokens, "new_tokens": new_tokens, "batch": batch}
    settings = Settings(
        geometry,
        layers,
        rows=rows,
        columns=columns,
        context=context,
        device=place,
        dtype=dtype or ("float32" if place == "cpu" else "bfloat16"),
        repeats=repeats,
        threads=threads,
        compiled=compiled,
        clip_seconds=clip_seconds,
        clip_height=clip_height,
        videos=tuple(video or ()),
        budget=budget,
        **{name: size for name, size in sizes.items() if size is not None},
    )
    if curves:
        settings = for_curves(settings, sizes)
    with stderr.status("measuring") as status:
        command = "vl3ref " + shlex.join(sys.argv[1:])
        report = run_bench(settings, parts or (), curves, command, lambda part: status.update(f"measuring {part}"))
    # A pipe has no width of its own.
    (Console() if sys.stdout.isatty() else Console(width=WIDTH)).print(report.table())
    if json:
        json.write_text(report.json(), encoding="utf-8")
    if markdown:
        markdown.write_text(report.markdown(), encoding="utf-8")
    if plot:
        from vl3ref.bench.plots import plot as draw

        draw(report, plot)
    for path in (json, markdown, plot):
        if path:
            note(f"wrote {path}")
    for what in report.unequal:
        note(f"not equal: {what}")
    if report.unequal:
        raise typer.Exit(1)


def _grid(patches: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)[x×](\d+)", patches)
    if not found:
        raise InputError(f"--patches should be rows x columns, like 24x24, not {patches!r}")
    return int(found[1]), int(found[2])


def _device(name: str | None) -> str:
    import torch

    from vl3ref.cli.options import check_device

    check_device(name)
    return name or ("cuda" if torch.cuda.is_available() else "cpu")
