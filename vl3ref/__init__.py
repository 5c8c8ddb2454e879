"""VideoLLaMA 3 in plain PyTorch.

import vl3ref

model, processor = vl3ref.load()          # vl3-tiny, which comes with the package; or a folder, or a hub name
inputs = processor([{"role": "user", "content": [
    {"type": "video", "video": "cat.mp4", "fps": 1, "max_frames": 180},
    {"type": "text", "text": "What is the cat doing?"}]}])
print(processor.decode(model.generate(inputs, max_new_tokens=128)[0]))
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vl3ref.chat import Chat
    from vl3ref.checkpoints import load, load_model, load_processor, save
    from vl3ref.errors import ChangeError, CheckpointError, ConfigError, InputError, TrainingError, VL3Error
    from vl3ref.hub import find_checkpoint
    from vl3ref.inputs.processor import Processor
    from vl3ref.model.videollama3 import VideoLLaMA3
    from vl3ref.model_inputs import ModelInputs
    from vl3ref.streaming import Stream
    from vl3ref.watching import watch

    __version__: str

__all__ = ["ChangeError", "Chat", "CheckpointError", "ConfigError", "InputError", "ModelInputs", "Processor", "Stream"]
__all__ += ["TrainingError", "VL3Error", "VideoLLaMA3", "__version__"]
__all__ += ["find_checkpoint", "load", "load_model", "load_processor", "save", "watch"]

_HOMES = {
    "vl3ref.chat": ["Chat"],
    "vl3ref.checkpoints": ["load", "load_model", "load_processor", "save"],
    "vl3ref.errors": ["ChangeError", "CheckpointError", "ConfigError", "InputError", "TrainingError", "VL3Error"],
    "vl3ref.hub": ["find_checkpoint"],
    "vl3ref.inputs.processor": ["Processor"],
    "vl3ref.model.videollama3": ["VideoLLaMA3"],
    "vl3ref.model_inputs": ["ModelInputs"],
    "vl3ref.streaming": ["Stream"],
    "vl3ref.watching": ["watch"],
}
"""Where public names come from. They are fetched when they are first used: torch takes a second to import, during which
the command line could neither print its help nor be interrupted in peace."""

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """A public name, or a module of the package, which need not be imported by name."""
        from importlib import import_module, util

        home = next((home for home, names in _HOMES.items() if name in names), None)
        if home is not None:
            value = getattr(import_module(home), name)
        elif name == "__version__":
            value = _version()
        elif not name.startswith("_") and util.find_spec(f"vl3ref.{name}"):
            return import_module(f"vl3ref.{name}")
        else:
            raise AttributeError(f"module 'vl3ref' has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("vl3ref")
    except PackageNotFoundError:  # imported from a source tree that was never installed
        return "0.0.0"
