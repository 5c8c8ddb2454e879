"""`change=`: four changed models, each trained, saved, resumed, loaded and asked like the original.

The changes are what somebody would write in a file of their own.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import vl3ref
from tests.small_runs import Killed, Mixed, arm, column, processor, raise_killed, rows, small_model
from vl3ref.checkpoints import load_model, save
from vl3ref.errors import CheckpointError, TrainingError
from vl3ref.model.projector import Projector
from vl3ref.model.rope import Rotation, inverse_frequencies, rotation
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.model.vision import PatchEmbeddings
from vl3ref.model_inputs import ModelInputs
from vl3ref.training.run import train
from vl3ref.training.stages import TINY
from vl3ref.training.trainer import Plan

# -------------------------------------------------------------------------------------------------------- four changes


class ScoringPruner(nn.Module):
    """Scores every visual token by its feature; those that score 0 are dropped."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.score = nn.Linear(dim, 1)

    def forward(self, inputs: ModelInputs, features: Tensor) -> Tensor:
        return torch.relu(1 + self.score(features)[:, 0])


def scoring_pruner(model: VideoLLaMA3) -> None:
    model.pruner = ScoringPruner(model.config.vision.hidden_size)


class PixelShuffle(nn.Module):
    """Joins the features of 2 x 2 patches, which are neighbours in the sequence, instead of averaging them."""

    def forward(self, features: Tensor, frames: Sequence[tuple[int, int, int]]) -> Tensor:
        return features.reshape(-1, 4 * features.shape[1])


def pixel_shuffle(model: VideoLLaMA3) -> None:
    config = model.config
    model.vision_encoder.merge = PixelShuffle()
    model.projector = Projector(4 * config.vision.hidden_size, config.language.hidden_size, config.projector_depth)


class SectionRotary(nn.Module):
    """Every third pair of a head turns by time, row or column."""

    def __init__(self, config) -> None:
        super().__init__()
        self.config = config

    def forward(self, positions: Tensor, dtype: torch.dtype) -> Rotation:
        frequencies = inverse_frequencies(self.config.head_dim, self.config.rope_theta, positions.device)
        axes = positions if positions.ndim == 2 else positions[:, None].expand(-1, 3)  # an answer's tokens have one
        return rotation(axes[:, torch.arange(len(frequencies)) % 3].float() * frequencies, dtype)


def mrope(model: VideoLLaMA3) -> None:
    def positions(inputs: ModelInputs, kept: Tensor) -> Tensor:
        """Time goes on with each text token and each frame; a visual token's row and column are added to it."""
        visual = inputs.is_visual(model.config.visual_token_ids)
        grids = [(t, h // m, w // m) for _, (t, h, w), m, _ in inputs.visuals()]
        places = [torch.cartesian_prod(*map(torch.arange, grid)).view(-1, 3) for grid in grids]
        places = torch.cat([torch.zeros(0, 3, dtype=torch.int64), *places])
        ticks = (~visual).long().masked_scatter(visual, (places[:, 1:].sum(1) == 0).long())
        time = torch.cat([part.cumsum(0) - 1 for part in ticks.split(inputs.lengths.tolist())])
        offsets = torch.zeros(len(visual), 3, dtype=torch.int64)
        offsets[visual, 1:] = places[:, 1:]
        return (time[:, None] + offsets)[kept]

    model.positions = positions
    model.language_model.rotary = SectionRotary(model.config.language)


class LearnedPositions(PatchEmbeddings):
    """Adds a learned embedding of the row and of the column to each patch."""

    def __init__(self, config) -> None:
        super().__init__(config)
        self.rows, self.columns = nn.Embedding(64, config.hidden_size), nn.Embedding(64, config.hidden_size)

    def forward(self, patches: Tensor, positions: Tensor) -> Tensor:
        return super().forward(patches, positions) + self.rows(positions[:, 0]) + self.columns(positions[:, 1])


def learned_positions(model: VideoLLaMA3) -> None:
    model.vision_encoder.embeddings = LearnedPositions(model.config.vision)


CHANGES: dict[Callable[[VideoLLaMA3], None], tuple[str, ...]] = {
    scoring_pruner: ("pruner.score.weight", "pruner.score.bias"),
    pixel_shuffle: ("projector.readout.0.weight",),
    mrope: (),
    learned_positions: ("vision_encoder.embeddings.rows.weight", "vision_encoder.embeddings.columns.weight"),
}
"""Each change, and the tensors in it that the original checkpoint does not have."""


def all_four(model: VideoLLaMA3) -> None:
    for change in CHANGES:
        change(model)
    model.pruner = ScoringPruner(4 * model.config.vision.hidden_size)


changes = pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)

# --------------------------------------------------------------------------------------------------------------- tests

KINDS = "ssts" + "stbs" + "stss" + "ssst"
PLAN = Plan(batch_size=4, pack_tokens=600, shuffle=False, save_every=2, workers=0)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The original checkpoint."""
    return save(small_model(), processor(), tmp_path_factory.mktemp("base"))


def question() -> ModelInputs:
    return processor()([Mixed("ssss").conversation(index)[:1] for index in (0, 1, 2)])


@changes
def test_a_changed_model_trains_saves_resumes_and_loads(
    change: Callable[[VideoLLaMA3], None], base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, own = vl3ref.load(base, "cpu", change=change)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    final = train(Mixed(KINDS), TINY[2], (model, own), tmp_path / "whole", PLAN, change=change)
    trained = model.state_dict()
    assert all(not torch.equal(trained[name], before[name]) for name in CHANGES[change])
    losses = column(tmp_path / "whole", "loss")
    assert len(losses) == 4 and bool(losses.isfinite().all())

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        arm("its line is in the log", 3, die=raise_killed, put=patch.setattr)
        train(Mixed(KINDS), TINY[2], base, tmp_path / "killed", PLAN, change=change)
    train(Mixed(KINDS), TINY[2], base, tmp_path / "killed", PLAN, change=change, resume=True)
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")

    caplog.clear()
    loaded, again = vl3ref.load(final, "cpu", change=change)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert loaded.state_dict().keys() == trained.keys()
    assert all(torch.equal(tensor, trained[name]) for name, tensor in loaded.state_dict().items())
    assert again.config == own.config
    inputs = question()
    with torch.no_grad():
        assert torch.equal(loaded(inputs).logits, model(inputs).logits)
        assert not torch.equal(loaded(inputs).logits, load_model(base, "cpu")(inputs).logits)
    answers = [one.generate(inputs, max_new_tokens=4, min_new_tokens=4) for one in (loaded, model)]
    assert all(map(torch.equal, *answers))
    alone = [loaded.generate(processor()(Mixed("ssss").conversation(i)[:1]), max_new_tokens=4) for i in (0, 1, 2)]
    assert all(torch.equal(one[0][:4], other) for one, other in zip(alone, answers[0], strict=True))


def test_a_pruner_that_scores_gets_a_gradient_through_the_model() -> None:
    model = small_model()
    scoring_pruner(model)
    inputs = processor()(Mixed("ssss").conversation(1), add_generation_prompt=False, return_labels=True)
    output = model(inputs, inputs.labels)
    output.loss.backward()
    assert bool(model.pruner.score.weight.grad.abs().sum() > 0)
    with torch.no_grad():
        features = model.vision_encoder(inputs.pixel_values, inputs.grid_sizes, inputs.merge_sizes)
        model.pruner.score.bias -= 1 + model.pruner.score(features).median()  # so that about half are dropped
        kept = model(inputs).keep_mask
    assert 0 < int(kept.sum()) < len(kept)


@pytest.mark.parametrize("change", [scoring_pruner, pixel_shuffle, learned_positions])
def test_without_its_change_a_checkpoint_is_refused(
    change: Callable[[VideoLLaMA3], None], base: Path, tmp_path: Path
) -> None:
    final = train(Mixed("ssss"), TINY[2], base, tmp_path, PLAN, change=change)
    with pytest.raises(CheckpointError, match="change="):
        vl3ref.load(final, "cpu")
    with pytest.raises(TrainingError, match=r"does not fit this run .*--change among them"):
        train(Mixed("ssssssss"), TINY[2], base, tmp_path, PLAN, resume=True)


def test_a_changed_model_whose_change_is_not_given_does_not_begin_to_train(base: Path, tmp_path: Path) -> None:
    model, own = vl3ref.load(base, "cpu", change=pixel_shuffle)
    with pytest.raises(TrainingError, match=r"could not be saved and loaded again[\s\S]*change="):
        train(Mixed("ssss"), TINY[2], (model, own), tmp_path, PLAN)
    assert rows(tmp_path) == []


def test_stages_1_and_2_keep_every_token_and_leave_the_changes_pruner_as_it_is(base: Path, tmp_path: Path) -> None:
    model, own = vl3ref.load(base, "cpu", change=scoring_pruner)
    before = {name: tensor.clone() for name, tensor in model.pruner.state_dict().items()}
    model.pruner.register_forward_hook(lambda *_: pytest.fail("the pruner was asked"))
    with pytest.warns(UserWarning, match="keeps every visual token"):
        train(Mixed("ssss"), TINY[1], (model, own), tmp_path, PLAN, change=scoring_pruner)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.pruner.state_dict().items())


def test_only_what_a_change_adds_can_be_trained(base: Path, tmp_path: Path) -> None:
    alone = replace(TINY[2], decoder_lr=None, projector_lr=None, vision_lr=None, added_lr=1e-2)
    model, own = vl3ref.load(base, "cpu", change=scoring_pruner)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    train(Mixed("ssss"), alone, (model, own), tmp_path, PLAN, change=scoring_pruner)
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {"pruner.score.weight", "pruner.score.bias"}


class Dropout(nn.Module):
    def __init__(self, projector: nn.Module) -> None:
        super().__init__()
        self.projector, self.dropout = projector, nn.Dropout(0.3)

    def forward(self, features: Tensor) -> Tensor:
        return self.projector(self.dropout(features))


def dropout(model: VideoLLaMA3) -> None:
    config = model.config
    model.projector = Dropout(Projector(config.vision.hidden_size, config.language.hidden_size))


def test_what_a_change_draws_is_drawn_again_by_a_resumed_run(base: Path, tmp_path: Path) -> None:
    train(Mixed(KINDS), TINY[2], base, tmp_path / "whole", PLAN, change=dropout)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        arm("its line is in the log", 3, die=raise_killed, put=patch.setattr)
        train(Mixed(KINDS), TINY[2], base, tmp_path / "killed", PLAN, change=dropout)
    torch.manual_seed(99)
    train(Mixed(KINDS), TINY[2], base, tmp_path / "killed", PLAN, change=dropout, resume=True)
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")
