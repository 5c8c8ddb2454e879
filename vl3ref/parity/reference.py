"""transformers' `VideoLlama3ForConditionalGeneration` on our weights and our inputs.

The reference shares our parameters instead of loading them again: what is compared is the computation alone, and a
model that fits in memory once can be compared.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vl3ref.checkpoints.names import FROM_OURS, translate
from vl3ref.checkpoints.saving import with_layout_ids
from vl3ref.config_to_json import to_json
from vl3ref.errors import InputError
from vl3ref.inputs.images import RGB
from vl3ref.inputs.patches import Size
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.model_inputs import ModelInputs
from vl3ref.parity.activations import Activations, in_order, record_modules, tower_points

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ATTENTION = {"sdpa": "sdpa", "eager": "eager", "flash": "flash_attention_2"}


def twin(model: VideoLLaMA3, attention: str = "sdpa") -> "PreTrainedModel":
    """transformers' model with our parameters in it (the same tensors, not copies), in eval mode.

    Raises:
        InputError: transformers is not installed, or cannot use that attention here.
    """
    transformers = _transformers()
    if attention not in ATTENTION:
        raise InputError(f"no attention named {attention!r}; there are {', '.join(ATTENTION)}")
    dtype = str(model.dtype).removeprefix("torch.")
    described = to_json(with_layout_ids(model.config, "hf"), "hf", dtype)
    config = transformers.VideoLlama3Config(**{k: v for k, v in described.items() if k != "architectures"})
    try:
        with torch.device("meta"):
            reference = transformers.VideoLlama3ForConditionalGeneration._from_config(
                config, attn_implementation=ATTENTION[attention]
            )
    except ImportError as error:
        raise InputError(f"transformers cannot use {attention} attention here: {error}") from None
    ours: dict[str, Tensor] = {
        translate(name, FROM_OURS["hf"]): parameter for name, parameter in model.named_parameters()
    }
    if model.language_model.lm_head is None:
        ours["lm_head.weight"] = model.language_model.embed_tokens.weight
    reference.load_state_dict(ours, strict=True, assign=True)
    # What the meta device left empty: frequencies, which transformers keeps as buffers.
    inner = reference.model
    inner.vision_model.rotary_pos_emb = type(inner.vision_model.rotary_pos_emb)(config.vision_config).to(model.device)
    inner.language_model.rotary_emb = type(inner.language_model.rotary_emb)(config.text_config).to(model.device)
    return reference.eval()


def twin_inputs(model: VideoLLaMA3, inputs: ModelInputs) -> dict[str, Tensor]:
    """Our inputs of one conversation as transformers wants them: a batch axis, images and videos apart, and only kept
    visual tokens in the ids, marked by two ids of their own."""
    if len(inputs.lengths) != 1:
        raise InputError("transformers' model is compared on one conversation at a time")
    inputs = inputs.to(model.device)
    hf = with_layout_ids(model.config, "hf")
    ids = inputs.input_ids.clone()
    if inputs.pixel_values is None or inputs.grid_sizes is None or inputs.merge_sizes is None:
        return {"input_ids": ids[None]}
    keep = model.keep_mask(inputs)
    visual = inputs.visual_positions(model.config.visual_token_ids)
    kinds = [
        hf.token_id_for(modal)
        for modal, n in zip(inputs.modals, inputs.tokens_per_visual(), strict=True)
        for _ in range(n)
    ]
    ids[visual] = torch.tensor(kinds, device=ids.device)
    kept = torch.ones_like(visual)
    kept[visual] = keep
    found: dict[str, Tensor] = {"input_ids": ids[kept][None]}
    pixels = inputs.pixel_values.split(inputs.grid_sizes.prod(dim=1).tolist())
    masks = keep.split(inputs.tokens_per_visual())
    for modal, name in (("image", "pixel_values"), ("video", "pixel_values_videos")):
        which = [v for v, m in enumerate(inputs.modals) if m == modal]
        if which:
            found[name] = torch.cat([pixels[v] for v in which])
            found[f"{modal}_grid_thw"] = inputs.grid_sizes[which].to(model.device)
            found[f"{modal}_merge_sizes"] = inputs.merge_sizes[which].to(model.device)
        if which and modal == "video":
            found["video_compression_mask"] = torch.cat([masks[v] for v in which])
    return found


@torch.no_grad()
def record_reference(
    model: VideoLLaMA3, inputs: ModelInputs, attention: str = "sdpa", new_tokens: int = 8
) -> Activations:
    """Every named activation of transformers' model with our weights, for one conversation of text with images only, or
    with videos only (it encodes the two kinds apart, in another order than ours)."""
    if len(set(inputs.modals)) > 1:
        raise InputError("images and videos in one conversation are encoded in another order; compare them apart")
    reference: Any = twin(model, attention)
    given = twin_inputs(model, inputs)
    embeddings: list[Tensor] = []
    hook = reference.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: embeddings.append(kwargs["inputs_embeds"][0].cpu()), with_kwargs=True
    )
    with record_modules(reference_points(reference)) as inside:
        logits = reference(**given).logits[0]
    hook.remove()
    ids = reference.generate(
        **given, max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=False, pad_token_id=0
    )
    if inputs.pixel_values is not None:
        inside["projected"] = inside["projected"][model.keep_mask(inputs).cpu()]
        if (mask := reference_keep_mask(inputs)) is not None:
            inside["keep_mask"] = mask
    return in_order(
        {
            **inside,
            "embeddings": embeddings[0],
            "logits": logits.cpu(),
            "next_ids": ids[0, given["input_ids"].shape[1] :].cpu(),
        }
    )


def reference_points(reference: nn.Module) -> dict[str, nn.Module]:
    """Which module of transformers' computes which activation."""
    vision, language = (reference.get_submodule(f"model.{name}") for name in ("vision_model", "language_model"))
    return {
        "vision.patch_embedding": vision.get_submodule("embeddings"),
        **tower_points("vision", vision.get_submodule("encoder.layers")),  # type: ignore[arg-type]
        "vision.norm": vision.get_submodule("post_layernorm"),
        "vision.merged": vision,
        "projected": reference.get_submodule("model.projector"),
        **tower_points("language", language.get_submodule("layers")),  # type: ignore[arg-type]
        "language.norm": language.get_submodule("norm"),
    }


def reference_keep_mask(inputs: ModelInputs) -> Tensor | None:
    """Which tokens transformers' video processor keeps, at its threshold of 0.1; None without torchvision, which its
    module imports."""
    _transformers()
    try:
        from transformers.models.video_llama_3.video_processing_video_llama_3 import VideoLlama3VideoProcessor
    except ImportError:
        return None
    assert inputs.pixel_values is not None
    mask_of: Any = VideoLlama3VideoProcessor._get_compression_mask
    return mask_of(None, inputs.pixel_values.cpu().clone(), inputs.grid_sizes, inputs.merge_sizes)


def reference_pixels(frames: list[RGB], size: Size, merge: int) -> Tensor:
    """What transformers' Pillow image processor makes of frames, at a size we choose: its own resize, rescale,
    normalise and patchify, frame by frame. (Its size rule differs from the official one.)"""
    _transformers()
    from transformers.image_utils import SizeDict
    from transformers.models.video_llama_3.image_processing_pil_video_llama_3 import (
        VideoLlama3ImageProcessorPil as Processor,
    )

    processor = Processor()
    patches = []
    for frame in frames:
        image = frame.transpose(2, 0, 1)
        if frame.shape[:2] != size:
            image = super(Processor, processor).resize(
                image, SizeDict(height=size[0], width=size[1]), resample=processor.resample
            )
        image = processor.rescale(image, processor.rescale_factor)
        image = processor.normalize(image, processor.image_mean, processor.image_std)
        patches.append(torch.from_numpy(processor.patchify(image, processor.patch_size, merge, 1)[0].copy()))
    return torch.cat(patches)


def _transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise InputError("parity compares with transformers: pip install 'vl3ref[parity]'") from None
    return transformers
