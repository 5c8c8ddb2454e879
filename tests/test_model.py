"""The parts of the model: packing, chunks, attention, positions, pruning, loss."""

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.goldens_cases import inputs_of, labels_of
from tests.helpers import GOLDENS, needs_gpu
from vl3ref import InputError
from vl3ref.checkpoints import load_model
from vl3ref.config import LanguageConfig, VisionConfig
from vl3ref.model import kernels, loss
from vl3ref.model.attention import packed_attention
from vl3ref.model.diff_fp import DiffFP, keep_all
from vl3ref.model.kv_cache import KVCache
from vl3ref.model.language_model import LanguageModel
from vl3ref.model.rope import ImageRotary, Rotation, TextRotary, rotate
from vl3ref.model.token_merge import TokenMerge
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.model.vision import patch_positions
from vl3ref.model_inputs import ModelInputs, join
from vl3ref.watching import attention_maps

quick = settings(max_examples=25)


@pytest.fixture(scope="module")
def model() -> VideoLLaMA3:
    return load_model(GOLDENS / "official-tiny", device="cpu")


@pytest.fixture(scope="module")
def wide() -> VideoLLaMA3:
    """In float64: what is equal but for rounding differs by less than 1e-9 on any processor."""
    return load_model(GOLDENS / "official-tiny", device="cpu", dtype="float64")


def random_visuals(grids: list[tuple[int, int, int]], merges: list[int], source: torch.Generator) -> torch.Tensor:
    """Patches of videos in which about half the places stand still from one frame to the next."""
    pixels = []
    for (t, h, w), merge in zip(grids, merges, strict=True):
        frames = torch.rand(t, h * w // merge**2, merge**2, 588, generator=source) * 2 - 1
        for k in range(1, t):
            still = torch.rand(frames.shape[1], generator=source) < 0.5
            frames[k, still] = frames[k - 1, still]
        pixels.append(frames.reshape(-1, 588))
    return torch.cat(pixels)


@st.composite
def conversations(draw: st.DrawFn) -> ModelInputs:
    """A conversation with any mix of images and videos between stretches of text."""
    source = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))

    def words() -> torch.Tensor:
        return torch.randint(4, 250, (draw(st.integers(1, 6)),), generator=source)

    grids, merges, modals = [], [], []
    ids = [words()]
    for _ in range(draw(st.integers(0, 3))):
        merge = draw(st.sampled_from([1, 2]))
        frames = draw(st.integers(1, 4))
        grids.append((frames, merge * draw(st.integers(1, 3)), merge * draw(st.integers(1, 3))))
        merges.append(merge)
        modals.append("video" if frames > 1 else draw(st.sampled_from(["image", "video"])))
        t, h, w = grids[-1]
        ids += [torch.full((t * h * w // merge**2,), 250), words()]
    ids = torch.cat(ids)
    visual = (
        (random_visuals(grids, merges, source), torch.tensor(grids), torch.tensor(merges)) if grids else (None,) * 3
    )
    return ModelInputs(ids, torch.tensor([len(ids)]), *visual, modals)


# ------------------------------------------------------------------------------------------------ batches and chunks


@quick
@given(parts=st.lists(conversations(), min_size=2, max_size=4))
def test_every_conversation_gets_what_it_would_get_alone(wide: VideoLLaMA3, parts: list[ModelInputs]) -> None:
    with torch.no_grad():
        together = wide(join(parts))
        logits = together.logits.split(together.lengths.tolist())
        alone = [wide(part) for part in parts]
    for one, ours in zip(alone, logits, strict=True):
        assert (one.logits - ours).abs().max() <= 1e-9
    alone_masks = [one.keep_mask for one in alone]
    assert torch.equal(together.keep_mask, torch.cat(alone_masks))


@quick
@given(inputs=conversations(), chunk=st.sampled_from([1, 5, 12, 40, None]))
def test_chunks_of_frames_do_not_change_the_features(wide: VideoLLaMA3, inputs: ModelInputs, chunk: int | None) -> None:
    if inputs.pixel_values is None:
        return
    visuals = (inputs.pixel_values, inputs.grid_sizes, inputs.merge_sizes)
    with torch.no_grad():
        expected = wide.vision_encoder(*visuals)
        wide.vision_encoder.chunk_patches, before = chunk, wide.vision_encoder.chunk_patches
        try:
            features = wide.vision_encoder(*visuals)
        finally:
            wide.vision_encoder.chunk_patches = before
    assert (features - expected).abs().max() <= 1e-9


def test_frames_do_not_see_each_other(model: VideoLLaMA3) -> None:
    grid, merge = torch.tensor([[3, 4, 4]]), torch.tensor([2])
    pixels = torch.rand(48, 588)
    changed = pixels.clone()
    changed[16:32] += 1  # the middle frame
    with torch.no_grad():
        before, after = (model.vision_encoder(x, grid, merge) for x in (pixels, changed))
    same = (before == after).all(dim=1)
    assert same.tolist() == [True] * 4 + [False] * 4 + [True] * 4


def test_moving_to_bfloat16_and_back_does_not_round_the_frequencies(model: VideoLLaMA3) -> None:
    other = LanguageModel(model.config.language)
    positions = torch.arange(3000, 3004)
    before = other.rotary(positions, torch.float32)
    other.bfloat16().float()
    after = other.rotary(positions, torch.float32)
    assert torch.equal(before.cos, after.cos)
    assert not list(other.buffers())


# ---------------------------------------------------------------------------------------------------------- attention


@quick
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    kv_heads=st.sampled_from([1, 2, 4]),
    causal=st.booleans(),
)
def test_packed_attention_is_attention_within_each_segment(lengths: list[int], kv_heads: int, causal: bool) -> None:
    check_packed_attention(lengths, kv_heads, causal)


def check_packed_attention(lengths: list[int], kv_heads: int, causal: bool) -> None:
    n = sum(lengths)
    q, k, v = torch.randn(n, 4, 8), torch.randn(n, kv_heads, 8), torch.randn(n, kv_heads, 8)
    ours = packed_attention(q, k, v, lengths, causal)
    maps = attention_maps(q, k, v, lengths, causal)
    start = 0
    for length, weights in zip(lengths, maps, strict=True):
        rows = slice(start, start + length)
        start += length
        q_one, k_one, v_one = (x[rows].double() for x in (q, k, v))
        k_one, v_one = (x.repeat_interleave(4 // kv_heads, dim=1) for x in (k_one, v_one))
        scores = torch.einsum("nhd,mhd->hnm", q_one, k_one) / 8**0.5
        if causal:
            scores += torch.full((length, length), float("-inf"), dtype=torch.float64).triu(1)
        expected = torch.einsum("hnm,mhd->nhd", scores.softmax(-1), v_one)
        assert (ours[rows] - expected).abs().max() < 1e-5
        assert (weights - scores.softmax(-1)).abs().max() < 1e-5


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_shared_key_heads_with_and_without_a_fused_kernel(
    monkeypatch: pytest.MonkeyPatch, causal: bool, fused: bool
) -> None:
    """torch's CPU kernel shares key heads since 2.9; before that, and on a GPU in float32, they are repeated."""
    monkeypatch.setattr(kernels, "_fuses_groups", lambda device, dtype, head_dim: fused)
    check_packed_attention([3, 5, 5], 2, causal)


@pytest.mark.cuda
@needs_gpu
@pytest.mark.parametrize("head_dim", [72, 128])
@pytest.mark.parametrize("kv_heads", [2, 4])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("lengths", [[576, 40, 1], [300] * 3])
def test_packed_attention_on_a_gpu(lengths: list[int], causal: bool, kv_heads: int, head_dim: int) -> None:
    n = sum(lengths)
    q, k, v = (torch.randn(n, h, head_dim, device="cuda") for h in (4, kv_heads, kv_heads))
    half = [x.bfloat16().requires_grad_() for x in (q, k, v)]
    wide = [x.detach().float().requires_grad_() for x in half]
    ours, expected = packed_attention(*half, lengths, causal), packed_attention(*wide, lengths, causal)
    assert (ours - expected).abs().max() < 0.03
    ours.float().square().sum().backward()
    expected.square().sum().backward()
    for ours_x, expected_x in zip(half, wide, strict=True):
        assert (ours_x.grad - expected_x.grad).abs().max() < 0.03 * expected_x.grad.abs().max()


def cached(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, past: list[int], new: list[int]) -> torch.Tensor:
    """Attention of new tokens (packed queries) over a cache of one layer that holds `past` and the new tokens."""
    config = LanguageConfig(8, q.shape[1] * q.shape[2], 8, 1, q.shape[1], keys.shape[1])
    cache = KVCache(config, len(past), keys.shape[2], q.dtype, q.device)
    cache.keys, cache.values, cache.lengths = [keys], [values], past
    return cache.attend(0, q, cache.step(new))


@quick
@given(
    past=st.lists(st.integers(0, 7), min_size=1, max_size=4).filter(any),
    new=st.integers(1, 5),
    ragged=st.booleans(),
)
def test_cached_attention_continues_where_the_cache_left_off(past: list[int], new: int, ragged: bool) -> None:
    new_lengths = [new + (b if ragged else 0) for b in range(len(past))]
    totals = [p + n for p, n in zip(past, new_lengths, strict=True)]
    whole = [(torch.randn(t, 4, 8), torch.randn(t, 2, 8), torch.randn(t, 2, 8)) for t in totals]
    keys, values = (torch.full((len(past), 2, max(totals) + 3, 8), 1e4) for _ in range(2))
    for b, (_, k, v) in enumerate(whole):
        keys[b, :, : totals[b]], values[b, :, : totals[b]] = k.transpose(0, 1), v.transpose(0, 1)
    q_new = torch.cat([q[p:] for (q, _, _), p in zip(whole, past, strict=True)])
    ours = cached(q_new, keys, values, past, new_lengths).split(new_lengths)
    for out, (q, k, v), p in zip(ours, whole, past, strict=True):
        full = packed_attention(q, k, v, [len(q)], causal=True)
        assert (out - full[p:]).abs().max() < 1e-5


@pytest.mark.cuda
@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("new", [[1, 1], [1, 300], [700, 20]])
def test_cached_attention_on_a_gpu(new: list[int], dtype: torch.dtype) -> None:
    """Decoding and later turns, by whatever kernel is taken there, beside the CPU's float32."""
    past = [600, 40]
    q, keys, values = torch.randn(sum(new), 4, 128), torch.randn(2, 2, 1300, 128), torch.randn(2, 2, 1300, 128)
    q, keys, values = (x.to(dtype).float() for x in (q, keys, values))
    ours = cached(*(x.to("cuda", dtype) for x in (q, keys, values)), past, new)
    expected = cached(q, keys, values, past, new)
    assert (ours.cpu().float() - expected).abs().max() < (1e-4 if dtype == torch.float32 else 0.03)


class Squarest(TorchDispatchMode):
    """Notes how long the second longest axis of any tensor gets."""

    def __init__(self) -> None:
        super().__init__()
        self.second = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            if isinstance(x, torch.Tensor) and x.ndim > 1:
                self.second = max(self.second, sorted(x.shape)[-2])
        return result


@torch.no_grad()
def test_no_tensor_has_two_axes_of_total_length(model: VideoLLaMA3) -> None:
    """Every other axis of this model is below a thousand."""
    pixels, grid, merge = torch.rand(4800, 588), torch.tensor([[300, 4, 4]]), torch.tensor([1])
    with Squarest() as seen:
        model.vision_encoder(pixels, grid, merge)
    assert seen.second < 1200

    decoder = model.language_model
    embeddings = decoder.embed_tokens(torch.randint(4, 250, (4800,)))
    cache = decoder.new_cache(1, 4800)
    for turn in embeddings.split([2400, 2399, 1]):
        with Squarest() as seen:
            decoder(turn, cache=cache, logits_to_keep=1)
        assert seen.second < 1200
    with Squarest() as seen:
        attention_maps(torch.rand(1300, 2, 4), torch.rand(1300, 2, 4), torch.rand(1300, 2, 4), [1300], causal=True)
    assert seen.second == 1300


# -------------------------------------------------------------------------------------------------------------- RoPE


def text_rotation(position: int) -> Rotation:
    return TextRotary(LanguageConfig(8, 16, 8, 1, 1, 1))(torch.tensor([position]), torch.float64)


def test_rope_depends_on_distance_alone() -> None:
    q, k = torch.randn(1, 1, 16).double(), torch.randn(1, 1, 16).double()

    def score(start: int, distance: int) -> float:
        return float((rotate(q, text_rotation(start + distance)) * rotate(k, text_rotation(start))).sum())

    assert score(0, 5) == pytest.approx(score(40, 5), rel=1e-4)
    assert score(0, 5) != pytest.approx(score(0, 6), rel=1e-4)


def test_image_rope_turns_the_first_half_of_the_pairs_by_row_and_the_second_by_column() -> None:
    rotary = ImageRotary(VisionConfig(16, 8, 1, 1))
    by_row, by_column = rotary(torch.tensor([[1, 0]])), rotary(torch.tensor([[0, 1]]))
    assert by_row.cos[0, 0, :4].lt(1).all() and by_row.cos[0, 0, 4:8].eq(1).all()
    assert by_column.cos[0, 0, :4].eq(1).all() and by_column.cos[0, 0, 4:8].lt(1).all()


def test_patch_positions_follow_the_merge_blocks() -> None:
    rows, columns = patch_positions((4, 4, 2), torch.device("cpu")).unbind(1)
    assert rows[:8].tolist() == [0, 0, 1, 1, 0, 0, 1, 1]
    assert columns[:8].tolist() == [0, 1, 0, 1, 2, 3, 2, 3]


class TwoAxes(nn.Module):
    """Half of the pairs turn by the first axis, half by the second; text counts alike on both."""

    def forward(self, positions: torch.Tensor, dtype: torch.dtype) -> Rotation:
        positions = positions if positions.ndim == 2 else torch.stack([positions] * 2, dim=1)
        angles = positions.float().repeat_interleave(4, dim=1) * torch.logspace(0, -2, 8)
        double = torch.cat([angles, angles], dim=1)[:, None]
        sign = torch.cat([-torch.ones(8), torch.ones(8)])
        return Rotation(double.cos().to(dtype), (double.sin() * sign).to(dtype))


def test_positions_may_have_several_axes_and_differ_from_slots(model: VideoLLaMA3) -> None:
    """Generation with a cache gives what passes over the whole text give, whatever the position scheme."""
    other = load_model(GOLDENS / "official-tiny", device="cpu")
    other.language_model.rotary = TwoAxes()

    def scheme(inputs: ModelInputs, kept: torch.Tensor) -> torch.Tensor:
        """Visual tokens share one position on the first axis; the text goes on after the largest."""
        visual = inputs.is_visual([250])[kept]
        steps = torch.where(visual, 0, 1)
        first = steps.cumsum(0) - steps[0]
        return torch.stack([first, first + visual.long() * visual.cumsum(0) % 3], dim=1)

    other.positions = scheme
    inputs = inputs_of("one_image")
    (answer,) = other.generate(inputs, max_new_tokens=6, min_new_tokens=6)
    spliced = other.splice(inputs)
    start = int(spliced.positions.max()) + 1
    assert start < len(inputs.input_ids)
    for n in range(6):
        tail = torch.arange(start, start + n)
        positions = torch.cat([spliced.positions, torch.stack([tail, tail], dim=1)])
        embeddings = torch.cat([spliced.embeddings, other.language_model.embed_tokens(answer[:n])])
        with torch.no_grad():
            hidden = other.language_model.hidden(embeddings, [len(embeddings)], positions=positions)
        assert int(other.language_model.head(hidden[-1:]).argmax()) == int(answer[n])
    plain = load_model(GOLDENS / "official-tiny", device="cpu")
    assert not torch.equal(plain(inputs).logits, other(inputs).logits)


def test_the_patch_embedding_is_the_checkpoints_convolution(model: VideoLLaMA3) -> None:
    patches = torch.randn(10, 588)
    embeddings = model.vision_encoder.embeddings
    convolved = embeddings.patch_embedding(rearrange(patches, "n (c h w) -> n c h w", c=3, h=14)).flatten(1)
    assert (embeddings(patches, torch.zeros(10, 2, dtype=torch.int64)) - convolved).abs().max() < 1e-5


@pytest.mark.parametrize("merge", [1, 2, 3, 4])
def test_merging_is_bilinear_on_the_frames_grid(merge: int) -> None:
    h, w = merge * 2, merge * 3
    image = torch.randn(2, 5, h, w)
    packed = rearrange(image, "t d (h m) (w n) -> (t h w m n) d", m=merge, n=merge)
    ours = TokenMerge()(packed, [(h, w, merge)] * 2)
    reference = F.interpolate(image, size=(2, 3), mode="bilinear")
    assert torch.equal(ours, rearrange(reference, "t d h w -> (t h w) d"))
    if merge == 2:
        mean = rearrange(image, "t d (h m) (w n) -> (t h w) d (m n)", m=2, n=2).mean(-1)
        assert (ours - mean).abs().max() < 1e-6


# ------------------------------------------------------------------------------------------------------------- DiffFP


def prune(pixels: torch.Tensor, grid: tuple[int, int, int], merge: int, modal: str = "video") -> list[bool]:
    ids = torch.zeros(1, dtype=torch.int64)
    return DiffFP()(ModelInputs(ids, ids + 1, pixels, torch.tensor([grid]), torch.tensor([merge]), [modal])).tolist()


def test_diff_fp_keeps_what_changed_and_one_token_of_a_frame_that_did_not() -> None:
    still = torch.rand(1, 3, 4, 588).repeat(3, 1, 1, 1)  # three frames of three tokens of four patches
    assert prune(still.flatten(0, 2), (3, 2, 6), 2) == [True] * 3 + [True, False, False] * 2
    still[2, 1] += 0.1
    assert prune(still.flatten(0, 2), (3, 2, 6), 2) == [True] * 3 + [True, False, False] + [False, True, False]


@pytest.mark.parametrize(("change", "kept"), [(0.09, False), (0.11, True)])
def test_diff_fp_compares_the_mean_change_times_255_with_its_threshold(change: float, kept: bool) -> None:
    pixels = torch.zeros(2, 2, 588)
    pixels[1, 1] = change / 255
    pixels[1, 0] = 1
    assert prune(pixels.flatten(0, 1), (2, 1, 2), 1) == [True, True, True, kept]


def test_diff_fp_compares_with_the_frame_before_even_if_that_was_dropped() -> None:
    pixels = torch.zeros(4, 2, 588)
    pixels[:, 0] = torch.arange(4)[:, None] * 1.0
    pixels[:, 1] = torch.arange(4)[:, None] * 0.06 / 255  # each step below the threshold, the sum above it
    assert prune(pixels.flatten(0, 1), (4, 1, 2), 1) == [True, True] + [True, False] * 3


def test_images_and_one_frame_videos_stay_whole() -> None:
    pixels = torch.zeros(8, 588)
    assert prune(pixels, (1, 2, 4), 1, "image") == [True] * 8
    assert prune(pixels, (1, 2, 4), 1, "video") == [True] * 8


def test_the_keep_mask_is_decided_on_float32_pixels(model: VideoLLaMA3) -> None:
    inputs = inputs_of("video")
    low = load_model(GOLDENS / "official-tiny", device="cpu", dtype="bfloat16")
    expected = model.pruner(inputs, None)
    assert torch.equal(low.pruner(inputs, None), expected)
    assert torch.equal(low(inputs.to(dtype=torch.bfloat16)).keep_mask, expected)
    assert inputs.to(dtype=torch.bfloat16).pixel_values.dtype == torch.float32
    assert inputs.to(dtype=torch.float64).pixel_values.dtype == torch.float64


def test_another_pruner_and_another_projector_can_be_put_in(model: VideoLLaMA3) -> None:
    other = load_model(GOLDENS / "official-tiny", device="cpu")
    inputs = inputs_of("video")
    asked = []

    def every_other(inputs: ModelInputs, features: torch.Tensor) -> torch.Tensor:
        asked.append((inputs.modals, tuple(features.shape)))
        mask = keep_all(inputs)
        mask[1::2] = False
        return mask

    other.pruner = every_other
    output = other(inputs)
    assert asked == [(["video"], (42, 144))]
    assert output.keep_mask.tolist() == [True, False] * 21
    assert int(output.lengths) == len(output.logits) == len(inputs.input_ids) - 21

    other.projector = nn.Linear(144, 64)
    assert other(inputs).logits.shape == output.logits.shape
    assert not torch.equal(other(inputs).logits, output.logits)


@pytest.mark.parametrize(
    "projector", [nn.Linear(144, 128), nn.Linear(144, 32), nn.Sequential(nn.Linear(144, 64), nn.Unflatten(0, (1, -1)))]
)
def test_a_projector_of_another_width_is_refused(projector: nn.Module) -> None:
    other = load_model(GOLDENS / "official-tiny", device="cpu")
    other.projector = projector
    with pytest.raises(InputError, match="the projector made"):
        other(inputs_of("one_image"))


@pytest.mark.parametrize("mask", [torch.ones(41, dtype=torch.bool), torch.ones(42, dtype=torch.int64), None, "all"])
def test_a_pruner_that_gives_no_mask_of_the_tokens_is_refused(model: VideoLLaMA3, mask: torch.Tensor) -> None:
    with pytest.raises(InputError, match="the pruner made"):
        model(inputs_of("video"), pruner=lambda inputs, features: mask)


def test_a_pruner_can_be_given_for_one_call(model: VideoLLaMA3) -> None:
    inputs = inputs_of("video")
    assert model(inputs, pruner=keep_all).keep_mask.all()
    assert int(model(inputs, pruner=DiffFP(1e9)).keep_mask.sum()) == 6 + 6  # frame 0, and one token of each later one
    assert int(model(inputs).keep_mask.sum()) == 23
    alone = model.generate(inputs, 4, min_new_tokens=4, pruner=keep_all)[0]
    assert not torch.equal(alone, model.generate(inputs, 4, min_new_tokens=4)[0])


def test_scores_weigh_what_is_kept_and_get_a_gradient(model: VideoLLaMA3) -> None:
    inputs = inputs_of("video")
    scores = torch.ones(42, requires_grad=True)
    output = model(inputs, labels=labels_of(inputs), pruner=lambda inputs, features: scores - DROPPED)
    output.loss.backward()
    assert torch.equal(output.keep_mask, DROPPED == 0)
    assert scores.grad[DROPPED == 0].ne(0).all() and scores.grad[DROPPED == 1].eq(0).all()
    ones = model(inputs, pruner=lambda inputs, features: (DROPPED == 0).float())
    assert torch.equal(ones.logits, model(inputs, pruner=lambda inputs, features: DROPPED == 0).logits)
    half = model(inputs, pruner=lambda inputs, features: (DROPPED == 0) * 0.5)
    assert torch.equal(half.keep_mask, ones.keep_mask) and not torch.allclose(half.logits, ones.logits)


DROPPED = torch.arange(42) % 3 // 2
"""1 for every third visual token."""


def test_dropped_tokens_do_not_reach_the_decoder(model: VideoLLaMA3) -> None:
    inputs = inputs_of("video")
    lengths = []
    hook = model.language_model.layers[0].register_forward_pre_hook(lambda _, args: lengths.append(len(args[0])))
    with torch.no_grad():
        model(inputs)
    hook.remove()
    assert lengths == [len(inputs.input_ids) - 19]


# --------------------------------------------------------------------------------------------------- logits and loss


def test_logits_to_keep_cuts_each_conversation(wide: VideoLLaMA3) -> None:
    inputs = join([inputs_of("text_only"), inputs_of("video")])
    with torch.no_grad():
        full, cut = wide(inputs), wide(inputs, logits_to_keep=2)
    first, second = full.logits.split(full.lengths.tolist())
    assert (cut.logits - torch.cat([first[-2:], second[-2:]])).abs().max() < 1e-9


def test_labels_leave_the_logits_out_unless_asked_for(model: VideoLLaMA3) -> None:
    inputs = inputs_of("text_only")
    with torch.no_grad():
        assert model(inputs, labels=inputs.input_ids).logits is None
        asked = model(inputs, labels=inputs.input_ids, return_logits=True)
        shifted = F.cross_entropy(asked.logits[:-1], inputs.input_ids[1:])
    assert asked.loss.item() == pytest.approx(shifted.item(), rel=1e-6)


def test_the_loss_in_chunks_is_the_loss_at_once(model: VideoLLaMA3, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = inputs_of("text_only")
    whole = model(inputs, labels=inputs.input_ids)
    monkeypatch.setattr(loss, "LOSS_CHUNK", 3)
    parts = model(inputs, labels=inputs.input_ids)
    assert parts.loss.item() == pytest.approx(whole.loss.item(), rel=1e-6)


def test_the_decoder_alone_takes_ids_or_embeddings_and_a_cache(wide: VideoLLaMA3) -> None:
    decoder = wide.language_model
    ids = torch.randint(4, 250, (9,))
    with torch.no_grad():
        full = decoder(ids)
        assert torch.equal(decoder(decoder.embed_tokens(ids)), full)
        cache = decoder.new_cache(1, 9)
        pieces = torch.cat([decoder(piece, cache=cache) for piece in ids.split([4, 1, 3, 1])])
    assert (pieces - full).abs().max() < 1e-9
    assert cache.lengths == [9]


def test_a_model_without_a_head_of_its_own_uses_its_embedding_table() -> None:
    config = LanguageConfig(64, 32, 48, 1, 4, 2, tie_word_embeddings=True)
    decoder = LanguageModel(config)
    assert "lm_head.weight" not in decoder.state_dict()
    hidden = torch.randn(3, 32)
    assert torch.equal(decoder.head(hidden), hidden @ decoder.embed_tokens.weight.T)


# -------------------------------------------------------------------------------------------------------- bad inputs


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i: setattr(i, "lengths", torch.tensor([3])), "lengths add up to 3"),
        (lambda i: setattr(i, "input_ids", i.input_ids[:-12]), "lengths add up"),
        (lambda i: i.input_ids.__setitem__(0, 250), "hold 43 visual tokens"),
        (lambda i: i.input_ids.__setitem__(0, 999), "but the vocabulary from 0 to 255"),
        (lambda i: i.input_ids.__setitem__(0, -1), "run from -1"),
        (lambda i: setattr(i, "pixel_values", i.pixel_values[:-1]), "but the grids ask for"),
        (lambda i: setattr(i, "merge_sizes", torch.tensor([4])), "cannot be merged by 4"),
        (lambda i: setattr(i, "merge_sizes", torch.tensor([0])), "cannot be merged by 0"),
        (lambda i: setattr(i, "modals", ["film"]), "'image' and 'video', not"),
        (lambda i: setattr(i, "modals", []), "go together"),
        (lambda i: setattr(i, "grid_sizes", None), "go together"),
    ],
)
def test_inputs_that_contradict_each_other_are_refused(model: VideoLLaMA3, change, message: str) -> None:
    inputs = inputs_of("video")
    change(inputs)
    with pytest.raises(InputError, match=message):
        model(inputs)


def test_the_parts_refuse_what_does_not_fit_too(model: VideoLLaMA3) -> None:
    ids, pixels = torch.randint(4, 250, (6,)), torch.rand(16, 588)
    for arguments in ((ids[:0],), (ids[None],), (ids, [3]), (ids + 250,), (ids - 250,)):
        with pytest.raises(InputError):
            model.language_model(*arguments)
    for grid, merge in (([1, 4, 5], 1), ([1, 4, 4], 3), ([1, 4, 4], 0)):
        with pytest.raises(InputError):
            model.vision_encoder(pixels, torch.tensor([grid]), torch.tensor([merge]))
    with pytest.raises(InputError):
        model.vision_encoder(pixels[:, :500], torch.tensor([[1, 4, 4]]), torch.tensor([1]))


def test_a_cache_grows_when_it_is_too_small(wide: VideoLLaMA3) -> None:
    decoder = wide.language_model
    ids = torch.randint(4, 250, (9,))
    cache = decoder.new_cache(1)
    with torch.no_grad():
        pieces = torch.cat([decoder(piece, cache=cache) for piece in ids.split([4, 1, 4])])
        assert (pieces - decoder(ids)).abs().max() < 1e-9


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.zeros(3, dtype=torch.int64), "3 labels for"),
        (torch.full((76,), 256), "these run from 256 to 256"),
        (torch.full((76,), -5), "lie between 0 and 255"),
        (torch.full((76,), 5, dtype=torch.int32), "1-D int64"),
        (torch.full((76,), -100), "no token is a target"),
        (torch.tensor([5] + [-100] * 75), "no token is a target"),
    ],
)
def test_labels_that_do_not_fit_are_refused(model: VideoLLaMA3, labels: torch.Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        model(inputs_of("video"), labels=labels)
