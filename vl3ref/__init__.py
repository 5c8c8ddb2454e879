"""VideoLLaMA 3 in plain PyTorch.

import vl3ref

model, processor = vl3ref.load()          # vl3-tiny, which is in the box; or a folder, or a hub name
inputs = processor([{"role": "user", "content": [
    {"type": "video", "video": "cat.mp4", "fps": 1, "max_frames": 180},
    {"type": "text", "text": "What is the cat doing?"}]}])
print(processor.decode(model.generate(inputs, max_new_tokens=128)[0]))
"""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from vl3ref.checkpoints import load_model
from vl3ref.errors import CheckpointError, ConfigError, InputError, VL3Error
from vl3ref.hub import find_checkpoint
from vl3ref.inputs import processor as _processor
from vl3ref.inputs.processor import Processor
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.model_inputs import ModelInputs

try:
    __version__ = version("vl3ref")
except PackageNotFoundError:  # imported from a source tree that was never installed
    __version__ = "0.0.0"

__all__ = [
    "CheckpointError",
    "ConfigError",
    "InputError",
    "ModelInputs",
    "Processor",
    "VL3Error",
    "VideoLLaMA3",
    "__version__",
    "load",
    "load_model",
    "load_processor",
]


def load(
    source: str | Path = "vl3-tiny",
    device: torch.device | str | None = None,
    dtype: torch.dtype | str | None = None,
) -> tuple[VideoLLaMA3, Processor]:
    """A model and its processor.

    Args:
        source: a checkpoint folder of either layout, or a name ("vl3-tiny", "2b", "7b", or one of the hub's).
        device: default: the GPU if there is one.
        dtype: default: float32 on a CPU, the checkpoint's own elsewhere.

    Raises:
        CheckpointError, ConfigError: with a sentence that says what is wrong with the files.
    """
    folder = find_checkpoint(source)
    model = load_model(folder, device, dtype)
    return model, _processor.load_processor(folder, model.config)


def load_processor(source: str | Path = "vl3-tiny") -> Processor:
    """The processor alone; needs no weights."""
    return _processor.load_processor(find_checkpoint(source))
