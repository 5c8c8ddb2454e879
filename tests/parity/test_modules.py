"""Every module of ours beside its twin in transformers: the same parameters, any shapes, float32 and float64."""

from typing import Any

import pytest
import torch
from einops import rearrange
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb
from transformers.models.video_llama_3.modeling_video_llama_3 import apply_rotary_pos_emb_vision

from tests.parity.drawn import (
    DETOUR,
    KERNEL,
    Grid,
    close,
    conversations,
    drawn_patches,
    grids_and_merges,
    quick,
    rounding_of,
    seeds,
    their_logits,
    twins,
)
from vl3ref.model.kv_cache import first_step
from vl3ref.model.rope import Rotation, image_rotation, patch_positions, rotate, text_rotation
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.model.vision import merge_tokens
from vl3ref.parity.reference import twin

Twins = tuple[VideoLLaMA3, Any, torch.dtype]
Visuals = tuple[list[Grid], list[int]]


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


def rows(count: int, dim: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


# ------------------------------------------------------------------------------------------------------------- vision


def vision_setting(pair: Twins, visuals: Visuals, seed: int) -> tuple[torch.Tensor, Rotation, list[int], dict]:
    """Hidden states of a tower, our rotation and frame lengths, and what transformers' blocks want in their place."""
    model, reference, dtype = pair
    grids, merges = visuals
    config = model.config.vision
    lengths = [h * w for t, h, w in grids for _ in range(t)]
    x = rows(sum(lengths), config.hidden_size, dtype, seed)
    places = [patch_positions(grid, merge, x.device) for grid, merge in zip(grids, merges, strict=True)]
    axes = [torch.cat(axis) for axis in zip(*places, strict=True)]
    rotation = image_rotation(*axes, config.head_dim, config.rope_theta)
    theirs = reference.model.vision_model.rotary_pos_emb(x, torch.stack(axes, dim=1))
    ends = torch.tensor([0, *lengths]).cumsum(0)
    return x, rotation, lengths, {"cu_seqlens": ends, "position_embeddings": theirs}


@quick
@given(pair=twins(), seed=seeds, patches=st.integers(1, 40))
def test_patch_embedding(pair: Twins, seed: int, patches: int) -> None:
    model, reference, dtype = pair
    pixels = rows(patches, model.config.vision.patch_values, dtype, seed)
    close(model.vision_encoder.embeddings(pixels), reference.model.vision_model.embeddings(pixels), KERNEL[dtype])


@quick
@given(pair=twins(), visuals=grids_and_merges(), seed=seeds)
def test_image_rotation(pair: Twins, visuals: Visuals, seed: int) -> None:
    model, _, dtype = pair
    x, rotation, _, theirs = vision_setting(pair, visuals, seed)
    queries = rearrange(x, "n (h d) -> n h d", d=model.config.vision.head_dim)
    expected, _ = apply_rotary_pos_emb_vision(queries, queries, *theirs["position_embeddings"])
    ours = rotate(queries, rotation)
    assert rotation.cos.dtype == torch.float32 and ours.dtype == dtype
    if dtype == torch.float32:
        assert torch.equal(ours, expected)
    close(ours, expected, DETOUR[dtype])


@quick
@given(pair=twins(), visuals=grids_and_merges(), seed=seeds)
def test_vision_attention(pair: Twins, visuals: Visuals, seed: int) -> None:
    model, reference, dtype = pair
    x, rotation, lengths, theirs = vision_setting(pair, visuals, seed)
    expected, _ = reference.model.vision_model.encoder.layers[1].self_attn(x, **theirs)
    close(model.vision_encoder.encoder.layers[1].self_attn(x, rotation, lengths), expected, DETOUR[dtype])


@quick
@given(pair=twins(), count=st.integers(1, 30), seed=seeds)
def test_vision_mlp(pair: Twins, count: int, seed: int) -> None:
    model, reference, dtype = pair
    x = rows(count, model.config.vision.hidden_size, dtype, seed)
    expected = reference.model.vision_model.encoder.layers[0].mlp(x)
    close(model.vision_encoder.encoder.layers[0].mlp(x), expected, KERNEL[dtype])


@quick
@given(pair=twins(), visuals=grids_and_merges(), seed=seeds)
def test_vision_layer(pair: Twins, visuals: Visuals, seed: int) -> None:
    model, reference, dtype = pair
    x, rotation, lengths, theirs = vision_setting(pair, visuals, seed)
    expected = reference.model.vision_model.encoder.layers[1](x, **theirs)
    close(model.vision_encoder.encoder.layers[1](x, rotation, lengths), expected, DETOUR[dtype])


@quick
@given(pair=twins(), visuals=grids_and_merges(most=4), seed=seeds, chunk=st.sampled_from([1, 9, 2048, None]))
def test_vision_encoder(pair: Twins, visuals: Visuals, seed: int, chunk: int | None) -> None:
    model, _, dtype = pair
    pixels = drawn_patches(*visuals, model.config.vision.patch_values, seed)
    given_sizes = [torch.tensor(sizes) for sizes in visuals]
    model.vision_encoder.chunk_patches = chunk

    def theirs(model: VideoLLaMA3) -> torch.Tensor:
        return twin(model).model.vision_model(pixels, *given_sizes).last_hidden_state

    features = model.vision_encoder(pixels, *given_sizes)
    close(features, theirs(model), 2 * DETOUR[dtype], rounding_of(model, theirs))


@quick
@given(pair=twins(), visuals=grids_and_merges(most=4), seed=seeds)
def test_token_merge_has_the_same_bits(pair: Twins, visuals: Visuals, seed: int) -> None:
    model, reference, dtype = pair
    grids, merges = visuals
    x = rows(sum(t * h * w for t, h, w in grids), model.config.vision.hidden_size, dtype, seed)
    expected = reference.model.vision_model.pixel_unshuffle(x, torch.tensor(grids), torch.tensor(merges))
    assert torch.equal(merge_tokens(x, grids, merges), expected)


@quick
@given(pair=twins(), count=st.integers(1, 30), seed=seeds)
def test_projector(pair: Twins, count: int, seed: int) -> None:
    model, reference, dtype = pair
    x = rows(count, model.config.vision.hidden_size, dtype, seed)
    close(model.projector(x), reference.model.projector(x), KERNEL[dtype])


# ----------------------------------------------------------------------------------------------------------- language


def text_setting(pair: Twins, count: int, seed: int) -> tuple[torch.Tensor, Rotation, tuple]:
    """Hidden states of one text, our rotation, and transformers'."""
    model, reference, dtype = pair
    config = model.config.language
    x = rows(count, config.hidden_size, dtype, seed)
    rotation = text_rotation(torch.arange(count), config.head_dim, config.rope_theta, dtype)
    return x, rotation, reference.model.language_model.rotary_emb(x[None], torch.arange(count)[None])


@quick
@given(pair=twins(), count=st.integers(1, 30), seed=seeds, scale=st.sampled_from([1e-3, 1.0, 1e3]))
def test_rms_norm(pair: Twins, count: int, seed: int, scale: float) -> None:
    model, reference, dtype = pair
    x = rows(count, model.config.language.hidden_size, dtype, seed) * scale
    close(model.language_model.norm(x), reference.model.language_model.norm(x), DETOUR[dtype])


@quick
@given(pair=twins(), start=st.integers(0, 40_000), count=st.integers(1, 20), seed=seeds)
def test_text_rotation_has_the_same_bits(pair: Twins, start: int, count: int, seed: int) -> None:
    model, reference, dtype = pair
    config = model.config.language
    positions = torch.arange(start, start + count)
    queries = rearrange(rows(count, config.hidden_size, dtype, seed), "n (h d) -> n h d", d=config.head_dim)
    cos, sin = reference.model.language_model.rotary_emb(queries, positions[None])
    expected, _ = apply_rotary_pos_emb(queries[None], queries[None], cos, sin, unsqueeze_dim=2)
    rotation = text_rotation(positions, config.head_dim, config.rope_theta, dtype)
    assert rotation.cos.dtype == dtype and torch.equal(rotate(queries, rotation), expected[0])


@quick
@given(pair=twins(), count=st.integers(1, 20), seed=seeds)
def test_text_attention_of_any_grouping(pair: Twins, count: int, seed: int) -> None:
    model, reference, dtype = pair
    x, rotation, theirs = text_setting(pair, count, seed)
    expected, _ = reference.model.language_model.layers[1].self_attn(x[None], theirs, None)
    close(
        model.language_model.layers[1].self_attn(x, rotation, first_step([count], x.device)), expected[0], KERNEL[dtype]
    )


@quick
@given(pair=twins(), count=st.integers(1, 30), seed=seeds)
def test_gated_mlp(pair: Twins, count: int, seed: int) -> None:
    model, reference, dtype = pair
    x = rows(count, model.config.language.hidden_size, dtype, seed)
    close(model.language_model.layers[0].mlp(x), reference.model.language_model.layers[0].mlp(x), KERNEL[dtype])


@quick
@given(pair=twins(), count=st.integers(1, 20), seed=seeds)
def test_decoder_layer(pair: Twins, count: int, seed: int) -> None:
    model, reference, dtype = pair
    x, rotation, theirs = text_setting(pair, count, seed)
    expected = reference.model.language_model.layers[1](x[None], None, position_embeddings=theirs)[0]
    close(model.language_model.layers[1](x, rotation, first_step([count], x.device)), expected, DETOUR[dtype])


@quick
@given(pair=twins(), count=st.integers(1, 20), seed=seeds)
def test_language_model(pair: Twins, count: int, seed: int) -> None:
    model, _, dtype = pair
    source = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, model.config.language.vocab_size - 2, (count,), generator=source)

    def theirs(model: VideoLLaMA3) -> torch.Tensor:
        return twin(model)(input_ids=ids[None]).logits[0]

    close(model.language_model(ids), theirs(model), 2 * DETOUR[dtype], rounding_of(model, theirs))


# -------------------------------------------------------------------------------------------------------- all of them


@quick
@given(pair=twins(), data=st.data())
def test_whole_model(pair: Twins, data: st.DataObject) -> None:
    model, _, dtype = pair
    inputs = data.draw(conversations(model.config))
    theirs = their_logits(inputs)
    close(model(inputs).logits, theirs(model), 4 * DETOUR[dtype], rounding_of(model, theirs))
