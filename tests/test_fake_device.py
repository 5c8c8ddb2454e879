"""On a device that keeps a GPU's rules the model gives what it gives on the CPU, and Python waits once per token."""

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch

import vl3ref
from tests.goldens_cases import NAMES, inputs_of, labels_of
from tests.helpers import GOLDENS, ROOT
from vl3ref.chat import Chat
from vl3ref.checkpoints import load_model
from vl3ref.evaluation.asking import Reply, ask, prepare
from vl3ref.evaluation.benchmark import Item
from vl3ref.fast import static_step
from vl3ref.model.kv_cache import KVCache
from vl3ref.model.language_model import LanguageModel
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.model_inputs import ModelInputs, join

fake_device = pytest.importorskip(
    "tests.fake_device", exc_type=ImportError, reason="this torch lets no device be made in Python"
)
DEVICE, fake_gpu = fake_device.DEVICE, fake_device.fake_gpu

SAMPLED: dict[str, Any] = {"temperature": 1.2, "top_k": 50, "top_p": 0.9, "seed": 3, "repetition_penalty": 1.2}


def on_device(model: VideoLLaMA3) -> VideoLLaMA3:
    with fake_gpu():
        return model.to(DEVICE)


@pytest.fixture(scope="module")
def model() -> VideoLLaMA3:
    return load_model(GOLDENS / "official-tiny", device="cpu")


@pytest.fixture(scope="module")
def moved() -> VideoLLaMA3:
    return on_device(load_model(GOLDENS / "official-tiny", device="cpu"))


@pytest.fixture
def inputs() -> ModelInputs:
    """Every golden case as one batch: text, images, videos, and both in one conversation."""
    return join([inputs_of(case) for case in NAMES])


# ---------------------------------------------------------------------------------------------------------- the device


@pytest.mark.parametrize(
    "mix",
    [
        lambda gpu, cpu: gpu + cpu,
        lambda gpu, cpu: cpu.add_(gpu),
        lambda gpu, cpu: torch.cat([gpu, cpu]),
        lambda gpu, cpu: torch.where(gpu > 0, gpu, cpu),
        lambda gpu, cpu: torch.nn.functional.embedding(cpu.long(), gpu[:, None]),
        lambda gpu, cpu: cpu[gpu.long()],
        lambda gpu, cpu: gpu.index_put_((cpu.long(),), cpu),
        lambda gpu, cpu: torch.zeros(()).add_(gpu.sum()),
        lambda gpu, cpu: gpu.exponential_(generator=torch.Generator()),
    ],
)
def test_the_device_does_not_mix_with_the_cpu(mix: Callable[[torch.Tensor, torch.Tensor], object]) -> None:
    with fake_gpu(), pytest.raises(RuntimeError, match=r"two devices|device type for generator"):
        mix(torch.zeros(3, device=DEVICE), torch.zeros(3))


@pytest.mark.parametrize(
    ("compute", "waits", "uploads"),
    [
        (lambda x: x.sum().item(), 1, 0),
        (lambda x: x.tolist(), 1, 0),
        (lambda x: bool((x > 0).any()), 1, 0),
        (lambda x: x[x > 0], 1, 0),
        (lambda x: x.masked_select(x > 0), 1, 0),
        (lambda x: x.nonzero(), 1, 0),
        (lambda x: x.unique(), 1, 0),
        (lambda x: torch.zeros(3).copy_(x), 1, 0),
        (lambda x: x.index_put_((x > 0,), x.new_ones(2)), 1, 0),
        (lambda x: x.index_put_((x > 0,), torch.tensor(5.0)), 0, 0),
        (lambda x: x.masked_fill(x > 0, 5.0), 0, 0),
        (lambda x: x + torch.tensor(1.0), 0, 0),
        (lambda x: x[torch.tensor([2, 0])], 0, 1),
        (lambda x: x[x.new_ones(2, dtype=torch.int64)], 0, 0),
        (lambda x: torch.tensor([1, 2], device=DEVICE), 0, 1),
        (lambda x: torch.arange(3, device=DEVICE) + x.sort().values, 0, 0),
        (lambda x: torch.isin(x, x[:1]), 0, 0),
        (lambda x: x.copy_(torch.ones(3)), 0, 1),
    ],
)
@pytest.mark.parametrize("inference", [False, True])
def test_waits_and_uploads_are_noted(
    compute: Callable[[torch.Tensor], object], waits: int, uploads: int, inference: bool
) -> None:
    values = torch.tensor([1.0, 0.0, 2.0])
    with fake_gpu() as gpu, torch.inference_mode(inference):
        x = values.to(DEVICE)
        gpu.uploads.clear()
        result = compute(x)
        assert (len(gpu.waits), len(gpu.uploads)) == (waits, uploads)
        if isinstance(result, torch.Tensor) and result.device == DEVICE:
            with pytest.raises(TypeError, match="numpy"):
                result.numpy()


# ----------------------------------------------------------------------------------------------------------- the model


def test_lengths_and_grids_stay_on_the_cpu(inputs: ModelInputs) -> None:
    inputs.labels = labels_of(inputs)
    with fake_gpu() as gpu:
        there = inputs.to(DEVICE)
    assert {there.lengths.device.type, there.grid_sizes.device.type, there.merge_sizes.device.type} == {"cpu"}
    assert {there.input_ids.device, there.pixel_values.device, there.labels.device} == {DEVICE}
    assert len(gpu.uploads) == 3 and not gpu.waits


@pytest.mark.parametrize("case", [*NAMES, "all"])
def test_forward(model: VideoLLaMA3, moved: VideoLLaMA3, inputs: ModelInputs, case: str) -> None:
    given = inputs if case == "all" else inputs_of(case)
    with fake_gpu(), torch.no_grad():
        ours, expected = moved(given), model(given)
        assert torch.equal(ours.keep_mask.cpu(), expected.keep_mask)
        assert torch.equal(ours.lengths, expected.lengths)
        assert (ours.logits.cpu() - expected.logits).abs().max() < 2e-5


def early_ends(model: VideoLLaMA3, inputs: ModelInputs) -> list[int]:
    """With these as ends, conversations end at different steps: each is the third new token of one of them."""
    return sorted({int(answer[2]) for answer in model.generate(inputs, 3, min_new_tokens=3)[:4]})


@pytest.mark.parametrize("options", [{}, SAMPLED], ids=["greedy", "sampled"])
def test_generate(model: VideoLLaMA3, moved: VideoLLaMA3, inputs: ModelInputs, options: dict[str, Any]) -> None:
    with fake_gpu():
        for more in ({}, {"end_token_ids": early_ends(model, inputs)}):
            expected = [answer.tolist() for answer in model.generate(inputs, 12, **options, **more)]
            assert [answer.tolist() for answer in moved.generate(inputs, 12, **options, **more)] == expected


def test_chat_over_two_turns() -> None:
    model, processor = vl3ref.load("vl3-tiny", device="cpu")
    said = []
    for answering in (model, on_device(copy.deepcopy(model))):
        with fake_gpu():
            chat = Chat(answering, processor, max_new_tokens=5, repetition_penalty=1.5)
            for question, files in (("What is it?", [ROOT / "docs" / "media" / "cat.jpg"]), ("And why?", [])):
                said.append("".join(chat.ask(question, files, max_tokens=64)))
        said.append(chat.ids)
    assert said[:3] == said[3:]


def test_questions_about_one_clip() -> None:
    model, processor = vl3ref.load("vl3-tiny", device="cpu")
    clip = str(ROOT / "docs" / "media" / "tinyworld" / "turns.mp4")
    video, options = {"type": "video", "video": clip}, ("red", "yellow")
    texts = [{"type": "text", "text": text} for text in ("What turns yellow?", "Which colour?", "When?")]
    items = [Item(text["text"], clip, [video, text], "", options, subset=text["text"][:3]) for text in texts]
    said = []
    for asked in (model, on_device(copy.deepcopy(model))):
        with fake_gpu():
            said.append(ask(asked, processor, prepare(asked, processor, items), 3))
    for one, other in zip(*said, strict=True):
        assert isinstance(one, Reply) and isinstance(other, Reply) and one.text == other.text
        assert one.letters == pytest.approx(other.letters, abs=1e-4)


# ----------------------------------------------------------------------------------------------------------- the waits


def noted(moved: VideoLLaMA3, inputs: ModelInputs, new_tokens: int, **options: Any) -> tuple[Counter, Counter]:
    with fake_gpu() as gpu:
        moved.generate(inputs, new_tokens, min_new_tokens=new_tokens, **options)
    return Counter(gpu.waits), Counter(gpu.uploads)


@pytest.mark.parametrize("options", [{}, SAMPLED], ids=["greedy", "sampled"])
def test_a_token_is_waited_for_once(moved: VideoLLaMA3, inputs: ModelInputs, options: dict[str, Any]) -> None:
    """However many conversations there are: their newest tokens are read together."""
    for given in (inputs_of("video"), inputs):
        few, many = (noted(moved, given, count, **options) for count in (2, 12))
        assert sum((many[0] - few[0]).values()) == 10, many[0] - few[0]
        assert sum((many[1] - few[1]).values()) <= 10, many[1] - few[1]  # where in the cache a token goes


@pytest.mark.parametrize("options", [{}, SAMPLED], ids=["greedy", "sampled"])
def test_a_prompt_is_waited_for_as_often_whatever_it_holds(
    moved: VideoLLaMA3, inputs: ModelInputs, options: dict[str, Any]
) -> None:
    """For how many tokens each conversation keeps after pruning, for which these are (their embeddings and their ids),
    and for the first new token."""
    for given in (inputs_of("text_only"), inputs_of("video"), inputs):
        waits, _ = noted(moved, given, 1, **options)
        assert sum(waits.values()) <= 4, waits


def test_a_step_that_can_be_captured_leaves_the_device_alone(model: VideoLLaMA3, moved: VideoLLaMA3) -> None:
    """A CUDA graph replays kernels and no Python: nothing may come from the device or from Python's own counts."""

    def replayed(decoder: LanguageModel, cache: KVCache, tokens: torch.Tensor) -> torch.Tensor:
        places = (torch.tensor(counts, device=DEVICE) for counts in (cache.lengths, cache.next_positions))
        slots, positions = places
        gpu.waits.clear()
        gpu.uploads.clear()
        lengths, cache.lengths = cache.lengths, None
        logits = static_step(decoder, cache, tokens, slots, positions)
        cache.lengths = lengths
        assert not gpu.waits and not gpu.uploads
        cache.advance([1] * len(tokens))
        return logits

    inputs = join([inputs_of(case) for case in NAMES])
    ends = early_ends(model, inputs)
    with fake_gpu() as gpu:
        ours = moved.generate(inputs, 12, end_token_ids=ends, step=replayed)
        expected = model.generate(inputs, 12, end_token_ids=ends)
    assert [answer.tolist() for answer in ours] == [answer.tolist() for answer in expected]


# -------------------------------------------------------------------------------------------------------- the training


def test_the_loss_its_gradients_and_a_step(inputs: ModelInputs) -> None:
    """`eps` is far above rounding, which Adam's first step would otherwise blow up to a whole step."""
    norms, models = [], [load_model(GOLDENS / "official-tiny", device="cpu") for _ in range(2)]
    on_device(models[1])
    with fake_gpu() as gpu:
        losses = [model(inputs, labels=labels_of(inputs)).loss for model in models]
        for model, loss in zip(models, losses, strict=True):
            loss.backward()
            gpu.waits.clear()
            norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0))
            torch.optim.AdamW(model.parameters(), lr=1e-3, eps=1e-3).step()
        assert not gpu.waits
        assert losses[1].item() == pytest.approx(losses[0].item(), rel=1e-6)
        assert norms[1].item() == pytest.approx(norms[0].item(), rel=1e-5)
        for (name, expected), ours in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
            assert (ours.grad.cpu() - expected.grad).abs().max() < 1e-5 * expected.grad.abs().max() + 1e-8, name
            assert (ours.cpu() - expected).abs().max() < 1e-6, name
