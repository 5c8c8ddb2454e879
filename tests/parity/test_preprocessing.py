"""Pixels and keep masks beside transformers' own processors."""

import ast
import inspect
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from transformers.models import video_llama_3
from transformers.models.video_llama_3.image_processing_pil_video_llama_3 import (
    VideoLlama3ImageProcessorPil,
    smart_resize,
)

import vl3ref
from tests.media import noise
from tests.parity.pairs import few, grids_and_merges, many, random_patches, seeds
from vl3ref.inputs.patches import patchify, target_sizes
from vl3ref.inputs.processor import Processor
from vl3ref.model.diff_fp import DiffFP
from vl3ref.model_inputs import ModelInputs
from vl3ref.parity.processing import reference_pixels

sides = st.integers(1, 150)
TINY = vl3ref.load_processor("vl3-tiny")


def random_frames(count: int, height: int, width: int, seed: int) -> list[np.ndarray]:
    """Noise, or a smooth slope: bicubic rounds them differently."""
    if seed % 2:
        return list(noise(count, height, width, 3, seed=seed))
    slope = np.linspace(0, 255, height)[:, None, None] * np.linspace(0, 1, width)[None, :, None]
    return [np.broadcast_to(slope + 3 * k, (height, width, 3)).astype(np.uint8) for k in range(count)]


# ------------------------------------------------------------------------------------------------------------- pixels


@many
@given(
    count=st.integers(1, 3),
    height=sides,
    width=sides,
    rows=st.integers(1, 5),
    columns=st.integers(1, 5),
    merge=st.sampled_from([1, 2]),
    seed=seeds,
)
def test_patches_of_any_size_are_the_pillow_processors_bit_for_bit(
    count: int, height: int, width: int, rows: int, columns: int, merge: int, seed: int
) -> None:
    frames = random_frames(count, height, width, seed)
    size = (rows * 14 * merge, columns * 14 * merge)
    ours = patchify(frames, count, size, merge)
    theirs = reference_pixels(frames, size, merge)
    assert ours.dtype == theirs.dtype == torch.float32 and torch.equal(ours, theirs)


@pytest.mark.parametrize("merge", [1, 2])
@pytest.mark.parametrize("original", [(56, 84), (30, 45), (480, 640), (57, 83)], ids=["same", "up", "down", "odd"])
def test_patches_are_the_pillow_processors_up_and_down(original: tuple[int, int], merge: int) -> None:
    frames = list(noise(2, *original, 3))
    assert torch.equal(patchify(frames, 2, (56, 84), merge), reference_pixels(frames, (56, 84), merge))


def image_inputs(processor: Processor, image: np.ndarray, **options: int) -> vl3ref.ModelInputs:
    return processor([{"role": "user", "content": [{"type": "image", "image": image}]}], **options)


@few
@given(
    height=st.integers(20, 400),
    width=st.integers(20, 400),
    merge=st.sampled_from([1, 2]),
    tokens=st.sampled_from([64, 150, 16384]),
    seed=seeds,
)
def test_one_image_through_each_processor_with_its_own_size_rule(
    height: int, width: int, merge: int, tokens: int, seed: int
) -> None:
    """For one image the two rules agree, unless it is so long that shrinking takes it below the least size."""
    assume(max(height, width) <= 4 * min(height, width))
    (image,) = random_frames(1, height, width, seed)
    ours = image_inputs(TINY, image, max_tokens=tokens, image_merge_size=merge)
    unit = (14 * merge) ** 2
    theirs = VideoLlama3ImageProcessorPil(
        size={"shortest_edge": TINY.config.min_tokens * unit, "longest_edge": tokens * unit}, merge_size=merge
    )(image, return_tensors="pt")
    assert torch.equal(ours.grid_sizes, theirs["image_grid_thw"])
    assert torch.equal(ours.merge_sizes, theirs["image_merge_sizes"])
    assert torch.equal(ours.pixel_values, theirs["pixel_values"])


@many
@given(
    height=st.integers(1, 3000), width=st.integers(1, 3000), merge=st.sampled_from([1, 2]), tokens=st.integers(64, 4000)
)
def test_the_size_rules_agree_on_one_image(height: int, width: int, merge: int, tokens: int) -> None:
    assume(max(height, width) <= 4 * min(height, width))
    unit = 14 * merge
    (ours,) = target_sizes([(1, height, width)], [merge], tokens, 16)
    assert ours == smart_resize(height, width, unit, 16 * unit**2, tokens * unit**2)


# ---------------------------------------------------------------------------------------------------------- keep masks


def reference_mask() -> Callable[..., torch.Tensor]:
    """The method that decides in transformers' video processor.

    Its module imports torchvision, which it does not use for this; the method alone is taken from the file.
    """
    file = Path(inspect.getfile(video_llama_3)).parent / "video_processing_video_llama_3.py"
    (method,) = (
        node
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name == "_get_compression_mask"
    )
    names = {"torch": torch}
    exec(compile(ast.Module([method], []), str(file), "exec"), names)
    return names["_get_compression_mask"]


MASK = reference_mask()


@many
@given(visuals=grids_and_merges(most=4), seed=seeds, loudness=st.sampled_from([1e-4, 1e-3, 1.0]))
def test_diff_fp_keeps_what_transformers_video_processor_keeps(
    visuals: tuple[list, list[int]], seed: int, loudness: float
) -> None:
    """Quiet changes lie on both sides of the threshold."""
    grids, merges = torch.tensor(visuals[0]), torch.tensor(visuals[1])
    pixels = random_patches(*visuals, 12, seed) * loudness
    ids = torch.zeros(1, dtype=torch.int64)
    inputs = ModelInputs(ids, torch.tensor([1]), pixels, grids, merges, ["video"] * len(grids))
    assert torch.equal(DiffFP()(inputs), MASK(SimpleNamespace(), pixels.clone(), grids, merges))


def moving_frames(count: int, height: int, width: int) -> list[np.ndarray]:
    """A square that moves over a still background."""
    frames = np.repeat(noise(1, height, width, 3), count, axis=0)
    for k, frame in enumerate(frames):
        frame[10:30, 9 * k : 9 * k + 20] = 40 * k
    return list(frames)


@pytest.mark.parametrize("merge", [1, 2])
def test_the_real_video_processor_agrees_where_it_does_not_resize(merge: int) -> None:
    """torchvision rounds its resizing otherwise than Pillow; the frames have their final size here."""
    pytest.importorskip("torchvision", reason="transformers' video processor needs torchvision")
    from transformers.models.video_llama_3.video_processing_video_llama_3 import VideoLlama3VideoProcessor

    frames = moving_frames(4, 112, 168)
    size = {"shortest_edge": 16 * 28**2, "longest_edge": 16384 * 28**2}
    theirs = VideoLlama3VideoProcessor(size=size, merge_size=merge)(
        videos=[torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)], do_sample_frames=False, return_tensors="pt"
    )
    ours = TINY([{"role": "user", "content": [{"type": "video", "video": np.stack(frames)}]}], video_merge_size=merge)
    assert torch.equal(ours.grid_sizes, theirs["video_grid_thw"])
    assert torch.equal(ours.merge_sizes, theirs["video_merge_sizes"])
    # It scales and normalises in one step, where the image processors take two.
    assert (ours.pixel_values - theirs["pixel_values_videos"]).abs().max() <= 2e-7
    keep = DiffFP()(ours)
    assert torch.equal(keep, theirs["video_compression_mask"]) and 0.1 < keep.float().mean() < 0.9
