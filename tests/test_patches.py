"""Sizes and pixels are the official processor's, bit for bit."""

import hashlib
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file

from tests.helpers import GOLDENS
from tests.media import noise, qwen_processor
from vl3ref.inputs.images import load_image
from vl3ref.inputs.patches import patchify, target_sizes

PROCESSING = GOLDENS / "processing"
SIZES = json.loads((PROCESSING / "sizes.json").read_text())
PIXELS = {case["name"]: case for case in json.loads((PROCESSING / "pixels.json").read_text())}
OURS_WHERE_A_SIDE_IS_ZERO = {
    219: [(196, 336), (56, 112), (14, 14)],
    220: [(140, 252), (28, 84), (14, 14)],
    221: [(28, 56), (28, 28), (14, 14)],
}


def our_sizes(case: dict) -> list[tuple[int, int]]:
    originals = [(frames, height, width) for _, frames, height, width in case["items"]]
    return target_sizes(originals, case["merge_sizes"], case["max_tokens"])


def test_sizes_equal_the_official_ones_save_where_a_side_would_be_zero() -> None:
    assert len(SIZES) == 222
    different = {
        index: our_sizes(case)
        for index, case in enumerate(SIZES)
        if our_sizes(case) != [tuple(size) for size in case["target_sizes"]]
    }
    assert different == OURS_WHERE_A_SIDE_IS_ZERO
    assert {i for i, case in enumerate(SIZES) if 0 in np.ravel(case["target_sizes"])} == set(OURS_WHERE_A_SIDE_IS_ZERO)


@given(
    st.lists(
        st.tuples(st.integers(1, 200), st.integers(1, 4000), st.integers(1, 4000), st.integers(1, 4)), max_size=4
    ),
    st.sampled_from([1, 7, 600, 16384]),
    st.integers(1, 64),
)
@settings(max_examples=150, deadline=None)
def test_every_size_is_a_positive_multiple_of_a_visual_token(
    items: list[tuple[int, int, int, int]], max_tokens: int, min_tokens: int
) -> None:
    merges = [merge for *_, merge in items]
    sizes = target_sizes([(t, h, w) for t, h, w, _ in items], merges, max_tokens, min_tokens)
    assert len(sizes) == len(items)
    for (height, width), merge in zip(sizes, merges, strict=True):
        assert height >= 14 * merge
        assert width >= 14 * merge
        assert height % (14 * merge) == width % (14 * merge) == 0


def test_more_frames_than_pixels_in_the_budget_still_have_a_size() -> None:
    assert target_sizes([(200, 100, 100)], [1], max_tokens=1, min_tokens=1) == [(14, 14)]


# --------------------------------------------------------------------------------------------------------------- pixels

CLIP = np.load(PROCESSING / "video_4x60x90.npy")
PICTURES = {path.name[0]: load_image(path) for path in PROCESSING.glob("*.png")}


def clip_size(name: str, index: int) -> tuple[int, int]:
    _, rows, columns = PIXELS[name]["grid_sizes"][index]
    return rows * 14, columns * 14


@pytest.mark.parametrize("name", PIXELS)
def test_pixels_have_the_official_hash(name: str) -> None:
    case = PIXELS[name]
    letters = {"a_and_c": "ac", "video": "v", "video_and_image": "va"}.get(name, name)
    visuals = [CLIP if letter == "v" else PICTURES[letter][None] for letter in letters]
    if name == "video_and_image":  # the picture is the one whose size leads to the stored grid
        visuals[1] = next(
            picture[None]
            for picture in PICTURES.values()
            if digest(case, [CLIP, picture[None]]) == case["sha256"]
        )
    assert digest(case, visuals) == case["sha256"]


def patches_of(case: dict, visuals: list[np.ndarray]) -> torch.Tensor:
    return torch.cat(
        [
            patchify(frames, len(frames), (rows * 14, columns * 14), merge)
            for frames, (_, rows, columns), merge in zip(visuals, case["grid_sizes"], case["merge_sizes"], strict=True)
        ]
    )


def digest(case: dict, visuals: list[np.ndarray]) -> str:
    pixels = patches_of(case, visuals)
    assert list(pixels.shape) == case["shape"]
    return hashlib.sha256(pixels.numpy().tobytes()).hexdigest()
