"""VideoLLaMA 3 in plain PyTorch.

import vl3ref

model, processor = vl3ref.load()          # vl3-tiny, which comes with the package; or a folder, or a hub name
inputs = processor([{"role": "user", "content": [
    {"type": "video", "video": "cat.mp4", "fps": 1, "max_frames": 180},
    {"type": "text", "text": "What is the cat doing?"}]}])
print(processor.decode(model.generate(inputs, max_new_tokens=128)[0]))
"""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from vl3ref.chat import Chat
from vl3ref.checkpoints import Change, load_model, load_processor, save
from vl3ref.checkpoints.loading import Device, DType
from vl3ref.errors import ChangeError, CheckpointError, ConfigError, InputError, TrainingError, VL3Error
from vl3ref.hub import TINY, find_checkpoint
from vl3ref.inputs.processor import Processor
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.model_inputs import ModelInputs
from vl3ref.watching import watch

try:
    __version__ = version("vl3ref")
except PackageNotFoundError:  # imported from a source tree that was never installed
    __version__ = "0.0.0"

__all__ = ["ChangeError", "Chat", "CheckpointError", "ConfigError", "InputError", "ModelInputs", "Processor"]
__all__ += ["TrainingError", "VL3Error", "VideoLLaMA3", "__version__"]
__all__ += ["find_checkpoint", "load", "load_model", "load_processor", "save", "watch"]


def load(
    source: str | Path = TINY, device: Device = None, dtype: DType = None, change: Change | None = None
) -> tuple[VideoLLaMA3, Processor]:
    """A model, in eval mode, and its processor.

    Args:
        source: a checkpoint folder of either layout, or a name ("vl3-tiny", "2b", "7b", or one of the hub's).
        device: default: the GPU if there is one.
        dtype: default: float32 on a CPU, the checkpoint's own elsewhere.
        change: a function that swaps parts of the freshly built model, before its weights are read (see `load_model`).

    Raises:
        CheckpointError, ConfigError, ChangeError: with a sentence that says what is wrong.
    """
    folder = find_checkpoint(source)
    model = load_model(folder, device, dtype, change)
    return model, load_processor(folder, model.config)
