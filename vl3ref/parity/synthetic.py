"""Models of random weights and synthetic inputs, to compare a geometry without its checkpoint."""

from dataclasses import replace

import torch
from torch import Tensor

from vl3ref.checkpoints.layouts import read_config
from vl3ref.config import ModelConfig, preset
from vl3ref.errors import InputError
from vl3ref.hub import TINY, tiny_folder
from vl3ref.model.initialise import random_model
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.model_inputs import ModelInputs


def geometry(name: str, layers: int | None = None) -> ModelConfig:
    """The config of "2b", "7b" or "tiny", with at most `layers` layers in each tower.

    Raises:
        InputError: layers is below 1.
    """
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
    """A model of random weights, norms and biases included: a norm of one or a bias of zero would hide mistakes."""
    return random_model(geometry(name, layers), seed, device, dtype, spread=0.1)


def synthetic_inputs(
    config: ModelConfig, modal: str = "video", grid: tuple[int, int, int] = (4, 12, 16), seed: int = 0
) -> ModelInputs:
    """One conversation of random ids: text, one visual, text. About half the tokens of a video do not change from one
    frame to the next.

    Args:
        modal: "video", "image", or "text" for no visual.
        grid: frames, rows and columns of patches; an image has one frame.
    """
    source = torch.Generator().manual_seed(seed)

    def words(count: int) -> Tensor:
        lowest = min(config.visual_token_ids)  # below it, no id stands for a visual token
        return torch.randint(0, lowest, (count,), generator=source)

    if modal == "text":
        return ModelInputs(words(48), torch.tensor([48]))
    merge = 2 if modal == "video" else 1
    t, h, w = grid if modal == "video" else (1, *grid[1:])
    frames = torch.rand(t, h * w // merge**2, merge**2 * config.vision.patch_values, generator=source) * 2 - 1
    still = torch.rand(t, frames.shape[1], generator=source) < 0.5
    for k in range(1, t):
        frames[k, still[k]] = frames[k - 1, still[k]]
    visual = torch.full((t * h * w // merge**2,), config.token_id_for(modal))
    ids = torch.cat([words(16), visual, words(16)])
    pixels = frames.reshape(t * h * w, config.vision.patch_values)
    return ModelInputs(ids, torch.tensor([len(ids)]), pixels, torch.tensor([[t, h, w]]), torch.tensor([merge]), [modal])
