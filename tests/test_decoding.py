"""Captured and compiled decoding give what eager decoding gives."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch

from tests.goldens_cases import CASES, inputs_of
from tests.helpers import GOLDENS, ROOT, needs_gpu
from vl3ref import decoding
from vl3ref.checkpoints import load_model
from vl3ref.errors import InputError
from vl3ref.generation import generate
from vl3ref.model.kv_cache import KVCache
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.model_inputs import join


@pytest.fixture
def model() -> VideoLLaMA3:
    return load_model(GOLDENS / "official-tiny", device="cpu")


def answers(model: VideoLLaMA3, way: str | None) -> list[list[int]]:
    """Of all cases at once; they end at different steps, because each ends with the third new token of its own."""
    model.language_model.decode = way
    inputs = join([inputs_of(name) for name in CASES])
    free = generate(model, inputs, max_new_tokens=12)
    ends = sorted({int(row[n + 2]) for n, row in enumerate(free[:4])})
    ended = generate(model, inputs, max_new_tokens=12, end_token_ids=ends)
    sampled = generate(model, inputs, max_new_tokens=12, temperature=1.5, seed=3)
    return [row.tolist() for row in free + ended + sampled]


class FakeGraph:
    """What a CUDA graph does with a recorded step, done by computing it again into the same tensor."""

    recorded: Callable[[], torch.Tensor]
    cache: KVCache

    def replay(self) -> None:
        with frozen(self.cache):
            self.out.copy_(self.recorded())


@contextmanager
def frozen(cache: KVCache) -> Iterator[None]:
    """Whatever Python counts is out of reach: a graph would go on with the numbers it was recorded with."""
    lengths, cache.lengths = cache.lengths, None
    yield
    cache.lengths = lengths


def test_captured_steps_replay_to_the_same_tokens(model: VideoLLaMA3, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = answers(model, "eager")
    captured: list[int] = []

    class Captured(decoding.Captured):
        def __init__(self, decoder, cache):
            captured.append(len(cache.lengths))
            graph = FakeGraph()

            @contextmanager
            def recording(_: FakeGraph, stream: object, capture_error_mode: str) -> Iterator[None]:
                graph.recorded, graph.cache, saved = self._advance, cache, self.positions.clone()
                with frozen(cache):
                    yield
                self.positions.copy_(saved)  # a capture computes nothing
                graph.out = self.logits

            monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: graph)
            monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
            monkeypatch.setattr(torch.cuda, "Stream", lambda _: None)
            monkeypatch.setattr(torch.cuda, "graph", recording)
            super().__init__(decoder, cache)

    monkeypatch.setattr("vl3ref.generation.decoding", lambda decoder, cache, way: Captured(decoder, cache))
    assert answers(model, "captured") == expected
    # A conversation that ends with its first token is gone before a capture; after that, half of them have to end.
    assert captured == [7, 6, 3, 1, 7]


@pytest.mark.parametrize("way", [None, "captured", "compiled", "eager"])
def test_which_step_a_gpu_takes(model: VideoLLaMA3, monkeypatch: pytest.MonkeyPatch, way: str | None) -> None:
    """A graph of the plain step unless told otherwise, and of the compiled one. (The graph itself needs a GPU.)"""

    class Graph:
        def __init__(self, decoder, cache, compute=decoding.static_logits):
            self.compute = compute

        def __call__(self, tokens):
            raise NotImplementedError

    def compiled(decoder, cache, tokens, positions):
        raise NotImplementedError

    monkeypatch.setattr(decoding, "Captured", Graph)
    monkeypatch.setattr(decoding, "compiled_logits", lambda: compiled)
    cache = KVCache(model.config.language, 1, 4, torch.float32, "cpu")
    cache.keys = [SimpleNamespace(is_cuda=True)]
    found = decoding.decoding(model.language_model, cache, way)
    if way == "eager":
        assert isinstance(found, decoding.Eager)
    else:
        assert found.compute is (compiled if way == "compiled" else decoding.static_logits)


COMPILED = """
import sys
from tests.goldens_cases import CASES, inputs_of
from tests.helpers import GOLDENS, ROOT
from vl3ref.checkpoints import load_model
from vl3ref.generation import generate

model = load_model(GOLDENS / "official-tiny", device=sys.argv[1])
for name in list(CASES)[:2]:
    found = []
    for model.language_model.decode in ("eager", "compiled"):
        found.append(generate(model, inputs_of(name), max_new_tokens=12)[0].tolist())
    assert found[0] == found[1], found
"""


@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="no C++ compiler")
def test_compiled_steps_give_the_same_tokens() -> None:
    compare_compiled("cpu")


def compare_compiled(device: str) -> None:
    """In a process of its own: the checks of shapes that tests switch on cannot be compiled."""
    done = subprocess.run([sys.executable, "-c", COMPILED, device], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.cuda
@needs_gpu
@pytest.mark.parametrize("way", ["captured", None])
def test_the_ways_agree_on_a_gpu(model: VideoLLaMA3, way: str | None) -> None:
    model = model.to("cuda")
    assert answers(model, way) == answers(model, "eager")


@pytest.mark.cuda
@needs_gpu
def test_compiled_steps_give_the_same_tokens_on_a_gpu() -> None:
    compare_compiled("cuda")


def test_a_graph_needs_a_gpu(model: VideoLLaMA3) -> None:
    model.language_model.decode = "captured"
    with pytest.raises(InputError, match="GPU"):
        generate(model, inputs_of(next(iter(CASES))), max_new_tokens=3)
