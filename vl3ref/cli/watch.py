"""`vl3ref watch`."""

from typing import Annotated

import typer

from vl3ref.cli.options import Adapter, Change, Device, Dtype, load, option
from vl3ref.cli.printing import say
from vl3ref.errors import InputError, quoted


def watch(
    source: Annotated[str, typer.Argument(metavar="FILE|camera", help="A video, or camera, camera:1, ...")],
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="What to look out for.")],
    every: Annotated[float | None, option("--every", help="Seconds after which to ask again.")] = None,
    threshold: Annotated[float, option("--threshold", help="Speak above this probability (default: 0.5).")] = 0.5,
    model: Annotated[str, option("--model", help="Checkpoint (default: vl3-tiny).")] = "vl3-tiny",
    adapter: Adapter = None,
    change: Change = None,
    fps: Annotated[float | None, option("--fps", help="Frames a second (default: the checkpoint's).")] = None,
    start: Annotated[float | None, option("--start", help="Second at which a video begins.")] = None,
    end: Annotated[float | None, option("--end", help="Second at which a video stops.")] = None,
    frame_tokens: Annotated[int | None, option("--frame-tokens", help="Most visual tokens of a frame.")] = None,
    most_tokens: Annotated[int | None, option("--most-tokens", help="Most tokens held; then frames leave.")] = None,
    forget: Annotated[str, option("--forget", help="Which leave: oldest, or every=N to keep every n-th.")] = "oldest",
    system: Annotated[str | None, option("--system", help="System prompt (default: the model's).")] = None,
    max_tokens: Annotated[int, option("--max-tokens", help="Most tokens of an answer (default: 128).")] = 128,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Watch a video or a camera, and print the second and the words whenever the model speaks.

    When to speak is the model's own decision, as it is trained on streams; with --every it is asked instead, as about
    an ordinary video.
    """
    if not question.strip():
        raise InputError("the question is empty")
    from vl3ref.forgetting import read_rule
    from vl3ref.inputs.files import kind_of
    from vl3ref.inputs.sources import CAMERA
    from vl3ref.streaming import Stream

    if not CAMERA.fullmatch(source) and kind_of(source) != "video":
        raise InputError(f"{quoted(source, 300)} is a picture; watch a video, or a camera")
    rule = read_rule(forget)
    watching = Stream(
        *load(model, device, dtype, adapter, change),
        system,
        layout="stream" if every is None else "video",
        frame_tokens=frame_tokens,
        most_tokens=most_tokens,
        forget=rule,
        max_new_tokens=max_tokens,
    )
    for seconds, text in watching.watch(source, question, fps, every, start, end, threshold):
        say(f"{seconds:.1f}s  {' '.join(text.split())}")
