"""The parts of the model: packing, chunks, pruning, looking inside."""

from inspect import signature

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import vl3ref
from tests.goldens_cases import NAMES, inputs_of
from tests.helpers import GOLDENS, needs_gpu
from tests.media import noise
from vl3ref import InputError
from vl3ref.checkpoints import load_model
from vl3ref.config import LanguageConfig
from vl3ref.model import attention, kernels
from vl3ref.model.attention import attention_maps, cached_attention, packed_attention
from vl3ref.model.diff_fp import DiffFP, keep_all
from vl3ref.model.kv_cache import KVCache
from vl3ref.model.language_model import LanguageModel
from vl3ref.model.recording import Recording
from vl3ref.model.rope import image_rotation, patch_positions, rotate, text_rotation
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.model.vision import first_occurrences
from vl3ref.model_inputs import ModelInputs, join

quick = settings(deadline=None, max_examples=25)


@pytest.fixture(scope="module")
def model() -> VideoLLaMA3:
    return load_model(GOLDENS / "official-tiny", device="cpu")


def random_visuals(grids: list[tuple[int, int, int]], merges: list[int], source: torch.Generator) -> torch.Tensor:
    """Patches of drawn videos in which about half the places stand still from one frame to the next."""
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
    """A conversation with any mix of pictures and videos between stretches of text."""
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
def test_every_conversation_gets_what_it_would_get_alone(model: VideoLLaMA3, parts: list[ModelInputs]) -> None:
    with torch.no_grad():
        together = model(join(parts))
        logits = together.logits.split(together.lengths.tolist())
        for part, ours in zip(parts, logits, strict=True):
            alone = model(part)
            assert (alone.logits - ours).abs().max() <= 2e-5
        alone_masks = [model(part).keep_mask for part in parts]
    assert torch.equal(together.keep_mask, torch.cat(alone_masks))


@quick
@given(inputs=conversations(), chunk=st.sampled_from([1, 5, 12, 40, None]))
def test_chunks_of_frames_do_not_change_the_features(
    model: VideoLLaMA3, inputs: ModelInputs, chunk: int | None
) -> None:
    if inputs.pixel_values is None:
        return
    visuals = (inputs.pixel_values, inputs.grid_sizes, inputs.merge_sizes)
    with torch.no_grad():
        expected = model.vision_encoder(*visuals)
        model.vision_encoder.chunk_patches, before = chunk, model.vision_encoder.chunk_patches
        try:
            features = model.vision_encoder(*visuals)
        finally:
            model.vision_encoder.chunk_patches = before
    assert (features - expected).abs().max() <= 2e-5


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
    torch.manual_seed(0)
    other = LanguageModel(model.config.language)
    positions = torch.arange(3000, 3004)
    before = text_rotation(positions, 16, 1e6, torch.float32)
    other.bfloat16().float()
    after = text_rotation(positions, 16, 1e6, torch.float32)
    assert torch.equal(before.cos, after.cos)
    assert not list(other.buffers())


def long_video(model: VideoLLaMA3, frames: list[int], chunk: int) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """Features with and without reuse of a video made of numbered pictures, and the rows its encoder computed."""
    pictures = torch.rand(max(frames) + 1, 16, 588, generator=torch.Generator().manual_seed(0))
    visuals = (pictures[frames].flatten(0, 1), torch.tensor([[len(frames), 4, 4]]), torch.tensor([2]))
    encoder, rows, features = model.vision_encoder, [], []
    before = encoder.chunk_patches
    hook = encoder.embeddings.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    try:
        encoder.chunk_patches = chunk
        for reuse in (False, True):
            encoder.reuse_frames = reuse
            rows.clear()
            with torch.no_grad():
                features.append(encoder(*visuals))
    finally:
        hook.remove()
        encoder.chunk_patches, encoder.reuse_frames = before, True
    return features[0], features[1], list(rows)


@quick
@given(frames=st.lists(st.integers(0, 4), min_size=4, max_size=12), chunk=st.sampled_from([16, 32, 48]))
def test_frames_of_the_same_pixels_are_encoded_once_with_the_same_bits(
    model: VideoLLaMA3, frames: list[int], chunk: int
) -> None:
    every, once, rows = long_video(model, frames, chunk)
    assert torch.equal(every, once)
    most = chunk // 16
    size = -(-len(frames) // -(-len(frames) // most))  # of as many chunks as most would make, as even as can be
    together = [len(frames) * 16] if len(frames) <= most else [size * 16] * -(-len(set(frames)) // size)
    assert rows == together


def test_a_forward_pass_encodes_repeated_frames_once() -> None:
    model, processor = vl3ref.load("vl3-tiny", device="cpu")
    video = {"type": "video", "video": np.repeat(noise(2, 336, 336, 3), 4, axis=0)}
    inputs = processor([{"role": "user", "content": [video]}])
    rows: list[int] = []
    hook = model.vision_encoder.embeddings.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    with torch.no_grad():
        plain = model(inputs, logits_to_keep=1).logits
        recorded = model(inputs, logits_to_keep=1, output_hidden_states=True).logits
    hook.remove()
    assert rows == [1152] + [1152] * 4
    assert torch.equal(plain, recorded)


def test_a_frame_that_differs_in_one_bit_is_another_frame(model: VideoLLaMA3) -> None:
    frames = torch.rand(1, 16, 588).repeat(4, 1, 1)
    frames[2, 15, 587] = torch.nextafter(frames[2, 15, 587], torch.tensor(2.0))
    assert first_occurrences(frames) == [0, 0, 2, 0]
    assert first_occurrences(torch.stack([frames[0], frames[0].flip(0)])) == [0, 1]


def test_recording_a_long_video_leaves_a_row_per_patch(model: VideoLLaMA3) -> None:
    pictures = torch.rand(1, 16, 588).repeat(5, 1, 1).flatten(0, 1)
    visuals = (pictures, torch.tensor([[5, 4, 4]]), torch.tensor([2]))
    model.vision_encoder.chunk_patches = 32
    record = Recording(hidden_states=True, attentions=True)
    with torch.no_grad():
        plain = model.vision_encoder(*visuals)
        recorded = model.vision_encoder(*visuals, recording=record)
    model.vision_encoder.chunk_patches = "auto"
    assert torch.equal(plain, recorded)
    assert [len(x) for x in record.all_hidden()] == [80] * 3
    assert [len(maps) for maps in record.all_attentions()] == [5, 5]


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
    maps = attention_maps(q, k, lengths, causal)
    start = 0
    for length, weights in zip(lengths, maps, strict=True):
        rows = slice(start, start + length)
        start += length
        q_one, k_one, v_one = (x[rows].double() for x in (q, k, v))
        k_one, v_one = (x.repeat_interleave(4 // kv_heads, dim=1) for x in (k_one, v_one))
        scores = torch.einsum("nhd,mhd->hnm", q_one, k_one) / 8**0.5
        if causal:
            scores += torch.full((length, length), float("-inf"), dtype=torch.float64).triu(1)
        truth = torch.einsum("hnm,mhd->nhd", scores.softmax(-1), v_one)
        assert (ours[rows] - truth).abs().max() < 1e-5
        assert (weights - scores.softmax(-1)).abs().max() < 1e-5


@pytest.mark.parametrize("causal", [False, True])
def test_shared_key_heads_are_repeated_where_no_fused_kernel_knows_them(
    monkeypatch: pytest.MonkeyPatch, causal: bool
) -> None:
    heads = []
    plain = F.scaled_dot_product_attention

    def noted(q, k, v, **options):
        heads.append((q.shape[1], k.shape[1], options["enable_gqa"]))
        return plain(q, k, v, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", noted)
    check_packed_attention([3, 5], 2, causal)
    monkeypatch.setattr(kernels, "groups_are_fused", lambda device, dtype, head_dim: False)
    check_packed_attention([3, 5], 2, causal)
    assert heads == [(4, 2, True)] * 2 + [(4, 4, False)] * 2


@pytest.mark.parametrize("kv_heads", [2, 4])
@pytest.mark.parametrize("causal", [False, True])
def test_segments_of_all_lengths_go_to_one_kernel(monkeypatch: pytest.MonkeyPatch, kv_heads: int, causal: bool) -> None:
    """torch's takes a GPU. This one reads its arguments as its documentation says."""
    calls = []

    def kernel(q, k, v, ends_q, ends_k, longest_q, longest_k, *, window_size):
        calls.append((ends_q.tolist(), longest_q))
        assert ends_q.dtype == torch.int32 and torch.equal(ends_q, ends_k) and longest_q == longest_k
        parts = [x.tensor_split(ends_q[1:-1].tolist()) for x in (q, k, v)]
        outputs = []
        for q_one, k_one, v_one in zip(*parts, strict=True):
            heads = (x.transpose(0, 1)[None] for x in (q_one, k_one, v_one))
            out = F.scaled_dot_product_attention(*heads, is_causal=window_size == (-1, 0), enable_gqa=kv_heads < 4)
            outputs.append(out[0].transpose(0, 1))
        return torch.cat(outputs)

    monkeypatch.setattr(kernels, "varlen_kernel", lambda device, dtype, head_dim, grouped: kernel)
    with torch.inference_mode():
        check_packed_attention([3, 1, 4, 1, 5], kv_heads, causal)
    check_packed_attention([2, 2, 2], kv_heads, causal)  # one call of torch's own, for a batch
    assert calls == [([0, 3, 4, 8, 9, 14], 5)]
    assert not attention._ends((3, 1, 4, 1, 5), torch.device("cpu")).is_inference()


def test_which_kernels_a_gpu_has(monkeypatch: pytest.MonkeyPatch) -> None:
    varlen = pytest.importorskip("torch.nn.attention.varlen", reason="this torch has none").varlen_attn
    gpu, choices = torch.device("cuda"), (kernels.has_flash, kernels.varlen_kernel, kernels.groups_are_fused)
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)
    try:
        for capability, fits in ((9, 0), True), ((7, 5), False):
            for choice in choices:
                choice.cache_clear()
            monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, capability=capability: capability)
            assert kernels.has_flash(gpu, torch.bfloat16, 72) == fits
            assert not kernels.has_flash(gpu, torch.float32, 72)
            assert not kernels.has_flash(gpu, torch.bfloat16, 20)
            assert kernels.groups_are_fused(gpu, torch.float16, 128) == fits
            assert kernels.varlen_kernel(gpu, torch.bfloat16, 72, False) is (varlen if fits else None)
            if "enable_gqa" in signature(varlen).parameters:
                grouped = kernels.varlen_kernel(gpu, torch.bfloat16, 128, True)
                assert (grouped.keywords if grouped else None) == ({"enable_gqa": True} if fits else None)
    finally:
        for choice in choices:
            choice.cache_clear()
    assert kernels.varlen_kernel(torch.device("cpu"), torch.bfloat16, 72, False) is None


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


@quick
@given(
    past=st.lists(st.integers(0, 7), min_size=1, max_size=4),
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
    cache = KVCache(LanguageConfig(8, 32, 8, 1, 4, 2), len(past), max(totals) + 3, torch.float32, "cpu")
    cache.lengths = past
    ours = cached_attention(q_new, keys, values, cache.step(new_lengths)).split(new_lengths)
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
    config = LanguageConfig(512, 64, 512, 1, 4, 2)
    cache = KVCache(config, 2, 1300, dtype, "cuda")
    q, keys, values = torch.randn(sum(new), 4, 128), torch.randn(2, 2, 1300, 128), torch.randn(2, 2, 1300, 128)
    q, keys, values = (x.to(dtype).float() for x in (q, keys, values))
    cache.lengths = past
    ours = cached_attention(q.to("cuda", dtype), keys.to("cuda", dtype), values.to("cuda", dtype), cache.step(new))
    on_cpu = KVCache(config, 2, 1300, torch.float32, "cpu")
    on_cpu.lengths = past
    expected = cached_attention(q, keys, values, on_cpu.step(new))
    assert (ours.cpu().float() - expected).abs().max() < (1e-4 if dtype == torch.float32 else 0.03)
    if new == [1, 1]:
        static = cache.static_step(torch.tensor(past, device="cuda"))
        again = cached_attention(q.to("cuda", dtype), keys.to("cuda", dtype), values.to("cuda", dtype), static)
        assert (again.cpu().float() - expected).abs().max() < (1e-4 if dtype == torch.float32 else 0.03)


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
    cache = KVCache(decoder.config, 1, 4800, torch.float32, "cpu")
    for turn in embeddings.split([2400, 2399, 1]):
        with Squarest() as seen:
            decoder.prefill(turn, [len(turn)], cache)
        assert seen.second < 1200
    with Squarest() as seen:
        attention_maps(torch.rand(1300, 2, 4), torch.rand(1300, 2, 4), [1300], causal=True)
    assert seen.second == 1300


# -------------------------------------------------------------------------------------------------------------- RoPE


def test_rope_depends_on_distance_alone() -> None:
    q, k = torch.randn(1, 1, 16).double(), torch.randn(1, 1, 16).double()

    def score(at: int, distance: int) -> float:
        turn_q = text_rotation(torch.tensor([at + distance]), 16, 1e4, torch.float64)
        turn_k = text_rotation(torch.tensor([at]), 16, 1e4, torch.float64)
        return float((rotate(q, turn_q) * rotate(k, turn_k)).sum())

    assert score(0, 5) == pytest.approx(score(40, 5), rel=1e-4)
    assert score(0, 5) != pytest.approx(score(0, 6), rel=1e-4)


def test_image_rope_turns_the_first_half_of_the_pairs_by_row_and_the_second_by_column() -> None:
    zero, one = torch.tensor([0]), torch.tensor([1])
    by_row, by_column = image_rotation(one, zero, 16, 1e4), image_rotation(zero, one, 16, 1e4)
    assert by_row.cos[0, 0, :4].lt(1).all() and by_row.cos[0, 0, 4:8].eq(1).all()
    assert by_column.cos[0, 0, :4].eq(1).all() and by_column.cos[0, 0, 4:8].lt(1).all()


def test_patch_positions_follow_the_merge_blocks() -> None:
    rows, columns = patch_positions((2, 4, 4), 2, torch.device("cpu"))
    assert rows[:8].tolist() == [0, 0, 1, 1, 0, 0, 1, 1]
    assert columns[:8].tolist() == [0, 1, 0, 1, 2, 3, 2, 3]
    assert torch.equal(rows[:16], rows[16:]) and torch.equal(columns[:16], columns[16:])


def test_the_patch_embedding_is_the_checkpoints_convolution(model: VideoLLaMA3) -> None:
    patches = torch.randn(10, 588)
    embeddings = model.vision_encoder.embeddings
    convolved = embeddings.patch_embedding(rearrange(patches, "n (c h w) -> n c h w", c=3, h=14)).flatten(1)
    assert (embeddings(patches) - convolved).abs().max() < 1e-5


@pytest.mark.parametrize("merge", [1, 2, 3, 4])
def test_merging_is_bilinear_on_the_frames_grid(merge: int) -> None:
    from vl3ref.model.vision import merge_tokens

    h, w = merge * 2, merge * 3
    image = torch.randn(2, 5, h, w)
    packed = rearrange(image, "t d (h m) (w n) -> (t h w m n) d", m=merge, n=merge)
    ours = merge_tokens(packed, [(2, h, w)], [merge])
    reference = F.interpolate(image, size=(2, 3), mode="bilinear")
    assert torch.equal(ours, rearrange(reference, "t d h w -> (t h w) d"))
    if merge == 2:
        mean = rearrange(image, "t d (h m) (w n) -> (t h w) d (m n)", m=2, n=2).mean(-1)
        assert (ours - mean).abs().max() < 1e-6


# ------------------------------------------------------------------------------------------------------------- DiffFP


def prune(pixels: torch.Tensor, grid: tuple[int, int, int], merge: int, modal: str = "video") -> list[bool]:
    return DiffFP()(pixels, torch.tensor([grid]), torch.tensor([merge]), [modal]).tolist()


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


def test_pictures_and_one_frame_videos_stay_whole() -> None:
    pixels = torch.zeros(8, 588)
    assert prune(pixels, (1, 2, 4), 1, "image") == [True] * 8
    assert prune(pixels, (1, 2, 4), 1, "video") == [True] * 8


def test_the_keep_mask_is_decided_on_float32_pixels(model: VideoLLaMA3) -> None:
    inputs = inputs_of("video")
    low = load_model(GOLDENS / "official-tiny", device="cpu", dtype="bfloat16")
    expected = model.keep_mask(inputs)
    assert torch.equal(low.keep_mask(inputs), expected)
    assert torch.equal(low(inputs.to(dtype=torch.bfloat16)).keep_mask, expected)
    assert inputs.to(dtype=torch.bfloat16).pixel_values.dtype == torch.float32
    assert inputs.to(dtype=torch.float64).pixel_values.dtype == torch.float64


def test_another_pruner_and_another_projector_can_be_put_in(model: VideoLLaMA3) -> None:
    other = load_model(GOLDENS / "official-tiny", device="cpu")
    inputs = inputs_of("video")
    asked = []

    def every_other(pixel_values, grid_sizes, merge_sizes, modals):
        asked.append(modals)
        mask = keep_all(pixel_values, grid_sizes, merge_sizes, modals)
        mask[1::2] = False
        return mask

    other.pruner = every_other
    output = other(inputs)
    assert asked == [["video"]]
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


@pytest.mark.parametrize("mask", [torch.ones(41, dtype=torch.bool), torch.ones(42)])
def test_a_pruner_that_gives_no_mask_of_the_tokens_is_refused(mask: torch.Tensor) -> None:
    other = load_model(GOLDENS / "official-tiny", device="cpu")
    object.__setattr__(other, "keep_mask", lambda inputs: mask)
    with pytest.raises(InputError, match="the pruner's mask"):
        other(inputs_of("video"))


def test_inputs_can_switch_diff_fp_off_or_set_its_threshold(model: VideoLLaMA3) -> None:
    inputs = inputs_of("video")
    inputs.diff_fp = False
    assert model(inputs).keep_mask.all()
    inputs.diff_fp = 1e9
    assert int(model(inputs).keep_mask.sum()) == 6 + 6  # the first frame, and one token of each later one
    inputs.diff_fp = True
    assert int(model(inputs).keep_mask.sum()) == 23


def test_dropped_tokens_reach_neither_projector_nor_decoder(model: VideoLLaMA3) -> None:
    inputs = inputs_of("video")
    seen = []
    hooks = [
        module.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
        for module in (model.projector, model.language_model.layers[0])
    ]
    with torch.no_grad():
        model(inputs)
    for hook in hooks:
        hook.remove()
    assert seen == [23, len(inputs.input_ids) - 19]


# ----------------------------------------------------------------------------------------------------- looking inside


def test_hidden_states_and_attention_maps_do_not_change_the_result(model: VideoLLaMA3) -> None:
    inputs = join([inputs_of(case) for case in NAMES])
    with torch.no_grad():
        plain = model(inputs)
        seen = model(inputs, output_hidden_states=True, output_attentions=True)
    assert torch.equal(plain.logits, seen.logits)
    assert plain.hidden_states is None and plain.attentions is None
    assert len(seen.hidden_states) == 3 and len(seen.vision_hidden_states) == 3
    assert torch.equal(model.language_model.head(seen.hidden_states[-1]), seen.logits)
    for maps, n in zip(seen.attentions[0], seen.lengths.tolist(), strict=True):
        assert maps.shape == (4, n, n)
        assert maps.triu(1).eq(0).all() and maps.sum(-1).sub(1).abs().max() < 1e-5
    frames = [h * w for t, h, w in inputs.grid_sizes.tolist() for _ in range(t)]
    assert [len(maps[0]) for maps in seen.vision_attentions[1]] == frames


def test_attention_maps_are_what_weighs_the_values(model: VideoLLaMA3) -> None:
    """Recomputing a block from its recorded map gives what the block gave."""
    inputs = inputs_of("text_only")
    values = []
    block = model.language_model.layers[1].self_attn
    hook = block.v_proj.register_forward_hook(lambda *args: values.append(args[2]))
    mixed = []
    hook_out = block.o_proj.register_forward_pre_hook(lambda _, args: mixed.append(args[0]))
    with torch.no_grad():
        maps = model(inputs, output_attentions=True).attentions[1][0]
    hook.remove()
    hook_out.remove()
    v = rearrange(values[0], "n (h d) -> h n d", h=2).repeat_interleave(2, dim=0)
    assert (rearrange(maps @ v, "h n d -> n (h d)") - mixed[0]).abs().max() < 1e-5


def test_logits_to_keep_cuts_each_conversation(model: VideoLLaMA3) -> None:
    inputs = join([inputs_of("text_only"), inputs_of("video")])
    with torch.no_grad():
        full, cut = model(inputs), model(inputs, logits_to_keep=2)
    first, second = full.logits.split(full.lengths.tolist())
    assert (cut.logits - torch.cat([first[-2:], second[-2:]])).abs().max() < 1e-5


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
    monkeypatch.setattr("vl3ref.model.language_model.LOSS_CHUNK", 3)
    parts = model(inputs, labels=inputs.input_ids)
    assert parts.loss.item() == pytest.approx(whole.loss.item(), rel=1e-6)


def test_the_decoder_alone_takes_ids_or_embeddings_and_a_cache(model: VideoLLaMA3) -> None:
    decoder = model.language_model
    ids = torch.randint(4, 250, (9,))
    with torch.no_grad():
        full = decoder(ids)
        assert torch.equal(decoder(decoder.embed_tokens(ids)), full)
        cache = KVCache(decoder.config, 1, 9, torch.float32, "cpu")
        pieces = torch.cat([decoder(piece, cache=cache) for piece in ids.split([4, 1, 3, 1])])
    assert (pieces - full).abs().max() < 2e-5
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
        (lambda i: setattr(i, "modals", ["film"]), "'film' is not known"),
        (lambda i: setattr(i, "modals", []), "each visual needs one of each"),
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


def test_a_cache_grows_when_it_is_too_small(model: VideoLLaMA3) -> None:
    decoder = model.language_model
    ids = torch.randint(4, 250, (9,))
    cache = KVCache(decoder.config, 1, 0, torch.float32, "cpu")
    with torch.no_grad():
        pieces = torch.cat([decoder(piece, cache=cache) for piece in ids.split([4, 1, 4])])
        assert (pieces - decoder(ids)).abs().max() < 2e-5


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.zeros(3, dtype=torch.int64), "3 labels for"),
        (torch.full((76,), 256), "these run from 256 to 256"),
        (torch.full((76,), -5), "lie between 0 and 255"),
        (torch.full((76,), 5, dtype=torch.int32), "1-D int64"),
        (torch.full((76,), -100), "nothing is learnt"),
        (torch.tensor([5] + [-100] * 75), "nothing is learnt"),
    ],
)
def test_labels_that_do_not_fit_are_refused(model: VideoLLaMA3, labels: torch.Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        model(inputs_of("video"), labels=labels)
