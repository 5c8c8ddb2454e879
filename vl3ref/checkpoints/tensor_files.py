"""The safetensors files of a folder, as one table of tensors."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from vl3ref.errors import CheckpointError
from vl3ref.hub import read_json


class TensorFiles:
    """The safetensors files of a checkpoint folder, by tensor name. Files are mapped; a tensor is read when asked for.

    Raises:
        CheckpointError: there are none; the index points outside the folder, at a missing file or at a tensor that is
            not there; a file is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, Any] = {}
        self.where: dict[str, str] = {}
        index = folder / "model.safetensors.index.json"
        if (folder / "model.safetensors").exists() or not index.exists():
            self._open("model.safetensors")
            return
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
            raise CheckpointError(f"{index} has no weight_map of tensor names to files")
        for file in sorted(set(weight_map.values())):
            if Path(file).name != file or file == "..":
                raise CheckpointError(f"{index} points outside its folder: {file}")
            self._open(file)
        if lost := sorted(name for name, file in weight_map.items() if self.where.get(name) != file):
            raise CheckpointError(f"{index} names tensors that are not in the files it gives:\n  " + "\n  ".join(lost))

    def _open(self, file: str) -> None:
        path = self.folder / file
        if not path.is_file():
            pickled = any(self.folder.glob("*.bin")) or any(self.folder.glob("*.pt*"))
            hint = "; it has pickled weights, which can run code and are not read: convert them to safetensors"
            raise CheckpointError(f"{self.folder} has no {file}{hint if pickled else ''}")
        try:
            self.files[file] = safe_open(path, framework="pt", device="cpu")
            self.where |= dict.fromkeys(self.files[file].keys(), file)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} is damaged or not a safetensors file: {error}") from None

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(self.files[file].get_slice(name).get_shape()) for name, file in self.where.items()}

    def read(self, name: str) -> Tensor:
        """A tensor on the CPU, as the file has it."""
        return self.files[self.where[name]].get_tensor(name)
