"""Labels: the targets of training are the official ones."""

import json

import numpy as np
import pytest
import torch

from tests.helpers import GOLDENS
from tests.media import IMAGE_ID, noise, qwen_processor, qwen_tokenizer
from vl3ref.inputs.processor import encode_pieces
from vl3ref.inputs.template import SYSTEM_PROMPT, render
from vl3ref.model_inputs import IGNORE_INDEX

ROWS = json.loads((GOLDENS / "labels.json").read_text())


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["name"])
def test_ids_and_labels_equal_the_official_ones(row: dict) -> None:
    frames = [
        (IMAGE_ID, rows * columns // merge**2)
        for (t, rows, columns), merge in zip(row["grid_sizes"], row["merge_sizes"], strict=True)
        for _ in range(t)
    ]
    pieces = render(row["conversation"], row["add_system_prompt"], add_generation_prompt=False)
    ids, labels = encode_pieces(pieces, qwen_tokenizer(), frames)
    assert ids == row["input_ids"]
    assert labels == row["labels"]


def test_there_are_five_rows() -> None:
    assert len(ROWS) == 5


def targets(conversation: list[dict], **options: bool) -> list[str]:
    """The stretches that are targets, as text with special tokens."""
    inputs = qwen_processor()(conversation, add_generation_prompt=False, return_labels=True, **options)
    ids, labels = inputs.input_ids.tolist(), inputs.labels.tolist()
    assert all(label in (IGNORE_INDEX, token) for token, label in zip(ids, labels, strict=True))
    stretches: list[list[int]] = []
    for before, label in zip([IGNORE_INDEX, *labels], labels, strict=False):
        if label != IGNORE_INDEX:
            if before == IGNORE_INDEX:
                stretches.append([])
            stretches[-1].append(label)
    return [qwen_tokenizer().decode(stretch, skip_special_tokens=False) for stretch in stretches]


def frame(time: float) -> dict:
    return {"role": "stream", "content": [{"type": "image", "image": noise(56, 56, 3), "timestamp": time}]}


def test_after_a_streamed_frame_the_token_that_opens_what_follows_is_a_target() -> None:
    conversation = [
        {"role": "user", "content": "Tell me when."},
        frame(0),
        frame(1),
        {"role": "assistant", "content": "Now."},
        frame(2),
        frame(3),
        {"role": "user", "content": "Stop."},
        {"role": "assistant", "content": "Yes."},
    ]
    assert targets(conversation) == [
        "<|stream_start|>",  # frame 0 -> go on
        "<|im_start|>",  # frame 1 -> speak
        "Now.<|im_end|>",
        "<|stream_start|>",  # frame 2 -> go on; the user's turn after frame 3 is not for the model to open
        "Yes.<|im_end|>",
    ]


def test_the_first_streamed_frame_is_not_the_models_to_open() -> None:
    assert targets([frame(0)]) == []


@pytest.mark.parametrize("system", [True, False])
def test_system_and_user_words_are_never_targets(system: bool) -> None:
    conversation = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": ["Hello", {"type": "text", "text": " there"}]},
    ]
    assert targets(conversation, add_system_prompt=system) == ["Hello there<|im_end|>"]
    assert targets(conversation[1:], add_system_prompt=system) == ["Hello there<|im_end|>"]


def test_the_default_system_prompt_stands_once_in_front() -> None:
    conversation = [{"role": role, "content": "x"} for role in ("user", "assistant") * 2]
    inputs = qwen_processor()(conversation, return_labels=True)
    text = qwen_tokenizer().decode(inputs.input_ids.tolist())
    assert text.count(SYSTEM_PROMPT) == 1
    assert targets(conversation) == ["x<|im_end|>"] * 2


def test_the_opening_of_the_next_turn_is_no_target() -> None:
    inputs = qwen_processor()([{"role": "user", "content": "Hi"}], return_labels=True)
    assert (inputs.labels == IGNORE_INDEX).all()


def test_visual_tokens_are_never_targets_whoever_shows_them() -> None:
    image = {"type": "image", "image": noise(56, 56, 3)}
    inputs = qwen_processor()([{"role": "assistant", "content": [image, "A picture."]}], return_labels=True)
    assert (inputs.labels[inputs.input_ids == IMAGE_ID] == IGNORE_INDEX).all()
    assert targets([{"role": "assistant", "content": [image, "A picture."]}])[-1].endswith("A picture.<|im_end|>")


def test_labels_are_packed_like_ids_and_only_made_when_asked_for() -> None:
    conversations = [[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": text}] for text in "abc"]
    processor = qwen_processor()
    packed = processor(conversations, add_generation_prompt=False, return_labels=True)
    alone = [processor(c, add_generation_prompt=False, return_labels=True).labels for c in conversations]
    assert torch.equal(packed.labels, torch.cat(alone))
    assert np.array_equal(packed.lengths, [len(labels) for labels in alone])
    assert processor(conversations).labels is None
