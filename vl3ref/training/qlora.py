"""QLoRA: the frozen layers beside LoRA's small matrices in 4 bits (bitsandbytes' NF4 with quantised scales).

vl3ref train data.jsonl --stage 4 --model 2b --lora r=64,alpha=16,bits=4

Dettmers et al., "QLoRA: Efficient Finetuning of Quantized LLMs", arXiv 2305.14314; the official trainer's `bits`,
`quant_type` and `double_quant`.
"""

import torch
from torch import nn

from vl3ref.extras import import_extra

BLOCK = 64
"""Weights that share a scale. bitsandbytes' CPU code (0.50) takes wrong scales where a row is not a whole number of
blocks, such as 4,304 in the released vision encoder: there those layers stay as they are."""


def quantise_base(model: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Put the frozen linear layers that LoRA's matrices stand beside into 4 bits, in place and on the device.

    One layer at a time, so that the device never holds one whole model in full. `dtype` is what a layer is computed in,
    after its weights have been made numbers again.
    """
    layers = import_extra("bitsandbytes", "qlora", "layers of 4 bits are computed by bitsandbytes").nn
    for module in model.modules():
        base = getattr(module, "base_layer", None)
        if not isinstance(base, nn.Linear) or (device.type == "cpu" and base.in_features % BLOCK):
            continue
        sizes = base.in_features, base.out_features, base.bias is not None
        small = layers.Linear4bit(*sizes, dtype, compress_statistics=True, quant_type="nf4")
        small.load_state_dict(base.state_dict())
        module.base_layer = small.requires_grad_(False).to(device)  # the move quantises
