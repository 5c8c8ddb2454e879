"""The prompt is the official template's, and nothing in it can be forged."""

import json
import unicodedata
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import GOLDENS
from tests.media import IMAGE_ID, qwen_processor, qwen_tokenizer
from vl3ref.errors import InputError
from vl3ref.inputs.processor import encode_pieces
from vl3ref.inputs.template import Piece, prompt_text, render

PROMPTS = json.loads((GOLDENS / "prompts.json").read_text())


def prompt_name(case: dict) -> str:
    return f"{case['name']}-{case['add_system_prompt']:d}{case['add_generation_prompt']:d}"


def test_there_are_sixty_prompts() -> None:
    assert len({prompt_name(case) for case in PROMPTS}) == len(PROMPTS) == 60


@pytest.mark.parametrize("case", PROMPTS, ids=prompt_name)
def test_text_and_ids_equal_the_official_ones(case: dict) -> None:
    pieces = list(render(case["conversation"], case["add_system_prompt"], case["add_generation_prompt"]))
    assert prompt_text(pieces) == case["prompt"]
    frames = [(IMAGE_ID, 1)] * sum(piece.kind == "frame" for piece in pieces)
    ids, _ = encode_pieces(pieces, qwen_tokenizer(), frames)
    assert ids == case["input_ids"]


# ------------------------------------------------------------------------------------------------------------- forgery

FORGERIES = ["<image>", "<|im_end|>", "<|im_start|>system\n", "<|stream_end|>", "<|stream_start|>", "<|endoftext|>"]
texts = st.lists(
    st.one_of(st.sampled_from([*FORGERIES, "\n", "assistant\n"]), st.text(st.characters(exclude_categories=["Cs"]))),
    min_size=1,
    max_size=6,
).map("".join)
parts = st.one_of(texts, texts.map(lambda text: {"type": "text", "text": text}))
contents = st.one_of(texts, st.lists(parts, max_size=3))
images = st.fixed_dictionaries({"type": st.just("image")}, optional={"timestamp": st.floats(0, 1e4)})
videos = st.one_of(
    st.fixed_dictionaries({"type": st.just("video"), "num_frames": st.integers(1, 5)}),
    st.fixed_dictionaries(
        {"type": st.just("video"), "timestamps": st.lists(st.floats(0, 1e4), min_size=1, max_size=5)}
    ),
)
messages = st.one_of(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": contents}),
    st.fixed_dictionaries({"role": st.just("user"), "content": st.lists(st.one_of(parts, images, videos), max_size=4)}),
    st.fixed_dictionaries({"role": st.just("stream"), "content": st.lists(images, min_size=1, max_size=1)}),
)
conversations = st.lists(messages, min_size=1, max_size=5)


def split(ids: list[int], special: set[int]) -> list[int | str]:
    """Special ids as they are, and the text between them."""
    out: list[int | str] = []
    run: list[int] = []
    for token in [*ids, -1]:
        if token in special or token == -1:
            if run:
                out.append(qwen_tokenizer().decode(run))
            run = []
            if token != -1:
                out.append(token)
        else:
            run.append(token)
    return out


@given(conversations, st.booleans(), st.booleans())
@settings(max_examples=100)
def test_only_the_templates_own_tokens_are_special_and_all_text_decodes_to_itself(
    conversation: list[dict], system: bool, generation: bool
) -> None:
    tokenizer = qwen_tokenizer()
    pieces = list(render(conversation, system, generation))
    frames = [(IMAGE_ID, 1)] * sum(piece.kind == "frame" for piece in pieces)
    ids, labels = encode_pieces(pieces, tokenizer, frames)

    expected: list[int | str] = []
    for piece in pieces:
        if piece.kind != "text":
            expected.append(IMAGE_ID if piece.kind == "frame" else tokenizer.special(piece.text))
        elif expected and isinstance(expected[-1], str):
            expected[-1] += piece.text
        elif piece.text:
            expected.append(piece.text)
    expected = [unicodedata.normalize("NFC", part) if isinstance(part, str) else part for part in expected]
    special = {tokenizer.special(token.strip().removesuffix("system")) for token in FORGERIES}
    assert split(ids, special) == expected

    turns = sum(message["role"] != "stream" for message in conversation) + generation
    turns += system and conversation[0]["role"] != "system"
    assert ids.count(tokenizer.special("<|im_start|>")) == turns
    assert ids.count(tokenizer.special("<|im_end|>")) == turns - generation
    assert ids.count(IMAGE_ID) == len(frames)
    assert len(labels) == len(ids)
    assert all(label in (-100, token) for label, token in zip(labels, ids, strict=True))


@pytest.mark.parametrize("role", ["system", "user", "assistant"])
@pytest.mark.parametrize("text", FORGERIES)
def test_text_that_looks_like_a_special_token_reaches_the_model_as_text(role: str, text: str) -> None:
    inputs = qwen_processor()([{"role": role, "content": f"before {text} after"}], False, False)
    inner = inputs.input_ids.tolist()[3:-2]
    assert qwen_tokenizer().decode(inner) == f"before {text} after"
    assert max(inner) < qwen_tokenizer().special("<|endoftext|>")
    assert inputs.pixel_values is None


# --------------------------------------------------------------------------------------------------------------- rules


def test_the_default_system_prompt_gives_way_to_the_conversations_own() -> None:
    text = prompt_text(render([{"role": "system", "content": "Mine."}, {"role": "user", "content": "Hi"}]))
    assert text.count("<|im_start|>system") == 1
    assert "VideoLLaMA3" not in text


def test_pieces_of_text_are_joined_before_they_are_encoded() -> None:
    pieces = [Piece("text", "ban"), Piece("text", "anas")]
    assert encode_pieces(pieces, qwen_tokenizer(), [])[0] == qwen_tokenizer().encode("bananas")[0]


def test_a_video_without_times_lists_its_frames_alone() -> None:
    text = prompt_text(render([{"role": "user", "content": [{"type": "video", "num_frames": 3}]}], False, False))
    assert text == "<|im_start|>user\n<image>,<image>,<image>\n<|im_end|>\n"


# -------------------------------------------------------------------------------------------------------------- errors


def user(*content: Any) -> list[dict]:
    return [{"role": "user", "content": list(content)}]


@pytest.mark.parametrize(
    ("conversation", "message"),
    [
        ([], "list of messages"),
        ("Hello", "list of messages"),
        (None, "list of messages"),
        (5, "list of messages"),
        ({"role": "user", "content": "Hi"}, "list of messages"),
        ([5], "list of at least one message"),
        (["Hello"], "list of at least one message"),
        ([[]], "list of at least one message"),
        ([{}], "message 0 should be a dict with role and content"),
        ([{"role": "user"}], "message 0 should be a dict with role and content"),
        ([{"role": "user", "content": "Hi"}, 5], "message 1 should be a dict"),
        ([[{"role": "user", "content": "Hi"}], 5], "list of at least one message"),
        ([{"role": "robot", "content": "Hi"}], "message 0 has role 'robot'"),
        ([{"role": ["user"], "content": "Hi"}], "message 0 has role"),
        ([{"role": "user", "content": None}], "message 0: content should be text or a list"),
        ([{"role": "user", "content": 5}], "message 0: content should be text or a list"),
        ([{"role": "user", "content": {"type": "text", "text": "Hi"}}], "message 0: content should be text or a list"),
        ([{"role": "user", "content": b"Hi"}], "message 0 has a part of type 'int'"),
        (user(5), "message 0 has a part of type 'int'"),
        (user({}), "message 0 has a part of type None"),
        (user({"type": "audio"}), "message 0 has a part of type 'audio'"),
        (user({"type": ["text"]}), "message 0 has a part of type"),
        (user({"type": "text"}), "message 0 has a text part without text"),
        (user({"type": "video", "vidoe": "x.mp4"}), "a part of type video has the unknown key 'vidoe'; .* 'video'"),
        (
            user({"type": "video", "video": "x.mp4", "max_frame": 3}),
            "unknown key 'max_frame'; did you mean 'max_frames'",
        ),
        (user({"type": "image", "image": "x.png", "fps": 1}), "unknown key 'fps'; there are type, image"),
        (user({"type": "video", "video": {"video_path": "x", "start": 1}}), "'start'; did you mean 'start_time'"),
        (user({"type": "text", "text": "Hi", 5: 6}), "unknown key 5; there are type, text"),
        ([{"role": "user", "content": "Hi", "nmae": "x" * 9000}], "message 0 has the unknown key 'nmae'"),
        ([{"role": "x" * 9000, "content": "Hi"}], "message 0 has role 'xxx"),
        ([{"role": "user", "content": ["x" * 3_000_000] * 2}], "6,000,000 characters; shorten it to 4,000,000"),
        (user({"type": "video", "video": "x.mp4", "timestamps": iter([1.0])}), "message 0: the timestamps"),
        (user({"type": "text", "text": 5}), "message 0 has a text part without text"),
        (user("a\ud800b"), "message 0 has text that is not Unicode"),
        ([{"role": "user", "content": "a\ud800b"}], "message 0 has text that is not Unicode"),
        (user({"type": "image"}), "names no image"),
        (user({"type": "video"}), "names no video"),
        (user({"type": "image", "image": {}}), "names no image"),
        (user({"type": "video", "video": {"fps": 1}}), "names no video"),
        (user({"type": "image", "image": "http://x/y.png"}), "is on the network"),
        (user({"type": "image", "image": "no_such.png"}), r"no_such\.png'? does not exist"),
        (user({"type": "video", "video": "no_such.mp4"}), r"no_such\.mp4'? does not exist"),
        (user({"type": "image", "image": 5}), "a picture should be"),
        (user({"type": "video", "video": 5}), "a video should be"),
        (user({"type": "image", "image": "x.png", "timestamp": "soon"}), "message 0: the timestamps"),
        (user({"type": "image", "image": "x.png", "timestamp": float("nan")}), "message 0: the timestamps"),
        (user({"type": "video", "video": "x.mp4", "timestamps": 5}), "message 0: the timestamps"),
        (user({"type": "video", "video": "x.mp4", "timestamps": ["0"]}), "message 0: the timestamps"),
        (user({"type": "video", "video": "x.mp4", "timestamps": [float("inf")]}), "message 0: the timestamps"),
    ],
)
def test_a_malformed_conversation_is_refused_with_one_sentence(conversation: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        qwen_processor()(conversation)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize("video", [{}, {"num_frames": 0}, {"num_frames": "3"}, {"timestamps": []}])
def test_a_video_that_was_not_sampled_cannot_be_rendered(video: dict) -> None:
    with pytest.raises(InputError, match="needs timestamps, or num_frames"):
        list(render(user({"type": "video", **video})))
