"""The cases of goldens/official-tiny as ModelInputs."""

import json
from functools import lru_cache

import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.helpers import GOLDENS
from vl3ref.model_inputs import ModelInputs

CASES = json.loads((GOLDENS / "official-tiny" / "cases.json").read_text())
NAMES = list(CASES)


@lru_cache(maxsize=1)
def tensors() -> dict[str, Tensor]:
    return load_file(GOLDENS / "official-tiny" / "cases.safetensors")


def golden(case: str, name: str) -> Tensor | None:
    return tensors().get(f"{case}.{name}")


def inputs_of(case: str, layout: str = "official") -> ModelInputs:
    """A case's inputs. In the hf layout a video's visual tokens have an id of their own, as transformers wants."""
    ids = golden(case, "input_ids").clone()
    grids, merges = golden(case, "grid_sizes"), golden(case, "merge_sizes")
    inputs = ModelInputs(
        ids, torch.tensor([len(ids)]), golden(case, "pixel_values"), grids, merges, CASES[case]["modals"]
    )
    if layout == "hf" and grids is not None:
        kinds = [
            [250 if modal == "image" else 251] * n
            for modal, n in zip(inputs.modals, inputs.tokens_per_visual(), strict=True)
        ]
        ids[ids == 250] = torch.tensor([kind for visual in kinds for kind in visual])
    return inputs


def labels_of(inputs: ModelInputs) -> Tensor:
    """The last six tokens of each conversation."""
    labels = torch.full_like(inputs.input_ids, -100)
    for end in inputs.lengths.cumsum(0).tolist():
        labels[end - 6 : end] = inputs.input_ids[end - 6 : end]
    return labels
