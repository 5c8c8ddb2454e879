"""What comes before the model: pixels and prompt ids, ours and transformers'."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vl3ref.checkpoints.hf import CHAT_TEMPLATE
from vl3ref.inputs.images import RGB, load_image
from vl3ref.inputs.patches import Size
from vl3ref.inputs.processor import Processor
from vl3ref.inputs.template import is_visual, parts
from vl3ref.inputs.videos import open_video
from vl3ref.model_inputs import ModelInputs
from vl3ref.parity.activations import Activations
from vl3ref.parity.reference import import_transformers


def compare_processing(
    processor: Processor, folder: Path, conversation: Sequence[dict[str, Any]], inputs: ModelInputs
) -> tuple[Activations, Activations]:
    """`input_ids` and `pixels` of a conversation about one image or video: ours, and transformers' from the same frames
    and sizes."""
    ((_, (_, h, w), merge, _),) = inputs.visuals()
    (part,) = (part for message in conversation for part in parts(message["content"]) if is_visual(part))
    if part["type"] == "image":
        frames = [load_image(part["image"])]
    else:
        options = {key: part.get(key, getattr(processor.config, key)) for key in ("fps", "max_frames")}
        frames = list(open_video(part["video"], **options).frames())
    patch = processor.config.patch_size
    pixels = reference_pixels(frames, (h * patch, w * patch), merge)
    ids = reference_ids(processor, folder, conversation, inputs)
    assert inputs.pixel_values is not None
    return {"input_ids": inputs.input_ids, "pixels": inputs.pixel_values}, {"input_ids": ids, "pixels": pixels}


def reference_ids(
    processor: Processor, folder: Path, conversation: Sequence[dict[str, Any]], inputs: ModelInputs
) -> Tensor:
    """The prompt by transformers' tokenizer and a Jinja chat template, with every visual token, before DiffFP.

    transformers' own processor, which needs torchvision, would put the frames in place of the placeholder.
    """
    ((_, (t, _, _), _, modal),), (tokens,), (source,) = (
        inputs.visuals(),
        inputs.tokens_per_visual(),
        inputs.sources or [],
    )
    tokenizer = import_transformers().PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    text: Any = tokenizer.apply_chat_template(
        conversation, chat_template=CHAT_TEMPLATE, tokenize=False, add_generation_prompt=True
    )
    frame = tokenizer.convert_ids_to_tokens(processor.config.token_id_for(modal)) * (tokens // t)
    times = [f"Time {time:.1f}s:" for time in source.timestamps or []] if modal == "video" else [""]
    text = text.replace(f"<|{modal}_pad|>", ",".join(time + frame for time in times), 1)
    return torch.tensor(tokenizer(text, add_special_tokens=False).input_ids)


def reference_pixels(frames: list[RGB], size: Size, merge: int) -> Tensor:
    """What transformers' Pillow image processor makes of frames, at a size we choose: its own resize, rescale,
    normalise and patchify, frame by frame. (Its size rule differs from the official one.)"""
    import_transformers()
    from transformers.image_utils import SizeDict
    from transformers.models.video_llama_3.image_processing_pil_video_llama_3 import (
        VideoLlama3ImageProcessorPil as ImageProcessor,
    )

    processor = ImageProcessor()
    patches = []
    for frame in frames:
        image = frame.transpose(2, 0, 1)
        if frame.shape[:2] != size:
            wanted = SizeDict(height=size[0], width=size[1])
            image = super(ImageProcessor, processor).resize(image, wanted, resample=processor.resample)
        image = processor.rescale(image, processor.rescale_factor)
        image = processor.normalize(image, processor.image_mean, processor.image_std)
        patches.append(torch.from_numpy(processor.patchify(image, processor.patch_size, merge, 1)[0].copy()))
    return torch.cat(patches)
