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
    st.lists(st.tuples(st.integers(1, 200), st.integers(1, 4000), st.integers(1, 4000), st.integers(1, 4)), max_size=4),
    st.sampled_from([1, 7, 600, 16384]),
    st.integers(1, 64),
)
@settings(max_examples=150)
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


STORED = load_file(PROCESSING / "pixels.safetensors")
CASES = {"a": "a", "b": "b", "c": "c", "a_and_c": "ac", "video": "v", "video_and_image": "vb"}
"""What each case shows: v is the clip, other letters are pictures."""


def test_every_stored_case_is_tested() -> None:
    assert set(CASES) == set(PIXELS)
    assert {name.removesuffix(".first_rows") for name in STORED} | {"c"} == set(PIXELS)


@pytest.mark.parametrize("name", CASES)
def test_sizes_and_pixels_of_files_equal_the_official_ones_bit_for_bit(name: str) -> None:
    case = PIXELS[name]
    visuals = [CLIP if letter == "v" else PICTURES[letter][None] for letter in CASES[name]]
    sizes = target_sizes([frames.shape[:3] for frames in visuals], case["merge_sizes"])
    assert [[len(v), h // 14, w // 14] for v, (h, w) in zip(visuals, sizes, strict=True)] == case["grid_sizes"]
    pixels = torch.cat(
        [patchify(v, len(v), size, merge) for v, size, merge in zip(visuals, sizes, case["merge_sizes"], strict=True)]
    )
    assert_equals_case(pixels, name)


@pytest.mark.parametrize("name", CASES)
def test_the_processor_gives_the_official_pixels_bit_for_bit(name: str) -> None:
    case = PIXELS[name]
    parts = [
        {"type": "video", "video": CLIP} if letter == "v" else {"type": "image", "image": PICTURES[letter]}
        for letter in CASES[name]
    ]
    inputs = qwen_processor()([{"role": "user", "content": parts}], image_merge_size=case["merge_sizes"][-1])
    assert inputs.grid_sizes.tolist() == case["grid_sizes"]
    assert inputs.merge_sizes.tolist() == case["merge_sizes"]
    assert_equals_case(inputs.pixel_values, name)


def assert_equals_case(pixels: torch.Tensor, name: str) -> None:
    case = PIXELS[name]
    assert str(pixels.dtype) == "torch." + case["dtype"]
    assert list(pixels.shape) == case["shape"]
    assert hashlib.sha256(pixels.numpy().tobytes()).hexdigest() == case["sha256"]
    if name in STORED:
        assert torch.equal(pixels, STORED[name])
    elif f"{name}.first_rows" in STORED:
        assert torch.equal(pixels[:4], STORED[f"{name}.first_rows"])


# ---------------------------------------------------------------------------------------------------------- patch order


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))
@settings(max_examples=20)
def test_patches_are_listed_in_merge_blocks_of_one_visual_token(t: int, rows: int, columns: int, merge: int) -> None:
    height, width = rows * merge * 14, columns * merge * 14
    frames = noise(t, height, width, 3)
    patches = patchify(frames, t, (height, width), merge)
    assert patches.shape == (t * rows * columns * merge**2, 588)
    index = 0
    for frame in frames:
        for row in range(rows):
            for column in range(columns):
                for inner_row in range(merge):
                    for inner_column in range(merge):
                        y, x = (row * merge + inner_row) * 14, (column * merge + inner_column) * 14
                        patch = frame[y : y + 14, x : x + 14].transpose(2, 0, 1).flatten()
                        assert np.allclose(patches[index], patch / 127.5 - 1, atol=1e-6)
                        index += 1


def test_resizing_is_pillows_bicubic() -> None:
    frame = noise(40, 60, 3)
    resized = np.asarray(Image.fromarray(frame).resize((28, 42), Image.Resampling.BICUBIC))
    assert torch.equal(patchify([frame], 1, (42, 28), 1), patchify([resized], 1, (42, 28), 1))


def test_frames_can_come_from_a_generator_one_at_a_time() -> None:
    frames = noise(3, 28, 28, 3)
    assert torch.equal(patchify((f for f in frames), 3, (28, 28), 2), patchify(frames, 3, (28, 28), 2))
