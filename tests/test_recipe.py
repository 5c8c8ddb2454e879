"""vl3-tiny from nothing, with all phases cut short: what comes out, and that an interrupted run loses nothing."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer as Backend

import vl3ref
from vl3ref.config import ModelConfig
from vl3ref.errors import TrainingError
from vl3ref.inputs.tokenizer import Tokenizer
from vl3ref.model.initialise import random_model
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.model_inputs import ModelInputs
from vl3ref.tinyworld import MAKERS, TinyWorld, recipe
from vl3ref.tinyworld.recipe import PHASES, SPECIAL_TOKENS, VOCABULARY, tiny_config, tiny_tokenizer, train_tiny
from vl3ref.training.checkpoints import checkpoints
from vl3ref.training.run_log import read_log
from vl3ref.training.trainer import Trainer

SHORT = tuple(replace(phase, steps=2 + index % 2, batch_size=3) for index, phase in enumerate(PHASES))
PARTS = ("vision_encoder", "projector", "language_model")


@cache
def small_tokenizer() -> Backend:
    return tiny_tokenizer(samples=150)


def small_config(backend: Backend) -> ModelConfig:
    config = tiny_config(backend)
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    language = replace(config.language, **small, num_key_value_heads=1, head_dim=16)
    return replace(config, vision=replace(config.vision, **small), language=language)


@pytest.fixture(scope="module")
def quick() -> Iterator[None]:
    """Training vl3-tiny's tokenizer takes longer than all phases cut short."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "tiny_tokenizer", small_tokenizer)
        patch.setattr(recipe, "tiny_config", small_config)
        yield


@pytest.fixture(scope="module")
def run(quick: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("recipe")
    assert train_tiny(folder, SHORT, workers=0) == folder / "vl3-tiny"
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(one: Path, other: Path) -> bool:
    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def newest(run: Path, phase: str) -> Path:
    return checkpoints(run / phase)[-1]


# ------------------------------------------------------------------------------------------------------------ tokenizer


def test_the_tokenizer_is_always_the_same_and_writes_all_that_is_said() -> None:
    backend = small_tokenizer()
    assert tiny_tokenizer(samples=150).to_str() == backend.to_str()
    tokenizer = Tokenizer(backend)
    assert backend.get_vocab_size() <= VOCABULARY
    ids = [backend.token_to_id(token) for token in SPECIAL_TOKENS]
    assert None not in ids and len(set(ids)) == len(SPECIAL_TOKENS) and max(ids) < VOCABULARY
    world = TinyWorld(9, {"scene": 1.0, "clip": 1.0}, as_text={"clip": 1.0})
    for text in [turn["value"] for i in range(20) for turn in world[i]["conversations"]] + ["Grüße, 你好 🙂\n\t"]:
        assert tokenizer.decode(tokenizer.encode(text)[0]) == text
    assert len(tokenizer.encode("What colour is the triangle?")[0]) < 12


def test_more_text_fills_the_vocabulary() -> None:
    assert small_tokenizer().get_vocab_size() < tiny_tokenizer(samples=600).get_vocab_size() <= VOCABULARY


def test_the_model_has_six_million_parameters() -> None:
    config = tiny_config(small_tokenizer())
    with torch.device("meta"):
        model = VideoLLaMA3(config)
    assert config.dtype == "bfloat16" and 5e6 < sum(x.numel() for x in model.parameters()) < 7e6


def test_the_phases() -> None:
    stages = [phase.name for phase in PHASES if phase.name.startswith("stage")]
    assert [name[:7] for name in stages] == sorted(name[:7] for name in stages) and PHASES[-1].name == "stage-4"
    assert [phase.name for phase in PHASES[:3]] == ["text", "siglip", "stage-1"]
    assert len({phase.name for phase in PHASES}) == len(PHASES)
    trained = {phase.name: [x for x in PARTS if phase.stage.learning_rates[x]] for phase in PHASES}
    assert trained["text"] == ["language_model"] and trained["stage-1"] == ["vision_encoder", "projector"]
    assert trained["siglip"] == ["vision_encoder"]
    assert all(trained[name] == list(PARTS) for name in stages[1:])
    assert all(PHASES[0].as_text[kind] == 1.0 for kind in PHASES[0].mixture)  # the encoder cannot see yet
    assert not PHASES[1].as_text and not PHASES[2].as_text and not PHASES[-1].as_text
    assert all(sum(phase.described) < 1 and {*phase.mixture} <= {*MAKERS} for phase in PHASES)


# ---------------------------------------------------------------------------------------------------------------- a run


def test_what_comes_out_can_be_asked(run: Path) -> None:
    folder = run / "vl3-tiny"
    assert {tensor.dtype for tensor in weights(folder).values()} == {torch.bfloat16}
    assert (folder / "tokenizer.json").exists() and not (folder / "trainer.pt").exists()
    model, processor = vl3ref.load(folder, "cpu")
    assert model.config == small_config(small_tokenizer())
    assert vars(processor.config).items() >= recipe.PROCESSOR.items()
    assert processor.tokenizer.backend.to_str() == small_tokenizer().to_str()
    inputs = processor(TinyWorld(9, {"clip": 1.0}).conversation(0)[:1])
    assert len(model.generate(inputs, max_new_tokens=3)[0]) <= 3
    assert model.config.language.eos_token_ids == tuple(
        processor.tokenizer.special(token) for token in ("<|im_end|>", "<|endoftext|>")
    )


def test_every_phase_leaves_its_log_and_its_checkpoint(run: Path) -> None:
    for phase in SHORT:
        assert [path.name for path in checkpoints(run / phase.name)] == [f"checkpoint-{phase.steps:06}"]
        assert [int(row["step"]) for row in read_log(run / phase.name / "log.csv")] == list(range(1, phase.steps + 1))
        if phase.stage is not recipe.SIGLIP:
            _, processor = vl3ref.load(newest(run, phase.name), "cpu")
            assert {tensor.dtype for tensor in weights(newest(run, phase.name)).values()} == {torch.float32}
            assert processor.config.image_merge_size == phase.stage.image_merge_size


def test_each_phase_goes_on_from_the_one_before_and_changes_its_own_parts(run: Path) -> None:
    start = random_model(small_config(small_tokenizer()), deviation=None).state_dict()

    def changed(before: Any, after: Any) -> list[str]:
        return [
            part for part in PARTS if any(not torch.equal(before[x], after[x]) for x in after if x.startswith(part))
        ]

    def model_of(phase: str) -> Any:
        return vl3ref.load(newest(run, phase), "cpu")[0].state_dict()

    text, one = model_of("text"), model_of("stage-1")
    assert changed(start, text) == ["language_model"]
    encoder = {x: tensor for x, tensor in weights(newest(run, "siglip")).items() if x.startswith("vision_encoder")}
    assert changed(text, encoder) == ["vision_encoder"]
    assert changed(text, one) == ["vision_encoder", "projector"]
    tower = {x: tensor for x, tensor in weights(newest(run, "siglip")).items() if x.startswith("text_tower")}
    decoder = {x.replace("language_model", "text_tower"): tensor for x, tensor in text.items()}
    assert sum(not torch.equal(tower[x], decoder[x]) for x in tower) > 0.9 * len(tower)  # a copy was trained
    assert all((tower[x] - decoder[x]).abs().max() < 0.02 for x in tower)
    assert changed(encoder, {x: one[x] for x in encoder}) == ["vision_encoder"]
    far, near = (sum((one[x] - y[x]).square().sum() for x in encoder) for y in (text, encoder))
    assert near < far  # stage 1 started from the encoder of the phase before
    before = one
    for phase in SHORT[3:]:
        after = model_of(phase.name)
        assert changed(before, after) == list(PARTS)
        before = after
    final = vl3ref.load(run / "vl3-tiny", "cpu")[0].state_dict()
    assert all(torch.equal(final[x], before[x].bfloat16().float()) for x in final)


def test_a_run_is_not_written_over(run: Path) -> None:
    before = weights(run / "vl3-tiny")
    with pytest.raises(TrainingError, match=r"holds a run already.*--resume"):
        train_tiny(run, SHORT, workers=0)
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(run / "vl3-tiny").items())


def test_resuming_a_finished_run_trains_no_more(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_after(monkeypatch, 0)
    first = tmp_path / "first"
    (run / "vl3-tiny").rename(first)
    assert same(train_tiny(run, SHORT, resume=True, workers=0), first)


class Interrupted(Exception):
    """In place of a power cut."""


def stop_after(patch: pytest.MonkeyPatch, steps: int) -> None:
    """Let a run compute the gradients of some steps, and interrupt it in the next."""
    accumulate, left = Trainer._accumulate, iter(range(steps))

    def counted(trainer: Trainer, *batch: Any) -> float:
        if next(left, None) is None:
            raise Interrupted
        return accumulate(trainer, *batch)

    patch.setattr(Trainer, "_accumulate", counted)


def test_a_run_that_is_interrupted_twice_ends_with_the_same_weights(run: Path, tmp_path: Path) -> None:
    text, siglip, one, *_ = (phase.steps for phase in SHORT)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted):
        stop_after(patch, text + 1)
        train_tiny(tmp_path, SHORT[:4], workers=0)
    assert checkpoints(tmp_path / "text") and not checkpoints(tmp_path / "siglip")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted):
        stop_after(patch, siglip + one + 1)
        train_tiny(tmp_path, SHORT[:4], resume=True, workers=0)
    assert checkpoints(tmp_path / "stage-1") and not checkpoints(tmp_path / SHORT[3].name)
    assert len(read_log(tmp_path / SHORT[3].name / "log.csv")) == 1
    train_tiny(tmp_path, SHORT[:4], resume=True, workers=0)
    assert same(newest(tmp_path, SHORT[3].name), newest(run, SHORT[3].name))
    for phase in SHORT[:4]:
        rows = [read_log(folder / phase.name / "log.csv") for folder in (run, tmp_path)]
        assert [row["loss"] for row in rows[0]] == [row["loss"] for row in rows[1]]


def test_a_resumed_run_keeps_its_tokens(quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if the world says other things by then, and a tokenizer made from it would have other ids."""
    first, second = (replace(SHORT[index], steps=1) for index in (0, 2))
    train_tiny(tmp_path, [first], workers=0)
    monkeypatch.setattr(recipe, "tiny_tokenizer", lambda: tiny_tokenizer(samples=60))
    folder = train_tiny(tmp_path, [first, second], resume=True, workers=0)
    assert vl3ref.load_processor(folder).tokenizer.backend.to_str() == small_tokenizer().to_str()


def test_resuming_where_there_is_nothing_starts(quick: None, tmp_path: Path) -> None:
    first = replace(SHORT[0], steps=1)
    assert train_tiny(tmp_path / "new", [first], resume=True, workers=0).is_dir()
    assert checkpoints(tmp_path / "new" / "text")


class Scaled(torch.nn.Module):
    """A pruner that learns: it keeps every token, and scales what the decoder reads of it."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, inputs: ModelInputs, features: torch.Tensor) -> torch.Tensor:
        return self.scale.expand(len(features))


def scale(model: VideoLLaMA3) -> None:
    model.pruner = Scaled()


def test_a_changed_model_is_trained_from_nothing(quick: None, tmp_path: Path) -> None:
    phases = [phase for phase in SHORT if phase.name in ("text", "stage-3")]
    folder = train_tiny(tmp_path, phases, workers=0, change=scale)
    model, _ = vl3ref.load(folder, "cpu", change=scale)
    trained, _ = vl3ref.load(newest(tmp_path, "stage-3"), "cpu", change=scale)
    assert trained.pruner.scale.item() != 1
    assert model.pruner.scale.item() == trained.pruner.scale.bfloat16().item()
