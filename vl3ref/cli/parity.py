"""`vl3ref parity`: where our numbers and transformers' part, and which are nearer the truth."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from vl3ref.cli.options import Device, Dtype, VisualTokens, check_device, load, message_parts, note, option, stderr
from vl3ref.errors import InputError

OUTPUTS = "What it writes"


def parity(
    file: Annotated[str | None, typer.Argument(help="A video or an image; drawn if none is given.")] = None,
    question: Annotated[str, typer.Argument(help="Asked about it.")] = "What happens?",
    model: Annotated[str | None, option("--model", help="Checkpoint folder or name (default: vl3-tiny).")] = None,
    random: Annotated[
        str | None, option("--random", help="2b, 7b or tiny: that geometry, with random weights.")
    ] = None,
    layers: Annotated[int | None, option("--layers", help="With --random: so many layers in each tower.")] = None,
    draw: Annotated[
        Literal["video", "image", "text"], option("--draw", help="What to draw where no file is given.")
    ] = "video",
    frames: Annotated[int, option("--frames", help="Frames of the drawn video, or of the file at most.")] = 4,
    visual_tokens: VisualTokens = 512,
    device: Device = None,
    dtype: Dtype = None,
    attention: Annotated[
        Literal["sdpa", "eager", "flash"], option("--attention", help="transformers' attention.")
    ] = "sdpa",
    exact: Annotated[bool, option("--exact", help="Run ours in the reference's order, for its very bits.")] = False,
    truth: Annotated[bool, option("--truth/--no-truth", help="Also run in float64, to see who is nearer.")] = True,
    new_tokens: Annotated[int, option("--max-tokens", help="Greedy ids to compare.")] = 8,
    tolerance: Annotated[float | None, option("--tolerance", help="Relative difference a row may have.")] = None,
    dump: Annotated[Path | None, option("--dump", help="Our activations, as safetensors.", panel=OUTPUTS)] = None,
    against: Annotated[
        Path | None, option("--against", help="Compare with these activations, not with transformers.", panel=OUTPUTS)
    ] = None,
    markdown: Annotated[Path | None, option("--markdown", help="The table.", panel=OUTPUTS)] = None,
    json: Annotated[Path | None, option("--json", help="The table, for programs.", panel=OUTPUTS)] = None,
    plot: Annotated[Path | None, option("--plot", help="The errors, as a PNG.", panel=OUTPUTS)] = None,
) -> None:
    """Compare every activation of ours with transformers', layer by layer.

    Ends with exit code 1 if a row is past the tolerance.
    """
    from vl3ref.parity.activations import load_activations, save_activations
    from vl3ref.parity.run import run_parity

    for path in (dump, markdown, json, plot):
        if path and not path.parent.is_dir():
            raise InputError(f"there is no folder {path.parent} to write {path.name} into")
    reference, given = load_activations(against) if against else (None, None)
    network, inputs, before, source = _prepare(
        file, question, model, random, layers, draw, frames, visual_tokens, device, dtype
    )
    if given is not None:
        inputs, source, before = given, f"inputs of {against}", ({}, {})
    about = _about(source, network, str(against) if against else f"transformers, {attention}", exact)
    with stderr.status("running both implementations"):
        result = run_parity(network, inputs, reference, attention, exact, truth, new_tokens, tolerance, before, about)
    report = result.report
    console = Console()
    if not console.is_terminal:
        console.width = 120  # in a file, or a pipe, there is no edge to fit to
    console.print(report.table())
    if dump:
        save_activations(dump, result.ours, inputs)
    for path, write in ((markdown, report.markdown), (json, report.json)):
        if path:
            path.write_text(write(), encoding="utf-8")
    if plot:
        report.plot(plot)
    for path in (dump, markdown, json, plot):
        if path:
            note(f"wrote {path}")
    if not report.passed:
        raise typer.Exit(1)


def _prepare(
    file: str | None,
    question: str,
    model: str | None,
    random: str | None,
    layers: int | None,
    draw: str,
    frames: int,
    visual_tokens: int | None,
    device: str | None,
    dtype: str | None,
) -> tuple[Any, Any, Any, str]:
    """The model, its input, what was compared ahead of it, and a name for the input."""
    import torch

    from vl3ref.parity.run import compare_processing, drawn_inputs, random_geometry

    if model and random:
        raise InputError("--model and --random exclude each other")
    if layers is not None and not random:
        raise InputError("--layers goes with --random")
    if random and file:
        raise InputError("a random model has no tokenizer to read a file's question with; leave the file out")
    if frames < 1:
        raise InputError(f"--frames should be at least 1, not {frames}")
    if random:
        check_device(device)
        place = device or ("cuda" if torch.cuda.is_available() else "cpu")
        network: Any = random_geometry(random, layers, place, _dtype(dtype, place))
    else:
        network, processor = load(model or "vl3-tiny", device, dtype)
    if not file:
        return network, drawn_inputs(network.config, draw, (frames, 12, 16)), ({}, {}), f"a drawn {draw}"
    from vl3ref.hub import find_checkpoint

    content: list[Any] = [*message_parts([file], None, None), {"type": "text", "text": question}]
    if content[0]["type"] == "video":
        content[0] = {**content[0], "max_frames": frames}
    conversation = [{"role": "user", "content": content}]
    overrides: dict[str, Any] = {"max_tokens": visual_tokens} if visual_tokens else {}
    inputs = processor(conversation, **overrides)
    before = compare_processing(processor, find_checkpoint(model or "vl3-tiny"), conversation, inputs)
    return network, inputs, before, file


def _dtype(name: str | None, device: str) -> Any:
    import torch

    found = getattr(torch, name, None) if name else torch.float32 if device == "cpu" else torch.bfloat16
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise InputError(f"no floating-point dtype named {name!r}; try float32, bfloat16 or float16")
    return found


def _about(source: str, network: Any, reference: str, exact: bool) -> dict[str, Any]:
    import platform

    import torch

    config, device = network.config, network.device
    about = {
        "input": source,
        "geometry": f"vision {config.vision.num_hidden_layers} x {config.vision.hidden_size}, "
        f"decoder {config.language.num_hidden_layers} x {config.language.hidden_size}",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {platform.machine()}",
        "reference": reference,
        "order": "the reference's (exact)" if exact else "fast",
        "versions": f"torch {torch.__version__}",
    }
    try:
        import transformers

        about["versions"] += f", transformers {transformers.__version__}"
    except ImportError:
        pass
    return about
