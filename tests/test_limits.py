"""What cannot work is refused before it is begun, and what fails all the same leaves model and chat as they were."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import vl3ref
from tests.goldens_cases import NAMES, inputs_of
from tests.helpers import GOLDENS
from vl3ref import limits
from vl3ref.chat import Chat
from vl3ref.checkpoints import load_language_model, load_model
from vl3ref.config import RopeScaling
from vl3ref.errors import CheckpointError, InputError
from vl3ref.fast import eager_step
from vl3ref.generation import generate, stream
from vl3ref.inputs.processor import Processor
from vl3ref.model.diff_fp import DiffFP, keep_all
from vl3ref.model.kv_cache import KVCache
from vl3ref.model.language_model import LanguageModel
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.model_inputs import join

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def loaded() -> tuple[VideoLLaMA3, Processor]:
    return vl3ref.load("vl3-tiny", device="cpu")


@pytest.fixture(scope="module")
def model() -> VideoLLaMA3:
    return load_model(GOLDENS / "official-tiny", device="cpu")


def with_positions(count: int) -> VideoLLaMA3:
    """A model that was trained on so many."""
    made = load_model(GOLDENS / "official-tiny", device="cpu")
    language = dataclasses.replace(made.config.language, max_position_embeddings=count)
    made.config = dataclasses.replace(made.config, language=language)
    made.language_model.config = language
    return made


# ----------------------------------------------------------------------------------------------- before frames are read


def picture(height: int, width: int) -> dict[str, Any]:
    return {"type": "image", "image": np.zeros((height, width, 3), np.uint8)}


def clip(frames: int, height: int, width: int) -> dict[str, Any]:
    return {"type": "video", "video": np.broadcast_to(np.zeros(3, np.uint8), (frames, height, width, 3))}


TOO_LARGE: list[tuple[str, list[Any], dict[str, Any], str]] = [
    (
        "word " * 40_000,
        [],
        {},
        r"has \d\d,\d{3} tokens, and the model was trained on 32,768 .*: shorten the text",
    ),
    ("x" * 4_000_001, [], {}, "4,000,001 characters"),
    (
        "?",
        [picture(2160, 3840)],
        {"max_tokens": 10**9, "image_merge_size": 1},
        r"4\d,\d{3} tokens.*--visual-tokens",
    ),
    (
        "?",
        [clip(30_000, 28, 28)],
        {"max_tokens": 10**9, "max_frames": None},
        r"--max-frames.*--allow-long",
    ),
    ("?", [clip(3_000, 2160, 3840)], {"max_tokens": 10**9, "max_frames": None}, r"needs at least 29\d\.\d GB"),
    ("?", [picture(28, 28)], {"max_tokens": 10**9, "min_tokens": 10**9}, r"needs at least \d,\d{3}\.\d GB of memory"),
]


@pytest.mark.parametrize(("text", "files", "options", "message"), TOO_LARGE)
def test_a_prompt_is_weighed_before_its_frames_are_cut_into_patches(
    loaded: tuple[VideoLLaMA3, Processor],
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    files: list[Any],
    options: dict[str, Any],
    message: str,
) -> None:
    monkeypatch.setattr(limits, "free_memory", lambda device: 100 * 10**9)
    monkeypatch.setattr("vl3ref.inputs.processor.patchify", None)
    chat = Chat(*loaded)
    with pytest.raises(InputError, match=message) as caught:
        chat.ask(text, files, **options)
    assert len(str(caught.value)) < 300 and "\n" not in str(caught.value) and not chat.ids


def test_what_fits_is_not_refused(loaded: tuple[VideoLLaMA3, Processor], monkeypatch: pytest.MonkeyPatch) -> None:
    """The estimate of a prompt is below what it takes: pixels alone are a third of it."""
    chat, asked = Chat(*loaded, max_new_tokens=2), []
    monkeypatch.setattr(limits, "check_memory", lambda needed, device: asked.append(needed))
    inputs = chat.prepare("What?", [clip(8, 112, 112)])
    pixels = inputs.pixel_values.nbytes
    assert len(asked) == 1 and pixels < asked[0] < 3 * pixels


# ------------------------------------------------------------------------------------------------------------ positions


def test_a_prompt_past_the_trained_positions_is_refused_unless_it_is_allowed() -> None:
    text = inputs_of("text_only")
    count = len(text.input_ids)
    exact, short = with_positions(count), with_positions(count - 1)
    expected = short.generate(text, 3, 3, allow_long=True)[0]
    assert exact.generate(text, 1)[0].tolist() == expected[:1].tolist()
    for call in (short.generate, lambda text, n: short.language_model.generate(text.input_ids, n)):
        with pytest.raises(InputError, match=f"has {count} tokens, and the model was trained on {count - 1} positions"):
            call(text, 1)


@pytest.mark.parametrize(("pruner", "kept"), [(DiffFP(), 23), (keep_all, 42), (lambda i, f: keep_all(i), 42)])
def test_a_video_is_counted_as_it_is_pruned(pruner: Any, kept: int) -> None:
    """Before it is encoded if the grids say enough, and afterwards in any case."""
    inputs = inputs_of("video")
    count = len(inputs.input_ids) - 42 + kept
    assert len(with_positions(count).generate(inputs, 1, pruner=pruner)[0]) == 1
    with pytest.raises(InputError, match=f"has {count} tokens"):
        with_positions(count - 1).generate(inputs, 1, pruner=pruner)


@pytest.mark.parametrize(("case", "pruner"), [("one_image", DiffFP()), ("video", keep_all), ("video", DiffFP())])
def test_nothing_is_encoded_of_a_prompt_that_is_too_long_in_any_case(
    monkeypatch: pytest.MonkeyPatch, case: str, pruner: Any
) -> None:
    short = with_positions(12)
    monkeypatch.setattr(short.vision_encoder, "encode", None)
    with pytest.raises(InputError, match="trained on 12 positions"):
        short.generate(join([inputs_of("text_only"), inputs_of(case)]), 1, pruner=pruner)


def test_an_answer_ends_where_the_trained_positions_end_whatever_else_is_asked() -> None:
    inputs = join([inputs_of("text_only"), inputs_of("video")])
    kept = [n for part in (inputs_of("text_only"), inputs_of("video")) for n in [int(with_positions(99)(part).lengths)]]
    short = with_positions(max(kept) + 2)
    with pytest.warns(UserWarning, match=r"at most 3 tokens.*--allow-long"):
        together = short.generate(inputs, 20, 20)
    free = short.generate(inputs, 20, 20, allow_long=True)
    assert [len(answer) for answer in together] == [min(20, max(kept) + 3 - n) for n in kept]
    assert all(answer.tolist() == whole[: len(answer)].tolist() for answer, whole in zip(together, free, strict=True))


def test_earlier_turns_count_and_stretched_frequencies_do(loaded: tuple[VideoLLaMA3, Processor]) -> None:
    config = loaded[0].config.language
    yarn = dataclasses.replace(config, rope_scaling=RopeScaling("yarn", 4.0, original_max_position_embeddings=32768))
    assert limits.trained_positions(config) == 32768 and limits.trained_positions(yarn) == 131072
    chat = Chat(*loaded, max_new_tokens=2)
    list(chat.ask("What is it?"))
    chat.cache.lengths = [32_760]
    with pytest.raises(InputError, match=r"has 32,7\d\d tokens"):
        chat.prepare("And why?")
    chat.options["allow_long"] = True
    assert len(chat.prepare("And why?").input_ids) > 8


# ------------------------------------------------------------------------------------------------------------ the cache


def static(decoder: LanguageModel, cache: KVCache, tokens: Tensor) -> Tensor:
    """As a CUDA graph: nothing but the tensors that are there is used."""
    from vl3ref.fast import static_step

    logits = static_step(decoder, cache, tokens, torch.tensor(cache.lengths), torch.tensor(cache.next_positions))
    cache.advance([1] * len(tokens))
    return logits


@pytest.mark.parametrize("step", [eager_step, static])
def test_the_cache_grows_as_it_fills(model: VideoLLaMA3, monkeypatch: pytest.MonkeyPatch, step: Any) -> None:
    inputs = join([inputs_of(case) for case in NAMES])
    expected = [answer.tolist() for answer in model.generate(inputs, 24, 24)]
    capacities = []

    def noted(decoder: LanguageModel, cache: KVCache, tokens: Tensor) -> Tensor:
        capacities.append(cache.capacity)
        assert {x.shape[2] for x in cache.keys + cache.values} == {cache.capacity}
        return step(decoder, cache, tokens)

    monkeypatch.setattr("vl3ref.generation.FIRST_ROOM", 1)
    monkeypatch.setattr("vl3ref.model.kv_cache.MOST_GROWTH", 7)
    assert [answer.tolist() for answer in model.generate(inputs, 24, 24, step=noted)] == expected
    assert sorted(set(capacities)) == [capacities[0] + 7 * n for n in range(len(set(capacities)))] != [capacities[0]]


def test_a_long_answer_takes_memory_when_it_comes(model: VideoLLaMA3) -> None:
    cache, ids = model.language_model.new_cache(1), inputs_of("text_only").input_ids
    for step in (None, static):
        tokens = stream(model.language_model, ids, 10**400, 10**9, cache=cache, step=step, allow_long=True)
        assert [next(tokens) for _ in range(3)] and cache.capacity <= 2 * (len(ids) + 512)
        cache = model.language_model.new_cache(1)


# ----------------------------------------------------------------------------------------------------------- not finite


def spoiled(model: VideoLLaMA3, name: str, value: float) -> None:
    with torch.no_grad():
        model.get_parameter(name).view(-1)[7] = value


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    "name",
    [
        "vision_encoder.embeddings.patch_embedding.weight",
        "vision_encoder.encoder.layers.1.mlp.fc1.bias",
        "projector.readout.0.weight",
        "language_model.layers.1.self_attn.k_proj.weight",
        "language_model.norm.weight",
    ],
)
def test_a_weight_that_is_not_finite_is_named(name: str, value: float) -> None:
    model = load_model(GOLDENS / "official-tiny", device="cpu")
    spoiled(model, name, value)
    with pytest.raises(CheckpointError, match=f"the weight {name} is not finite"):
        model.generate(join([inputs_of("text_only"), inputs_of("video")]), 4)


def test_a_weight_that_is_not_needed_before_the_second_token_is_found_then(model: VideoLLaMA3) -> None:
    decoder = load_language_model(GOLDENS / "official-tiny", device="cpu")
    assert decoder.lm_head is not None
    ids = inputs_of("text_only").input_ids
    first = int(decoder.generate(ids, 1)[0])
    assert first not in ids
    with torch.no_grad():
        decoder.embed_tokens.weight[first] = float("nan")
    tokens = stream(decoder, ids, 4, 4)
    assert next(tokens) == (0, first)
    with pytest.raises(CheckpointError, match=r"the weight embed_tokens\.weight is not finite"):
        next(tokens)


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0, "seed": 0}])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_pixels_that_are_not_finite_are_said_to_be(model: VideoLLaMA3, value: float, options: dict[str, Any]) -> None:
    inputs = inputs_of("one_image")
    inputs.pixel_values = inputs.pixel_values.clone()  # the goldens are shared by all tests
    inputs.pixel_values[3, 5] = value
    with pytest.raises(InputError, match="pixel_values are not finite"):
        model.generate(inputs, 4, **options)


def test_values_that_overflow_are_said_to(model: VideoLLaMA3) -> None:
    narrow = load_model(GOLDENS / "official-tiny", device="cpu", dtype="float16")
    with torch.no_grad():
        narrow.language_model.layers[0].mlp.down_proj.weight.fill_(60000)
        narrow.language_model.layers[0].mlp.gate_proj.weight.fill_(60000)
    with pytest.raises(InputError, match=r"overflow in float16.*bfloat16 or float32"):
        narrow.generate(inputs_of("text_only"), 4)


# -------------------------------------------------------------------------------------------- when it fails after all


def exhausted(*_: Any, **__: Any) -> Tensor:
    return torch.empty(2**60, dtype=torch.uint8)


NEW = np.empty


def exhausted_in_numpy(*_: Any, **__: Any) -> Any:
    return NEW(2**60, dtype=np.uint8)


def test_memory_that_runs_out_is_a_sentence_and_everything_goes_on(
    loaded: tuple[VideoLLaMA3, Processor], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"max_new_tokens": 4, "min_new_tokens": 4}
    chat, expected = Chat(*loaded, **options), Chat(*loaded, **options)
    for one in (chat, expected):
        "".join(one.ask("What is it?"))
    places = ("MLP", "vl3ref.model.language_model.GatedMLP.forward"), ("cache", "vl3ref.model.kv_cache.F.pad")
    for _, place in places:
        with monkeypatch.context() as patch:
            patch.setattr(place, exhausted)
            with pytest.raises(InputError, match="out of memory: lower --visual-tokens"):
                "".join(chat.ask("Never heard" + " and so on" * 40))
            with pytest.raises(InputError, match="out of memory"):
                generate(loaded[0], chat.prepare("x" * 300), 600)
    with monkeypatch.context() as patch:
        patch.setattr("vl3ref.inputs.patches.np.empty", exhausted_in_numpy)
        with pytest.raises(InputError, match="out of memory"):
            chat.ask("Never seen", [clip(2, 28, 28)])
    for one in (chat, expected):
        "".join(one.ask("And why?"))
    assert chat.ids == expected.ids and chat.answer_ids == expected.answer_ids


def test_an_answer_that_runs_out_of_memory_half_way_is_continued(
    loaded: tuple[VideoLLaMA3, Processor], monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = Chat(*loaded, max_new_tokens=4, min_new_tokens=4)
    with monkeypatch.context() as patch:
        pieces = chat._alone(chat._tokens(chat.prepare("What is it?")), chat._turn)
        next(pieces), next(pieces)
        patch.setattr("vl3ref.model.language_model.GatedMLP.forward", exhausted)
        with pytest.raises(InputError, match="out of memory"):
            next(pieces)
    assert len(chat.answer_ids) == 2
    held = len(chat.ids)
    "".join(chat.ask("And why?"))
    assert len(chat.ids) > held + 4


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="something else"), limits.memory_errors():
        raise RuntimeError("something else")
    with pytest.raises(InputError, match=r"on the GPU: .* or --dtype bfloat16"), limits.memory_errors():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


def test_a_containers_limit_counts(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    limit, held = tmp_path / "memory.max", tmp_path / "memory.stat"
    monkeypatch.setattr(limits, "CGROUPS", ((str(limit), str(held), "anon"), ("/nowhere", "/nowhere", "")))
    machine = limits.free_memory(CPU)
    if machine is None:
        pytest.skip("no /proc/meminfo here")
    assert machine > 10**6 and limits.free_memory(torch.device("meta")) is None
    held.write_text("anon 1000\nfile 5000\n")
    for written, expected in (("3000\n", 2000), ("500\n", 0)):
        limit.write_text(written)
        assert limits.free_memory(CPU) == expected
    limit.write_text("max\n")
    assert limits.free_memory(CPU) > 10**6
    limit.write_text("3000\n")
    with pytest.raises(InputError, match=r"at least 1\.0 GB of memory, and 0\.0 GB are free on this machine"):
        limits.check_memory(10**9, CPU)
