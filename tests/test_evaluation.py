"""The examination counts what is right, its controls change what they should, and SigLIP's loss teaches to look."""

import io
import json
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from rich.console import Console

from tests.scene_reading import PALETTE
from tests.small_runs import processor
from vl3ref.config import LanguageConfig, ModelConfig, VisionConfig
from vl3ref.errors import InputError
from vl3ref.model.initialise import random_model
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.model_inputs import ModelInputs
from vl3ref.tinyworld import PICTURE_SKILLS, SKILLS, TIME_SKILLS, TinyWorld, held_out
from vl3ref.tinyworld import examination as evaluation
from vl3ref.tinyworld.examination import COLUMNS, Column, Score, Table, blank, examine, examine_all, shuffled
from vl3ref.training.siglip import PairBatches, PairLoss, Pairs, SigLIP, sigmoid_loss

WORLD = {"scene": 3.0, "sign": 2.0, "document": 2.0, "chart": 2.0, "clip": 9.0}


@cache
def small_model(seed: int = 0) -> VideoLLaMA3:
    image = processor().config.image_token_id
    vision = VisionConfig(hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
    language = LanguageConfig(
        vocab_size=1024,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        rope_theta=1e6,
        tie_word_embeddings=True,
        eos_token_ids=(processor().tokenizer.special("<|im_end|>"),),
    )
    return random_model(ModelConfig(vision, language, image, image), seed)


# --------------------------------------------------------------------------------------------------------- examination


class Pupil:
    """Answers in place of a model's `generate`, and keeps what it was asked.

    Args:
        answers: one after another.
    """

    def __init__(self, answers: list[str]) -> None:
        self.answers: Iterator[str] = iter(answers)
        self.asked: list[ModelInputs] = []

    def __call__(self, inputs: ModelInputs, max_new_tokens: int, **_: Any) -> list[torch.Tensor]:
        self.asked.append(inputs)
        end = processor().tokenizer.special("<|im_end|>")
        said = [[*processor().tokenizer.encode(next(self.answers))[0], end] for _ in inputs.lengths]
        assert max(map(len, said)) <= max_new_tokens, "the right answer would have been cut"
        return [torch.tensor(ids) for ids in said]

    @property
    def prompts(self) -> list[str]:
        found = []
        for inputs in self.asked:
            for ids in inputs.input_ids.split(inputs.lengths.tolist()):
                found.append(processor().decode(ids, skip_special_tokens=False))
        return found


@pytest.fixture
def taught(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Gives the small model these answers, one after another."""

    def teach(answers: list[str]) -> Pupil:
        pupil = Pupil(answers)
        monkeypatch.setattr(small_model(), "generate", pupil, raising=False)
        return pupil

    return teach


def answers_to(skill: str, count: int, seed: int = evaluation.SEED) -> list[str]:
    return [sample["conversations"][-1]["value"] for sample in held_out(skill, seed, count)]


@pytest.mark.parametrize("skill", SKILLS)
def test_who_knows_all_gets_all_and_who_knows_nothing_gets_none(skill: str, taught: Any) -> None:
    taught(answers_to(skill, 12))
    everything = examine(small_model(), processor(), skill, 12)
    assert (everything.right, everything.asked, everything.accuracy) == (12, 12, 1.0)
    taught([f"x{answer}" for answer in answers_to(skill, 12)])
    assert examine(small_model(), processor(), skill, 12).accuracy == 0.0


def test_only_the_very_answer_counts(taught: Any) -> None:
    right = answers_to("colour", 6)
    taught([right[0].capitalize(), f"{right[1]}.", f" {right[2]}", right[3][:-1], "", right[5]])
    assert examine(small_model(), processor(), "colour", 6).right == 1


def test_the_answer_is_not_in_the_prompt_and_each_question_is_asked_once(taught: Any) -> None:
    pupil = taught(answers_to("reading", 120))
    assert examine(small_model(), processor(), "reading", 120).right == 120
    assert [len(inputs.lengths) for inputs in pupil.asked] == [50, 50, 20]
    for prompt, sample in zip(pupil.prompts, held_out("reading", evaluation.SEED, 120), strict=True):
        question = sample["conversations"][0]["value"].removeprefix("<image>")
        assert prompt.endswith(f"<image>{question}<|im_end|>\n<|im_start|>assistant\n")
        assert prompt.count("assistant\n") == 1


def test_the_seed_chooses_the_questions(taught: Any) -> None:
    taught(answers_to("order", 10))
    assert examine(small_model(), processor(), "order", 10, seed=evaluation.SEED).right == 10
    taught(answers_to("order", 10))
    assert examine(small_model(), processor(), "order", 10, seed=5).right < 10
    taught(answers_to("order", 10, seed=5))
    assert examine(small_model(), processor(), "order", 10, seed=5).right == 10


def test_an_unknown_skill_is_refused() -> None:
    with pytest.raises(InputError, match="juggling"):
        examine(small_model(), processor(), "juggling", 1)


def test_a_model_that_was_taught_nothing_can_be_examined() -> None:
    score = examine(small_model(), processor(), "motion", 3)
    assert score.right == 0 and score.tokens > 4


def test_tokens_are_counted_after_diff_fp(taught: Any) -> None:
    def tokens(skill: str, **options: Any) -> float:
        taught(answers_to(skill, 8))
        return examine(small_model(), processor(), skill, 8, **options).tokens

    clips = held_out("motion", evaluation.SEED, 8)
    cells = [len(clip["video"][0]) * np.prod([round(x / 28) for x in clip["video"][0].shape[1:3]]) for clip in clips]
    assert tokens("motion", diff_fp=False) == pytest.approx(np.mean(cells))
    assert 0 < tokens("motion") < 0.7 * tokens("motion", diff_fp=False)
    assert tokens("colour") == tokens("colour", diff_fp=False)
    assert tokens("motion", change=blank) < tokens("motion")  # nothing changes in a blank clip


# ------------------------------------------------------------------------------------------------------------ controls


@pytest.mark.parametrize("skill", ["position", "order"])
def test_blank_is_blank_and_as_large_as_before(skill: str) -> None:
    for sample in held_out(skill, 3, 10):
        kind = "image" if skill in PICTURE_SKILLS else "video"
        [before], [after] = sample[kind], blank(sample, np.random.default_rng(0))[kind]
        assert after.shape == before.shape and after.dtype == before.dtype
        assert len(np.unique(after)) == 1 and len(np.unique(before)) > 1
        rest = {key: value for key, value in sample.items() if key != kind}
        assert rest == {key: value for key, value in blank(sample, np.random.default_rng(0)).items() if key != kind}


def test_shuffled_frames_are_the_same_frames_at_the_same_times() -> None:
    moved = 0
    for index, sample in enumerate(held_out("order", 3, 20)):
        changed = shuffled(sample, np.random.default_rng(index))
        [before], [after] = sample["video"], changed["video"]
        assert Counter(frame.tobytes() for frame in after) == Counter(frame.tobytes() for frame in before)
        assert changed["timestamps"] == sample["timestamps"] and changed["conversations"] == sample["conversations"]
        moved += not np.array_equal(before, after)
    assert moved > 15
    assert np.array_equal(sample["video"][0], before)  # the sample itself stays as it was


def test_what_is_shown_is_what_the_control_makes(taught: Any) -> None:
    pupil = taught(answers_to("change", 5) * 3)
    for change in (None, blank, shuffled):
        examine(small_model(), processor(), "change", 5, change)
    plain, empty, mixed = pupil.asked
    assert all(torch.equal(inputs.input_ids, plain.input_ids) for inputs in (empty, mixed))
    assert len(empty.pixel_values.unique()) == 1 and empty.pixel_values.shape == plain.pixel_values.shape
    assert not torch.equal(mixed.pixel_values, plain.pixel_values)
    assert torch.equal(mixed.pixel_values.sort(dim=0)[0], plain.pixel_values.sort(dim=0)[0])


def test_controls_are_drawn_from_the_seed(taught: Any) -> None:
    pupil = taught(answers_to("change", 5) * 2)
    for _ in range(2):
        examine(small_model(), processor(), "change", 5, shuffled)
    assert torch.equal(pupil.asked[0].pixel_values, pupil.asked[1].pixel_values)


def test_columns() -> None:
    assert list(COLUMNS) == ["accuracy", "blank pictures", "shuffled frames", "DiffFP off"]
    assert COLUMNS["accuracy"] == Column(SKILLS)
    assert COLUMNS["blank pictures"] == Column(SKILLS, blank)
    assert COLUMNS["shuffled frames"] == Column(TIME_SKILLS, shuffled)  # a picture has one frame
    assert COLUMNS["DiffFP off"] == Column(TIME_SKILLS, diff_fp=False)


def test_a_column_is_examined_skill_by_skill(taught: Any) -> None:
    column = Column(("motion", "time"), diff_fp=False)
    pupil = taught([*answers_to("motion", 3), *["no"] * 3])
    scores = examine_all(small_model(), processor(), column, 3)
    assert list(scores) == ["motion", "time"] and [score.right for score in scores.values()] == [3, 0]
    assert [inputs.diff_fp for inputs in pupil.asked] == [False, False]


# --------------------------------------------------------------------------------------------------------------- table


@pytest.fixture
def table() -> Table:
    table = Table()
    table.add("accuracy", {skill: Score(index, 20, 4.0 + index / 4) for index, skill in enumerate(SKILLS)})
    table.add("few", {"order": Score(3, 4, 10.0), "time": Score(0, 1, 2.25)})
    return table


def test_overall_is_the_mean_over_questions(table: Table) -> None:
    assert table.overall("few") == 3 / 5  # not the mean of 75% and 0%
    assert table.overall("accuracy") == pytest.approx(sum(range(len(SKILLS))) / 20 / len(SKILLS))


def test_rows(table: Table) -> None:
    heading, *rows, last = table.rows()
    assert heading == ["skill", "accuracy", "few"]
    assert [row[0] for row in rows] == list(SKILLS)
    cells = {row[0]: row[1:] for row in rows}
    assert cells["order"] == ["45.0% (6.2)", "75.0% (10.0)"]
    assert cells["colour"] == ["0.0% (4.0)", ""]
    assert last == ["all", "32.5%", "60.0%"]


def test_markdown_json_and_terminal_say_what_the_rows_say(table: Table) -> None:
    lines = table.as_markdown().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[1] == ["---", "---:", "---:"]
    assert [cells[0], *cells[2:]] == table.rows()
    numbers = json.loads(json.dumps(table.as_json()))
    assert numbers["few"] == {
        "all": 0.6,
        "order": {"right": 3, "asked": 4, "tokens": 10.0},
        "time": {"right": 0, "asked": 1, "tokens": 2.25},
    }
    assert set(numbers["accuracy"]) == {"all", *SKILLS}
    screen = io.StringIO()
    Console(file=screen, width=100).print(table.for_terminal())
    shown = [[cell.strip() for cell in line.split("│")[1:-1]] for line in screen.getvalue().splitlines() if "│" in line]
    assert shown == table.rows()[1:]


# -------------------------------------------------------------------------------------------------------------- siglip


@pytest.mark.parametrize("spread", [1.0, 200.0])
def test_sigmoid_loss_is_the_papers(spread: float) -> None:
    rng = np.random.default_rng(0)
    logits, z = spread * rng.normal(size=(6, 6)), 2 * np.eye(6) - 1
    # Its loss before the division by |B|: the sum of -log(1 / (1 + exp(z (-t x.y - b)))), z being 1 for pairs, else -1.
    by_hand = np.logaddexp(0, -z * logits).sum()
    ours = sigmoid_loss(torch.tensor(logits), torch.eye(6, dtype=torch.bool))
    assert ours.item() == pytest.approx(by_hand, rel=1e-12)


def test_equal_texts_are_the_same() -> None:
    pictures = [TinyWorld(1, {"scene": 1.0}).told_picture(i)[0] for i in range(3)]
    pack = batches().pack(list(zip(pictures, ["a cat", "a dog", "a cat"], strict=True)))
    same = pack.labels[:, None] == pack.labels
    assert same.tolist() == [[True, False, True], [False, True, False], [True, False, True]]
    model = siglip()
    with torch.no_grad():
        logits = model(pack).double().numpy()
    assert np.allclose(logits[:, 0], logits[:, 2], atol=1e-5)
    by_hand = np.logaddexp(0, np.where(same, -logits, logits)).sum()
    assert PairLoss().loss(model, pack).item() == pytest.approx(by_hand, rel=1e-5)
    assert PairLoss().count(pack) == 3


def siglip(seed: int = 0) -> SigLIP:
    torch.manual_seed(seed)
    model = random_model(small_model().config, seed)
    return SigLIP(model.vision_encoder, model.language_model, dim=32)


def batches(size: int = 4) -> PairBatches:
    return PairBatches(TinyWorld(1, WORLD).told_picture, processor(), size)


def test_logits_are_cosines_scaled_and_shifted() -> None:
    model, [pack] = siglip(), batches(6)[0].packs
    with torch.no_grad():
        logits = model(pack)
        assert logits.shape == (6, 6)
        assert model.log_scale.exp().item() == pytest.approx(10) and model.bias.item() == -10
        features = model.vision_encoder(pack.pixel_values, pack.grid_sizes, torch.ones(6, dtype=torch.int64))
        counts = pack.grid_sizes.prod(dim=1).tolist()
        pictures = [model.vision_head(rows.mean(dim=0)) for rows in features.split(counts)]
        last = [
            model.text_head(model.text_tower.hidden(ids, [len(ids)])[-1])
            for ids in pack.input_ids.split(pack.lengths.tolist())
        ]
        cosines = torch.stack([torch.stack([F.cosine_similarity(x, y, dim=0) for y in last]) for x in pictures])
    assert torch.allclose(logits, 10 * cosines - 10, atol=1e-4)


def test_a_pair_does_not_depend_on_its_neighbours() -> None:
    pairs = [TinyWorld(1, WORLD).told_picture(i) for i in range(5)]
    model = siglip()
    with torch.no_grad():
        together = model(batches().pack(pairs))
        for index, pair in enumerate(pairs):
            assert torch.allclose(model(batches().pack([pair]))[0, 0], together[index, index], atol=1e-4)


def test_batches_go_through_the_world_in_order() -> None:
    world = TinyWorld(1, WORLD)
    seen = batches(3)[2].packs[0]
    expected = batches(3).pack([world.told_picture(i) for i in (6, 7, 8)])
    assert torch.equal(seen.input_ids, expected.input_ids) and torch.equal(seen.pixel_values, expected.pixel_values)
    texts = [processor().decode(ids) for ids in seen.input_ids.split(seen.lengths.tolist())]
    assert texts == [world.told_picture(i)[1] for i in (6, 7, 8)]
    sizes = [[1, *(2 * round(side / 28) for side in world.told_picture(i)[0].shape[:2])] for i in (6, 7, 8)]
    assert seen.grid_sizes.tolist() == sizes
    assert isinstance(seen.to("cpu"), Pairs)


def test_siglip_learns_to_tell_its_pairs_apart() -> None:
    pairs = [(np.full((56, 56, 3), rgb, np.uint8), colour) for colour, rgb in PALETTE.items()]
    pack, model = batches().pack([*pairs, (np.full((56, 84, 3), 255, np.uint8), "white")]), siglip()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter *= 6  # so small a network says next to nothing with weights of 0.02
    before = [parameter.detach().clone() for parameter in model.vision_encoder.parameters()]
    optimiser, losses = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0), []
    for _ in range(40):
        loss = PairLoss().loss(model, pack) / PairLoss().count(pack)
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    blind = np.log(8) + 7 * np.log(8 / 7)  # for who says "one in eight" to every pair
    assert losses[0] > blind and losses[-1] < 0.3 * blind
    with torch.no_grad():
        logits = model(pack)
    wrong = logits.masked_fill(torch.eye(8, dtype=torch.bool), -torch.inf)
    assert (logits.diagonal() > wrong.max(dim=0).values).all() and (logits.diagonal() > wrong.max(dim=1).values).all()
    assert any(not torch.equal(x, y) for x, y in zip(before, model.vision_encoder.parameters(), strict=True))
