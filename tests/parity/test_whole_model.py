"""The whole model beside transformers': any geometry, exact mode, batches, the cache, greedy ids, losses, gradients."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.parity.pairs import (
    EPSILON,
    KINDS,
    MULTIPLE,
    Pair,
    close,
    configs,
    conversation,
    conversations,
    few,
    seeds,
)
from vl3ref.config import ModelConfig
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.model_inputs import IGNORE_INDEX, ModelInputs, join
from vl3ref.parity import exact
from vl3ref.parity.reference import reference_inputs

NARROW, WIDE = torch.float32, torch.float64

END = 1
"""An id that the texts never hold."""


def inputs_of(pair: Pair, kind: str, seed: int = 0) -> ModelInputs:
    return conversation(pair.config, *KINDS[kind], seed)


@few
@given(config=configs(), seed=seeds, data=st.data())
def test_any_geometry_on_any_conversation(config: ModelConfig, seed: int, data: st.DataObject) -> None:
    """Within rounding; and in exact mode bit for bit, but for images and videos together: transformers encodes the two
    kinds apart."""
    pair = Pair(config, seed)
    inputs = data.draw(conversations(config))
    model = pair.ours[NARROW]
    expected, rounding = pair.their_logits(inputs)
    with torch.no_grad():
        close(model(inputs).logits, expected, rounding)
        if len(set(inputs.modals)) < 2:
            with exact(model):
                assert torch.equal(model(inputs).logits, expected)


def test_a_batch_is_each_conversation_alone_in_transformers(pair: Pair) -> None:
    parts = [inputs_of(pair, kind, seed) for seed, kind in enumerate(KINDS)]
    with torch.no_grad():
        output = pair.ours[NARROW](join(parts))
    for part, ours in zip(parts, output.logits.split(output.lengths.tolist()), strict=True):
        close(ours, *pair.their_logits(part))


@pytest.mark.parametrize("pieces", [[1] * 100, [9, 1, 1, 5, 1, 100], [100]], ids=["one by one", "mixed", "whole"])
@torch.no_grad()
def test_decoding_with_the_cache_is_transformers_one_full_pass(pair: Pair, pieces: list[int]) -> None:
    model = pair.ours[NARROW]
    inputs = inputs_of(pair, "video")
    embeddings = model.splice(inputs).embeddings
    cache = model.language_model.new_cache(1)
    ends = torch.tensor(pieces).cumsum(0)
    parts = [part for part in embeddings.tensor_split(ends[ends < len(embeddings)]) if len(part)]
    ours = torch.cat([model.language_model(part, cache=cache) for part in parts])
    close(ours, *pair.their_logits(inputs))


@pytest.mark.parametrize("shortest", [0, 8])
def test_greedy_ids_of_a_batch_are_transformers_ids(pair: Pair, shortest: int) -> None:
    """In float64, where no two logits are as near to each other as the two implementations."""
    parts = [inputs_of(pair, kind) for kind in KINDS]
    answers = pair.ours[WIDE].generate(join(parts), 8, min_new_tokens=shortest, end_token_ids=[END])
    for part, ours in zip(parts, answers, strict=True):
        given_ids = reference_inputs(pair.ours[WIDE], part)
        options = {"min_new_tokens": shortest} if shortest else {}
        whole = pair.theirs[WIDE].generate(
            **given_ids, max_new_tokens=8, do_sample=False, eos_token_id=END, pad_token_id=0, **options
        )
        assert ours.tolist() == whole[0, given_ids["input_ids"].shape[1] :].tolist()


# ------------------------------------------------------------------------------------------------ losses and gradients


def labels_for(inputs: ModelInputs, config: ModelConfig, seed: int) -> Tensor:
    """About half of the words are targets, the last one always; visual tokens never are."""
    is_target = torch.rand(len(inputs.input_ids), generator=torch.Generator().manual_seed(seed)) < 0.5
    is_target[-1] = True
    is_target &= ~inputs.is_visual(config.visual_token_ids)
    return torch.where(is_target, inputs.input_ids, IGNORE_INDEX)


def their_loss(pair: Pair, dtype: torch.dtype, inputs: ModelInputs, labels: Tensor) -> Tensor:
    model = pair.ours[dtype]
    kept = labels[model.splice(inputs).kept]
    return pair.theirs[dtype](**reference_inputs(model, inputs), labels=kept[None]).loss


def gradients(loss: Tensor, model: VideoLLaMA3) -> dict[str, Tensor | None]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True))


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_loss_and_every_element_of_every_gradient(pair: Pair, kind: str) -> None:
    inputs = inputs_of(pair, kind)
    labels = labels_for(inputs, pair.config, 0)
    output = pair.ours[NARROW](inputs, labels=labels)
    assert ("video" in inputs.modals) == bool((~output.keep_mask).any())

    narrow, wide = (their_loss(pair, dtype, inputs, labels) for dtype in (NARROW, WIDE))
    close(output.loss, narrow, abs(narrow.item() - wide.item()))
    ours = gradients(output.loss, pair.ours[NARROW])
    theirs, precise = gradients(narrow, pair.ours[NARROW]), gradients(wide, pair.ours[WIDE])
    # Where a gradient cancels to nothing (a key's bias), what is left is rounding of the others.
    unit = EPSILON * max(float(g.abs().max()) for g in theirs.values() if g is not None)
    for name, a in ours.items():
        b, c = theirs[name], precise[name]
        assert (a is None) == (b is None) == (kind == "text" and not name.startswith("language_model.")), name
        if a is not None:
            rounding = float((b.double() - c).abs().max())
            assert a.shape == b.shape and (a - b).abs().max() <= MULTIPLE * max(rounding, unit), name


def test_the_loss_of_a_batch_is_the_mean_over_all_targets(pair: Pair) -> None:
    parts = [inputs_of(pair, kind, seed) for seed, kind in enumerate(KINDS)]
    labels = [labels_for(part, pair.config, seed) for seed, part in enumerate(parts)]
    means = {}
    with torch.no_grad():
        ours = pair.ours[NARROW](join(parts), labels=torch.cat(labels)).loss
        for dtype in (NARROW, WIDE):
            counts = [int((label[1:] != IGNORE_INDEX).sum()) for label in labels]
            losses = [their_loss(pair, dtype, *one).double() for one in zip(parts, labels, strict=True)]
            means[dtype] = sum(n * loss for n, loss in zip(counts, losses, strict=True)) / sum(counts)
    close(ours, means[NARROW].float(), float((means[NARROW] - means[WIDE]).abs()))
