"""`vl3ref parity`: where our numbers and transformers' differ, and which are nearer to float64."""

import platform
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from vl3ref.cli.interrupts import raising
from vl3ref.cli.options import (
    Device,
    Dtype,
    VisualTokens,
    between,
    check_device,
    check_outputs,
    load,
    option,
    write_text,
)
from vl3ref.cli.printing import note, say_table, status
from vl3ref.errors import InputError, quoted
from vl3ref.files import new_file

OUTPUTS = "What it writes"

MOST = 10_000
"""Frames, or new ids, that are compared: every activation of them is held, twice or three times."""


def parity(
    file: Annotated[str | None, typer.Argument(help="A video or an image (default: a synthetic input).")] = None,
    question: Annotated[str, typer.Argument(help="Asked about it.")] = "What happens?",
    model: Annotated[str | None, option("--model", help="Checkpoint folder or name (default: vl3-tiny).")] = None,
    random: Annotated[
        str | None, option("--random", help="2b, 7b or tiny: that geometry, with random weights.")
    ] = None,
    layers: Annotated[int | None, option("--layers", help="With --random: layers in each tower.")] = None,
    synthetic: Annotated[
        Literal["video", "image", "text"], option("--synthetic", help="Kind of the synthetic input (default: video).")
    ] = "video",
    frames: Annotated[int, option("--frames", help="Frames of the synthetic video, or of the file at most.")] = 4,
    visual_tokens: VisualTokens = 512,
    device: Device = None,
    dtype: Dtype = None,
    attention: Annotated[
        Literal["sdpa", "eager", "flash"], option("--attention", help="transformers' attention.")
    ] = "sdpa",
    exact: Annotated[bool, option("--exact", help="Run ours in transformers' order, for the same bits.")] = False,
    float64: Annotated[
        bool, option("--float64/--no-float64", help="Also run in float64, to see who is nearer.")
    ] = True,
    new_tokens: Annotated[int, option("--max-tokens", help="Greedy ids to compare.")] = 8,
    tolerance: Annotated[float | None, option("--tolerance", help="Relative difference a row may have.")] = None,
    dump: Annotated[Path | None, option("--dump", help="Our activations, as safetensors.", panel=OUTPUTS)] = None,
    against: Annotated[
        Path | None, option("--against", help="Compare with these activations, not with transformers.", panel=OUTPUTS)
    ] = None,
    markdown: Annotated[Path | None, option("--markdown", help="The table.", panel=OUTPUTS)] = None,
    json: Annotated[Path | None, option("--json", help="The table, for programs.", panel=OUTPUTS)] = None,
    html: Annotated[
        Path | None, option("--html", help="A page: the first divergence, and where errors lie.", panel=OUTPUTS)
    ] = None,
    plot: Annotated[Path | None, option("--plot", help="The errors, as a PNG.", panel=OUTPUTS)] = None,
) -> None:
    """Compare every activation of ours with transformers', layer by layer.

    Ends with exit code 1 if a row is past the tolerance.
    """
    from vl3ref.parity.activations import load_activations, record, record_in_float64, save_activations
    from vl3ref.parity.compare import compare_activations
    from vl3ref.parity.exact import exact as exact_mode
    from vl3ref.parity.html import html_page
    from vl3ref.parity.processing import compare_processing
    from vl3ref.parity.reference import record_reference
    from vl3ref.parity.synthetic import random_geometry, synthetic_inputs

    check_outputs(dump, markdown, json, html, plot)
    if model and random:
        raise InputError("--model and --random exclude each other")
    if layers is not None and not random:
        raise InputError("--layers goes with --random")
    if random and file:
        raise InputError("a random model has no tokenizer to read a file's question with; leave the file out")
    between("--frames", frames, 1, MOST)
    between("--max-tokens", new_tokens, 1, MOST)
    between("--tolerance", tolerance, 0)

    processor: Any = None
    given: Any = None
    ours: dict[str, Any] = {}
    theirs: dict[str, Any] = {}
    if against:
        theirs, given = load_activations(against)
    if random:
        network: Any = random_geometry(random, layers, *_placement(device, dtype))
    else:
        network, processor = load(model or "vl3-tiny", device, dtype)
    if given is not None:
        inputs, source = given, f"inputs of {against}"
    elif file:
        from vl3ref.hub import find_checkpoint
        from vl3ref.inputs.files import file_part

        part = file_part(file)
        if part["type"] == "video":
            part["max_frames"] = frames
        conversation = [{"role": "user", "content": [part, {"type": "text", "text": question}]}]
        inputs, source = processor(conversation, max_tokens=visual_tokens), file
        ours, before = compare_processing(processor, find_checkpoint(model or "vl3-tiny"), conversation, inputs)
        theirs = theirs or before
    else:
        inputs, source = synthetic_inputs(network.config, synthetic, (frames, 12, 16)), f"a synthetic {synthetic}"

    about = {
        "input": source,
        **_describe(network),
        "reference": str(against) if against else f"transformers, {attention}",
        "order": "transformers' (exact mode)" if exact else "fast",
    }
    with status("running both implementations"):
        with exact_mode(network) if exact else nullcontext():
            ours |= record(network, inputs, new_tokens, theirs)
        if not against:
            theirs |= record_reference(network, inputs, attention, new_tokens)
        precise = record_in_float64(network, inputs, theirs) if float64 else None
    report = compare_activations(ours, theirs, precise, tolerance, about)
    say_table(report.table())
    if dump:
        save_activations(dump, ours, inputs)
    for path, write in ((markdown, report.markdown), (json, report.json)):
        if path:
            write_text(path, write())
    if html:
        write_text(html, html_page(report, ours, theirs, inputs, network.config.visual_token_ids))
    if plot:
        with raising(), new_file(plot, InputError) as fresh:
            report.plot(fresh)
    for path in (dump, markdown, json, html, plot):
        if path:
            note(f"wrote {path}")
    if not report.passed:
        raise typer.Exit(1)


def _placement(device: str | None, dtype: str | None) -> tuple[Any, Any]:
    """By default a GPU and bfloat16, or the CPU and float32."""
    import torch

    check_device(device)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    found = getattr(torch, dtype, None) if dtype else torch.float32 if device == "cpu" else torch.bfloat16
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise InputError(f"no floating-point dtype named {quoted(dtype)}; try float32, bfloat16 or float16")
    return device, found


def _describe(network: Any) -> dict[str, str]:
    from importlib import metadata

    import torch

    vision, language, device = network.config.vision, network.config.language, network.device
    versions = f"torch {torch.__version__}"
    with suppress(metadata.PackageNotFoundError):  # somebody else's activations need no transformers
        versions += f", transformers {metadata.version('transformers')}"
    return {
        "geometry": f"vision {vision.num_hidden_layers} x {vision.hidden_size}, "
        f"decoder {language.num_hidden_layers} x {language.hidden_size}",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {platform.machine()}",
        "versions": versions,
    }
