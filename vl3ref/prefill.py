"""The first half of generation: check the prompt, encode and splice it, and read it into the KV cache."""

import warnings
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from vl3ref.errors import CheckpointError, InputError, VL3Error, quoted
from vl3ref.limits import check_positions, check_prompt, trained_positions
from vl3ref.model.diff_fp import Pruner
from vl3ref.model.kv_cache import KVCache
from vl3ref.model.language_model import LanguageModel
from vl3ref.model.outputs import Spliced
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.model_inputs import ModelInputs


def read_prompt(
    model: VideoLLaMA3 | LanguageModel, inputs: ModelInputs | Tensor, pruner: Pruner | None, past: int, allow_long: bool
) -> tuple[LanguageModel, Spliced, Sequence[Tensor]]:
    """The decoder, what it reads, and the ids of each conversation."""
    if isinstance(model, LanguageModel):
        whole = isinstance(inputs, Tensor) and inputs.dtype in (torch.int64, torch.int32)
        if not isinstance(inputs, Tensor) or not whole or inputs.ndim != 1 or not len(inputs):
            raise InputError("a LanguageModel generates from a 1-D tensor of at least one token id")
        if int(inputs.min()) < 0 or int(inputs.max()) >= model.config.vocab_size:
            raise InputError(f"token ids should lie between 0 and {model.config.vocab_size - 1}")
        if not allow_long:
            check_positions(model.config, past + len(inputs))
        ids = inputs.to(model.embed_tokens.weight.device)
        all_kept = torch.ones_like(ids, dtype=torch.bool)
        return model, Spliced(model.embed_tokens(ids), [len(ids)], all_kept[:0], all_kept), [ids]
    if not isinstance(model, VideoLLaMA3) or not isinstance(inputs, ModelInputs):
        raise InputError(f"a VideoLLaMA3 generates from ModelInputs, not {quoted(model)} from {quoted(inputs)}")
    inputs.check(model.config)
    check_prompt(model, inputs, pruner, past, allow_long)
    spliced = model.splice(inputs, pruner)
    if not allow_long:
        check_positions(model.config.language, past + max(spliced.lengths), len(spliced.keep_mask) > 0)
    kept_ids = inputs.input_ids.to(model.device)[spliced.kept].split(list(spliced.lengths))
    return model.language_model, spliced, kept_ids


def prefill(decoder: LanguageModel, prompt: Spliced, cache: KVCache) -> Float[Tensor, "conversations vocab"]:
    """Logits of each conversation's first new token."""
    hidden = decoder.hidden(prompt.embeddings, prompt.lengths, cache, prompt.positions)
    last = torch.tensor(prompt.lengths, device=cache.device).cumsum(0) - 1
    return decoder.head(hidden[last])


def most_new_tokens(decoder: LanguageModel, lengths: Sequence[int], wanted: int, allow_long: bool) -> list[int]:
    """Of each conversation: as many as wanted, but no more than there are trained positions left. (The last token of an
    answer needs none.)"""
    if allow_long:
        return [wanted] * len(lengths)
    trained = trained_positions(decoder.config)
    left = [trained + 1 - n for n in lengths]
    if min(left) < wanted:
        warnings.warn(
            f"the answer ends after at most {min(left):,} tokens, where the {trained:,} positions end that the model "
            "was trained on (--allow-long, or allow_long=True, goes on)",
            stacklevel=3,
        )
    return [min(wanted, n) for n in left]


def not_finite(model: VideoLLaMA3 | LanguageModel, inputs: ModelInputs | Tensor) -> VL3Error:
    """Why logits hold NaN or infinity. Only now are all weights looked at."""
    pixels = inputs.pixel_values if isinstance(inputs, ModelInputs) else None
    if pixels is not None and not bool(pixels.isfinite().all()):
        return InputError("pixel_values are not finite: they hold NaN or infinity")
    for name, weight in model.named_parameters():
        if not bool(weight.isfinite().all()):
            return CheckpointError(
                f"the weight {name} is not finite: it holds NaN or infinity, from a damaged checkpoint or a training "
                "that diverged"
            )
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    remedy = "load the model in bfloat16 or float32" if dtype == "float16" else "look at the parts that were changed"
    return InputError(f"the model's values overflow in {dtype}, though its weights and pixels are finite: {remedy}")
