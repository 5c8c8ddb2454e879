"""Every pruner drops what its formula says, for images, several videos and several conversations at once."""

import json
import math
import re
import shutil

import pytest
import torch
from torch import Tensor

from tests.helpers import ROOT, run_page
from tests.parity.pairs import conversation, random_parameters
from vl3ref.config import LanguageConfig, ModelConfig, VisionConfig
from vl3ref.errors import InputError
from vl3ref.model.diff_fp import DiffFP, keep_all
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.model_inputs import ModelInputs, join
from vl3ref.pruners import (
    RULES,
    Above,
    QuestionAttention,
    Share,
    cosine_change,
    even_spread,
    pixel_change,
    read_pruner,
    run_length_change,
)
from vl3ref.watching import watch

CONFIG = ModelConfig(VisionConfig(32, 40, 2, 2, patch_size=4), LanguageConfig(60, 32, 48, 2, 4, 2), 58, 59)
ABOUT_TIME = ("difffp", "rlt", "cosine")
NAMES = [*RULES, *(f"{name}=0.4" for name in RULES), "cosine=0.01"]


@pytest.fixture(scope="module")
def model() -> VideoLLaMA3:
    return random_parameters(VideoLLaMA3(CONFIG), 0)


def talk(grids, merges, modals, seed: int) -> ModelInputs:
    """Half the tokens of its videos are those of the frame before, or nearly."""
    inputs = conversation(CONFIG, grids, merges, modals, seed)
    source = torch.Generator().manual_seed(seed)
    for pixels, (t, h, w), merge, _ in inputs.visuals():
        frames = pixels.view(t, h * w // merge**2, -1)  # a view: the inputs change
        for k in range(1, t):
            still = torch.rand(frames.shape[1], generator=source) < 0.5
            frames[k, still] = frames[k - 1, still] + 0.05 * torch.rand((), generator=source)
    return inputs


@pytest.fixture(scope="module")
def talks() -> list[ModelInputs]:
    """Two images and two videos; text alone; a video; one frame."""
    return [
        talk([(1, 3, 2), (3, 4, 4), (1, 4, 2), (2, 6, 2)], [1, 2, 2, 1], ["image", "video", "image", "video"], 0),
        conversation(CONFIG, [], [], [], 1),
        talk([(5, 4, 6)], [2], ["video"], 2),
        talk([(1, 4, 4)], [2], ["video"], 3),
    ]


def features_of(model: VideoLLaMA3, inputs: ModelInputs) -> Tensor:
    with torch.no_grad():
        return model.vision_encoder(inputs.pixel_values, inputs.grid_sizes, inputs.merge_sizes)


@pytest.mark.parametrize("name", NAMES)
def test_conversations_together_get_what_each_gets_alone(model, talks, name) -> None:
    pruner = read_pruner(name, model)
    with torch.no_grad():
        alone = torch.cat([model.splice(inputs, pruner).keep_mask for inputs in talks])
        together = model.splice(join(talks), pruner).keep_mask
    assert together.dtype == torch.bool and torch.equal(alone, together)


@pytest.mark.parametrize("name", NAMES)
def test_every_frame_keeps_a_token_and_rules_about_time_keep_images(model, talks, name) -> None:
    inputs = talks[0]
    mask = read_pruner(name, model)(inputs, features_of(model, inputs))
    rule, _, share = name.partition("=")
    for part, (_, (t, h, w), merge, modal) in zip(
        mask.split(inputs.tokens_per_visual()), inputs.visuals(), strict=True
    ):
        tokens = h * w // merge**2
        assert part.view(t, tokens).any(dim=1).all()
        if modal == "image" and rule in ABOUT_TIME:
            assert part.all()
        elif share:
            assert part.sum() == max(t, round(float(share) * t * tokens))


def test_nothing_but_text_is_no_tokens(model) -> None:
    text = conversation(CONFIG, [], [], [], 0)
    for name in NAMES:
        assert read_pruner(name, model)(text, torch.zeros(0, 32)).shape == (0,)


@pytest.mark.parametrize("seed", range(5))
def test_its_rule_above_a_tenth_is_diff_fp(seed) -> None:
    inputs = talk([(4, 4, 6), (1, 2, 2), (6, 3, 2)], [2, 1, 1], ["video", "image", "video"], seed)
    for threshold in (0.1, 3.0, 1e3):
        assert torch.equal(Above(pixel_change, threshold)(inputs), DiffFP(threshold)(inputs))


@pytest.mark.parametrize(("levels", "kept"), [(5.0, False), (6.5, True), (-6.5, True)])
def test_run_length_tokenization_drops_what_changes_by_less_than_six_grey_levels(levels, kept) -> None:
    inputs = conversation(CONFIG, [(2, 4, 4)], [2], ["video"], 0)
    frames = inputs.pixel_values.view(2, 4, -1)
    frames[1] = frames[0] + 2.0
    frames[1, 3] = frames[0, 3] + levels / 127.5
    assert Above(run_length_change, 0.1)(inputs).tolist() == [True] * 7 + [kept]


def test_run_length_change_is_that_of_frames_normalised_as_in_its_code() -> None:
    inputs = conversation(CONFIG, [(3, 2, 4)], [2], ["video"], 0)
    frames = inputs.pixel_values.view(3, 2, 4, 3, 16).permute(0, 1, 3, 2, 4).flatten(3)  # frame, token, channel, pixels
    mean, std = (torch.tensor(x)[:, None] for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    normalised = ((frames + 1) / 2 - mean) / std
    expected = (normalised[1:] - normalised[:-1]).abs().mean(dim=(2, 3)).flatten()
    assert torch.allclose(run_length_change(inputs)[2:], expected, atol=1e-6)
    assert run_length_change(inputs)[:2].isposinf().all()


def test_cosine_compares_directions_with_the_same_place_one_frame_earlier() -> None:
    inputs = conversation(CONFIG, [(2, 2, 3), (1, 1, 1)], [1, 1], ["video", "image"], 0)
    degrees = [0, 30, 60, 52, 54, 180]
    angles = torch.tensor(degrees) * math.pi / 180
    features = torch.stack([torch.tensor([1.0, 0.0]).repeat(6, 1), 7 * torch.stack([angles.cos(), angles.sin()], 1)])
    features = torch.cat([features.flatten(0, 1), torch.ones(1, 2)])
    kept = Above(cosine_change, 0.4)(inputs, features)  # cos 53.13° = 0.6
    assert kept.tolist() == [True] * 6 + [False, False, True, False, True, True] + [True]
    assert torch.allclose(cosine_change(inputs, features)[6:12], 1 - angles.cos(), atol=1e-6)


def test_a_share_goes_to_the_best_of_each_frame_and_then_to_the_best() -> None:
    inputs = conversation(CONFIG, [(3, 2, 2)], [1], ["video"], 0)
    scores = torch.tensor([5.0, 6, 7, 8, 0, 0, 2, 1, 3, 9, 3, 4])
    kept = [Share(lambda *_: scores, share)(inputs).nonzero().flatten().tolist() for share in (0.01, 0.5, 1.0)]
    assert kept == [[3, 6, 9], [0, 1, 2, 3, 6, 9], list(range(12))]


@pytest.mark.parametrize("share", [0.2, 0.25, 0.5])
def test_uniform_is_even_over_frames_rows_and_columns(share) -> None:
    inputs = conversation(CONFIG, [(8, 16, 16)], [2], ["video"], 0)
    kept = Share(even_spread, share)(inputs).view(8, 8, 8).double()
    for axes in ((1, 2), (0, 2), (0, 1)):
        assert (kept.mean(dim=axes) - share).abs().max() < 0.08


def test_the_question_scores_by_the_attention_map_of_the_unpruned_prompt(model, talks) -> None:
    inputs = join(talks)
    with torch.no_grad(), watch(model, [1]) as seen:
        model(inputs, pruner=keep_all)
    expected = []
    visual = inputs.is_visual(model.config.visual_token_ids).split(inputs.lengths.tolist())
    for attention, there in zip(seen.language.attentions[1], visual, strict=True):
        if there.any():
            expected.append(attention[:, int(there.nonzero()[-1]) + 1 :].mean(dim=(0, 1))[there])
    scores = QuestionAttention(model)(inputs, features_of(model, inputs))
    assert torch.allclose(scores, torch.cat(expected), atol=1e-6)
    assert not model.language_model.layers[1].self_attn.attend._forward_pre_hooks


def test_the_question_decides(model) -> None:
    inputs = talk([(4, 8, 8)], [2], ["video"], 0)
    other = talk([(4, 8, 8)], [2], ["video"], 0)
    other.input_ids[-4:] = torch.tensor([7, 21, 33, 5])
    features, pruner = features_of(model, inputs), read_pruner("question=0.25", model)
    assert not torch.equal(pruner(inputs, features), pruner(other, features))


def test_a_prompt_that_ends_with_its_video_is_rated_by_its_last_token(model) -> None:
    inputs = talk([(2, 4, 4)], [2], ["video"], 0)
    inputs.input_ids, inputs.lengths = inputs.input_ids[:-4], inputs.lengths - 4
    scores = QuestionAttention(model, layer=0)(inputs, features_of(model, inputs))
    assert scores.shape == (8,) and (scores > 0).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model, inputs: read_pruner("toome", model), "there is no pruner 'toome'; there are difffp, rlt"),
        (lambda model, inputs: read_pruner("cosine=", model), "behind cosine= stands the share of tokens"),
        (lambda model, inputs: read_pruner("cosine=half", model), "not 'half'"),
        (lambda model, inputs: read_pruner("cosine=nan", model), "a share of visual tokens lies above 0"),
        (lambda model, inputs: read_pruner("cosine=0", model), "a share of visual tokens lies above 0"),
        (lambda model, inputs: read_pruner("cosine=25", model), "at most 1, not 25.0"),
        (lambda model, inputs: read_pruner("cosine", model)(inputs, None), "reads the vision encoder's features"),
        (lambda model, inputs: read_pruner("question", model)(inputs, None), "reads the vision encoder's features"),
        (lambda model, inputs: QuestionAttention(model, 2)(inputs, torch.ones(8, 32)), "layer should be from 0 to 1"),
    ],
)
def test_what_is_wrong_is_one_sentence(model, call, message) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        call(model, talk([(2, 4, 4)], [2], ["video"], 0))


def test_the_page_runs(monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "docs" / "media" / "bunny.mp4", "clip.mp4")
    names = run_page("recipes/pruners.md")
    kept, all_tokens = names["kept"], len(names["kept"]["all"])
    assert {int(kept[f"{rule}=0.25"].sum()) for rule in ("difffp", "uniform", "question")} == {round(all_tokens / 4)}
    assert int(names["bright"].sum()) == round(all_tokens / 2) and len(list(tmp_path.glob("*.png"))) == len(kept)


def test_eval_has_a_column_for_each_pruner(vl3ref_main, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr("vl3ref.tinyworld.SKILLS", ("motion",))
    asked = ["--pruner", "rlt", "--pruner", "uniform=0.25"]
    options = ["--no-controls", "--questions", 1, "--device", "cpu", "--json", tmp_path / "table.json"]
    vl3ref_main("eval", "tinyworld", *asked, *options)
    columns = json.loads((tmp_path / "table.json").read_text())
    assert list(columns) == ["accuracy", "rlt", "uniform=0.25"]
    assert columns["uniform=0.25"]["motion"]["tokens"] < columns["accuracy"]["motion"]["tokens"] + 1
    _, err = vl3ref_main("eval", "tinyworld", "--pruner", "rtl", "--device", "cpu", rc=2)
    assert "error: there is no pruner 'rtl'" in err
