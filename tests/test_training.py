"""A run: what it trains, how fast, in how many processes, and how it is resumed after it was killed."""

import io
import json
import math
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from safetensors.torch import load_file
from tokenizers import Tokenizer as Backend
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import Dataset

import vl3ref
from tests.helpers import ROOT, needs_sharding, room_for
from tests.small_runs import STAGE, Killed, Mixed, Run, arm, column, processor, raise_killed, rows, small_model
from tests.test_change_training import learned_positions, pixel_shuffle
from vl3ref.checkpoints import load_model, save_model
from vl3ref.errors import CheckpointError, TrainingError
from vl3ref.inputs.processor import Processor
from vl3ref.model import loss as loss_module
from vl3ref.model.diff_fp import keep_all
from vl3ref.model.language_model import LanguageModel
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.model_inputs import ModelInputs
from vl3ref.training import checkpoints as checkpoints_module
from vl3ref.training import run_log as run_log_module
from vl3ref.training.assemble import assemble
from vl3ref.training.batches import Batch, Conversations, count_targets
from vl3ref.training.checkpoints import PLAIN_FILES, checkpoints, finish, latest_checkpoint, model_files
from vl3ref.training.distributed import Processes, clip_gradients, shard
from vl3ref.training.run import train_stage
from vl3ref.training.run_log import COLUMNS, RunLog, read_log
from vl3ref.training.stages import (
    BATCH,
    BETAS,
    CLIP,
    EPSILON,
    MAX_TOKENS,
    MAX_VISUAL_TOKENS,
    OFFICIAL_2B,
    OFFICIAL_7B,
    TINY,
    WARM_UP,
    Stage,
    cautions,
    freeze,
    parameter_groups,
)
from vl3ref.training.trainer import Plan, Trainer, schedule

pytestmark = pytest.mark.filterwarnings("ignore:stage-1 trains")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """The same bits as in a process that is killed; and no waiting for disks, which a power cut alone would tell."""
    threads, sync = torch.get_num_threads(), os.fsync
    torch.set_num_threads(1)
    os.fsync = lambda _: None
    yield
    torch.set_num_threads(threads)
    os.fsync = sync


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def summed_loss(model: VideoLLaMA3, pack: ModelInputs, pruner: Any = None) -> Tensor:
    return model(pack, pack.labels, pruner=pruner).loss * count_targets(pack)


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def steps_saved(folder: Path) -> list[int]:
    return [int(path.name.removeprefix("checkpoint-")) for path in checkpoints(folder)]


# --------------------------------------------------------------------------------------------------------------- stages


@pytest.mark.parametrize(
    ("number", "decoder", "projector", "vision", "image_merge", "video_merge", "prune"),
    [
        (1, None, 1e-3, 1e-5, 1, 2, False),
        (2, 1e-5, 1e-5, 2e-6, 1, 2, False),
        (3, 1e-5, 1e-5, 2e-6, 1, 2, True),
        (4, 1e-5, 1e-5, 2e-6, 2, 2, True),
    ],
)
def test_the_stages_are_the_official_ones(
    number: int,
    decoder: float | None,
    projector: float,
    vision: float,
    image_merge: int,
    video_merge: int,
    prune: bool,
) -> None:
    stage = OFFICIAL_2B[number - 1]
    assert stage.name == f"stage-{number}"
    assert (stage.decoder_lr, stage.projector_lr, stage.vision_lr) == (decoder, projector, vision)
    assert (stage.image_merge_size, stage.video_merge_size, stage.prune) == (image_merge, video_merge, prune)
    own = {"vision_encoder": vision, "projector": projector, "language_model": decoder}
    assert stage.learning_rates == {**own, "added": projector}
    assert OFFICIAL_7B[number - 1] == stage
    frozen = [[lr is None for lr in one.learning_rates.values()] for one in (TINY[number - 1], stage)]
    assert frozen[0] == frozen[1]


def test_the_official_numbers() -> None:
    assert len(OFFICIAL_2B) == len(OFFICIAL_7B) == len(TINY) == 4
    assert (BATCH, WARM_UP, CLIP, BETAS, EPSILON) == (128, 0.03, 1.0, (0.9, 0.999), 1e-8)
    assert (MAX_VISUAL_TOKENS, MAX_TOKENS) == (10240, 16384)
    plan = Plan(1)
    assert (plan.warm_up, plan.clip, plan.weight_decay) == (0.03, 1.0, 0.0)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize(
    "trained", [(False, True, True), (True, True, True), (True, False, False), (False, False, True)]
)
def test_what_a_stage_trains_is_in_its_groups_once_and_nothing_else_is(
    tied: bool, trained: tuple[bool, bool, bool], added: bool
) -> None:
    model = small_model(tie_word_embeddings=tied)
    lrs = [lr if on else None for lr, on in zip((1e-3, 2e-3, 3e-3), trained, strict=True)]
    stage = replace(STAGE, decoder_lr=lrs[0], projector_lr=lrs[1], vision_lr=lrs[2], added_lr=4e-3)
    if added:
        model.pruner = nn.Linear(2, 1)
    freeze(model, OFFICIAL_2B[0])  # a stage before: what it froze thaws
    freeze(model, stage)
    groups = list(parameter_groups(model, stage))
    wanted = {part: lr for part, lr in stage.learning_rates.items() if lr is not None and (added or part != "added")}
    assert {group["name"]: group["lr"] for group in groups} == wanted
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(grouped) == len(set(grouped))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    parts = {name: name.partition(".")[0].replace("pruner", "added") for name in names.values()}
    expected = {name for name, part in parts.items() if stage.learning_rates[part] is not None}
    assert {names[one] for one in grouped} == expected
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == expected
    if lrs[0] is not None:
        assert ("language_model.lm_head.weight" in expected) is not tied
        assert "language_model.embed_tokens.weight" in expected


def test_what_a_change_adds_trains_at_the_projectors_learning_rate_unless_it_has_its_own() -> None:
    assert OFFICIAL_2B[0].learning_rates["added"] == 1e-3
    assert replace(OFFICIAL_2B[0], added_lr=5e-4).learning_rates["added"] == 5e-4


def test_a_stage_says_what_its_user_may_not_expect() -> None:
    tiny = small_model()
    slow, merge = cautions(OFFICIAL_2B[2], tiny, processor())
    assert "vision_encoder at 2e-06, projector at 1e-05, language_model at 1e-05" in slow and "0.1 million" in slow
    assert "--decoder-lr" in slow and "stages.TINY" in slow
    assert merge == "stage-3 trains with image_merge_size 1, and saves it; the checkpoint came with 2"
    [slow, *_] = cautions(OFFICIAL_2B[0], tiny, processor())
    assert "vision_encoder at 1e-05:" in slow  # the projector's 1e-3 is fast enough
    assert list(cautions(TINY[2], tiny, processor())) == []
    tiny.pruner = nn.Linear(1, 1)
    assert list(cautions(TINY[2], tiny, processor())) == []
    assert "keeps every visual token" in next(cautions(TINY[1], tiny, processor()))
    with torch.device("meta"):
        tiny.language_model.wide = nn.Linear(10_000, 10_000)  # no longer tiny
    assert list(cautions(OFFICIAL_2B[2], tiny, processor())) == [merge]


def test_stage_1_leaves_the_decoder_bit_for_bit_and_moves_all_of_the_rest(tmp_path: Path) -> None:
    before = state_of(small_model())
    after = state_of(Run(tmp_path, "ssss", OFFICIAL_2B[0]).train())
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]) == name.startswith("language_model."), name
    saved = torch.load(tmp_path / "checkpoint-000001" / "trainer.pt")["optimiser"]
    assert [group["name"] for group in saved["param_groups"]] == ["vision_encoder", "projector"]
    assert not any(name.startswith("language_model.") for name in saved["state"])


def test_a_threshold_for_unsure_answers_is_not_kept_for_other_weights(tmp_path: Path) -> None:
    model = small_model()
    model.unsure_below = -0.5
    train_stage(model, processor(), Mixed("ssss"), STAGE, Plan(1, batch_size=4, workers=0), tmp_path)
    assert model.unsure_below is None
    assert "unsure" not in (tmp_path / "checkpoint-000001" / "generation_config.json").read_text()


def test_text_counts_in_stage_1_although_nothing_that_is_trained_reads_it(tmp_path: Path) -> None:
    """Text in packs of its own: some of a step's samples, and all of another's."""
    samples = Mixed("ssttttttssss")
    Run(tmp_path, samples.kinds, OFFICIAL_2B[0], pack_tokens=1).train()
    assert len(rows(tmp_path)) == 3
    assert [norm > 0 for norm in column(tmp_path, "gradient_norm")] == [True, False, True]
    official = Processor(processor().tokenizer, replace(processor().config, image_merge_size=1))
    packs = Conversations(samples, official, 4, pack_tokens=1, shuffle=False)[0].packs
    summed = sum(summed_loss(small_model(), pack, keep_all).item() for pack in packs)
    wanted = summed / sum(count_targets(pack) for pack in packs)
    assert column(tmp_path, "loss")[0].item() == pytest.approx(wanted, rel=1e-5)


# ------------------------------------------------------------------------------------------------------- learning rates


def test_the_learning_rate_rises_straight_and_falls_as_half_a_cosine() -> None:
    shares = [schedule(step, 200) for step in range(200)]
    assert shares[:7] == pytest.approx([1 / 7, 2 / 7, 3 / 7, 4 / 7, 5 / 7, 6 / 7, 1])
    assert shares[6 + 97] == pytest.approx(0.5)
    assert shares[-1] == pytest.approx((1 - math.cos(math.pi / 194)) / 2)
    assert shares[-1] < 1e-4
    assert schedule(200, 200) == pytest.approx(0, abs=1e-12)
    assert schedule(0, 200, warm_up=0.0) == 1


@settings(deadline=None)
@given(steps=st.integers(1, 300), warm_up=st.floats(0, 1))
def test_the_learning_rate_rises_to_its_peak_falls_after_it_and_is_never_nothing(steps: int, warm_up: float) -> None:
    shares = [schedule(step, steps, warm_up) for step in range(steps)]
    assert all(0 < share <= 1 for share in shares)
    peak = shares.index(max(shares))
    assert peak <= math.ceil(steps * warm_up)
    assert all(one < other for one, other in pairwise(shares[: peak + 1]))
    assert all(one > other for one, other in pairwise(shares[peak:]))
    if math.ceil(steps * warm_up) < steps:
        assert max(shares) == 1


def test_a_run_of_one_step_learns(tmp_path: Path) -> None:
    assert 0 < schedule(0, 1) <= 1
    before = state_of(small_model())
    after = state_of(Run(tmp_path, "gggg").train())
    assert not torch.equal(before["language_model.norm.weight"], after["language_model.norm.weight"])


# ---------------------------------------------------------------------------------------------------------- the trainer


@dataclass
class Numbers:
    """A pack for a linear model: what goes in, and what should come out."""

    x: Tensor
    y: Tensor

    def to(self, _: Any) -> "Numbers":
        return self


class Listed(Dataset):
    """Batches that are there already."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches

    def __getitem__(self, step: int) -> Batch:
        return self.batches[step % len(self.batches)]


def squares(model: Any, pack: Numbers) -> Tensor:
    return (model(pack.x) - pack.y).pow(2).sum()


def test_a_step_is_adamw_at_its_rate_on_the_clipped_gradient_of_the_mean_over_all_packs(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    data = [torch.randn(6, 4, generator=generator) * 3 for _ in range(5)]
    batches = [Batch([Numbers(x[:1], x[:1, :2]), Numbers(x[1:], x[1:, 2:])], 6, 6, 6) for x in data]
    start = nn.Linear(4, 2)
    model, expected = nn.Linear(4, 2), nn.Linear(4, 2)
    for one in (model, expected):
        one.load_state_dict(start.state_dict())
    groups = [{"params": [model.weight], "lr": 0.1}, {"params": [model.bias], "lr": 0.01}]
    plan = Plan(5, warm_up=0.4, clip=2.0, weight_decay=0.1, workers=0)
    Trainer(model, squares, Listed(batches), groups, plan, tmp_path, PLAIN_FILES).run()

    optimiser = torch.optim.AdamW(
        [{"params": [expected.weight], "peak": 0.1}, {"params": [expected.bias], "peak": 0.01}],
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0.1,
    )
    norms = []
    for step, x in enumerate(data):
        for group in optimiser.param_groups:
            group["lr"] = group["peak"] * [1 / 3, 2 / 3, 1, 0.75, 0.25][step]
        optimiser.zero_grad()
        y = torch.cat([x[:1, :2], x[1:, 2:]])
        ((expected(x) - y).pow(2).sum() / 6).backward()
        norms.append(float(nn.utils.clip_grad_norm_(expected.parameters(), 2.0)))
        optimiser.step()
    assert max(norms) > 2
    torch.testing.assert_close(model.state_dict(), expected.state_dict(), rtol=1e-5, atol=1e-6)
    assert column(tmp_path, "gradient_norm").tolist() == pytest.approx(norms, rel=1e-5)
    assert column(tmp_path, "learning_rate").tolist() == pytest.approx([0.1 * x for x in (1 / 3, 2 / 3, 1, 0.75, 0.25)])


def test_gradients_are_scaled_to_the_largest_norm_and_small_ones_are_left() -> None:
    model = nn.Linear(3, 1)
    model.weight.grad, model.bias.grad = torch.full((1, 3), 2.0), torch.full((1,), 2.0)
    assert clip_gradients(model, 1.0) == pytest.approx(4.0)
    assert model.weight.grad.tolist() == [pytest.approx([0.5] * 3)]
    assert clip_gradients(model, 2.0) == pytest.approx(1.0)
    assert model.bias.grad.tolist() == pytest.approx([0.5])


def trainer(model: VideoLLaMA3, batches: Any, plan: Plan, folder: Path, stage: Stage = STAGE) -> Trainer:
    freeze(model, stage)
    groups, files = parameter_groups(model, stage), model_files(model, processor())
    return Trainer(model.train(), summed_loss, batches, groups, plan, folder, files, title=stage.name)


def test_one_batch_is_fitted(tmp_path: Path) -> None:
    fast = replace(STAGE, decoder_lr=2e-2, projector_lr=2e-2, vision_lr=2e-2)
    same = Listed([Conversations(Mixed("st"), processor(), 2, shuffle=False)[0]])
    trainer(small_model(), same, Plan(30, workers=0), tmp_path, fast).run()
    losses = column(tmp_path, "loss")
    assert len(losses) == 30
    assert losses[0] == pytest.approx(math.log(1024), abs=0.2)  # as good as guessing
    assert losses[-1] < 0.3 * losses[0]
    assert losses[-5:].max() < losses[:5].min()


def test_how_a_batch_is_packed_changes_nothing(tmp_path: Path) -> None:
    """From a pack for each conversation, whose gradients add up, to one for all of them."""
    for pack_tokens in (1, 300, 1 << 30):
        Run(tmp_path / str(pack_tokens), "sstsbstsstss", pack_tokens=pack_tokens).train()
    alone, few, together = (tmp_path / str(pack_tokens) for pack_tokens in (1, 300, 1 << 30))
    for name in ("loss", "gradient_norm", "targets", "tokens", "skipped"):
        for other in (few, together):
            torch.testing.assert_close(column(other, name), column(alone, name), rtol=1e-5, atol=1e-5, msg=name)
    assert column(alone, "targets").min() > 0


def test_the_loss_is_the_mean_over_all_targets_of_the_batch(tmp_path: Path) -> None:
    packs = Conversations(Mixed("ssts"), processor(), 4, pack_tokens=1, shuffle=False)[0].packs
    model = small_model()
    means = [model(pack, pack.labels).loss.item() for pack in packs]
    counts = [count_targets(pack) for pack in packs]
    assert len(set(counts)) > 1
    Run(tmp_path, "ssts").train()
    wanted = sum(mean * count for mean, count in zip(means, counts, strict=True)) / sum(counts)
    (row,) = rows(tmp_path)
    assert float(row["loss"]) == pytest.approx(wanted, rel=1e-5)
    assert float(row["targets"]) == sum(counts)
    assert float(row["tokens"]) == sum(len(pack.input_ids) for pack in packs)


def test_bfloat16_computes_narrowly_and_keeps_wide_weights(tmp_path: Path) -> None:
    Run(tmp_path / "wide", "stststst").train()
    model = Run(tmp_path / "narrow", "stststst", bfloat16=True).train()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    wide, narrow = column(tmp_path / "wide", "loss"), column(tmp_path / "narrow", "loss")
    assert not torch.equal(wide, narrow)
    torch.testing.assert_close(narrow, wide, rtol=0.01, atol=0)


# ------------------------------------------------------------------------------------------------------- broken samples


def test_too_many_broken_samples_end_the_run_once_a_hundred_have_been_seen(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"20 of 100 samples .* more than 5%; .*skipped\.log names them") as raised:
        Run(tmp_path, "ggggb" * 30, batch=25).train()
    assert str(tmp_path / "skipped.log") in str(raised.value)
    assert [row["step"] for row in rows(tmp_path)] == ["1", "2", "3"]
    assert len((tmp_path / "skipped.log").read_text().splitlines()) == 20


def test_a_few_broken_samples_are_named_and_do_not_end_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kinds = "gggggbgggggggggggggggggg" + "g" * 24 + "gggbgggggggggggggggggbbg" + "gggggggggggggggggggggbgg"
    Run(tmp_path, kinds + "g" * 24, batch=24).train()
    broken = [index for index, kind in enumerate(kinds) if kind == "b"]
    assert len(broken) == 5
    lines = [f"sample {index}: it is broken" for index in broken]
    said = capsys.readouterr().err.splitlines()
    assert [one for one in said if "broken" in one] == [f"skipped: {one}" for one in lines]
    assert (tmp_path / "skipped.log").read_text().splitlines() == [
        f"step {index // 24 + 1}: {one}" for index, one in zip(broken, lines, strict=True)
    ]
    assert column(tmp_path, "skipped").tolist() == [1, 1, 4, 5, 5]


def test_a_step_without_a_usable_sample_changes_nothing(tmp_path: Path) -> None:
    once = state_of(Run(tmp_path / "short", "gggg").train())
    twice = state_of(Run(tmp_path / "long", "ggggbbbb").train())
    assert [row["targets"] != "0" for row in rows(tmp_path / "long")] == [True, False]
    assert column(tmp_path / "long", "loss").isnan().tolist() == [False, True]
    assert twice.keys() == once.keys() and all(torch.equal(twice[name], once[name]) for name in once)


def test_a_run_none_of_whose_samples_can_be_used_ends_at_once(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"step 1: no sample could be used so far; see skipped\.log"):
        Run(tmp_path, "bbbbgggg").train()
    assert rows(tmp_path) == []


def test_names_that_are_no_text_can_be_logged(tmp_path: Path) -> None:
    """JSON can say half a character."""
    with RunLog(tmp_path, "training", 1, 0) as log:
        log.skipped(1, ["data.jsonl line 1: \ud83d.png does not exist"])
    assert "line 1: \\ud83d.png does not exist" in (tmp_path / "skipped.log").read_text(encoding="utf-8")


# ------------------------------------------------------------------------------------------------- losses that are none


def poison_weights(model: VideoLLaMA3) -> None:
    with torch.no_grad():
        model.projector.readout[0].weight[0, 0] = math.nan


def poison_gradients(model: VideoLLaMA3) -> None:
    model.language_model.norm.weight.register_hook(lambda gradient: gradient * math.inf)


@pytest.mark.parametrize("poison", [poison_weights, poison_gradients])
def test_a_loss_or_gradient_that_is_no_number_ends_the_run_before_it_does_harm(poison: Any, tmp_path: Path) -> None:
    model = small_model()
    poison(model)
    before = state_of(model)
    with pytest.raises(TrainingError, match=r"step 1: the loss is .* lower the learning rate"):
        Run(tmp_path, "ssssssss").train(model)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor.nan_to_num(7), before[name].nan_to_num(7)), name
    assert rows(tmp_path) == []
    assert checkpoints(tmp_path) == []


# --------------------------------------------------------------------------------------------------------------- memory


def test_gradient_checkpointing_gives_the_same_gradients_and_runs_every_layer_twice() -> None:
    packs = Conversations(Mixed("ssts"), processor(), 4, shuffle=False)[0].packs
    gradients, runs = [], []
    for on in (False, True):
        model = small_model().train().gradient_checkpointing(on)
        count = [0]

        def counted(*_: Any, count: list[int] = count) -> None:
            count[0] += 1

        layers = [*model.language_model.layers, *model.vision_encoder.encoder.layers]
        for layer in layers:
            layer.register_forward_pre_hook(counted)
        sum(summed_loss(model, pack) for pack in packs).backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
        runs.append(count[0])
    assert runs[1] == 2 * runs[0] > 0
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-5, atol=1e-7)


class Logits(TorchDispatchMode):
    """The most rows of any tensor that is computed and has a column for each word."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary, self.rows = vocabulary, 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, Tensor) and x.ndim and x.shape[-1] == self.vocabulary:
                self.rows = max(self.rows, x.numel() // self.vocabulary)
        return out


def test_logits_are_never_held_for_more_than_a_chunk_of_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_module, "LOSS_CHUNK", 48)  # above the width of 32, for the table itself may be turned
    head, heads = LanguageModel.head, []

    def counted(self: LanguageModel, hidden: Tensor) -> Tensor:
        heads.append(len(hidden))
        return head(self, hidden)

    held = []

    def keep(x: Tensor) -> Tensor:
        held.append(tuple(x.shape))
        return x

    monkeypatch.setattr(LanguageModel, "head", counted)
    (pack,) = Conversations(Mixed("sttsts"), processor(), 6, shuffle=False)[0].packs
    targets = count_targets(pack)
    assert 100 < targets < len(pack.input_ids)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x), Logits(1024) as logits:
        loss = summed_loss(small_model().train(), pack)
        forward = list(heads)
        loss.backward()
    chunks = [48] * (targets // 48) + [targets % 48]
    assert forward == chunks
    assert sorted(heads) == sorted(2 * chunks)  # once more for the backward pass
    assert logits.rows == 48
    assert held
    assert not [shape for shape in held if shape[-1:] == (1024,)]


# -------------------------------------------------------------------------------------------------------------- the log


def test_the_log_has_a_whole_line_for_every_step(tmp_path: Path) -> None:
    Run(tmp_path, "gggg" * 5).train()
    header, *lines = (tmp_path / "log.csv").read_text().splitlines()
    assert header == "step,loss,learning_rate,gradient_norm,tokens,targets,skipped,seconds"
    assert [line.split(",")[0] for line in lines] == ["1", "2", "3", "4", "5"]
    for line in lines:
        numbers = [float(value) for value in line.split(",")]
        assert len(numbers) == len(COLUMNS)
        assert all(map(math.isfinite, numbers))
    assert column(tmp_path, "learning_rate").tolist() == pytest.approx([8e-4 * schedule(step, 5) for step in range(5)])


def test_progress_is_a_line_every_so_often_where_there_is_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Run(tmp_path / "calm", "gggg" * 5).train()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[2] for line in lines] == ["1/5", "5/5"]  # the first and the last
    number, power = r"[\d.,]+", r"\d\.\d\de-\d\d"
    for line in lines:
        figures = rf"loss {number}  learning rate {power}  gradient norm {number}  {number} tokens/s  \d:\d\d:\d\d left"
        assert re.fullmatch(rf"stage-3 step \d/5  {figures}", line), line
    monkeypatch.setattr(run_log_module, "SECONDS_BETWEEN_LINES", 0.0)
    Run(tmp_path / "chatty", "gggg" * 5).train()
    assert len(capsys.readouterr().err.splitlines()) == 5


def test_progress_on_a_terminal_is_a_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    terminal = Console(file=written, force_terminal=True, width=160)
    monkeypatch.setattr(run_log_module, "Console", lambda stderr: terminal)
    Run(tmp_path, "gggg" * 5).train()
    assert (
        "5/5" in written.getvalue()
        and "learning rate" in written.getvalue()
        and "stage-3 step" not in written.getvalue()
    )


def test_a_log_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("step,loss,rate,norm,tokens,learnt,skipped,seconds\n1,2.5,0.5,1.5,40,7,0,0.1\n")
    [row] = read_log(tmp_path / "log.csv")
    assert (row["loss"], row["learning_rate"], row["gradient_norm"], row["targets"]) == ("2.5", "0.5", "1.5", "7")


def test_a_line_that_was_torn_does_not_count(tmp_path: Path) -> None:
    Run(tmp_path, "sggg" * 2).train()
    whole = rows(tmp_path)
    with (tmp_path / "log.csv").open("a") as file:
        file.write("3,6.9,0.1")
    assert rows(tmp_path) == whole
    Run(tmp_path, "sggg" * 4).train()
    assert [row["step"] for row in rows(tmp_path)] == ["1", "2", "3", "4"]
    assert rows(tmp_path)[:2] == whole


# ---------------------------------------------------------------------------------------------------------- checkpoints


@pytest.mark.parametrize(
    ("steps", "save_every", "keep", "kept"),
    [(6, 1, 2, [5, 6]), (6, 4, 2, [4, 6]), (5, 2, 1, [5]), (4, 2, 9, [2, 4]), (2, 500, 2, [2])],
)
def test_the_newest_checkpoints_stay_and_the_last_step_has_one(
    steps: int, save_every: int, keep: int, kept: list[int], tmp_path: Path
) -> None:
    Run(tmp_path, "gggg" * steps, save_every=save_every, keep=keep).train()
    assert steps_saved(tmp_path) == kept
    assert listing(tmp_path) == [*(f"checkpoint-{step:06}" for step in kept), "log.csv"]
    assert latest_checkpoint(tmp_path) == tmp_path / f"checkpoint-{steps:06}"


def test_a_checkpoint_is_a_model_that_answers(tmp_path: Path) -> None:
    trained = Run(tmp_path, "stst" * 3).train()
    assert not trained.training
    model, own = vl3ref.load(tmp_path / "checkpoint-000003", device="cpu")
    expected = trained.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    assert (own.config.image_merge_size, own.config.video_merge_size) == (
        STAGE.image_merge_size,
        STAGE.video_merge_size,
    )
    assert own.config == replace(processor().config, image_merge_size=2, video_merge_size=2)
    question = [Mixed("s").conversation(0)[0]]
    inputs = own(question)
    answer = model.generate(inputs, max_new_tokens=5, min_new_tokens=5)[0]
    assert torch.equal(answer, trained.generate(inputs, max_new_tokens=5, min_new_tokens=5)[0])
    assert isinstance(own.decode(answer), str)


def test_the_last_checkpoint_becomes_a_model_without_the_trainers_state(tmp_path: Path) -> None:
    trained = Run(tmp_path, "gggg" * 3).train()
    final = finish(tmp_path, "bfloat16")
    assert final == tmp_path / "final"
    assert "trainer.pt" not in listing(final)
    model, _ = vl3ref.load(final, device="cpu", dtype="bfloat16")
    assert model.config.dtype == "bfloat16"
    for name, tensor in trained.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor.to(torch.bfloat16)), name
    assert load_model(tmp_path / "checkpoint-000003", "cpu").config.dtype == "float32"


@pytest.mark.parametrize("what", ["torch.save", "os.rename", "save"])
def test_a_disk_that_fills_up_leaves_earlier_checkpoints_and_nothing_that_looks_like_one(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Run(tmp_path / "whole", "sggg" * 6).train()
    folder = tmp_path / "run"
    Run(folder, "sggg" * 2).train()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    before = {path.name: path.read_bytes() for path in (folder / "checkpoint-000002").iterdir()}
    place = {
        "torch.save": (checkpoints_module.torch, "save"),
        "os.rename": (checkpoints_module.os, "rename"),
        "save": (checkpoints_module.model_folders, "write_model"),
    }[what]
    with (
        monkeypatch.context() as patch,
        pytest.raises(TrainingError, match=r"cannot be written: No space left.*; make room"),
    ):
        patch.setattr(*place, full)
        Run(folder, "sggg" * 6).train()
    assert steps_saved(folder) == [2]
    assert {path.name: path.read_bytes() for path in (folder / "checkpoint-000002").iterdir()} == before
    Run(folder, "sggg" * 6).train()
    assert listing(folder) == listing(tmp_path / "whole")


def test_a_full_disk_ends_a_run_in_one_sentence_and_the_next_run_goes_on(tmp_path: Path) -> None:
    """Weights fit, the optimiser's moments do not; then nothing does."""
    whole, folder = tmp_path / "whole", tmp_path / "run"
    Run(whole, "sggg" * 4).train()
    Run(folder, "sggg" * 2).train()
    weights = (whole / "checkpoint-000002" / "model.safetensors").stat().st_size
    for size in (weights + 1000, weights // 2):
        message = r"checkpoint-000004 cannot be written: (No space left on device|File too large); make room"
        with pytest.raises(TrainingError, match=message), room_for(size):
            Run(folder, "sggg" * 4).train()
        assert steps_saved(folder) == [2] and not any(path.name.startswith(".") for path in folder.iterdir())
    with pytest.raises(TrainingError, match="trial cannot be written: File too large"), room_for(weights // 2):
        Run(tmp_path / "new", "sggg" * 4).train()
    with pytest.raises(TrainingError, match=r"cannot be written: File too large"), room_for(10):
        Run(folder, "sggg" * 4).train()
    Run(folder, "sggg" * 4).train()
    assert rows(folder) == rows(whole)


PLAN_NUMBERS = [
    *[("steps", x) for x in (0, -5, 10**30, 10**400)],
    *[("epochs", x) for x in (0, -1.0, 1e100, math.nan, math.inf, 10**400)],
    *[("batch_size", x) for x in (0, 10**9, 10**400, True)],
    *[("pack_tokens", x) for x in (0, 10**400)],
    *[("save_every", x) for x in (0, -1, 10**400)],
    *[("keep", x) for x in (0, -1)],
    *[("workers", x) for x in (-1, 1000)],
    *[("warm_up", x) for x in (-0.1, 5, math.nan, 10**400)],
    *[("clip", x) for x in (0, math.nan, 10**400)],
    *[("weight_decay", x) for x in (-1, math.inf)],
    *[("most_broken", x) for x in (-1, 1.5, math.nan)],
]


@pytest.mark.parametrize(("name", "number"), PLAN_NUMBERS, ids=[f"{n}-{str(x)[:8]}" for n, x in PLAN_NUMBERS])
def test_a_plan_says_where_its_numbers_end(name: str, number: float) -> None:
    with pytest.raises(TrainingError, match=f"^{name} should be a (whole )?number from .* to .*, not") as error:
        Plan(**{name: number})
    assert len(str(error.value)) < 200


def test_a_plan_of_too_many_steps_is_refused() -> None:
    with pytest.raises(
        TrainingError, match=r"1e\+06 epochs of 1000000 samples are .* steps of 1, and a run has at most"
    ):
        Plan(epochs=1_000_000, batch_size=1).total_steps(10**6)


def test_what_could_not_be_saved_or_loaded_again_is_found_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swapped = small_model()
    swapped.projector = nn.Linear(16, 32)
    with pytest.raises(TrainingError, match=r"could not be saved and loaded again[\s\S]*--change file.py:function"):
        Run(tmp_path, "ssss").train(swapped)
    assert rows(tmp_path) == [] and listing(tmp_path) == []
    monkeypatch.setattr(checkpoints_module.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(TrainingError, match=r"has 0\.0 GB free; a checkpoint takes 0\.0"):
        Run(tmp_path, "ssss").train()


def test_a_new_run_does_not_begin_in_a_folder_that_holds_another(tmp_path: Path) -> None:
    Run(tmp_path, "gggg" * 6).train()
    before, log = listing(tmp_path), rows(tmp_path)
    with pytest.raises(TrainingError, match="holds a run already"):
        Run(tmp_path, "gggg" * 2, resume=False).train()
    assert (listing(tmp_path), rows(tmp_path)) == (before, log)


def test_a_run_does_not_go_on_with_other_batches(tmp_path: Path) -> None:
    Run(tmp_path, "gggg" * 2).train()
    with pytest.raises(TrainingError, match=r"its batch size is 4, this run's 2\); give the options"):
        Run(tmp_path, "gggg" * 2, batch=2).train()


# ---------------------------------------------------------------------------------------------- resumed in this process


def test_a_run_that_is_done_gives_its_model_back(tmp_path: Path) -> None:
    trained = Run(tmp_path, "sggg" * 3).train()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "checkpoint-000003").iterdir()}
    again = Run(tmp_path, "sggg" * 3).train(small_model(seed=1))
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, trained.state_dict()[name]), name
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "checkpoint-000003").iterdir()} == before


def test_a_run_that_has_seen_no_picture_yet_is_resumed(tmp_path: Path) -> None:
    Run(tmp_path, "gggg" * 2).train()
    Run(tmp_path, "gggg" * 2 + "ssss" * 2).train()
    assert [row["step"] for row in rows(tmp_path)] == ["1", "2", "3", "4"]


@pytest.fixture(scope="module")
def three_steps(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Finished runs of stages 1 and 3."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("stage-1", "stage-3")}
    Run(folders["stage-1"], "ssss" * 3, TINY[0]).train()
    Run(folders["stage-3"], "ssss" * 3, TINY[2]).train()
    return folders


@pytest.mark.parametrize(
    ("language", "stage"),
    [
        ({"intermediate_size": 64}, "stage-3"),
        ({"intermediate_size": 64}, "stage-1"),
        ({"num_hidden_layers": 3}, "stage-3"),
        ({"num_hidden_layers": 3}, "stage-1"),
        ({"num_hidden_layers": 1}, "stage-1"),
        ({"vocab_size": 1040}, "stage-1"),
        ({"tie_word_embeddings": False}, "stage-3"),
        ({"tie_word_embeddings": False}, "stage-1"),
    ],
)
def test_another_models_checkpoint_is_refused(
    language: dict[str, Any], stage: str, three_steps: dict[str, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(three_steps[stage], tmp_path / "run")
    before = listing(folder)
    run = Run(folder, "ssss" * 6, TINY[int(stage[-1]) - 1])
    with pytest.raises(TrainingError, match=r"checkpoint-000003 does not fit this run"):
        run.train(small_model(**language))
    assert listing(folder) == before
    assert len(rows(folder)) == 3


def test_a_checkpoint_of_a_stage_that_trained_less_is_refused(three_steps: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(three_steps["stage-1"], tmp_path / "run")
    with pytest.raises(TrainingError, match="does not fit this run"):
        Run(folder, "ssss" * 6, TINY[2]).train()


def test_a_checkpoint_of_another_stage_is_refused(three_steps: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(three_steps["stage-3"], tmp_path / "run")
    with pytest.raises(TrainingError, match="it is of stage-3, not of stage-4"):
        Run(folder, "ssss" * 6, TINY[3]).train()


def with_state(**changes: Any) -> Callable[[Path], None]:
    """Damage: a trainer.pt that says something else, or (`...`) nothing."""

    def damage(checkpoint: Path) -> None:
        state = {**torch.load(checkpoint / "trainer.pt"), **changes}
        torch.save({name: x for name, x in state.items() if x is not ...}, checkpoint / "trainer.pt")

    return damage


def in_place(name: str, content: bytes | None) -> Callable[[Path], None]:
    """Damage: another content of a file, or none."""

    def damage(checkpoint: Path) -> None:
        (checkpoint / name).unlink()
        if content is not None:
            (checkpoint / name).write_bytes(content)

    return damage


def folder_instead(checkpoint: Path) -> None:
    in_place("trainer.pt", None)(checkpoint)
    (checkpoint / "trainer.pt").mkdir()


def pipe_instead(checkpoint: Path) -> None:
    in_place("trainer.pt", None)(checkpoint)
    os.mkfifo(checkpoint / "trainer.pt")


def code_instead(checkpoint: Path) -> None:
    torch.save(Path("a pickle of any class could run code"), checkpoint / "trainer.pt")


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "cut": (lambda checkpoint: os.truncate(checkpoint / "trainer.pt", 100), r"trainer\.pt is damaged"),
    "gone": (in_place("trainer.pt", None), r"trainer\.pt' does not exist"),
    "empty": (in_place("trainer.pt", b""), r"trainer\.pt is damaged"),
    "text": (in_place("trainer.pt", b"step 3"), r"trainer\.pt is damaged"),
    "half a pickle": (in_place("trainer.pt", pickle.dumps({"step": 3})[:9]), r"trainer\.pt is damaged"),
    "a folder": (folder_instead, r"trainer\.pt is a folder"),
    "a pipe": (pipe_instead, r"trainer\.pt is no regular file"),
    "code": (code_instead, r"trainer\.pt is damaged"),
    "a list": (lambda checkpoint: torch.save([1, 2], checkpoint / "trainer.pt"), "should hold the title"),
    "no order": (with_state(order=...), "should hold the order"),
    "an order that is none": (with_state(order=[4]), "should hold the order"),
    "no moments": (with_state(optimiser=None), "should hold the optimiser"),
    "a step in words": (with_state(step="three"), "should hold the step"),
    "another step": (with_state(step=2), "says step 2"),
    "more broken than seen": (with_state(broken=99), "99 of 12 broken"),
    "weights cut": (
        lambda checkpoint: os.truncate(checkpoint / "model.safetensors", 999),
        r"model\.safetensors is damaged",
    ),
    "weights gone": (in_place("model.safetensors", None), r"has no model\.safetensors"),
    "config cut": (in_place("config.json", b"{"), r"config\.json cannot be read as JSON"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(
    damage: str, three_steps: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(three_steps["stage-3"], tmp_path / "run"))
    spoil, message = DAMAGE[damage]
    spoil(folder / "checkpoint-000003")
    with pytest.warns(UserWarning, match=f"checkpoint-000003.*{message}.*goes on from checkpoint-000002") as said:
        Run(folder, "ssss" * 3).train()
    assert all(len(str(one.message)) < 700 for one in said)
    assert listing(folder) == ["checkpoint-000002", "checkpoint-000003", "damaged-checkpoint-000003", "log.csv"]
    ours, expected = (one / "checkpoint-000003" / "model.safetensors" for one in (folder, three_steps["stage-3"]))
    assert ours.read_bytes() == expected.read_bytes() and rows(folder) == rows(three_steps["stage-3"])


def test_a_run_none_of_whose_checkpoints_is_whole_is_refused(three_steps: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(three_steps["stage-3"], tmp_path / "run"))
    for checkpoint in checkpoints(folder):
        with_state(seen=...)(checkpoint)
    before = listing(folder)
    with pytest.raises(TrainingError, match=r"checkpoint-000003/trainer\.pt is damaged.*no checkpoint in .* is whole"):
        Run(folder, "ssss" * 3).train()
    assert listing(folder) == before


def test_moments_that_fit_nothing_are_refused(three_steps: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(three_steps["stage-3"], tmp_path / "run"))
    for moments in ({}, {"state": {}, "param_groups": []}, {"state": {"a": 1}, "param_groups": [{"params": [5]}]}):
        with_state(optimiser=moments)(folder / "checkpoint-000003")
        with pytest.raises(TrainingError, match="checkpoint-000003 does not fit this run"):
            Run(folder, "ssss" * 4).train()


@pytest.mark.parametrize(
    ("file", "spoil", "damaged"),
    [
        ("log.csv", lambda text: text.replace(b"\n2,", b"\n\xff\xfe,"), 1),
        ("log.csv", lambda text: text.replace(b"\n2,", b'\n"two,'), 1),
        ("log.csv", lambda text: text.replace(b"\n2,", b"\n" + b"9" * 5000 + b","), 1),
        ("log.csv", lambda text: text.replace(b"\n2,", b"\n\0\0\0"), 1),
        ("log.csv", lambda text: text.replace(b"step,loss", b"\0\0"), 0),
        ("log.csv", lambda text: text.replace(b"\n2,", b"\n" + b"x" * 200_000 + b"\n2,"), 1),
        ("log.csv", lambda text: b"", 0),
        ("skipped.log", lambda text: b"\xff\xfe\0 no line\n" + text, 1),
        ("skipped.log", lambda text: b"step " + b"9" * 5000 + b": x\n" + text, 1),
        ("skipped.log", lambda text: b"", 0),
    ],
)
def test_a_damaged_log_is_named_and_the_run_goes_on(
    file: str, spoil: Any, damaged: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Run(tmp_path, "sggb" * 3, save_every=1).train()
    whole = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(spoil(whole))
    capsys.readouterr()
    Run(tmp_path, "sggb" * 4, save_every=1).train()
    assert (f"{file} is damaged: {damaged} of its lines" in capsys.readouterr().err.replace("\n", "")) == bool(damaged)
    assert rows(tmp_path)[-1]["step"] == "4" and len(rows(tmp_path)) >= (1 if spoil(whole) == b"" else 3)
    assert "step 4: " in (tmp_path / "skipped.log").read_text()


@pytest.mark.parametrize("file", ["log.csv", "skipped.log"])
def test_a_log_that_is_no_file_is_refused(file: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / file)
    with pytest.raises(TrainingError, match=f"{file} is no regular file"):
        Run(tmp_path, "gggg").train()


def test_a_run_is_resumed_with_the_learning_rates_it_is_given_now(three_steps: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(three_steps["stage-3"], tmp_path / "run")
    batches = Conversations(Mixed("ssss" * 6), processor(), 4, shuffle=False)
    slow = replace(STAGE, decoder_lr=1e-5, projector_lr=2e-5, vision_lr=3e-5)
    slower = trainer(small_model(), batches, Plan(5, workers=0, weight_decay=0.25), folder, slow)
    slower.run(resume=True)
    assert slower.step == 5
    share = schedule(4, 5)
    lrs = {group["name"]: group["lr"] for group in slower.optimiser.param_groups}
    assert lrs == pytest.approx(
        {"vision_encoder": 3e-5 * share, "projector": 2e-5 * share, "language_model": 1e-5 * share}
    )
    assert {group["weight_decay"] for group in slower.optimiser.param_groups} == {0.25}


# ---------------------------------------------------------------------------------------------------------- killed runs

KINDS = "ssts" + "sbts" + "tttt" + "stsb" + "ssss" + "bsst" + "stss" + "tsts"
"""Eight steps, a checkpoint after every second."""

KILLS = {
    "its line is in the log": (5, [2, 4]),
    "its gradients are there": (6, [2, 4]),
    "the weights are being written": (6, [2, 4]),
    "the weights are written": (6, [2, 4]),
    "half of the trainer's state is written": (6, [2, 4]),
    "the checkpoint is about to get its name": (2, []),
    "the checkpoint has its name": (6, [2, 4, 6]),
    "an old checkpoint is being removed": (6, [4, 6]),
    "the log is being taken over": (5, [2, 4]),
}
"""The moment, the step at which it comes, and the checkpoints that are there then."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    Run(folder, KINDS).train()
    assert len(rows(folder)) == 8
    return folder


def is_whole(checkpoint: Path) -> bool:
    try:
        model = load_model(checkpoint, "cpu")
        state = torch.load(checkpoint / "trainer.pt")
        vl3ref.load_processor(checkpoint)
    except Exception:
        return False
    return state["step"] == int(checkpoint.name[-6:]) and len(state["optimiser"]["state"]) == len([*model.parameters()])


def assert_continued(folder: Path, undisturbed: Path) -> None:
    """A run that was killed, and resumed to its end, has left what the undisturbed one has."""
    assert rows(folder) == rows(undisturbed)
    assert listing(folder) == listing(undisturbed)
    assert (folder / "skipped.log").read_text() == (undisturbed / "skipped.log").read_text()
    ours, expected = (latest_checkpoint(one) for one in (folder, undisturbed))
    for file in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (ours / file).read_bytes() == (expected / file).read_bytes()
    ours, expected = (torch.load(one / "trainer.pt") for one in (ours, expected))
    torch.testing.assert_close(ours["optimiser"]["state"], expected["optimiser"]["state"], rtol=0, atol=0)
    assert [ours[name] for name in ("step", "seen", "broken")] == [8, 32, 3]


@pytest.mark.parametrize("moment", KILLS)
def test_a_run_that_ends_at_any_moment_leaves_whole_checkpoints_and_is_resumed_to_the_same_losses(
    moment: str, undisturbed: Path, tmp_path: Path
) -> None:
    step, expected = KILLS[moment]
    moments = [(moment, step)]
    if moment == "the log is being taken over":  # when a run is resumed, so it has to end twice
        moments = [("its line is in the log", step), (moment, 0)]
    for one in moments:
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            arm(*one, die=raise_killed, put=patch.setattr)
            Run(tmp_path, KINDS).train()
    assert steps_saved(tmp_path) == [int(one.name[-6:]) for one in checkpoints(tmp_path) if is_whole(one)] == expected
    Run(tmp_path, KINDS).train()
    assert_continued(tmp_path, undisturbed)


def test_after_kill_9_a_run_is_resumed_to_the_same_losses_and_leaves_nothing_behind(
    undisturbed: Path, tmp_path: Path
) -> None:
    """With a worker, and in the middle of a checkpoint."""
    run = Run(tmp_path, KINDS, workers=1, kill=("half of the trainer's state is written", 6))
    said = start([run])
    assert said.returncode == -signal.SIGKILL, said.stderr[-5000:]
    assert steps_saved(tmp_path) == [2, 4] and [row["step"] for row in rows(tmp_path)][-1] == "6"
    assert (tmp_path / ".checkpoint-000006.saving").exists()
    Run(tmp_path, KINDS).train()
    assert_continued(tmp_path, undisturbed)


def start(runs: list[Run], *launcher: str) -> subprocess.CompletedProcess[str]:
    """Runs in a process of their own, or in several."""
    return subprocess.run(
        [sys.executable, *launcher, "-m", "tests.small_runs", json.dumps([run.as_json() for run in runs])],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


# ---------------------------------------------------------------------------------------------------- several processes

SHARED = "sbsb" + "gsgs" + "tsts" + "bsbs" + "tttt" + "stss"
"""With two processes the second one has nothing in step 1. The first one has, in steps 2, 3 and 4: fewer packs; nothing
to see; nothing at all. In step 5 neither has anything to see."""
PACK = 250
"""Two greetings go into a pack; two images do not."""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs in one process and in two, and ones that were resumed in the other number. One torchrun for all: it is slow
    to start."""
    if needs_sharding.args[0]:
        pytest.skip(needs_sharding.kwargs["reason"])
    folder = tmp_path_factory.mktemp("shared")
    runs = {
        "all": Run(folder, SHARED, pack_tokens=PACK, keep=9, late=0.5),
        "stage 1": Run(folder, "ssss" + "bsbs", TINY[0], pack_tokens=PACK, gradient_checkpointing=True),
        "changed": Run(folder, "ststtttt", change="tests.test_change_training:all_four"),
    }
    for name, run in runs.items():
        replace(run, folder=folder / f"one, {name}").train()
    (folder / "one, then two").mkdir()
    shutil.copytree(folder / "one, all" / "checkpoint-000002", folder / "one, then two" / "checkpoint-000002")
    twice = [replace(run, folder=folder / f"two, {name}") for name, run in runs.items()]
    twice.append(replace(runs["all"], folder=folder / "one, then two"))
    said = start(twice, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    assert said.returncode == 0, said.stderr[-5000:]
    (folder / "two, then one").mkdir()
    shutil.copytree(folder / "two, all" / "checkpoint-000002", folder / "two, then one" / "checkpoint-000002")
    replace(runs["all"], folder=folder / "two, then one").train()
    return {path.name: path for path in folder.iterdir()}


@needs_sharding
def test_sharded_bfloat16_leaves_pixels_and_rotations_in_float32(tmp_path: Path) -> None:
    """DiffFP's threshold and the rotations' angles need more digits than bfloat16 has."""
    seen = []
    [pack] = Conversations(Mixed("s"), processor(), 1, shuffle=False)[0].packs
    model = small_model()
    prune = model.pruner

    def noted(inputs: ModelInputs, features: Tensor | None) -> Tensor:
        seen.append(("pixels", inputs.pixel_values.dtype))
        return prune(inputs, features)

    model.pruner = noted
    block = model.vision_encoder.encoder.layers[0]
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.FileStore(str(tmp_path / "s"), 1), rank=0, world_size=1
    )
    try:
        shard(model, torch.device("cpu"), bfloat16=True)
        block.register_forward_pre_hook(lambda _, given: seen.append(("rotation", given[1].cos.dtype)))
        block.register_forward_hook(lambda _, given, out: seen.append(("features", out.dtype)))
        loss = summed_loss(model, pack)
        loss.backward()
    finally:
        torch.distributed.destroy_process_group()
    assert loss.dtype == torch.float32
    wanted = {("pixels", torch.float32), ("rotation", torch.float32), ("features", torch.bfloat16)}
    assert set(seen) == wanted


def assert_same_losses(ours: Path, expected: Path, first: int = 1) -> None:
    assert len(rows(ours, first)) == len(rows(expected, first)) > 0
    for name in ("targets", "skipped", "learning_rate"):
        assert torch.equal(column(ours, name, first), column(expected, name, first))
    torch.testing.assert_close(column(ours, "loss", first), column(expected, "loss", first), rtol=0, atol=1e-5)
    torch.testing.assert_close(
        column(ours, "gradient_norm", first), column(expected, "gradient_norm", first), rtol=1e-4, atol=0
    )


def assert_same_weights(ours: Path, expected: Path) -> None:
    weights = [load_model(latest_checkpoint(folder), "cpu").state_dict() for folder in (ours, expected)]
    for name, tensor in weights[1].items():
        torch.testing.assert_close(weights[0][name], tensor, rtol=0, atol=2e-5, msg=name)


def test_the_two_processes_of_these_tests_have_unequal_work() -> None:
    ranks = [Conversations(Mixed(SHARED), processor(), 4, PACK, shuffle=False, rank=rank, world=2) for rank in (0, 1)]
    packs = [[ranks[rank][step].packs for rank in (0, 1)] for step in range(6)]

    def own(some: list[ModelInputs]) -> int:
        """Packs with something to see of their own."""
        return sum(bool((pack.pixel_values != 0).any()) for pack in some)

    assert [len(ranks[rank][0].skipped) for rank in (0, 1)] == [0, 2]
    assert [len(some) for some in packs[1]] == [1, 2]
    assert [own(some) for some in packs[2]] == [0, 2]
    assert [len(some) for some in packs[3]] == [0, 2]
    assert [own(some) for some in packs[4]] == [0, 0] and all(packs[4])
    assert all(pack.modals for some in packs for one in some for pack in one)  # all go through the encoder


def test_two_processes_train_as_one_does(shared: dict[str, Path]) -> None:
    """The first begins its log later than the second names a broken sample."""
    one, two = shared["one, all"], shared["two, all"]
    assert_same_losses(two, one)
    assert_same_weights(two, one)
    assert column(two, "tokens").tolist() == column(one, "tokens").tolist()
    assert listing(two) == listing(one)  # one log, one set of checkpoints
    assert [row["step"] for row in rows(two)] == ["1", "2", "3", "4", "5", "6"]
    said = [sorted((folder / "skipped.log").read_text().splitlines()) for folder in (two, one)]
    assert said[0] == said[1] and len(said[1]) == SHARED.count("b")
    for mine, others in zip(checkpoints(two), checkpoints(one), strict=True):
        assert listing(mine) == listing(others)


@pytest.mark.parametrize("name", ["one, then two", "two, then one"])
def test_a_checkpoint_of_one_process_resumes_in_two_and_the_other_way_round(name: str, shared: dict[str, Path]) -> None:
    assert_same_losses(shared[name], shared["one, all"], first=3)
    assert steps_saved(shared[name]) == [2, 4, 6]


def test_two_processes_leave_a_frozen_decoder_bit_for_bit(shared: dict[str, Path]) -> None:
    """With gradient checkpointing, which gathers the layers once more in the backward pass."""
    assert_same_losses(shared["two, stage 1"], shared["one, stage 1"])
    before, after = state_of(small_model()), load_model(latest_checkpoint(shared["two, stage 1"]), "cpu").state_dict()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]) == name.startswith("language_model."), name


def test_two_processes_train_a_changed_model_as_one_does(shared: dict[str, Path]) -> None:
    """Its second step has nothing to see, so that the changed parts compute a grey frame."""
    assert_same_losses(shared["two, changed"], shared["one, changed"])
    weights = [load_file(latest_checkpoint(shared[f"{n}, changed"]) / "model.safetensors") for n in ("two", "one")]
    assert weights[0].keys() == weights[1].keys() > {"pruner.score.weight"}
    for name, tensor in weights[1].items():
        torch.testing.assert_close(weights[0][name], tensor, rtol=0, atol=2e-5, msg=name)


@needs_sharding
@pytest.mark.parametrize("what", ["number", "shared"])
def test_what_cannot_be_spread_over_processes_is_refused_in_words(what: str) -> None:
    model = small_model()
    if what == "number":
        model.pruner = nn.Linear(2, 1)
        model.pruner.scale = nn.Parameter(torch.tensor(1.0))
        message = r"pruner\.scale is a single number"
    else:
        model.language_model.layers[1] = model.language_model.layers[0]
        message = "another layer has the parameter language_model.layers.1"
    with pytest.raises(TrainingError, match=message):
        shard(model, torch.device("cpu"))


def test_one_process_needs_no_others() -> None:
    alone = Processes()
    assert alone.first and (alone.total(3, 5), alone.most(4)) == ([3, 5], 4)
    alone.wait()


# ------------------------------------------------------------------------------------------------- where stage 1 starts


@dataclass
class Sources:
    vision: Path
    decoder: Path
    model: VideoLLaMA3


NEW = ("<image>", "<|stream_start|>", "<|stream_end|>")


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def sources(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Sources:
    """An encoder and a plain Qwen2 decoder as their makers publish them: the tokenizer knows nothing of pictures."""
    folder = tmp_path_factory.mktemp("sources")
    model = small_model(seed=3, tie_word_embeddings=request.param)
    save_model(model.vision_encoder, folder / "vision")
    save_model(model.language_model, folder / "decoder")
    plain_tokenizer().save(str(folder / "decoder" / "tokenizer.json"))
    return Sources(folder / "vision", folder / "decoder", model)


def plain_tokenizer() -> Backend:
    described = json.loads((ROOT / "weights" / "vl3-tiny" / "tokenizer.json").read_text(encoding="utf-8"))
    described["added_tokens"] = [token for token in described["added_tokens"] if token["content"] not in NEW]
    backend = Backend.from_str(json.dumps(described))
    assert all(backend.token_to_id(token) is None for token in NEW)
    return backend


def test_an_encoder_and_a_decoder_are_put_together_with_a_new_projector(sources: Sources) -> None:
    model, _ = assemble(sources.vision, sources.decoder)
    for part in ("vision_encoder", "language_model"):
        ours, theirs = (getattr(one, part).state_dict() for one in (model, sources.model))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    again, _ = assemble(sources.vision, sources.decoder)
    for (name, parameter), other in zip(model.projector.named_parameters(), again.projector.parameters(), strict=True):
        assert torch.equal(parameter, other)
        if name.endswith("bias"):
            assert not parameter.any()
        else:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.15)
            assert abs(parameter.mean().item()) < 0.003
    assert [*model.projector.state_dict()] == [*sources.model.projector.state_dict()]


def test_the_new_tokens_get_the_next_ids_and_stand_for_pictures(sources: Sources) -> None:
    size = plain_tokenizer().get_vocab_size()
    model, processor = assemble(sources.vision, sources.decoder)
    assert [processor.tokenizer.special(token) for token in NEW] == [size, size + 1, size + 2]
    assert (model.config.image_token_id, model.config.video_token_id) == (size, size)
    assert (processor.config.image_token_id, processor.config.video_token_id) == (size, size)
    assert processor.tokenizer.encode("<image>")[0] != [size]  # typed, it is text
    inputs = processor(Mixed("s").conversation(0)[:1])
    assert int((inputs.input_ids == size).sum()) == sum(inputs.tokens_per_visual()) > 0
    with torch.no_grad():
        assert bool(model(inputs).logits.isfinite().all())


def test_what_was_put_together_trains_in_stage_1_and_is_loaded_again(sources: Sources, tmp_path: Path) -> None:
    model, own = assemble(sources.vision, sources.decoder)
    before = state_of(model)
    plan = Plan(1, batch_size=4, shuffle=False, workers=0)
    train_stage(model, own, Mixed("ssss"), OFFICIAL_2B[0], plan, tmp_path)
    assert rows(tmp_path)[0]["skipped"] == "0"
    assert column(tmp_path, "loss").tolist() == pytest.approx([math.log(1024)], abs=0.3)
    loaded, again = vl3ref.load(tmp_path / "checkpoint-000001", device="cpu")
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])
        assert torch.equal(tensor, before[name]) == name.startswith("language_model."), name
    assert again.tokenizer.special("<image>") == model.config.image_token_id


def test_a_change_is_made_before_the_parts_are_filled(sources: Sources) -> None:
    def change(model: VideoLLaMA3) -> None:
        pixel_shuffle(model)
        learned_positions(model)

    model, _ = assemble(sources.vision, sources.decoder, change)
    expected, found = sources.model.state_dict(), model.state_dict()
    new = {name for name in found if name not in expected or found[name].shape != expected[name].shape}
    assert new == {f"vision_encoder.embeddings.{axis}.weight" for axis in ("rows", "columns")} | {
        "projector.readout.0.weight"
    }
    filled = {name for name in found if not name.startswith("projector.")} - new
    assert all(torch.equal(found[name], expected[name]) for name in filled)
    assert all(bool(found[name].any()) and not found[name].is_meta for name in new)


def test_a_decoder_without_room_for_the_new_tokens_is_refused(sources: Sources, tmp_path: Path) -> None:
    size = plain_tokenizer().get_vocab_size()
    save_model(small_model(vocab_size=size + 2).language_model, tmp_path)
    plain_tokenizer().save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(CheckpointError, match=f"{size + 2} rows"):
        assemble(sources.vision, tmp_path)
    save_model(small_model(vocab_size=size + 3).language_model, tmp_path)
    assemble(sources.vision, tmp_path)
