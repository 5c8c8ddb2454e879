"""SigLIP's loss is the paper's, each pair is judged alone, and the encoder learns from it."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.scene_reading import PALETTE
from tests.small_runs import processor
from vl3ref.config import LanguageConfig, ModelConfig, VisionConfig
from vl3ref.model.initialise import random_model
from vl3ref.tinyworld import TinyWorld
from vl3ref.training.siglip import PairBatches, Pairs, SigLIP, pair_loss, sigmoid_loss

WORLD = TinyWorld(1, {"scene": 3.0, "sign": 2.0, "document": 2.0, "chart": 2.0, "clip": 9.0})
CONFIG = ModelConfig(
    VisionConfig(hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2),
    LanguageConfig(
        vocab_size=1024,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
    ),
    image_token_id=0,
    video_token_id=0,
)


def siglip() -> SigLIP:
    torch.manual_seed(0)
    model = random_model(CONFIG)
    return SigLIP(model.vision_encoder, model.language_model, dim=32)


def batches(size: int = 4) -> PairBatches:
    return PairBatches(WORLD.picture_and_text, processor(), size)


@pytest.mark.parametrize("spread", [1.0, 200.0])
def test_sigmoid_loss_is_the_papers(spread: float) -> None:
    rng = np.random.default_rng(0)
    logits, z = spread * rng.normal(size=(6, 6)), 2 * np.eye(6) - 1
    # Its loss before the division by |B|: the sum of -log(1 / (1 + exp(z (-t x.y - b)))), z being 1 for pairs, else -1.
    by_hand = np.logaddexp(0, -z * logits).sum()
    ours = sigmoid_loss(torch.tensor(logits), torch.eye(6, dtype=torch.bool))
    assert ours.item() == pytest.approx(by_hand, rel=1e-12)


def test_equal_texts_are_the_same() -> None:
    pictures = [WORLD.picture_and_text(i)[0] for i in range(3)]
    pack = batches().pack(list(zip(pictures, ["a cat", "a dog", "a cat"], strict=True)))
    same = pack.labels[:, None] == pack.labels
    assert same.tolist() == [[True, False, True], [False, True, False], [True, False, True]]
    model = siglip()
    with torch.no_grad():
        logits = model(pack).double().numpy()
    assert np.allclose(logits[:, 0], logits[:, 2], atol=1e-5)
    by_hand = np.logaddexp(0, np.where(same, -logits, logits)).sum()
    assert pair_loss(model, pack).item() == pytest.approx(by_hand, rel=1e-5)


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
    pairs = [WORLD.picture_and_text(i) for i in range(5)]
    model = siglip()
    with torch.no_grad():
        together = model(batches().pack(pairs))
        for index, pair in enumerate(pairs):
            assert torch.allclose(model(batches().pack([pair]))[0, 0], together[index, index], atol=1e-4)


def test_batches_go_through_the_world_in_order() -> None:
    batch = batches(3)[2]
    [seen] = batch.packs
    assert batch.targets == batch.samples == 3
    expected = batches(3).pack([WORLD.picture_and_text(i) for i in (6, 7, 8)])
    assert torch.equal(seen.input_ids, expected.input_ids) and torch.equal(seen.pixel_values, expected.pixel_values)
    texts = [processor().decode(ids) for ids in seen.input_ids.split(seen.lengths.tolist())]
    assert texts == [WORLD.picture_and_text(i)[1] for i in (6, 7, 8)]
    sizes = [[1, *(2 * round(side / 28) for side in WORLD.picture_and_text(i)[0].shape[:2])] for i in (6, 7, 8)]
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
        loss = pair_loss(model, pack) / len(pack.lengths)
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    blind = np.log(8) + 7 * np.log(8 / 7)  # the loss of saying "one in eight" to every pair
    assert losses[0] > blind and losses[-1] < 0.3 * blind
    with torch.no_grad():
        logits = model(pack)
    wrong = logits.masked_fill(torch.eye(8, dtype=torch.bool), -torch.inf)
    assert (logits.diagonal() > wrong.max(dim=0).values).all() and (logits.diagonal() > wrong.max(dim=1).values).all()
    assert any(not torch.equal(x, y) for x, y in zip(before, model.vision_encoder.parameters(), strict=True))
