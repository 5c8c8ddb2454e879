"""Checkpoint folders <-> models and processors, in both layouts, whole and in parts."""

from vl3ref.checkpoints.adapter_files import read_adapter
from vl3ref.checkpoints.adapters import add_adapter, merge_adapters, save_adapter, use_adapter
from vl3ref.checkpoints.change import Change, apply_change, read_change
from vl3ref.checkpoints.layouts import read_config, read_language_config, read_vision_config
from vl3ref.checkpoints.loading import (
    find_device,
    load,
    load_language_model,
    load_model,
    load_processor,
    load_vision_encoder,
)
from vl3ref.checkpoints.saving import check_saveable, convert, save, save_model, write_json, write_model
from vl3ref.checkpoints.tensor_files import TensorFiles, write_tensors

__all__ = [
    "Change",
    "TensorFiles",
    "add_adapter",
    "apply_change",
    "check_saveable",
    "convert",
    "find_device",
    "load",
    "load_language_model",
    "load_model",
    "load_processor",
    "load_vision_encoder",
    "merge_adapters",
    "read_adapter",
    "read_change",
    "read_config",
    "read_language_config",
    "read_vision_config",
    "save",
    "save_adapter",
    "save_model",
    "use_adapter",
    "write_json",
    "write_model",
    "write_tensors",
]
