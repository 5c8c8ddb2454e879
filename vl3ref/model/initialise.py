"""Random weights: where training from nothing starts, and what checks of full-size geometries run on."""

import torch
from torch import nn

from vl3ref.config import ModelConfig
from vl3ref.model.videollama3 import VideoLLaMA3


def random_model(
    config: ModelConfig, seed: int = 0, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> VideoLLaMA3:
    """A model of any geometry with Qwen2's and SigLIP's initialisation, in eval mode.

    Drawn tensor by tensor in float32 and then rounded, so that memory holds the model in `dtype` alone.
    """
    generator = torch.Generator(device).manual_seed(seed)
    with torch.device("meta"):
        model = VideoLLaMA3(config)
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            value = initial_value(name, parameter.shape, generator)
            module.register_parameter(name, nn.Parameter(value.to(dtype)))
    return model.eval()


def initial_value(name: str, shape: torch.Size, generator: torch.Generator, deviation: float = 0.02) -> torch.Tensor:
    """Ones for norms, zeros for biases, normal with the configs' `initializer_range` for the rest. Float32."""
    device = generator.device
    if name == "bias":
        return torch.zeros(shape, device=device)
    if len(shape) == 1:
        return torch.ones(shape, device=device)
    return torch.empty(shape, device=device).normal_(std=deviation, generator=generator)
