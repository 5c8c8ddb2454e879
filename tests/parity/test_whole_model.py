"""The whole model beside transformers': batches, the cache, greedy ids, losses and gradients."""

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.parity.drawn import (
    DETOUR,
    close,
    configs,
    conversation,
    conversations,
    drawn_model,
    quick,
    rounding_of,
    seeds,
    their_logits,
    twins,
)
from vl3ref.config import ModelConfig
from vl3ref.model.kv_cache import KVCache
from vl3ref.model.language_model import IGNORED
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.model_inputs import ModelInputs, join
from vl3ref.parity.reference import twin, twin_inputs

Twins = tuple[VideoLLaMA3, Any, torch.dtype]

END = 1
"""The drawn texts never hold it."""

KINDS = {
    "text": ([], [], []),
    "image": ([(1, 2, 3)], [1], ["image"]),
    "image, merged": ([(1, 4, 6)], [2], ["image"]),
    "video": ([(3, 4, 4)], [2], ["video"]),
    "videos": ([(2, 4, 2), (4, 2, 4)], [2, 2], ["video", "video"]),
    "all": ([(1, 3, 2), (3, 2, 4), (1, 2, 2), (2, 1, 3)], [1, 2, 2, 1], ["image", "video", "image", "video"]),
}
"""Grids, merge sizes and modals."""


def kept_tokens(model: VideoLLaMA3, inputs: ModelInputs) -> Tensor:
    """Which of the input ids DiffFP leaves."""
    kept = torch.ones_like(inputs.input_ids, dtype=torch.bool)
    kept[inputs.visual_positions(model.config.visual_token_ids)] = model.keep_mask(inputs)
    return kept


@quick
@given(pair=twins(), data=st.data())
def test_a_batch_is_each_conversation_alone_in_transformers(pair: Twins, data: st.DataObject) -> None:
    model, _, dtype = pair
    parts = data.draw(st.lists(conversations(model.config), min_size=2, max_size=4))
    with torch.no_grad():
        output = model(join(parts))
        for part, ours in zip(parts, output.logits.split(output.lengths.tolist()), strict=True):
            theirs = their_logits(part)
            close(ours, theirs(model), 4 * DETOUR[dtype], rounding_of(model, theirs))


@quick
@given(pair=twins(), data=st.data(), pieces=st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_decoding_with_the_cache_is_transformers_one_full_pass(
    pair: Twins, data: st.DataObject, pieces: list[int]
) -> None:
    model, _, dtype = pair
    inputs = data.draw(conversations(model.config))
    theirs = their_logits(inputs)
    with torch.no_grad():
        expected = theirs(model)
        embeddings = model.splice(inputs).embeddings
        cache = KVCache(model.config.language, 1, len(embeddings), dtype, "cpu")
        sizes, left = [], len(embeddings)
        for size in pieces:
            sizes.append(min(size, left))
            left -= sizes[-1]
        sizes = [size for size in [*sizes, left] if size]
        ours = torch.cat([model.language_model(piece, cache=cache) for piece in embeddings.split(sizes)])
    close(ours, expected, 4 * DETOUR[dtype], rounding_of(model, theirs))


@settings(quick, max_examples=5)
@given(config=configs(), seed=seeds, shortest=st.sampled_from([0, 8]))
def test_greedy_ids_of_a_batch_are_transformers_ids(config: ModelConfig, seed: int, shortest: int) -> None:
    """In float64, where no two of the drawn logits are as near as the two implementations."""
    model = drawn_model(config, seed, torch.float64)
    parts = [conversation(config, *kind, seed) for kind in KINDS.values()]
    answers = model.generate(join(parts), 8, shortest, end_token_ids=[END])
    reference = twin(model)
    for part, ours in zip(parts, answers, strict=True):
        given_ids = twin_inputs(model, part)
        options = {"min_new_tokens": shortest} if shortest else {}
        whole = reference.generate(
            **given_ids, max_new_tokens=8, do_sample=False, eos_token_id=END, pad_token_id=0, **options
        )
        assert ours.tolist() == whole[0, given_ids["input_ids"].shape[1] :].tolist()


def labels_for(inputs: ModelInputs, config: ModelConfig, seed: int) -> Tensor:
    """About half of the words are learnt, the last one always; visual tokens never are."""
    source = torch.Generator().manual_seed(seed)
    learnt = torch.rand(len(inputs.input_ids), generator=source) < 0.5
    learnt[-1] = True
    learnt &= ~inputs.visual_positions(config.visual_token_ids)
    return torch.where(learnt, inputs.input_ids, IGNORED)


@quick
@given(pair=twins(), kind=st.sampled_from(list(KINDS)), seed=seeds)
def test_the_loss_and_every_element_of_every_gradient(pair: Twins, kind: str, seed: int) -> None:
    model, reference, _ = pair
    inputs = conversation(model.config, *KINDS[kind], seed)
    assert ("video" in inputs.modals) == bool((~model.keep_mask(inputs)).any())
    labels = labels_for(inputs, model.config, seed)

    ours = model(inputs, labels=labels).loss
    theirs = reference(**twin_inputs(model, inputs), labels=labels[kept_tokens(model, inputs)][None]).loss
    assert abs(ours.item() - theirs.item()) <= 1e-5 * theirs.item()

    names, parameters = zip(*model.named_parameters(), strict=True)
    our_gradients = torch.autograd.grad(ours, parameters, allow_unused=True)
    their_gradients = torch.autograd.grad(theirs, parameters, allow_unused=True)
    # Both losses are float32. Where a gradient cancels to nothing (a key's bias, with one patch to a frame), what is
    # left is rounding of the others.
    largest = max(float(g.abs().max()) for g in their_gradients if g is not None)
    for name, a, b in zip(names, our_gradients, their_gradients, strict=True):
        assert (a is None) == (b is None), name
        assert (a is None) == (kind == "text" and not name.startswith("language_model.")), name
        if a is not None:
            bound = 2e-4 * float(b.abs().max()) + 1e-6 * largest
            assert a.shape == b.shape and (a - b).abs().max() <= bound, name


@quick
@given(pair=twins(), kinds=st.lists(st.sampled_from(list(KINDS)), min_size=2, max_size=3), seed=seeds)
def test_the_loss_of_a_batch_weighs_every_learnt_token_alike(pair: Twins, kinds: list[str], seed: int) -> None:
    model, reference, _ = pair
    parts = [conversation(model.config, *KINDS[kind], seed + number) for number, kind in enumerate(kinds)]
    labels = [labels_for(part, model.config, seed + number) for number, part in enumerate(parts)]
    total, count = 0.0, 0
    with torch.no_grad():
        for part, wanted in zip(parts, labels, strict=True):
            wanted = wanted[kept_tokens(model, part)]
            learnt = int((wanted[1:] != IGNORED).sum())
            total += learnt * reference(**twin_inputs(model, part), labels=wanted[None]).loss.item()
            count += learnt
        ours = model(join(parts), labels=torch.cat(labels)).loss.item()
    assert abs(ours - total / count) <= 1e-5 * ours
