"""Samples in the official trainer's format -> conversations that the processor takes with `return_labels=True`.

{"image": "cat.jpg", "conversations": [{"from": "human", "value": "<image>\\nWhat is it?"},
                                       {"from": "gpt", "value": "A cat."}]}
{"video": "a.mp4", "stream": true, "start_time": 0, "end_time": 60,
 "conversation": [{"role": "user", "content": "Tell me when it barks.", "time": 0},
                  {"role": "assistant", "content": "Now.", "time": 12.5}]}
"""

import difflib
import math
import os
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vl3ref.errors import InputError, quoted
from vl3ref.inputs.videos import SLACK, open_video

KEYS = ("image", "video", "conversations", "conversation", "stream", "fps", "start_time", "end_time", "timestamps")
"""Keys of a sample that mean something."""

HARMLESS = (
    *("id", "question_id", "data_id", "image_id", "video_id", "source", "data_source", "dataset", "dataset_name"),
    *("split", "task", "task_type", "type", "category", "language", "model", "license", "url", "meta", "metadata"),
    *("meta_data", "width", "height", "duration", "answer", "caption", "tags", "text_only", "options"),
)
"""Keys that published data sets have beside them. They are for people; others may begin with an underscore."""

ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
STREAM_MAX_FRAMES = 400
MOST_FPS, MOST_SECONDS = 1000, 1e9
TAG = re.compile("(<image>|<video>)")


class AnnotationError(InputError):
    """A sample, or a file of samples, that training cannot use."""


def to_conversation(sample: Mapping[str, Any], root: str | Path | None = None) -> list[dict[str, Any]]:
    """One sample -> the messages of one conversation.

    The rules are the official trainer's, but for system turns, which it trains on: here they stay system messages.

    - In the user's turns `<image>` stands for the next of the sample's "image", `<video>` for the next of its "video":
      a path, a list of paths, or the data itself (arrays, PIL images). Media without a tag go in front of the first.
    - User text is stripped around tags. The assistant's turns are kept to the letter; those before the user's first
      are dropped.
    - "fps", "start_time", "end_time" apply to video files, "timestamps" (a list of seconds for each video; for a single
      one the list alone will do) to videos given as data.
    - `"stream": true`: see `_streaming`.

    Args:
        sample: an entry of an annotation file.
        root: the folder of relative paths; None leaves them as they are.

    Raises:
        AnnotationError: a key is missing, unknown or of another type, a file is missing, there are more tags than
            media, or the assistant says nothing.
        InputError: the video of a streaming sample cannot be read.
    """
    _check_keys(sample)
    if sample.get("stream"):
        return _streaming(sample, root)
    turns = _turns(sample, "conversations", "from", "value")
    roles = [turn.role for turn in turns]
    if "user" not in roles:
        raise AnnotationError("there is no turn from human; a conversation begins with one")
    first = roles.index("user")
    turns = [turn for index, turn in enumerate(turns) if index >= first or turn.role == "system"]
    _check_words(turns)

    media = _media(sample, root)
    asked = "\n".join(turn.text for turn in turns if turn.role == "user")
    front = "".join(tag * _untagged(tag, len(parts), asked) for tag, parts in media.items())
    waiting = {tag: iter(parts) for tag, parts in media.items()}
    messages = [turn.message() for turn in turns]
    for message in messages:
        if message["role"] == "user":
            chunks = [chunk.strip() for chunk in TAG.split(front + message["content"])]
            message["content"] = [
                next(waiting[x]) if x in waiting else {"type": "text", "text": x} for x in chunks if x
            ]
            front = ""
    return messages


def _check_keys(sample: Mapping[str, Any]) -> None:
    """Refuse what would be passed over: a misspelt picture trains as a sample without one."""
    if not isinstance(sample, Mapping):
        raise AnnotationError(f"a sample should be an object, not {short(sample)}")
    streams = sample.get("stream") is True
    meant = [key for key in KEYS if key != ("conversations" if streams else "conversation")]
    for key in sample:
        if key in meant or key in HARMLESS or (isinstance(key, str) and key.startswith("_")):
            continue
        near = difflib.get_close_matches(str(key).lower()[:60], meant, 1)
        raise AnnotationError(
            f"a {'streaming ' if streams else ''}sample has no key {quoted(key, 60)}; "
            + (f"is {near[0]!r} meant?" if near else f"there are {', '.join(meant)}")
        )
    if type(sample.get("stream", False)) not in (bool, type(None)):
        raise AnnotationError(f'"stream" should be true or false, not {short(sample["stream"])}')
    for key in ("start_time", "end_time"):
        if sample.get(key) is not None:
            _seconds(sample[key], key)
    fps = sample.get("fps")
    if fps is not None and not (_is_number(fps) and 0 < fps <= MOST_FPS):
        raise AnnotationError(f"fps should be a number above 0 and at most {MOST_FPS}, not {short(fps)}")


def _streaming(sample: Mapping[str, Any], root: str | Path | None) -> list[dict[str, Any]]:
    """A video seen frame by frame, and what is said meanwhile.

    Frames are taken at "fps" (1) from "start_time" to "end_time", thinned evenly to at most 400, and printed with their
    seconds since the start. A turn, timed on the video's clock, comes after all frames up to its time and after the
    turns above it; those outside the cut are dropped. What the user asks at the very start, and system turns (which
    need no time), go in front.
    """
    turns = _turns(sample, "conversation", "role", "content")
    _check_words(turns)
    videos = _listed(sample.get("video"), "video")
    if len(videos) != 1:
        raise AnnotationError(f'a streaming sample should have one file under "video", not {len(videos)}')
    start, end = (None if sample.get(x) is None else _seconds(sample[x], x) for x in ("start_time", "end_time"))
    fps = 1 if sample.get("fps") is None else sample["fps"]
    video = open_video(_found(videos[0], root), fps, STREAM_MAX_FRAMES, start, end)

    messages = [turn.message() for turn in turns if turn.role == "system"]
    first, last = -math.inf if start is None else start - SLACK, math.inf if end is None else end + SLACK
    spoken = [turn for turn in turns if turn.role != "system" and first <= turn.time <= last]
    begin = float(video.timestamps[0]) if start is None else start
    at_once = [turn.role == "user" and turn.time <= begin + SLACK for turn in spoken]
    times = np.maximum.accumulate([-math.inf if now else turn.time for now, turn in zip(at_once, spoken, strict=True)])
    said = 0
    for time, frame in zip(video.timestamps, video.frames(), strict=True):
        before = int(np.searchsorted(times, time - SLACK))
        messages += [turn.message() for turn in spoken[said:before]]
        said = before
        since = max(float(time) - (start or 0.0), 0.0)  # a cut below a second may begin with an earlier frame
        messages.append({"role": "stream", "content": [{"type": "image", "image": frame, "timestamp": since}]})
    messages += [turn.message() for turn in spoken[said:]]
    roles = [message["role"] for message in messages]
    if "assistant" not in roles and ("stream", "stream") not in pairwise(roles):  # going on to the next frame counts
        raise AnnotationError("from start_time to end_time there is nothing to train on; widen the cut")
    return messages


class Turn(NamedTuple):
    """One turn of a sample: its role (user, assistant, system), and in streaming samples its time in seconds."""

    role: str
    text: str
    time: float

    def message(self) -> dict[str, Any]:
        return {"role": self.role, "content": self.text}


def _turns(sample: Mapping[str, Any], key: str, role_key: str, text_key: str) -> list[Turn]:
    entries = sample.get(key)
    if not isinstance(entries, list | tuple) or not entries:
        raise AnnotationError(f'"{key}" should be a list of at least one turn, not {short(entries)}')
    turns = []
    for index, entry in enumerate(entries):
        where = f"turn {index} of {key}"
        if not isinstance(entry, Mapping) or role_key not in entry or text_key not in entry:
            raise AnnotationError(f'{where} should be an object with "{role_key}" and "{text_key}"')
        speaker, text = entry[role_key], entry[text_key]
        if not isinstance(speaker, str) or speaker not in ROLES:
            raise AnnotationError(f"{where} is from {short(speaker)}; there are {', '.join(ROLES)}")
        if not isinstance(text, str):
            raise AnnotationError(f'{where}: "{text_key}" should be text, not {short(text)}')
        untimed = key == "conversations" or ROLES[speaker] == "system"
        time = 0.0 if untimed else _seconds(entry.get("time"), f"the time of {where}")
        turns.append(Turn(ROLES[speaker], text, time))
    return turns


def _check_words(turns: Sequence[Turn]) -> None:
    if not any(turn.role == "assistant" and turn.text.strip() for turn in turns):
        raise AnnotationError("the assistant says nothing to train on; give it a turn with words")


def _media(sample: Mapping[str, Any], root: str | Path | None) -> dict[str, list[dict[str, Any]]]:
    """The parts that either tag stands for, in order."""
    images = [{"type": "image", "image": _found(x, root)} for x in _listed(sample.get("image"), "image")]
    sources = _listed(sample.get("video"), "video")
    options = {key: sample[key] for key in ("fps", "start_time", "end_time") if sample.get(key) is not None}
    videos = []
    for source, times in zip(sources, _timestamps(sample.get("timestamps"), len(sources)), strict=True):
        part = {"type": "video", "video": _found(source, root), "timestamps": times}
        part |= options if isinstance(source, str | Path) else {}
        videos.append({key: value for key, value in part.items() if value is not None})
    return {"<image>": images, "<video>": videos}


def _timestamps(times: Any, videos: int) -> Sequence[Any]:
    """The seconds of each video's frames, or None; a single video's may stand without a list around them."""
    if times is None:
        return [None] * videos
    if not hasattr(times, "__len__") or isinstance(times, Mapping | str):
        raise AnnotationError(f'"timestamps" should be a list of seconds, not {short(times)}')
    nested = len(times) == videos and not isinstance(times[0] if videos else None, Real)
    if not nested and videos != 1:
        raise AnnotationError(f'"timestamps" should hold a list of seconds for each of the {videos} videos')
    return times if nested else [times]


def _listed(value: Any, kind: str) -> list[Any]:
    """One or several -> a list. A list of pictures under "video" is one video, as it is for the processor."""
    if not isinstance(value, list | tuple):
        return [] if value is None else [value]
    pictures = [x for x in value if not isinstance(x, str | Path | Sequence) and getattr(x, "ndim", 3) == 3]
    return [list(value)] if kind == "video" and value and len(pictures) == len(value) else list(value)


def _found(source: Any, root: str | Path | None) -> Any:
    """A file that exists, or data as it is."""
    if not isinstance(source, str | Path):
        return source
    path = os.path.join("" if root is None else root, source)
    if not str(source) or not os.path.exists(path):  # Path.exists raises on names that are too long
        raise AnnotationError(f"{path} does not exist" if str(source) else "the path of an image or video is empty")
    return path


def _untagged(tag: str, count: int, asked: str) -> int:
    """How many images or videos have no tag."""
    tags = asked.count(tag)
    if tags > count:
        raise AnnotationError(f"the user's text has {tags} {tag} but the sample lists {count}; give one for each")
    return count - tags


def _seconds(value: Any, what: str) -> float:
    if not _is_number(value) or not abs(value) <= MOST_SECONDS:
        raise AnnotationError(f"{what} should be a number of seconds, not {short(value)}")
    return float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def short(value: Any) -> str:
    return quoted(value, 60)
