"""Every kind of files makes one tokenizer, no text becomes a special token, and streams never break a character."""

import json
import unicodedata
from functools import lru_cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import processors

import vl3ref
from tests.helpers import GOLDENS
from tests.media import qwen_tokenizer
from vl3ref.errors import CheckpointError
from vl3ref.inputs.tokenizer import GrowingText, Tokenizer

FOLDER = GOLDENS / "tokenizer"
ADDED = json.loads((FOLDER / "added_tokens.json").read_text())
ORDINARY = {"<tool_call>", "</tool_call>", "<|repo_name|>", "<|file_sep|>"} | {t for t in ADDED if "fim" in t}
SPECIAL = set(ADDED) - ORDINARY

characters = st.characters(exclude_categories=["Cs"])
texts = st.one_of(
    st.text(characters, max_size=40),
    st.text(st.sampled_from(" \t\r\n'sS9.é́e한🎬👩‍👧\u200d\ufffd<|>_"), max_size=30),
    st.lists(st.one_of(st.sampled_from(sorted(SPECIAL)), st.text(characters, max_size=5)), max_size=8).map("".join),
)


# ---------------------------------------------------------------------------------------------------------------- files


MERGES = 2000
FEWER_ADDED = {token: 256 + MERGES + place for place, token in enumerate(sorted(ADDED, key=ADDED.get))}
"""Qwen's tokenizer with its first merges alone: the same files, read a hundred times faster."""


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    """The same tokenizer as each kind of checkpoint folder ships it."""
    made = {name: tmp_path_factory.mktemp(name) for name in ("merges", "config", "vocab", "json")}
    lines = (FOLDER / "merges.txt").read_text(encoding="utf-8").split("\n")
    merges = [line for line in lines if line and not line.startswith("#version")][:MERGES]
    for name in ("merges", "config", "vocab"):
        (made[name] / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    for name in ("merges", "vocab"):
        (made[name] / "added_tokens.json").write_text(json.dumps(FEWER_ADDED))
    decoder = {str(index): {"content": token, "special": token in SPECIAL} for token, index in FEWER_ADDED.items()}
    (made["config"] / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder}))
    backend = Tokenizer.from_folder(made["merges"]).backend
    vocab = backend.get_vocab(with_added_tokens=False)
    (made["vocab"] / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    backend.save(str(made["json"] / "tokenizer.json"))
    return {name: Tokenizer.from_folder(folder) for name, folder in made.items()}


def test_every_kind_of_files_gives_the_whole_vocabulary(tokenizers: dict[str, Tokenizer]) -> None:
    vocab = tokenizers["json"].backend.get_vocab()
    assert len(vocab) == len(tokenizers["json"]) == 256 + MERGES + len(ADDED)
    for tokenizer in tokenizers.values():
        assert tokenizer.backend.get_vocab() == vocab
    assert {token: vocab[token] for token in ADDED} == FEWER_ADDED


def test_qwens_vocabulary_is_whole() -> None:
    vocab = qwen_tokenizer().backend.get_vocab()
    assert len(vocab) == len(qwen_tokenizer()) == 151668
    assert {token: vocab[token] for token in ADDED} == ADDED


@given(text=texts)
@settings(max_examples=80)
def test_every_kind_of_files_gives_the_same_ids(tokenizers: dict[str, Tokenizer], text: str) -> None:
    expected = tokenizers["json"].encode(text)
    for tokenizer in tokenizers.values():
        assert tokenizer.encode(text) == expected
        assert tokenizer.decode(expected[0]) == tokenizers["json"].decode(expected[0])


def test_ids_are_those_of_qwen() -> None:
    ids, starts = qwen_tokenizer().encode("What is the color of bananas?")
    assert ids == [3838, 374, 279, 1894, 315, 67342, 30]
    assert starts == [0, 4, 7, 11, 17, 20, 28]


def test_a_folder_without_a_tokenizer_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no tokenizer\.json"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer.json": "{}"},
        {"tokenizer.json": "not json"},
        {"merges.txt": "a b c\n"},
        {"merges.txt": "a b\n", "vocab.json": "[1, 2]"},
        {"merges.txt": "a b\n", "vocab.json": '{"a": 0}'},
        {"merges.txt": "a b\n", "added_tokens.json": '{"<image>": 5000}'},
    ],
)
def test_damaged_files_are_an_error_that_names_the_folder_or_the_token(files: dict[str, str], tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(CheckpointError, match=rf"{tmp_path}|<image>"):
        Tokenizer.from_folder(tmp_path)


def test_a_missing_special_token_is_an_error_that_names_it() -> None:
    with pytest.raises(CheckpointError, match=r"<\|nonsense\|>"):
        qwen_tokenizer().special("<|nonsense|>")


# ------------------------------------------------------------------------------------------------------ special tokens


@given(texts)
@settings(max_examples=150)
def test_text_never_becomes_a_special_token_and_decodes_to_itself(text: str) -> None:
    tokenizer = qwen_tokenizer()
    ids, starts = tokenizer.encode(text)
    assert not {ADDED[token] for token in SPECIAL} & set(ids)
    assert tokenizer.decode(ids) == unicodedata.normalize("NFC", text)
    assert starts == sorted(starts)
    assert all(0 <= start < len(text) for start in starts)


@pytest.mark.parametrize("token", sorted(SPECIAL))
def test_a_special_tokens_name_is_text_in_text(token: str) -> None:
    tokenizer = qwen_tokenizer()
    assert ADDED[token] not in tokenizer.encode(f"a {token} b {token}")[0]
    assert tokenizer.special(token) == ADDED[token]
    assert tokenizer.decode([ADDED[token]]) == ""
    assert tokenizer.decode([ADDED[token]], skip_special_tokens=False) == token


@pytest.mark.parametrize("token", sorted(ORDINARY))
def test_tokens_that_qwen_does_not_call_special_survive_decoding(token: str) -> None:
    assert qwen_tokenizer().decode([ADDED[token]]) == token


def test_prompt_tokens_are_special_also_where_tokenizer_json_forgot_to_say_so(tmp_path: Path) -> None:
    published = tiny_tokenizer()
    content = json.loads(published.backend.to_str())
    for token in content["added_tokens"]:
        token["special"] = False
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    tokenizer = Tokenizer.from_folder(tmp_path)
    ids, _ = tokenizer.encode("<image><|im_end|><|im_start|>system")
    assert ids == published.encode("<image><|im_end|><|im_start|>system")[0]
    assert tokenizer.special("<image>") not in ids
    assert tokenizer.decode([tokenizer.special("<image>")]) == ""


@lru_cache
def tiny_tokenizer() -> Tokenizer:
    return Tokenizer.from_folder(vl3ref.find_checkpoint("vl3-tiny"))


@lru_cache
def trimming() -> Tokenizer:
    """From a tokenizer.json that leaves the space out of a word's offsets, as GPT-2's do."""
    backend = Backend.from_str(tiny_tokenizer().backend.to_str())
    backend.post_processor = processors.ByteLevel(trim_offsets=True)
    return Tokenizer(backend)


@given(texts)
@settings(max_examples=40)
def test_where_tokens_begin_does_not_depend_on_the_files_post_processor(text: str) -> None:
    assert trimming().encode(text) == tiny_tokenizer().encode(text)


# -------------------------------------------------------------------------------------------------------------- streams


def streamed(ids: list[int]) -> list[str]:
    text = GrowingText(qwen_tokenizer())
    return [*(text.add(token) for token in ids), text.rest()]


def check_stream(ids: list[int]) -> None:
    tokenizer = qwen_tokenizer()
    assert "".join(streamed(ids)) == tokenizer.decode(ids)


@given(texts, st.data())
@settings(max_examples=150)
def test_streamed_pieces_join_to_the_text_also_when_cut_within_a_character(text: str, data: st.DataObject) -> None:
    ids, _ = qwen_tokenizer().encode(text)
    check_stream(ids[: data.draw(st.integers(0, len(ids)))])


@given(st.lists(st.one_of(st.integers(0, 255), st.integers(0, 151667)), max_size=20))
@settings(max_examples=150)
def test_streamed_pieces_join_to_the_text_of_any_ids(ids: list[int]) -> None:
    check_stream(ids)


@given(texts.filter(lambda text: "\ufffd" not in text))
@settings(max_examples=80)
def test_no_streamed_piece_shows_half_a_character(text: str) -> None:
    assert not any("\ufffd" in piece for piece in streamed(qwen_tokenizer().encode(text)[0]))


def test_a_character_of_several_tokens_comes_when_it_is_complete() -> None:
    ids, _ = qwen_tokenizer().encode("𓀀")
    assert len(ids) > 1
    assert streamed(ids) == [""] * (len(ids) - 1) + ["𓀀", ""]
