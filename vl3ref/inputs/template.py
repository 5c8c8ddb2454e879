"""Conversations -> the prompt, exactly as the official chat template renders it.

    <|im_start|>user                          roles: system, user, assistant, stream
    Time 0.0s:<image>,Time 1.0s:<image>       a video: one <image> per frame
    What is the cat doing?<|im_end|>
    <|im_start|>assistant
    It sleeps.<|im_end|>

The template is Python, not Jinja, and yields typed pieces instead of one string. Special tokens are pieces of their
own, so that text may hold anything and stays text.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from numbers import Integral
from typing import Any, Literal, TypeAlias

from vl3ref.errors import InputError, quoted

SYSTEM_PROMPT = (
    "You are VideoLLaMA3 created by Alibaba DAMO Academy, "
    "a helpful assistant to help people understand images and videos."
)
ROLES = ("system", "user", "assistant", "stream")

VIDEO_OPTIONS = ("fps", "max_frames", "start_time", "end_time")
KEYS = {
    "message": ("role", "content"),
    "text": ("type", "text"),
    "image": ("type", "image", "path", "timestamp", "num_frames"),
    "video": ("type", "video", "path", "timestamps", "num_frames", *VIDEO_OPTIONS),
    "the image of": ("image_path",),
    "the video of": ("video_path", *VIDEO_OPTIONS),
}
"""What a message, each kind of part, and the official form of an image or a video may hold."""

MOST_CHARACTERS = 4_000_000
"""In one conversation: some million tokens, which take seconds to encode. The released models read 32,768."""

Message: TypeAlias = Mapping[str, Any]
"""{"role": ..., "content": text, or a list of text, {"type": "text", "text": ...}, images and videos}."""


@dataclass(frozen=True)
class Piece:
    """A part of the prompt.

    Attributes:
        kind: "text"; "special", one special token; or "frame", the place of one frame's visual tokens.
        text: the text, or the special token's name.
        is_target: whether the model is trained to write it.
    """

    kind: Literal["text", "special", "frame"]
    text: str
    is_target: bool = False


FRAME = Piece("frame", "<image>")


def render(
    messages: Sequence[Message], add_system_prompt: bool = True, add_generation_prompt: bool = True
) -> Iterator[Piece]:
    """The pieces of one conversation's prompt, in order.

    Targets are the assistant's words and the token that ends its turn. After a streamed frame, the token that opens the
    next frame (there is nothing to say yet) or the assistant's turn is a target too.

    Args:
        messages: an image may have a "timestamp"; a video needs "num_frames" or "timestamps" (the processor adds them).
        add_system_prompt: start with the default system prompt, unless the conversation starts with its own.
        add_generation_prompt: end with the opening of the assistant's turn.

    Raises:
        InputError: a message, or a part of one, is malformed; the error names it.
    """
    check_messages(messages)
    if add_system_prompt and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": SYSTEM_PROMPT}, *messages]
    after_frame = False
    for message in messages:
        role = message["role"]
        if role == "stream":
            yield Piece("special", "<|stream_start|>", is_target=after_frame)
            yield Piece("text", "stream\n")
            yield from _content(message["content"], is_target=False)
            yield Piece("special", "<|stream_end|>")
        else:
            spoken = role == "assistant"
            yield Piece("special", "<|im_start|>", is_target=spoken and after_frame)
            yield Piece("text", f"{role}\n")
            yield from _content(message["content"], is_target=spoken)
            yield Piece("special", "<|im_end|>", is_target=spoken)
            yield Piece("text", "\n")
        after_frame = role == "stream"
    if add_generation_prompt:
        yield Piece("special", "<|im_start|>")
        yield Piece("text", "assistant\n")


def _content(content: Any, is_target: bool) -> Iterator[Piece]:
    for part in parts(content):
        if part["type"] == "text":
            yield Piece("text", part["text"], is_target)
        elif part["type"] == "image":
            if part.get("timestamp") is not None:
                yield Piece("text", f"Time {_seconds(part['timestamp'])}s: ")
            yield FRAME
            yield Piece("text", "\n")
        else:
            yield from _video(part)


def _video(part: Message) -> Iterator[Piece]:
    times = part.get("timestamps")
    count = part.get("num_frames") if times is None else len(times)
    if not isinstance(count, Integral) or count < 1:
        raise InputError(
            "a video in a prompt needs timestamps, or num_frames of at least 1; the processor fills them in"
        )
    for index in range(int(count)):
        if index:
            yield Piece("text", ",")
        if times is not None:
            yield Piece("text", f"Time {_seconds(times[index])}s:")
        yield FRAME
    yield Piece("text", "\n")


def _seconds(time: Any) -> float:
    return round(float(time), 1)


def prompt_text(pieces: Iterable[Piece]) -> str:
    """The prompt as one string for people to read, with one <image> per frame.

    Text in it can look like a special token without being one.
    """
    return "".join(piece.text for piece in pieces)


def parts(content: Any) -> list[Any]:
    """A message's content as a list of parts; plain strings become {"type": "text", "text": ...}."""
    listed = [content] if isinstance(content, str) else content
    return [{"type": "text", "text": part} if isinstance(part, str) else part for part in listed]


def is_visual(part: Message) -> bool:
    """Whether a part of a message is an image or a video."""
    return part.get("type") in ("image", "video")


def check_messages(messages: Any) -> None:
    """Refuse what is not a conversation.

    Raises:
        InputError: says which message is malformed, and how.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise InputError("a conversation should be a list of at least one message")
    for index, message in enumerate(messages):
        where = f"message {index}"
        if not isinstance(message, Mapping) or "role" not in message or "content" not in message:
            raise InputError(f"{where} should be a dict with role and content")
        if not isinstance(message["role"], str) or message["role"] not in ROLES:
            raise InputError(f"{where} has role {quoted(message['role'])}; there are {', '.join(ROLES)}")
        check_keys(message, "message", where)
        if not isinstance(message["content"], str | Sequence):
            raise InputError(f"{where}: content should be text or a list of parts")
        for part in parts(message["content"]):
            _check_part(part, where)
    characters = sum(len(part.get("text", "")) for message in messages for part in parts(message["content"]))
    if characters > MOST_CHARACTERS:
        raise InputError(f"the conversation has {characters:,} characters; shorten it to {MOST_CHARACTERS:,} at most")


def check_keys(given: Mapping[Any, Any], kind: str, where: str) -> None:
    """
    Raises:
        InputError: `given` has a key that nobody reads; names the nearest that somebody does.
    """
    for key in given:
        if key not in KEYS[kind]:
            near = get_close_matches(str(key)[:80], KEYS[kind], n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(KEYS[kind])}"
            raise InputError(f"{where} has the unknown key {quoted(key)}; {hint}")


def _check_part(part: Any, where: str) -> None:
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    if not isinstance(kind, str) or kind not in ("text", "image", "video"):
        raise InputError(f"{where} has a part of type {quoted(kind)}; there are text, image and video")
    check_keys(part, kind, f"{where}: a part of type {kind}")
    if kind != "text":
        if isinstance(part.get(kind), Mapping):
            check_keys(part[kind], f"the {kind} of", f"{where}: the {kind} of a part")
        _check_times(part, where)
        return
    text = part.get("text")
    if not isinstance(text, str):
        raise InputError(f"{where} has a text part without text")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:  # half of a surrogate pair, as file names and broken JSON can hold
        raise InputError(
            f"{where} has text that is not Unicode ({text[error.start]!r} at character {error.start}); remove it"
        ) from None


def _check_times(part: Message, where: str) -> None:
    time, times = part.get("timestamp"), part.get("timestamps")
    try:
        given = [0 if time is None else time, *(() if times is None else times)]
        valid = all(not isinstance(t, str) and math.isfinite(float(t)) for t in given)
        valid = valid and (times is None or hasattr(times, "__len__"))  # a generator can be read once
    except (TypeError, ValueError, OverflowError):
        valid = False
    if not valid:
        raise InputError(f"{where}: the timestamps of an image or video should be seconds, one per frame")
