"""The two parts that a machine's arithmetic bounds: encoding frames, and reading a prompt."""

from typing import Any

import torch
from torch import Tensor

from vl3ref.bench.count import language_operations, language_shapes, vision_operations, vision_shapes
from vl3ref.bench.limits import Products
from vl3ref.bench.measure import in_turn, timed
from vl3ref.bench.result import Row, close
from vl3ref.bench.settings import Pair, drawn_ids, drawn_pixels
from vl3ref.generation import stream
from vl3ref.model.language_model import LanguageModel
from vl3ref.model.videollama3 import VideoLLaMA3

Video = tuple[Tensor, Tensor, Tensor]
"""pixel_values, grid_sizes, merge_sizes."""


@torch.no_grad()
def encode(model: VideoLLaMA3, video: Video) -> Tensor:
    return model.vision_encoder(*video)


@torch.no_grad()
def encode_theirs(reference: Any, video: Video) -> Tensor:
    pixels, *sizes = video
    grid_sizes, merge_sizes = (size.to(pixels.device) for size in sizes)  # where it computes positions from them
    encoder = reference.model.vision_model
    return encoder(pixel_values=pixels, grid_thw=grid_sizes, merge_sizes=merge_sizes).last_hidden_state


def prefill(decoder: LanguageModel, ids: Tensor) -> int:
    """A text up to its first new token, as everybody generates: the cache is filled, one row of logits is made."""
    return next(stream(decoder, ids, max_new_tokens=1))[1]


@torch.no_grad()
def prefill_theirs(reference: Any, ids: Tensor) -> int:
    return int(logits_theirs(reference, input_ids=ids[None], use_cache=True).argmax())


@torch.no_grad()
def logits_theirs(reference: Any, **given: Any) -> Tensor:
    """(vocab,) of the last token. transformers' own forward makes those of every token: at 512 tokens that costs as
    much as four of the 2B's layers, and would be all that is compared."""
    return reference.lm_head(reference.model(**given).last_hidden_state[0, -1])


def vision(pair: Pair) -> list[Row]:
    """The vision encoder on frames of noise, the projector left out."""
    settings, config = pair.settings, pair.ours.config.vision
    frame = settings.rows * settings.columns
    video = _placed(pair, settings.frames)
    products = Products(pair.device, settings.torch_dtype, vision_shapes(config, settings.frames * frame))
    samples = in_turn(
        {
            "ours": timed(lambda: encode(pair.ours, video), pair.device),
            "theirs": timed(lambda: encode_theirs(pair.theirs, video), pair.device),
            **products.candidates(),
        },
        settings.repeats,
        settings.budget,
    )
    return [
        Row(
            "vision",
            f"{settings.frames} frames of {settings.rows}×{settings.columns} patches, "
            f"{config.num_hidden_layers} layers",
            samples["ours"],
            samples["theirs"],
            work=vision_operations(config, [frame] * settings.frames).total,
            limits=products.limits(samples),
            checks=[close("features", encode(pair.ours, video), encode_theirs(pair.theirs, video))],
            numbers={"frames per second": settings.frames / samples["ours"].median},
        )
    ]


def reading(pair: Pair) -> list[Row]:
    """A prompt of drawn text through the decoder into its cache, and the logits of its last token."""
    settings, config = pair.settings, pair.ours.config.language
    decoder = pair.ours.language_model
    ids = drawn_ids(pair.ours.config, settings.tokens).to(pair.device)
    products = Products(pair.device, settings.torch_dtype, language_shapes(config, settings.tokens))
    samples = in_turn(
        {
            "ours": timed(lambda: prefill(decoder, ids), pair.device),
            "theirs": timed(lambda: prefill_theirs(pair.theirs, ids), pair.device),
            **products.candidates(),
        },
        settings.repeats,
        settings.budget,
    )
    logits = last_logits(decoder, ids), last_logits_theirs(pair.theirs, ids)
    return [
        Row(
            "prefill",
            f"{settings.tokens} tokens, {config.num_hidden_layers} layers",
            samples["ours"],
            samples["theirs"],
            work=language_operations(config, [settings.tokens]).total,
            limits=products.limits(samples),
            checks=[close("logits", *logits)],
            numbers={"tokens per second": settings.tokens / samples["ours"].median},
        )
    ]


@torch.no_grad()
def last_logits(decoder: LanguageModel, ids: Tensor) -> Tensor:
    """(vocab,) of a text's last token."""
    return decoder(ids, [len(ids)], logits_to_keep=1)[0]


def last_logits_theirs(reference: Any, ids: Tensor) -> Tensor:
    return logits_theirs(reference, input_ids=ids[None])


def _placed(pair: Pair, frames: int) -> Video:
    """Drawn frames on the models' device; what lays out the work stays on the CPU for ours and theirs alike."""
    pixels, grid_sizes, merge_sizes = drawn_pixels(pair.ours.config, frames, pair.settings.rows, pair.settings.columns)
    return pixels.to(pair.device), grid_sizes, merge_sizes
