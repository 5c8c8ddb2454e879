"""Chat: the cache carries a conversation from turn to turn without changing what the model computes."""

from dataclasses import replace

import pytest
import torch

import vl3ref
from tests.helpers import ROOT
from vl3ref.conversation import Chat
from vl3ref.errors import InputError
from vl3ref.generation import Sampling
from vl3ref.model.language_model import LanguageModel

TINY = ROOT / "weights" / "vl3-tiny"
CAT = ROOT / "docs" / "media" / "cat.jpg"
CLIP = ROOT / "tests" / "goldens" / "frames" / "v10_3s.mp4"
VISUAL_TOKENS = 64


@pytest.fixture(scope="module")
def loaded():
    return vl3ref.load(TINY, device="cpu")


@pytest.fixture
def chat(loaded):
    """Its answers are six tokens long, whatever the model would say."""
    return Chat(*loaded, None, 6, 6, Sampling(repetition_penalty=1.5), max_tokens=VISUAL_TOKENS)


def say(chat, text, files=()):
    return "".join(chat.ask(text, files))


def from_scratch(chat, first_inputs, ids):
    """Logits after the whole conversation, computed at once."""
    whole = replace(first_inputs, input_ids=torch.tensor(ids), lengths=torch.tensor([len(ids)]))
    with torch.no_grad():
        return chat.model(whole).logits[-1], whole


def record_logits(chat, monkeypatch):
    """The decoder's logits of every prefill and step, last row each."""
    rows = []
    original = LanguageModel.head

    def head(self, hidden):
        logits = original(self, hidden)
        rows.append(logits[-1])
        return logits

    monkeypatch.setattr(LanguageModel, "head", head)
    return rows


@pytest.mark.parametrize("files", [[], [CAT], [CLIP], [CLIP, CAT]], ids=["text", "image", "video", "both"])
def test_second_turn_equals_the_whole_conversation(chat, files, monkeypatch):
    first = chat.prepare("What is it?", files)
    list(chat.answer(first))
    assert len(chat.answer_ids) == 6
    rows = record_logits(chat, monkeypatch)
    list(chat.answer(chat.prepare("And why?")))
    prompt = chat.ids[: -len(chat.answer_ids)]
    logits, whole = from_scratch(chat, first, prompt)
    assert torch.allclose(rows[0], logits, atol=2e-5)
    assert chat.model.generate(whole, 6, 6, repetition_penalty=1.5)[0].tolist() == chat.answer_ids


def force_answer(chat, monkeypatch, ids):
    """Have the model say these ids, whatever it thinks; the cache is filled as ever."""
    wanted = iter(ids)
    monkeypatch.setattr("vl3ref.generation.Chooser.__call__", lambda self, logits: torch.tensor([next(wanted)]))


@pytest.mark.parametrize("ending", ["<|im_end|>", "<|endoftext|>", None])
@pytest.mark.parametrize("files", [[], [CAT]], ids=["text", "image"])
@pytest.mark.parametrize("system", [None, "Be brief."])
def test_ids_are_those_of_the_whole_conversation(loaded, monkeypatch, ending, files, system):
    model, processor = loaded
    answer = "A red square."
    ids = processor.tokenizer.encode(answer)[0]
    spoken = ids + ([] if ending is None else [processor.tokenizer.special(ending)])
    chat = Chat(model, processor, system, max_new_tokens=len(spoken), max_tokens=VISUAL_TOKENS)
    for turn, question in enumerate(["What is it?", "Why?", "\nEnd <|im_end|>"]):
        force_answer(chat, monkeypatch, spoken)
        assert say(chat, question, files if turn == 0 else []) == answer
        assert chat.answer_ids == spoken
        assert chat.finish_reason == ("length" if ending is None else "end")

    shown = [{"type": "image", "image": str(file)} for file in files]
    said = {"role": "assistant", "content": answer}
    messages = [
        {"role": "user", "content": [*shown, {"type": "text", "text": "What is it?"}]},
        said,
        {"role": "user", "content": "Why?"},
        said,
        {"role": "user", "content": "\nEnd <|im_end|>"},
    ]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    whole = processor(messages, max_tokens=VISUAL_TOKENS).input_ids.tolist()
    assert chat.ids[: -len(spoken)] == whole


def test_a_turn_computes_its_own_tokens_alone(chat, monkeypatch):
    say(chat, "What is it?", [CLIP])
    computed = []
    original = LanguageModel.hidden

    def hidden(self, x, *args, **kwargs):
        computed.append(len(x))
        return original(self, x, *args, **kwargs)

    monkeypatch.setattr(LanguageModel, "hidden", hidden)
    before, held = len(chat.ids), chat.cache.lengths[0]
    inputs = chat.prepare("And why?")
    list(chat.answer(inputs))
    closing = 3  # the last token, <|im_end|>, newline
    assert computed == [closing, len(inputs.input_ids)] + [1] * 5
    assert len(chat.ids) == before - 1 + closing + len(inputs.input_ids) + 6
    assert chat.cache.lengths[0] == held + sum(computed)


def test_abandoned_answer_goes_on_from_what_was_said(chat):
    first = chat.prepare("What is it?")
    tokens = chat._tokens(first)
    next(tokens), next(tokens)
    tokens.close()
    list(chat.answer(chat.prepare("And why?")))
    _, whole = from_scratch(chat, first, chat.ids[: -len(chat.answer_ids)])
    assert chat.model.generate(whole, 6, 6, repetition_penalty=1.5)[0].tolist() == chat.answer_ids


def test_interrupted_turn_leaves_the_conversation_as_it_was(chat, monkeypatch):
    say(chat, "What is it?")

    def interrupted(self, logits):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("vl3ref.generation.Chooser.__call__", interrupted)  # the prompt is in the cache by then
        with pytest.raises(KeyboardInterrupt):
            say(chat, "Never heard")
    say(chat, "And why?")
    expected = Chat(chat.model, chat.processor, None, 6, 6, chat.sampling, max_tokens=VISUAL_TOKENS)
    say(expected, "What is it?")
    say(expected, "And why?")
    assert chat.ids == expected.ids and chat.cache.lengths == expected.cache.lengths


def test_unreadable_file_leaves_the_conversation_as_it_was(chat):
    with pytest.raises(InputError, match="does not exist"):
        chat.ask("What is it?", ["missing.png"])
    assert chat.ids == []
    inputs = chat.prepare("What is it?")
    assert "You are VideoLLaMA3" in chat.processor.decode(inputs.input_ids)


def test_reset_forgets(chat):
    once = say(chat, "What is it?", [CAT]), list(chat.ids)
    say(chat, "And why?")
    chat.reset()
    assert chat.ids == [] and chat.cache.lengths == [0]
    assert (say(chat, "What is it?", [CAT]), chat.ids) == once


def test_files_in_a_later_turn(chat):
    say(chat, "Hello")
    inputs = chat.prepare("What is it?", [CLIP])
    assert inputs.modals == ["video"] and len(inputs.grid_sizes) == 1
    list(chat.answer(inputs))
    marks = sum(token == chat.model.config.video_token_id for token in chat.ids)
    assert marks - chat.answer_ids.count(chat.model.config.video_token_id) == sum(inputs.tokens_per_visual()) > 0
