"""One comparison from end to end: a model, an input, both implementations, and the truth.

Models are run one after another on the same parameters, and only activations are kept, on the CPU; the float64 run
comes last, because it widens the parameters in place.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vl3ref.config import ModelConfig, preset
from vl3ref.config_json import read_config
from vl3ref.convert import HF_CHAT_TEMPLATE
from vl3ref.errors import InputError
from vl3ref.hub import TINY, tiny_folder
from vl3ref.inputs.chat import is_visual, parts
from vl3ref.inputs.images import RGB, load_image
from vl3ref.inputs.processor import Processor
from vl3ref.inputs.videos import open_video
from vl3ref.model.initialise import random_model
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.model_inputs import ModelInputs
from vl3ref.parity.activations import Activations, record
from vl3ref.parity.compare import compare_activations
from vl3ref.parity.reference import record_reference, reference_pixels
from vl3ref.parity.report import Report


@dataclass(frozen=True)
class Comparison:
    """What `run_parity` gives: the report, and the activations it was made from."""

    report: Report
    ours: Activations
    reference: Activations


def run_parity(
    model: VideoLLaMA3,
    inputs: ModelInputs,
    reference: Activations | None = None,
    attention: str = "sdpa",
    exact: bool = False,
    truth: bool = True,
    new_tokens: int = 8,
    tolerance: float | None = None,
    before: tuple[Activations, Activations] = ({}, {}),
    about: Mapping[str, Any] | None = None,
) -> Comparison:
    """Record ours, record the reference, record the truth, and compare.

    Args:
        model: its parameters are widened to float64 in the end if `truth` is wanted: load it again to use it further.
        inputs: one conversation, with text, and images or videos but not both.
        reference: somebody else's activations; default: transformers' on the same parameters.
        attention: transformers' implementation: sdpa, eager or flash.
        exact: put our model in the reference's order (`VideoLLaMA3.exact`).
        truth: also run ours in float64, to say which of the two is nearer. (transformers cannot be run in float64: its
            norms and rotations go through float32.)
        new_tokens: greedy ids to compare.
        before: what was compared ahead of the model: our and the reference's pixels and prompt ids.
        about: what the report should say of itself.
    """
    ours = before[0] | record(model.exact(exact), inputs, new_tokens)
    if reference is None:
        reference = before[1] | record_reference(model, inputs, attention, new_tokens)
    exactly = None
    if truth:
        exactly = record(widen(model).exact(False), inputs.to(dtype=torch.float64), 1)
    report = compare_activations(ours, reference, exactly, tolerance, about)
    return Comparison(report, ours, reference)


def widen(model: VideoLLaMA3) -> VideoLLaMA3:
    """Every parameter to float64, one at a time, so that both copies are never held whole."""
    for parameter in model.parameters():
        parameter.data = parameter.data.double()
    return model


# ------------------------------------------------------------------------------------------------- models and inputs


def geometry(name: str, layers: int | None = None) -> ModelConfig:
    """The config of "2b", "7b" or "tiny", with fewer layers in both towers if asked for."""
    config = read_config(tiny_folder()) if name in ("tiny", TINY) else preset(name)
    if layers is None:
        return config
    if layers < 1:
        raise InputError(f"layers should be at least 1, not {layers}")
    vision = replace(config.vision, num_hidden_layers=min(layers, config.vision.num_hidden_layers))
    language = replace(config.language, num_hidden_layers=min(layers, config.language.num_hidden_layers))
    return replace(config, vision=vision, language=language)


def random_geometry(
    name: str, layers: int | None, device: str | torch.device, dtype: torch.dtype, seed: int = 0
) -> VideoLLaMA3:
    """A model of random weights in which no parameter is trivial: norms and biases are drawn too."""
    return random_model(geometry(name, layers), seed, device, dtype, spread=0.1)


def drawn_inputs(
    config: ModelConfig, modal: str = "video", grid: tuple[int, int, int] = (4, 12, 16), seed: int = 0
) -> ModelInputs:
    """A drawn conversation: text, one visual ("video", "image", or "text" for none), text. Half of a video stands
    still."""
    source = torch.Generator().manual_seed(seed)

    def words(count: int) -> Tensor:
        lowest = min(config.visual_token_ids)  # below it, no id stands for a visual token
        return torch.randint(0, lowest, (count,), generator=source)

    if modal == "text":
        ids = words(48)
        return ModelInputs(ids, torch.tensor([len(ids)]))
    merge = 2 if modal == "video" else 1
    t, h, w = grid if modal == "video" else (1, *grid[1:])
    frames = torch.rand(t, h * w // merge**2, merge**2 * config.vision.patch_values, generator=source) * 2 - 1
    still = torch.rand(t, frames.shape[1], generator=source) < 0.5
    for k in range(1, t):
        frames[k, still[k]] = frames[k - 1, still[k]]
    visual = torch.full((t * h * w // merge**2,), config.token_id_for(modal))
    ids = torch.cat([words(16), visual, words(16)])
    return ModelInputs(
        ids,
        torch.tensor([len(ids)]),
        frames.reshape(t * h * w, config.vision.patch_values),
        torch.tensor([[t, h, w]]),
        torch.tensor([merge]),
        [modal],
    )


# ---------------------------------------------------------------------------------------- what comes before the model


def compare_processing(
    processor: Processor, folder: Path, conversation: Sequence[dict[str, Any]], inputs: ModelInputs
) -> tuple[Activations, Activations]:
    """Our pixels and prompt ids, and transformers' (its Pillow image processor on the same frames and sizes; its
    tokenizer and a Jinja chat template), for `run_parity`'s `before`."""
    ours: Activations = {"input_ids": inputs.input_ids}
    theirs: Activations = {"input_ids": reference_ids(processor, folder, conversation, inputs)}
    if inputs.pixel_values is not None and inputs.grid_sizes is not None and inputs.merge_sizes is not None:
        patch = processor.config.patch_size
        visuals = [part for message in conversation for part in parts(message["content"]) if is_visual(part)]
        ours["pixels"] = inputs.pixel_values
        theirs["pixels"] = torch.cat(
            [
                reference_pixels(_frames(part, processor), (h * patch, w * patch), merge)
                for part, (_, h, w), merge in zip(
                    visuals, inputs.grid_sizes.tolist(), inputs.merge_sizes.tolist(), strict=True
                )
            ]
        )
    return ours, theirs


def reference_ids(
    processor: Processor, folder: Path, conversation: Sequence[dict[str, Any]], inputs: ModelInputs
) -> Tensor:
    """The prompt by transformers' tokenizer and template, each placeholder written out as its frames, before DiffFP."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    messages: Any = conversation
    text: Any = tokenizer.apply_chat_template(
        messages, chat_template=HF_CHAT_TEMPLATE, tokenize=False, add_generation_prompt=True
    )
    assert inputs.grid_sizes is not None or not inputs.modals
    for modal, source, (t, _, _), tokens in zip(
        inputs.modals,
        inputs.sources or [],
        inputs.grid_sizes.tolist() if inputs.grid_sizes is not None else [],
        inputs.tokens_per_visual(),
        strict=True,
    ):
        token = tokenizer.convert_ids_to_tokens(processor.config.token_id_for(modal)) * (tokens // t)
        written = token
        if modal == "video":
            written = ",".join(f"Time {time:.1f}s:{token}" for time in source.timestamps or [])
        text = text.replace("<|video_pad|>" if modal == "video" else "<|image_pad|>", f"\0{written}\0", 1)
    return torch.tensor(tokenizer(text.replace("\0", ""), add_special_tokens=False).input_ids)


def _frames(part: dict[str, Any], processor: Processor) -> list[RGB]:
    if part["type"] == "image":
        return [load_image(part["image"])]
    options = {key: part.get(key, getattr(processor.config, key)) for key in ("fps", "max_frames")}
    return list(open_video(part["video"], **options).frames())
