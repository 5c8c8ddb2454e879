"""A screen recording, where most frames repeat the one before: what that saves, and that it changes nothing."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from vl3ref.bench.asking import any_processor
from vl3ref.bench.clips import screen_frames
from vl3ref.bench.measure import in_turn, timed
from vl3ref.bench.result import Check, Row, close
from vl3ref.bench.settings import Pair
from vl3ref.bench.towers import logits_theirs
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.model_inputs import ModelInputs
from vl3ref.parity.reference import twin_inputs

EVERY = 6
"""Frames from one change of the page to the next."""


def screen(pair: Pair) -> list[Row]:
    """A recording beside transformers, and beside a clip of as many frames that all differ; from pixels to the first
    token's logits."""
    settings, model = pair.settings, pair.ours
    inputs = _inputs(pair, EVERY)
    moving = _inputs(pair, 1)
    given = twin_inputs(model, inputs)
    pixels = {key: value.to(pair.device) for key, value in given.items()}
    samples = in_turn(
        {
            "ours": timed(lambda: logits(model, inputs), pair.device),
            "theirs": timed(lambda: logits_theirs(pair.theirs, **pixels), pair.device),
            "moving": timed(lambda: logits(model, moving), pair.device),
        },
        settings.repeats,
        settings.budget,
    )
    rows, numbers = _counted(model, inputs)
    theirs = logits_theirs(pair.theirs, **pixels)
    same = [close("logits", logits(model, inputs), theirs), _repeats_are_identical(model, inputs)]
    moving_rows, _ = _counted(model, moving)
    size = f"{settings.frames} frames of {_grid(inputs)} patches"
    return [
        Row(
            "screen",
            f"recording, {size}, a change every {EVERY}",
            samples["ours"],
            samples["theirs"],
            checks=same,
            notes=[rows],
            numbers=numbers,
        ),
        Row("screen", f"as many frames that all differ, {size}", samples["moving"], notes=[moving_rows]),
    ]


@torch.no_grad()
def logits(model: VideoLLaMA3, inputs: ModelInputs) -> Tensor:
    """(vocab,) after the last token."""
    found = model(inputs, logits_to_keep=1).logits
    assert found is not None
    return found[0]


def _inputs(pair: Pair, every: int) -> ModelInputs:
    settings = pair.settings
    frames = screen_frames(settings.frames, settings.rows * 14, settings.columns * 14, every)
    content = [{"type": "video", "video": frames, "fps": 1}, {"type": "text", "text": "What changes?"}]
    return any_processor(settings)([{"role": "user", "content": content}]).to(pair.device)


def _counted(model: VideoLLaMA3, inputs: ModelInputs) -> tuple[str, dict[str, int]]:
    """How much of it reached the blocks of the encoder, the projector and the decoder."""
    assert inputs.grid_sizes is not None
    frames, rows, columns = inputs.grid_sizes[0].tolist()
    layers = (model.vision_encoder.encoder.layers[0], model.projector)
    with _rows_of(layers[0]) as patches, _rows_of(layers[1]) as projected:
        logits(model, inputs)
    kept = int(model.keep_mask(inputs).sum())
    numbers = {
        "frames": frames,
        "frames encoded": sum(patches) // (rows * columns),
        "visual tokens": sum(inputs.tokens_per_visual()),
        "kept": kept,
        "projected": sum(projected),
    }
    text = (
        f"{numbers['frames encoded']} of {frames} frames encoded; {kept} of {numbers['visual tokens']} visual tokens "
        f"kept, {numbers['projected']} projected"
    )
    return text, numbers


@torch.no_grad()
def _repeats_are_identical(model: VideoLLaMA3, inputs: ModelInputs) -> Check:
    """All features are those that the encoder gives when it encodes every frame, repeated or not."""
    encoder = model.vision_encoder
    given = (inputs.pixel_values, inputs.grid_sizes, inputs.merge_sizes)
    features = encoder(*given)
    encoder.reuse_frames = False
    try:
        identical = torch.equal(features, encoder(*given))
    finally:
        encoder.reuse_frames = True
    return Check(f"features are {'' if identical else 'not '}those of every frame encoded by itself", identical)


@contextmanager
def _rows_of(module: nn.Module) -> Iterator[list[int]]:
    """Rows of everything that goes into a module while a `with` block runs."""
    rows: list[int] = []
    hook = module.register_forward_pre_hook(lambda _, arguments: rows.append(len(arguments[0])))
    try:
        yield rows
    finally:
        hook.remove()


def _grid(inputs: ModelInputs) -> str:
    assert inputs.grid_sizes is not None
    _, rows, columns = inputs.grid_sizes[0].tolist()
    return f"{rows}×{columns}"
