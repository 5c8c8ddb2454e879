"""`change=` in loading and saving: parts that a function swaps, before the weights are read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import vl3ref
from tests.goldens_cases import inputs_of
from tests.helpers import GOLDENS
from vl3ref import ChangeError, CheckpointError
from vl3ref.checkpoints import check_saveable, load_language_model, load_model, read_change, save, save_model
from vl3ref.model.projector import Projector
from vl3ref.model.videollama3 import VideoLLaMA3

TINY = GOLDENS / "official-tiny"


def load(folder: Path = TINY, change: Any = None, dtype: str | None = None) -> VideoLLaMA3:
    return load_model(folder, "cpu", dtype, change)


@pytest.fixture(scope="module")
def plain() -> VideoLLaMA3:
    return load()


# ------------------------------------------------------------------------------------------------------- the changes


class Scores(nn.Module):
    """A pruner with weights, a table that it may grow, and a counter."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.score = nn.Linear(dim, 1)
        self.register_buffer("calls", torch.tensor(7))
        self.register_buffer("offset", torch.tensor([0.5], dtype=torch.float64))
        self.register_buffer("scratch", torch.zeros(3), persistent=False)

    def forward(self, inputs: Any, features: Tensor) -> Tensor:
        return self.score(features).squeeze(-1).exp()


def pruner(model: VideoLLaMA3) -> None:
    model.pruner = Scores(model.config.vision.hidden_size)


def linear_projector(model: VideoLLaMA3) -> VideoLLaMA3:
    model.projector = nn.Linear(model.config.vision.hidden_size, model.config.language.hidden_size)
    return model


class Bottleneck(nn.Module):
    """The original's names with other shapes."""

    def __init__(self, vision: int, text: int) -> None:
        super().__init__()
        self.readout = nn.Sequential(nn.Linear(vision, 8), nn.GELU(), nn.Linear(8, text))

    def forward(self, features: Tensor) -> Tensor:
        return self.readout(features)


def bottleneck(model: VideoLLaMA3) -> None:
    model.projector = Bottleneck(model.config.vision.hidden_size, model.config.language.hidden_size)


def places(model: VideoLLaMA3) -> None:
    """Named as google's SigLIP names its table, which is dropped where nobody asks for it."""
    model.vision_encoder.embeddings.position_embedding = nn.Embedding(9, model.config.vision.hidden_size)


def one_block(model: VideoLLaMA3) -> None:
    model.language_model.layers[1] = model.language_model.layers[0]


def tied_weights(model: VideoLLaMA3) -> None:
    first, second = model.language_model.layers[0].mlp, model.language_model.layers[1].mlp
    second.up_proj.weight = first.up_proj.weight


def fresh_projector(model: VideoLLaMA3) -> None:
    """New values under the old names and shapes: the file's win."""
    config = model.config
    model.projector = Projector(config.vision.hidden_size, config.language.hidden_size, config.projector_depth)


CHANGES = [pruner, linear_projector, bottleneck, places, one_block, tied_weights]


def logits(model: VideoLLaMA3) -> Tensor:
    with torch.no_grad():
        return model(inputs_of("video_and_image")).logits


def states(a: nn.Module, b: nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(x, theirs[name]) for name, x in ours.items())


# ----------------------------------------------------------------------------------------------------------- loading


def test_what_the_file_has_is_read_and_the_rest_keeps_the_changes_values(
    plain: VideoLLaMA3, caplog: pytest.LogCaptureFixture
) -> None:
    model = load(change=pruner)
    assert "4 tensors of the change are not in" in caplog.text and "pruner.score.weight" in caplog.text
    held = model.state_dict()
    assert all(torch.equal(x, held[name]) for name, x in plain.state_dict().items())
    assert isinstance(model.pruner, Scores) and int(model.pruner.calls) == 7
    assert not model.pruner.training and all(p.requires_grad for p in model.parameters())


def test_every_process_makes_the_same_values_and_nobodys_random_numbers_move() -> None:
    state = torch.get_rng_state()
    first = load(change=pruner)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert states(first, load(change=pruner))


def test_new_parameters_take_the_models_dtype_and_buffers_keep_theirs() -> None:
    model = load(change=pruner, dtype="bfloat16")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert {name: b.dtype for name, b in model.named_buffers()} == {
        "pruner.calls": torch.int64,
        "pruner.offset": torch.float64,
        "pruner.scratch": torch.float32,
    }


def test_a_new_part_with_the_old_names_and_shapes_is_filled_from_the_file(
    plain: VideoLLaMA3, caplog: pytest.LogCaptureFixture
) -> None:
    assert states(plain, load(change=fresh_projector)) and not caplog.text


def test_tensors_of_a_replaced_part_are_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    for change, names in ((linear_projector, 2), (bottleneck, 3)):
        caplog.clear()
        load(change=change)
        assert f"{names} tensors of the change" in caplog.text  # the bottleneck's last bias fits, and is read


def test_blocks_that_share_weights_stay_shared() -> None:
    model = load(change=tied_weights)
    first, second = (layer.mlp.up_proj for layer in model.language_model.layers)
    assert first.weight is second.weight


# ------------------------------------------------------------------------------------------------------------ saving


@pytest.mark.parametrize("layout", ["official", "hf"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_model_is_saved_and_loads_again_with_the_same_change(
    change: Callable[[VideoLLaMA3], Any], layout: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = load(change=change)
    with torch.no_grad():
        for x in {*model.parameters(), *model.buffers()}:
            x.add_(1 if not x.is_floating_point() else 0.01 * torch.randn_like(x))
    if layout == "hf":
        model.config = load_model(GOLDENS / "hf-tiny", "cpu").config
    check_saveable(model, layout)
    caplog.clear()
    again = load(save_model(model, tmp_path / "saved", layout, max_shard_bytes=400_000), change)
    saved = {name: x for name, x in model.state_dict().items() if "scratch" not in name}
    held = again.state_dict()
    assert saved.keys() <= held.keys() and all(torch.equal(x, held[name]) for name, x in saved.items())
    again.config = model.config = load().config
    assert torch.equal(logits(model), logits(again)) and not caplog.text


def test_a_model_whose_names_and_shapes_are_the_originals_loads_in_transformers(tmp_path: Path) -> None:
    model = load_model(GOLDENS / "hf-tiny", "cpu", change=fresh_projector)
    reference, report = transformers.VideoLlama3ForConditionalGeneration.from_pretrained(
        save_model(model, tmp_path, "hf"), output_loading_info=True
    )
    ids = torch.arange(4, 24)
    with torch.no_grad():
        assert (reference(input_ids=ids[None]).logits[0] - model.language_model(ids)).abs().max() < 2e-5
    assert not any(report.values())


def test_a_whole_folder_of_a_changed_model_loads(tmp_path: Path) -> None:
    model, processor = vl3ref.load("vl3-tiny", "cpu", change=pruner)
    for layout in ("official", "hf"):
        folder = save(model, processor, tmp_path / layout, layout)
        again, same = vl3ref.load(folder, "cpu", change=pruner)
        assert states(again, model) and same.config.max_tokens == processor.config.max_tokens


def test_parts_that_were_not_changed_load_out_of_a_changed_whole(plain: VideoLLaMA3, tmp_path: Path) -> None:
    folder = save_model(load(change=pruner), tmp_path)
    assert states(load_language_model(folder, "cpu"), plain.language_model)


# ------------------------------------------------------------------------------------------------------- what is wrong


def test_a_changed_checkpoint_without_its_change_says_so(tmp_path: Path) -> None:
    folder = save_model(load(change=linear_projector), tmp_path)
    with pytest.raises(CheckpointError, match=r"unexpected: model\.mm_projector\.weight.*\n.*missing.*") as error:
        load(folder)
    assert "load it whole with the change= that it was saved with" in str(error.value)


def test_another_change_than_the_files_is_an_error(tmp_path: Path) -> None:
    folder = save_model(load(change=bottleneck), tmp_path)
    with pytest.raises(CheckpointError, match=r"do not fit its config\.json and the change"):
        load(folder, change=pruner)


def raises(model: VideoLLaMA3) -> None:
    model.projector = nn.Linear(model.config.vision.width, 64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (raises, r"the change raises failed in line \d+: AttributeError: .*'width'"),
        (lambda model: model.projector, r"<lambda> should change the model in place .*, not a Projector"),
        (lambda model: 1 / 0, r"<lambda> failed in line \d+: ZeroDivisionError"),
    ],
)
def test_a_change_that_fails_is_one_sentence(change: Any, message: str) -> None:
    with pytest.raises(ChangeError, match=message) as error:
        load(change=change)
    assert "\n" not in str(error.value)


def test_a_misspelt_name_brings_a_warning() -> None:
    def misspelt(model: VideoLLaMA3) -> None:
        model.prunner = model.language_model.rotery = model.pruner
        model.mine = nn.Identity()

    with pytest.warns(UserWarning) as found:
        load(change=misspelt)
    said = [str(warning.message) for warning in found]
    assert sum("set model.prunner, which was not there; is pruner meant?" in text for text in said) == 1
    assert sum("set language_model.rotery, which was not there; is rotary meant?" in text for text in said) == 1
    assert not any("mine" in text and "meant" in text for text in said)


class Stateful(nn.Linear):
    def get_extra_state(self) -> dict[str, int]:
        return {"steps": 3}

    def set_extra_state(self, state: Any) -> None:
        pass


@pytest.mark.parametrize(
    ("name", "part", "message"),
    [
        ("lm_head", nn.Linear(2, 2), r"lm_head\.weight would be taken for language_model\.lm_head\.weight"),
        ("model", nn.Linear(2, 2), r"model\.weight would be taken for language_model\.weight"),
        ("vision_model", nn.Linear(2, 2), r"vision_model\.weight would be taken for vision_encoder\.weight"),
        ("memory", Stateful(2, 2), r"memory\._extra_state is a dict, and only tensors are saved"),
        ("table", nn.Linear(2, 2, device="meta"), r"table\.weight is not a plain tensor"),
    ],
)
def test_what_could_not_be_loaded_again_is_found_before_training(
    name: str, part: nn.Module, message: str, tmp_path: Path
) -> None:
    model = load()
    setattr(model, name, part)
    with pytest.raises(ChangeError, match=message):
        check_saveable(model)
    with pytest.raises(ChangeError, match=message):
        save_model(model, tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


# -------------------------------------------------------------------------------------------------- file.py:function


def test_a_change_is_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "neighbour_of_a_change.py").write_text("SIZE = 3\n")
    (tmp_path / "mine.py").write_text(
        "from neighbour_of_a_change import SIZE\n"
        "from dataclasses import dataclass\n"
        "@dataclass\nclass Options:\n    size: 'int' = SIZE\n"
        "def swap(model):\n    model.vision_encoder.chunk_patches = Options().size\n"
    )
    assert load(change=read_change(f"{tmp_path}/mine.py:swap")).vision_encoder.chunk_patches == 3


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("mine.py", "is given as file.py:function"),
        ("mine:swap", "is given as file.py:function"),
        ("none.py:swap", r"none\.py' does not exist"),
        ("mine.py:swop", r"mine\.py has no function swop"),
        ("mine.py:size", r"mine\.py has no function size"),
        ("broken.py:swap", r"broken\.py cannot be imported: NameError"),
        ("typo.py:swap", r"typo\.py cannot be imported: SyntaxError"),
    ],
)
def test_a_change_that_cannot_be_read_is_one_sentence(
    place: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("size = 3\ndef swap(model): ...\n")
    Path("broken.py").write_text("nothing\n")
    Path("typo.py").write_text("def swap(:\n")
    with pytest.raises(ChangeError, match=message) as error:
        read_change(place)
    assert "\n" not in str(error.value)
