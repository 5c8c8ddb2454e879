"""Every module of ours beside transformers': the same parameters, several geometries, float32 and float64."""

import pytest
import torch
from einops import rearrange
from torch import Tensor
from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb
from transformers.models.video_llama_3.modeling_video_llama_3 import apply_rotary_pos_emb_vision

from tests.parity.pairs import Grid, Pair, random_patches
from vl3ref.model.kv_cache import Step
from vl3ref.model.rope import rotate
from vl3ref.model.vision import patch_positions

GRIDS: list[Grid] = [(1, 2, 3), (3, 4, 6), (2, 2, 4), (1, 1, 1)]
MERGES = [1, 2, 2, 1]
FRAMES = [(h, w, merge) for (t, h, w), merge in zip(GRIDS, MERGES, strict=True) for _ in range(t)]
LENGTHS = [h * w for h, w, _ in FRAMES]
PLACES = torch.cat([patch_positions(frame, torch.device("cpu")) for frame in FRAMES])
TEXT = 20


def rows(count: int, dim: int) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


# ------------------------------------------------------------------------------------------------------------- vision


def patches(pair: Pair) -> Tensor:
    return rows(sum(LENGTHS), pair.config.vision.hidden_size)


def in_frames(reference, x: Tensor) -> dict:
    """What transformers' blocks take beside the hidden states."""
    return {
        "cu_seqlens": torch.tensor([0, *LENGTHS]).cumsum(0),
        "position_embeddings": reference.model.vision_model.rotary_pos_emb(x, PLACES),
    }


def test_patch_embedding(pair: Pair) -> None:
    pair.check(
        lambda model, x: model.vision_encoder.embeddings(x, PLACES),
        lambda reference, x: reference.model.vision_model.embeddings(x),
        rows(len(PLACES), pair.config.vision.patch_values),
        same_in_float64=True,
    )


def test_image_rotation(pair: Pair) -> None:
    def heads(x: Tensor) -> Tensor:
        return rearrange(x, "n (h d) -> n h d", d=pair.config.vision.head_dim)

    def theirs(reference, x: Tensor) -> Tensor:
        places = reference.model.vision_model.rotary_pos_emb(x, PLACES)
        return apply_rotary_pos_emb_vision(heads(x), heads(x), *places)[0]

    def ours(model, x: Tensor) -> Tensor:
        return rotate(heads(x), model.vision_encoder.rotary(PLACES))

    x = patches(pair).float()
    assert torch.equal(ours(pair.ours[torch.float32], x), theirs(pair.theirs[torch.float32], x))
    assert pair.ours[torch.float64].vision_encoder.rotary(PLACES).cos.dtype == torch.float32
    pair.check(ours, theirs, patches(pair))


def test_vision_attention(pair: Pair) -> None:
    def ours(model, x: Tensor) -> Tensor:
        rotation = model.vision_encoder.rotary(PLACES)
        return model.vision_encoder.encoder.layers[1].self_attn(x, rotation, LENGTHS)

    def theirs(reference, x: Tensor) -> Tensor:
        return reference.model.vision_model.encoder.layers[1].self_attn(x, **in_frames(reference, x))[0]

    pair.check(ours, theirs, patches(pair))


def test_vision_mlp(pair: Pair) -> None:
    pair.check(
        lambda model, x: model.vision_encoder.encoder.layers[0].mlp(x),
        lambda reference, x: reference.model.vision_model.encoder.layers[0].mlp(x),
        patches(pair),
        same_in_float64=True,
    )


def test_vision_layer(pair: Pair) -> None:
    pair.check(
        lambda model, x: model.vision_encoder.encoder.layers[1](x, model.vision_encoder.rotary(PLACES), LENGTHS),
        lambda reference, x: reference.model.vision_model.encoder.layers[1](x, **in_frames(reference, x)),
        patches(pair),
    )


@pytest.mark.parametrize("chunk", [1, 9, 30, None])
def test_vision_encoder(pair: Pair, chunk: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    grids, merges = torch.tensor(GRIDS), torch.tensor(MERGES)
    for model in pair.ours.values():
        monkeypatch.setattr(model.vision_encoder, "chunk_patches", chunk)
    pair.check(
        lambda model, x: model.vision_encoder(x, grids, merges),
        lambda reference, x: reference.model.vision_model(x, grids, merges).last_hidden_state,
        random_patches(GRIDS, MERGES, pair.config.vision.patch_values, 0),
    )


def test_token_merge_has_the_same_bits(pair: Pair) -> None:
    for dtype, model in pair.ours.items():
        x = patches(pair).to(dtype)
        expected = pair.theirs[dtype].model.vision_model.pixel_unshuffle(x, torch.tensor(GRIDS), torch.tensor(MERGES))
        assert torch.equal(model.vision_encoder.merge(x, FRAMES), expected)


def test_projector(pair: Pair) -> None:
    pair.check(
        lambda model, x: model.projector(x),
        lambda reference, x: reference.model.projector(x),
        patches(pair),
        same_in_float64=True,
    )


# ----------------------------------------------------------------------------------------------------------- language


def words(pair: Pair) -> Tensor:
    return rows(TEXT, pair.config.language.hidden_size)


def our_step(model, x: Tensor) -> tuple:
    """What our blocks take beside the hidden states."""
    positions = torch.arange(TEXT)
    return model.language_model.rotary(positions, x.dtype), Step("prefill", [TEXT], positions)


def their_places(reference, x: Tensor) -> tuple[Tensor, Tensor]:
    return reference.model.language_model.rotary_emb(x[None], torch.arange(TEXT)[None])


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_rms_norm(pair: Pair, scale: float) -> None:
    pair.check(
        lambda model, x: model.language_model.norm(x),
        lambda reference, x: reference.model.language_model.norm(x),
        words(pair) * scale,
    )


@pytest.mark.parametrize("start", [0, 257, 32_000])
def test_text_rotation_has_the_same_bits(pair: Pair, start: int) -> None:
    positions = torch.arange(start, start + TEXT)
    for dtype, model in pair.ours.items():
        queries = rearrange(words(pair).to(dtype), "n (h d) -> n h d", d=pair.config.language.head_dim)
        cos, sin = pair.theirs[dtype].model.language_model.rotary_emb(queries, positions[None])
        expected, _ = apply_rotary_pos_emb(queries[None], queries[None], cos, sin, unsqueeze_dim=2)
        rotation = model.language_model.rotary(positions, dtype)
        assert rotation.cos.dtype == dtype and torch.equal(rotate(queries, rotation), expected[0])


def test_text_attention(pair: Pair) -> None:
    def theirs(reference, x: Tensor) -> Tensor:
        return reference.model.language_model.layers[1].self_attn(x[None], their_places(reference, x), None)[0][0]

    pair.check(
        lambda model, x: model.language_model.layers[1].self_attn(x, *our_step(model, x)),
        theirs,
        words(pair),
        same_in_float64=True,
    )


def test_gated_mlp(pair: Pair) -> None:
    pair.check(
        lambda model, x: model.language_model.layers[0].mlp(x),
        lambda reference, x: reference.model.language_model.layers[0].mlp(x),
        words(pair),
        same_in_float64=True,
    )


def test_decoder_layer(pair: Pair) -> None:
    def theirs(reference, x: Tensor) -> Tensor:
        layer = reference.model.language_model.layers[1]
        return layer(x[None], None, position_embeddings=their_places(reference, x))[0]

    pair.check(lambda model, x: model.language_model.layers[1](x, *our_step(model, x)), theirs, words(pair))


def test_language_model(pair: Pair) -> None:
    ids = torch.randint(0, pair.config.language.vocab_size - 2, (TEXT,), generator=torch.Generator().manual_seed(0))
    pair.check(lambda model: model.language_model(ids), lambda reference: reference(input_ids=ids[None]).logits[0])
