"""What changes speed changes nothing else: static and compiled decode steps, equal frames encoded once."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import vl3ref
from tests.goldens_cases import CASES, NAMES, inputs_of
from tests.helpers import GOLDENS, ROOT, needs_gpu
from tests.media import noise
from vl3ref.checkpoints import load_model
from vl3ref.errors import InputError
from vl3ref.fast import CapturedStep, encode_equal_frames_once, first_occurrences, static_step
from vl3ref.generation import DecodeStep, generate
from vl3ref.model.kv_cache import KVCache
from vl3ref.model.language_model import LanguageModel
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.model_inputs import join


@pytest.fixture(scope="module")
def model() -> VideoLLaMA3:
    return load_model(GOLDENS / "official-tiny", device="cpu")


# -------------------------------------------------------------------------------------------------------- decode steps


def answers(model: VideoLLaMA3, step: DecodeStep | None) -> list[list[int]]:
    """Of all cases at once: free, ending at different steps (with the third new token of each of four), and sampled."""
    inputs = join([inputs_of(name) for name in CASES])
    free = generate(model, inputs, 12, step=step)
    ends = sorted({int(row[n + 2]) for n, row in enumerate(free[:4])})
    ended = generate(model, inputs, 12, end_token_ids=ends, step=step)
    sampled = generate(model, inputs, 12, temperature=1.5, seed=3, step=step)
    return [row.tolist() for row in free + ended + sampled]


def static(decoder: LanguageModel, cache: KVCache, tokens: Tensor) -> Tensor:
    """The step that a CUDA graph captures, computed at once."""
    places = torch.tensor(cache.lengths), torch.tensor(cache.next_positions)
    held, cache.lengths, cache.offsets = (cache.lengths, cache.offsets), None, None  # what a graph cannot read
    logits = static_step(decoder, cache, tokens, *places)
    cache.lengths, cache.offsets = held
    cache.advance([1] * len(tokens))
    return logits


def test_a_step_that_reads_nothing_from_the_device_gives_the_same_tokens(model: VideoLLaMA3) -> None:
    assert answers(model, static) == answers(model, None)


def test_rows_are_dropped_once_half_of_them_have_ended(model: VideoLLaMA3) -> None:
    rows = []

    def noted(decoder: LanguageModel, cache: KVCache, tokens: Tensor) -> Tensor:
        rows.append(len(tokens))
        return static(decoder, cache, tokens)

    answers(model, noted)
    assert set(rows) <= {7, 3, 1} and rows[0] == rows[-1] == 7


COMPILED = """
import sys
from tests.goldens_cases import CASES, inputs_of
from tests.helpers import GOLDENS
from vl3ref.checkpoints import load_model
from vl3ref.fast import CompiledStep, eager_step
from vl3ref.generation import generate

model = load_model(GOLDENS / "official-tiny", device=sys.argv[1])
for name in list(CASES)[:2]:
    steps = eager_step, CompiledStep()
    eager, compiled = (generate(model, inputs_of(name), 12, step=step)[0].tolist() for step in steps)
    assert eager == compiled, (eager, compiled)
"""


@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="no C++ compiler")
def test_compiled_steps_give_the_same_tokens() -> None:
    compare_compiled("cpu")


def compare_compiled(device: str) -> None:
    """In a process of its own: the checks of shapes that tests switch on cannot be compiled."""
    done = subprocess.run([sys.executable, "-c", COMPILED, device], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_graph_needs_a_gpu(model: VideoLLaMA3) -> None:
    with pytest.raises(InputError, match="GPU"):
        generate(model, inputs_of(NAMES[0]), 3, step=CapturedStep())


@pytest.mark.cuda
@needs_gpu
@pytest.mark.parametrize("compiled", [False, True])
def test_captured_steps_give_the_same_tokens_on_a_gpu(compiled: bool) -> None:
    model = load_model(GOLDENS / "official-tiny", device="cuda")
    assert answers(model, CapturedStep(compiled)) == answers(model, None)


@pytest.mark.cuda
@needs_gpu
def test_compiled_steps_give_the_same_tokens_on_a_gpu() -> None:
    compare_compiled("cuda")


# --------------------------------------------------------------------------------------------- equal frames, once


@settings(max_examples=25)
@given(frames=st.lists(st.integers(0, 4), min_size=1, max_size=12), chunk=st.sampled_from([16, 32, 48]))
def test_frames_of_the_same_pixels_are_encoded_once(model: VideoLLaMA3, frames: list[int], chunk: int) -> None:
    pictures = torch.rand(5, 16, 588, generator=torch.Generator().manual_seed(0))
    grids, merges = torch.tensor([[len(frames), 4, 4], [1, 4, 4]]), torch.tensor([2, 1])
    visuals = (torch.cat([pictures[frames].flatten(0, 1), pictures[0]]), grids, merges)
    encoder, patches = model.vision_encoder, []
    encoder.chunk_patches = chunk
    with torch.no_grad():
        expected = encoder(*visuals)
        with encode_equal_frames_once(model):
            hook = encoder.embeddings.register_forward_pre_hook(lambda _, args: patches.append(len(args[0])))
            once = encoder(*visuals)
    hook.remove()
    encoder.chunk_patches = None
    assert (once - expected).abs().max() < 1e-5
    assert sum(patches) == 16 * (len(set(frames)) + 1)
    assert "forward" not in vars(encoder)


@torch.inference_mode()
def test_generation_encodes_repeated_frames_once() -> None:
    model, processor = vl3ref.load("vl3-tiny", device="cpu")
    video = {"type": "video", "video": np.repeat(noise(2, 56, 56, 3), 4, axis=0)}
    inputs = processor([{"role": "user", "content": [video]}])
    expected = model.generate(inputs, 6)[0]
    patches: list[int] = []
    with encode_equal_frames_once(model):
        hook = model.vision_encoder.embeddings.register_forward_pre_hook(lambda _, args: patches.append(len(args[0])))
        assert torch.equal(model.generate(inputs, 6)[0], expected)
    hook.remove()
    assert sum(patches) == 2 * 16


def test_a_frame_that_differs_in_one_bit_is_another_frame() -> None:
    frames = torch.rand(1, 16, 588).repeat(4, 1, 1)
    frames[2, 15, 587] = torch.nextafter(frames[2, 15, 587], torch.tensor(2.0))
    assert first_occurrences(frames) == [0, 0, 2, 0]
    assert first_occurrences(torch.stack([frames[0], frames[0].flip(0)])) == [0, 1]


def test_an_encoder_that_knows_the_time_is_refused() -> None:
    class Counting(nn.Module):
        """Adds to each patch its place in the call, as a temporal position would."""

        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, patches: Tensor, positions: Tensor) -> Tensor:
            return self.inner(patches, positions) + torch.arange(len(patches))[:, None] * torch.linspace(-1, 1, 144)

    model = load_model(GOLDENS / "official-tiny", device="cpu")
    model.vision_encoder.embeddings = Counting(model.vision_encoder.embeddings)
    with pytest.raises(InputError, match="at different times"), encode_equal_frames_once(model):
        pass
    assert "forward" not in vars(model.vision_encoder)
