"""Hidden states and attention maps by hooks."""

import pytest
import torch
from einops import rearrange

from tests.goldens_cases import NAMES, inputs_of
from tests.helpers import GOLDENS
from vl3ref import InputError
from vl3ref.checkpoints import load_model
from vl3ref.fast import encode_equal_frames_once
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.model_inputs import join
from vl3ref.watching import watch


@pytest.fixture(scope="module")
def model() -> VideoLLaMA3:
    return load_model(GOLDENS / "official-tiny", device="cpu")


def hooks_of(model: VideoLLaMA3) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@torch.no_grad()
def test_watching_does_not_change_the_result(model: VideoLLaMA3) -> None:
    inputs = join([inputs_of(case) for case in NAMES])
    plain = model(inputs)
    with watch(model) as seen:
        watched = model(inputs)
    assert hooks_of(model) == 0
    assert torch.equal(plain.logits, watched.logits)
    assert len(seen.language.hidden_states) == 3 and len(seen.vision.hidden_states) == 3
    assert torch.equal(model.language_model.head(seen.language.hidden_states[-1]), plain.logits)
    for maps, n in zip(seen.language.attentions[0], plain.lengths.tolist(), strict=True):
        assert maps.shape == (4, n, n)
        assert maps.triu(1).eq(0).all() and maps.sum(-1).sub(1).abs().max() < 1e-5
    frames = [h * w for t, h, w in inputs.grid_sizes.tolist() for _ in range(t)]
    assert [len(maps[0]) for maps in seen.vision.attentions[1]] == frames


@torch.no_grad()
def test_chunks_of_a_long_video_are_joined(model: VideoLLaMA3) -> None:
    inputs, seen = inputs_of("video"), []
    for chunk in (24, None):
        model.vision_encoder.chunk_patches = chunk
        with watch(model) as watched:
            model(inputs)
        seen.append(watched.vision)
    for one, other in zip(seen[0].hidden_states, seen[1].hidden_states, strict=True):
        assert one.shape == (168, 144) and (one - other).abs().max() < 1e-4
    assert [len(maps) for maps in seen[0].attentions] == [7, 7]


@torch.no_grad()
def test_patches_are_listed_row_by_row(model: VideoLLaMA3) -> None:
    """The rows of the last hidden state, merged on the frame's grid, are the encoder's features."""
    inputs = inputs_of("one_image_merge2")
    [[_, h, w]] = inputs.grid_sizes.tolist()
    with watch(model) as seen:
        model(inputs)
        features = model.vision_encoder(inputs.pixel_values, inputs.grid_sizes, inputs.merge_sizes)
    [rows] = seen.vision.hidden_states[-1][: h * w].split(h * w)
    merged = rearrange(rows, "(h m w n) d -> (h w) (m n) d", h=h // 2, m=2, w=w // 2, n=2).mean(1)
    assert (merged - features).abs().max() < 1e-5
    # A map is listed like the hidden states: block 1's own queries and keys, put in the same order, give it again.
    block, x = model.vision_encoder.encoder.layers[0], seen.vision.hidden_states[0][: h * w]
    rotation = model.vision_encoder.rotary(torch.cartesian_prod(torch.arange(h), torch.arange(w)))
    with watch(model, layers=[0]) as again:
        block.self_attn(block.layer_norm1(x), rotation, [h * w])
    [own] = again.vision._maps[0]
    assert (own - seen.vision.attentions[0][0]).abs().max() < 1e-5


@torch.no_grad()
def test_a_map_is_what_weighs_the_values(model: VideoLLaMA3) -> None:
    """The values, weighted by the map, are what the block's output projection reads."""
    block, values, mixed = model.language_model.layers[1].self_attn, [], []
    hooks = [
        block.v_proj.register_forward_hook(lambda *args: values.append(args[2])),
        block.o_proj.register_forward_pre_hook(lambda _, args: mixed.append(args[0])),
    ]
    with watch(model, layers=[1]) as seen:
        model(inputs_of("text_only"))
    for hook in hooks:
        hook.remove()
    v = rearrange(values[0], "n (h d) -> h n d", h=2).repeat_interleave(2, dim=0)
    weighted = rearrange(seen.language.attentions[1][0] @ v, "h n d -> n (h d)")
    assert (weighted - mixed[0]).abs().max() < 1e-5


@torch.no_grad()
def test_layers_can_be_named(model: VideoLLaMA3) -> None:
    with watch(model, layers=[0, -1, 2]) as seen:
        model(inputs_of("video"))
    assert list(seen.vision.hidden_states) == [0, 1, 2] and list(seen.language.attentions) == [0, 1]
    with pytest.raises(InputError, match="no layer 3"), watch(model, layers=[3]):
        pass
    with encode_equal_frames_once(model), pytest.raises(InputError, match="encode_equal_frames_once"), watch(model):
        pass
