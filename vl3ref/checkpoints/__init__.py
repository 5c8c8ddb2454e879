"""Checkpoints: safetensors files <-> modules, both layouts, wholes and parts."""

from vl3ref.checkpoints.loading import TensorFiles, load_language_model, load_model, load_vision_encoder
from vl3ref.checkpoints.saving import save_model

__all__ = ["TensorFiles", "load_language_model", "load_model", "load_vision_encoder", "save_model"]
