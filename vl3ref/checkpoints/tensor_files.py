"""The safetensors files of a folder, as one table of tensors; and writing one such file."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vl3ref.errors import CheckpointError, quoted
from vl3ref.files import check_regular, listed, read_json


class TensorFiles:
    """The safetensors files of a checkpoint folder, by tensor name. Files are mapped; a tensor is read when asked for.

    Args:
        single: the file, if all is in one; what the name of the index of several begins with.

    Raises:
        CheckpointError: there are none; the index points outside the folder, at a missing file or at a tensor that is
            not there; a file is damaged; two files hold the same tensor.
    """

    def __init__(self, folder: Path, single: str = "model.safetensors") -> None:
        self.folder = folder
        self.files: dict[str, Any] = {}
        self.where: dict[str, str] = {}
        index = folder / f"{single}.index.json"
        if os.path.lexists(folder / single) or not os.path.lexists(index):
            self._open(single)
            return
        weight_map = read_json(index, CheckpointError).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
            raise CheckpointError(f"{index} has no weight_map of tensor names to files")
        for file in sorted(set(weight_map.values())):
            if not file.isprintable() or Path(file).name != file or file in ("", ".."):
                raise CheckpointError(f"{index} points outside its folder, or at no file: {quoted(file)}")
            self._open(file)
        if lost := sorted(name for name, file in weight_map.items() if self.where.get(name) != file):
            raise CheckpointError(
                f"{index} names {len(lost)} tensors that are not in the files it gives:{listed(lost)}"
            )

    def _open(self, file: str) -> None:
        path = self.folder / file
        if not os.path.lexists(path) and len(file) < 256:
            pickled = any(self.folder.glob("*.bin")) or any(self.folder.glob("*.pt*"))
            hint = "; it has pickled weights, which can run code and are not read: convert them to safetensors"
            raise CheckpointError(f"{self.folder} has no {file}{hint if pickled else ''}")
        check_regular(path, CheckpointError)
        _check_name(path)
        try:
            self.files[file] = safe_open(path, framework="pt", device="cpu")
            names = self.files[file].keys()
        except (SafetensorError, OSError, RecursionError) as error:
            raise CheckpointError(f"{path} is damaged or not a safetensors file: {str(error)[:200]}") from None
        if twice := sorted(self.where.keys() & set(names)):
            raise CheckpointError(f"{self.folder} has tensors in two files, {file} and another:{listed(twice)}")
        self.where |= dict.fromkeys(names, file)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(self.files[file].get_slice(name).get_shape()) for name, file in self.where.items()}

    def dtype(self, name: str) -> str:
        """As the file's header has it: F32, BF16, I8, ..."""
        return self.files[self.where[name]].get_slice(name).get_dtype()

    def read(self, name: str) -> Tensor:
        """A tensor on the CPU, as the file has it."""
        return self.files[self.where[name]].get_tensor(name)


def _check_name(path: Path) -> None:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        place = quoted(str(path), 300)
        raise CheckpointError(f"{place} is no UTF-8, and safetensors reads no other names: rename it") from None


def write_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file that everyone may read who may read others of this process.

    Raises:
        OSError: it cannot be written; the disk is full, say.
        CheckpointError: it could not be read again under that name.
    """
    _check_name(path)
    path.touch()
    mode = path.stat().st_mode
    try:
        save_file(dict(tensors), path, metadata={"format": "pt", **(metadata or {})})
    except SafetensorError as error:
        if number := re.search(r"\(os error (\d+)\)", str(error)):
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None
        raise
    path.chmod(mode)  # safetensors' own files are private
