"""Chat: the cache carries a conversation from turn to turn without changing what the model computes."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import vl3ref
from tests.helpers import ROOT
from vl3ref.chat import Chat, until
from vl3ref.errors import InputError
from vl3ref.model.diff_fp import keep_all
from vl3ref.model.language_model import LanguageModel

CAT = ROOT / "docs" / "media" / "cat.jpg"
CLIP = ROOT / "tests" / "goldens" / "frames" / "v10_3s.mp4"
SIX = {"max_new_tokens": 6, "min_new_tokens": 6, "repetition_penalty": 1.5}
"""Answers are six tokens long, whatever the model would say."""


@pytest.fixture(scope="module")
def loaded():
    return vl3ref.load("vl3-tiny", device="cpu")


@pytest.fixture
def chat(loaded):
    return vl3ref.Chat(*loaded, **SIX)


def say(chat, text, files=()):
    return "".join(chat.ask(text, files, max_tokens=64))


def from_scratch(chat, first_inputs, ids):
    """Logits after the whole conversation, computed at once, and its greedy continuation."""
    whole = replace(first_inputs, input_ids=torch.tensor(ids), lengths=torch.tensor([len(ids)]))
    with torch.no_grad():
        return chat.model(whole, logits_to_keep=1).logits[0], chat.model.generate(whole, **SIX)[0].tolist()


@pytest.mark.parametrize("files", [[], [CLIP, CAT]], ids=["text", "both"])
def test_second_turn_equals_the_whole_conversation(chat, files, monkeypatch):
    first = chat.prepare("What is it?", files, max_tokens=64)
    list(chat.answer(first))
    assert len(chat.answer_ids) == 6
    rows = []
    original = LanguageModel.head

    def head(self, hidden):
        rows.append(original(self, hidden))
        return rows[-1]

    with monkeypatch.context() as patch:
        patch.setattr(LanguageModel, "head", head)
        list(chat.answer(chat.prepare("And why?")))
    logits, ids = from_scratch(chat, first, chat.ids[: -len(chat.answer_ids)])
    assert torch.allclose(rows[0][-1], logits, atol=2e-5)
    assert ids == chat.answer_ids


def force_answer(monkeypatch, ids):
    """The model says these ids. The cache is filled as always."""
    wanted = iter(ids)
    monkeypatch.setattr("vl3ref.sampling.Sampler.__call__", lambda self, logits: torch.tensor([next(wanted)]))


@pytest.mark.parametrize(
    ("ending", "files", "system"),
    [("<|im_end|>", [], None), ("<|endoftext|>", [CAT], "Be brief."), (None, [], "Be brief."), (None, [CAT], None)],
)
def test_ids_are_those_of_the_whole_conversation(loaded, monkeypatch, ending, files, system):
    model, processor = loaded
    answer = "A red square."
    ids = processor.tokenizer.encode(answer)[0]
    spoken = ids + ([] if ending is None else [processor.tokenizer.special(ending)])
    chat = vl3ref.Chat(model, processor, system, max_new_tokens=len(spoken))
    for turn, question in enumerate(["What is it?", "Why?", "\nEnd <|im_end|>"]):
        force_answer(monkeypatch, spoken)
        assert say(chat, question, files if turn == 0 else []) == answer
        assert chat.answer_ids == spoken
        assert chat.finish_reason == ("length" if ending is None else "end")

    said = {"role": "assistant", "content": answer}
    messages = [
        {"role": "user", "content": [*({"type": "image", "image": str(file)} for file in files), "What is it?"]},
        said,
        {"role": "user", "content": "Why?"},
        said,
        {"role": "user", "content": "\nEnd <|im_end|>"},
    ]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    whole = processor(messages, max_tokens=64).input_ids.tolist()
    assert chat.ids[: -len(spoken)] == whole


def test_an_end_of_ones_own_stays_in_the_conversation(loaded, monkeypatch):
    model, processor = loaded
    answer = processor.tokenizer.encode("Yes.")[0]
    chat = vl3ref.Chat(model, processor, end_token_ids=answer[-1:])
    force_answer(monkeypatch, answer)
    assert say(chat, "Is it?") == "Yes." and chat.finish_reason == "end" and chat.answer_ids == answer
    force_answer(monkeypatch, answer)
    say(chat, "Really?")
    assert "Yes.<|im_end|>" in processor.decode(chat.ids, skip_special_tokens=False)


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


def test_options_of_generation_reach_it(loaded):
    kept = {}
    for pruner in (None, keep_all):
        chat = vl3ref.Chat(*loaded, pruner=pruner, **SIX)
        inputs = chat.prepare("What is it?", [CLIP])
        list(chat.answer(inputs))
        kept[pruner] = chat.cache.lengths[0] - 5
    assert kept[None] < kept[keep_all] == len(inputs.input_ids)
    assert list(vl3ref.Chat(*loaded).options) == ["max_new_tokens"]
    with pytest.raises(InputError, match="max_new_tokens should be"):
        say(vl3ref.Chat(*loaded, max_new_tokens=0), "Hello")


def test_abandoned_answer_continues_from_what_was_said(chat):
    first = chat.prepare("What is it?")
    tokens = chat._alone(chat._tokens(first), chat._turn)
    next(tokens), next(tokens)
    tokens.close()
    list(chat.answer(chat.prepare("And why?")))
    _, ids = from_scratch(chat, first, chat.ids[: -len(chat.answer_ids)])
    assert ids == chat.answer_ids


def every_other(inputs, kept):
    """Positions 0, 2, 4, ... in each conversation: the next one is not the next slot of the cache."""
    return torch.cat([2 * torch.arange(int(part.sum())) for part in kept.split(inputs.lengths.tolist())])


@pytest.mark.parametrize("positions", [None, every_other])
def test_interrupted_turn_leaves_the_conversation_as_it_was(loaded, monkeypatch, positions):
    def interrupted(self, logits):
        raise KeyboardInterrupt

    monkeypatch.setattr(loaded[0], "positions", positions)
    chat, expected = vl3ref.Chat(*loaded, **SIX), vl3ref.Chat(*loaded, **SIX)
    for one in (chat, expected):
        say(one, "What is it?")
    with monkeypatch.context() as patch:
        patch.setattr("vl3ref.sampling.Sampler.__call__", interrupted)  # the prompt is in the cache by then
        with pytest.raises(KeyboardInterrupt):
            say(chat, "Never heard")
    for one in (chat, expected):
        say(one, "And why?")
    assert chat.ids == expected.ids
    assert chat.cache.lengths == expected.cache.lengths and chat.cache.offsets == expected.cache.offsets
    assert (chat.cache.offsets == [0]) == (positions is None)


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


# ------------------------------------------------------------------------------------------------------------- threads


def test_threads_with_a_chat_each_get_the_answers_of_one(loaded):
    def talk(seed):
        chat = vl3ref.Chat(*loaded, **SIX, temperature=1.0, seed=seed)
        return [say(chat, "What is it?", [CAT]), say(chat, "And why?"), chat.ids]

    alone = [talk(seed) for seed in range(3)]
    with ThreadPoolExecutor(3) as threads:
        assert list(threads.map(talk, [0, 1, 2] * 2)) == alone * 2


def test_one_chat_does_not_answer_two_threads(chat, monkeypatch):
    """While one computes, another is refused, and the first gets its answer as if nothing had been asked."""
    expected = vl3ref.Chat(chat.model, chat.processor, **SIX)
    inside, leave = threading.Event(), threading.Event()
    original = LanguageModel.head

    def head(self, hidden):
        inside.set()
        assert leave.wait(60)
        return original(self, hidden)

    with monkeypatch.context() as patch, ThreadPoolExecutor(1) as threads:
        patch.setattr(LanguageModel, "head", head)
        answer = threads.submit(say, chat, "What is it?")
        assert inside.wait(60)
        try:
            with pytest.raises(InputError, match="answering already, in another thread"):
                say(chat, "What else?")
        finally:
            leave.set()
        assert answer.result(60) == say(expected, "What is it?")
    assert chat.ids == expected.ids
    assert say(chat, "And why?") == say(expected, "And why?")


@pytest.mark.parametrize("begun", [0, 1])
def test_an_answer_is_not_read_on_after_another_turn(chat, begun):
    expected = vl3ref.Chat(chat.model, chat.processor, **SIX)
    older = chat._alone(chat._tokens(chat.prepare("What is it?")), chat._turn)
    [next(older) for _ in range(begun)]
    if begun:
        chat_ids = list(chat.ids)
    newer = say(chat, "What else?")
    with pytest.raises(InputError, match="another turn of this chat has begun"):
        next(older)
    if not begun:
        assert newer == say(expected, "What else?") and chat.ids == expected.ids
    else:
        assert chat.ids[: len(chat_ids)] == chat_ids
    say(chat, "And why?")


def test_an_abandoned_answer_locks_nothing(chat):
    for _ in range(3):
        answer = chat.ask("What is it?")
        next(answer)
    del answer
    assert say(chat, "And why?") and len(chat.answer_ids) == 6


@given(
    text=st.text("abc", max_size=20),
    cuts=st.lists(st.integers(0, 20), max_size=6),
    stop=st.lists(st.text("abc", min_size=1, max_size=4), max_size=3),
)
def test_text_ends_before_a_stop_string_however_it_comes(text: str, cuts: list[int], stop: list[str]) -> None:
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[start:end] for start, end in pairwise(edges)]
    shown = "".join(until(pieces, stop))
    places = [text.find(string) for string in stop if string in text]
    # Pieces that came before the one that completes a stop string were shown whole, so an earlier one ends the text.
    assert text.startswith(shown) and not any(string in shown for string in stop)
    assert len(shown) >= min(places) if places else shown == text


def test_a_chat_stops_before_a_stop_string_and_knows_how_likely_its_words_were(loaded) -> None:
    model, processor = loaded
    plain = Chat(model, processor)
    whole = "".join(plain.ask("What shape is red?"))
    assert len(plain.answer_log_probs) == len(plain.answer_ids) and all(x <= 0 for x in plain.answer_log_probs)
    chat = Chat(model, processor, stop=[whole[-2:]])
    assert "".join(chat.ask("What shape is red?")) == whole[: whole.find(whole[-2:])]
    assert len(list(chat.ask("What shape is red?"))) < 20  # the conversation goes on
