"""Random weights: where training from nothing starts, and what checks of full-size geometries run on."""

import torch

from vl3ref.config import ModelConfig
from vl3ref.model.videollama3 import VideoLLaMA3


def random_model(
    config: ModelConfig,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    spread: float = 0.0,
) -> VideoLLaMA3:
    """A model of any geometry with Qwen2's and SigLIP's initialisation, in eval mode.

    Drawn tensor by tensor in float32 and then rounded, so that memory holds the model in `dtype` alone.

    Args:
        spread: deviation of norms around one and of biases around zero. Checks want some: a bias of zero that is
            forgotten changes nothing.
    """
    generator = torch.Generator(device).manual_seed(seed)
    with torch.device("meta"):
        model = VideoLLaMA3(config)
    model.to(dtype).to_empty(device=device)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(initial_value(name.rpartition(".")[2], parameter.shape, generator, spread))
    return model.eval()


def initial_value(name: str, shape: torch.Size, generator: torch.Generator, spread: float = 0.0) -> torch.Tensor:
    """Ones for norms, zeros for biases (both give or take `spread`), and normal values with the configs'
    `initializer_range` of 0.02 for the rest. Float32."""
    value = torch.empty(shape, device=generator.device)
    if len(shape) > 1:
        return value.normal_(0.0, 0.02, generator=generator)
    mean = 0.0 if name == "bias" else 1.0
    return value.normal_(mean, spread, generator=generator) if spread else value.fill_(mean)
