"""The reference model: transformers' `VideoLlama3ForConditionalGeneration` with our weights, on our inputs.

It shares our parameters instead of loading them again: what is compared is the computation alone, and a model that fits
in memory once can be compared.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vl3ref.checkpoints import hf
from vl3ref.checkpoints.layouts import file_name
from vl3ref.errors import InputError
from vl3ref.extras import import_extra
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.model_inputs import ModelInputs
from vl3ref.parity.activations import Activations, record_towers

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def reference_model(model: VideoLLaMA3, attention: str = "sdpa") -> "PreTrainedModel":
    """transformers' model with our parameters in it (the same tensors, not copies), in eval mode.

    Args:
        attention: sdpa, eager or flash.

    Raises:
        InputError: transformers is not installed, or cannot use that attention here.
    """
    transformers = import_transformers()
    described = hf.write_config(model.config, str(model.dtype).removeprefix("torch."))
    config = transformers.VideoLlama3Config(**{k: v for k, v in described.items() if k != "architectures"})
    their_name = "flash_attention_2" if attention == "flash" else attention
    try:
        their_class = transformers.VideoLlama3ForConditionalGeneration  # its imports fail under "meta" in torch 2.6
        with torch.device("meta"):
            reference = their_class._from_config(config, attn_implementation=their_name)
    except (ImportError, ValueError) as error:
        raise InputError(f"transformers cannot use {attention} attention here: {error}") from None
    ours: dict[str, Tensor] = {file_name(name, "hf"): parameter for name, parameter in model.named_parameters()}
    if model.language_model.lm_head is None:
        ours["lm_head.weight"] = model.language_model.embed_tokens.weight
    reference.load_state_dict(ours, strict=True, assign=True)
    # Frequencies are buffers in transformers, which the meta device left empty.
    vision, language = reference.model.vision_model, reference.model.language_model
    vision.rotary_pos_emb = type(vision.rotary_pos_emb)(config.vision_config).to(model.device)
    language.rotary_emb = type(language.rotary_emb)(config.text_config).to(model.device)
    return reference.eval()


@torch.no_grad()
def reference_inputs(model: VideoLLaMA3, inputs: ModelInputs) -> dict[str, Tensor]:
    """Our inputs of one conversation as keyword arguments of transformers' model: with a batch axis, images and videos
    apart, and only the kept visual tokens in the ids, marked by one id for images and another for videos.

    Raises:
        InputError: there are several conversations.
    """
    if len(inputs.lengths) != 1:
        raise InputError("transformers' model is compared on one conversation at a time")
    inputs = inputs.to(model.device)
    spliced = model.splice(inputs)
    ids, counts = inputs.input_ids.clone(), inputs.tokens_per_visual()
    config = hf.with_two_ids(model.config)
    marks = [config.token_id_for(modal) for modal, n in zip(inputs.modals, counts, strict=True) for _ in range(n)]
    ids[inputs.is_visual(model.config.visual_token_ids)] = torch.tensor(marks, dtype=ids.dtype, device=ids.device)
    found: dict[str, Tensor] = {"input_ids": ids[spliced.kept][None]}
    patches, masks = [patches for patches, *_ in inputs.visuals()], spliced.keep_mask.split(counts)
    for modal, name in (("image", "pixel_values"), ("video", "pixel_values_videos")):
        which = [v for v, m in enumerate(inputs.modals) if m == modal]
        if which and inputs.grid_sizes is not None and inputs.merge_sizes is not None:
            found[name] = torch.cat([patches[v] for v in which])
            found[f"{modal}_grid_thw"] = inputs.grid_sizes[which].to(model.device)
            found[f"{modal}_merge_sizes"] = inputs.merge_sizes[which].to(model.device)
            if modal == "video":
                found["video_compression_mask"] = torch.cat([masks[v] for v in which])
    return found


@torch.no_grad()
def record_reference(
    model: VideoLLaMA3, inputs: ModelInputs, attention: str = "sdpa", new_tokens: int = 8
) -> Activations:
    """Every named activation of transformers' model with our weights, for one conversation.

    The model gets the tokens that ours keeps. keep_mask is what transformers' video processor keeps, at its threshold
    of 0.1; without torchvision, which that imports, there is none.

    Raises:
        InputError: it has images and videos: transformers encodes the two kinds apart, in another order than ours.
    """
    if len(set(inputs.modals)) > 1:
        raise InputError("images and videos in one conversation are encoded in another order; compare them apart")
    reference: Any = reference_model(model, attention)
    given = reference_inputs(model, inputs)
    inner = reference.model
    with record_towers(inner.vision_model, inner.projector, inner.language_model) as found:
        logits = reference(**given).logits[0]
    if (keep_mask := given.get("video_compression_mask")) is not None:
        found["projected"] = found["projected"][keep_mask.cpu()]
        found |= _their_keep_mask(inputs)
    ids = reference_answer(reference, given, new_tokens)
    return {**found, "logits": logits.cpu(), "next_ids": ids.cpu()}


def reference_answer(reference: Any, given: dict[str, Tensor], new_tokens: int) -> Tensor:
    """(new_tokens,) int64: the greedy ids that transformers' model continues `reference_inputs` with."""
    length = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens}
    ids = reference.generate(**given, **length, do_sample=False, pad_token_id=0)
    return ids[0, given["input_ids"].shape[1] :]


def _their_keep_mask(inputs: ModelInputs) -> Activations:
    try:
        from transformers.models.video_llama_3.video_processing_video_llama_3 import VideoLlama3VideoProcessor
    except ImportError:
        return {}
    assert inputs.pixel_values is not None
    mask_of: Any = VideoLlama3VideoProcessor._get_compression_mask
    return {"keep_mask": mask_of(None, inputs.pixel_values.cpu().clone(), inputs.grid_sizes, inputs.merge_sizes)}


def import_transformers() -> Any:
    return import_extra("transformers", "parity", "parity compares with transformers")
