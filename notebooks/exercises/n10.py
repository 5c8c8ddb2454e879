"""Checks of notebook 10, changes."""

from collections.abc import Callable
from typing import Any

import torch
from check import NotYet, same
from torch import Tensor, nn

from vl3ref.config import LanguageConfig, ModelConfig, VisionConfig
from vl3ref.model.initialise import random_model
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.model_inputs import ModelInputs, join

IMAGE = 3


def exercise_1(pruner: Callable[..., Tensor]) -> None:
    for modal, frames, merge in (("image", 1, 2), ("video", 1, 2), ("video", 5, 2), ("video", 4, 1)):
        inputs = _seen(modal, frames, 4, 6, merge)
        wanted = torch.zeros(frames, 24 // merge**2, dtype=torch.bool)
        for frame in range(frames):
            wanted[frame, : 1 if frame % 2 else None] = True
        same(pruner(inputs, None), wanted.flatten(), f"the mask of one {modal} of {frames} frames, merged by {merge}")
    both = join([_seen("video", 3, 4, 4, 2), _seen("image", 1, 2, 2, 2)])
    wanted = torch.tensor([1, 1, 1, 1, 1, 0, 0, 0, 1, 1, 1, 1, 1], dtype=torch.bool)
    same(pruner(both, None), wanted, "the mask of a video of three frames and an image")


def exercise_2(change: Callable[[VideoLLaMA3], Any]) -> None:
    model, changed, inputs = _small_model(), _small_model(), _seen("image", 1, 4, 6, 2)
    if not callable(change):
        raise NotYet(f"a change is a function that takes the model, not {change!r}")
    old = dict(model.named_parameters())
    if change(changed) is ...:
        raise NotYet("a change returns nothing, or the model")
    parameters = dict(changed.named_parameters())
    new = [name for name in parameters if name not in old]
    if not new:
        raise NotYet("the change adds no weights to the model")
    if missing := sorted(old.keys() - parameters.keys()):
        raise NotYet(f"the checkpoint's {missing[0]} has no place any more: it would not be loaded")
    with torch.no_grad():
        for name, value in old.items():
            parameters[name].copy_(value)  # as loading does
        wanted = model(inputs).logits
    output = changed(inputs, return_logits=True)
    same(output.logits.detach(), wanted, "the logits of the changed model")
    output.logits.pow(2).sum().backward()
    if not any(parameters[name].grad is not None and bool(parameters[name].grad.any()) for name in new):
        raise NotYet(f"no gradient reaches {', '.join(new)}: if every layer of a branch is zero, none ever will")


def exercise_3(positions: Callable[[Tensor, Tensor, list[int]], Tensor]) -> None:
    for texts in (["ttt"], ["tvvvtvvvtt"], ["tvvt", "vvtvvtt", "tt"]):
        visual = torch.tensor([letter == "v" for text in texts for letter in text])
        for drop in (None, 1, 2):  # of each frame, the n-th token
            kept, wanted = [], []
            for text in texts:
                position, place = -1, 0
                for before, letter in zip(" " + text, text, strict=False):
                    place = place + 1 if letter == "v" == before else 0
                    position += not (letter == "v" == before)
                    kept.append(letter == "t" or place != drop)
                    wanted += [position] if kept[-1] else []
            lengths = [len(text) for text in texts]
            given = positions(visual.clone(), torch.tensor(kept), lengths)
            dropped = "" if drop is None else f", token {drop} of each frame dropped"
            same(given, torch.tensor(wanted), f"the positions of {' and '.join(texts)} (t: text, v: visual{dropped})")
            same(given.dtype, torch.int64, "the dtype")


def _seen(modal: str, frames: int, rows: int, columns: int, merge: int) -> ModelInputs:
    generator = torch.Generator().manual_seed(frames)
    tokens = frames * rows * columns // merge**2
    return ModelInputs(
        input_ids=torch.tensor([1, *[IMAGE] * tokens, 2]),
        lengths=torch.tensor([tokens + 2]),
        pixel_values=torch.rand(frames * rows * columns, 588, generator=generator) * 2 - 1,
        grid_sizes=torch.tensor([[frames, rows, columns]]),
        merge_sizes=torch.tensor([merge]),
        modals=[modal],
    )


def _small_model() -> VideoLLaMA3:
    vision = VisionConfig(hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2)
    language = LanguageConfig(
        vocab_size=8,
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
    )
    model = random_model(ModelConfig(vision, language, IMAGE, IMAGE), deviation=None, spread=0.1)
    assert isinstance(model.projector, nn.Module)
    return model
