"""What lmms-eval's requests hold -> what vl3ref takes: conversations, and options of generation."""

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from vl3ref.errors import InputError
from vl3ref.inputs.images import IMAGE_SUFFIXES

OPTIONS = {"until", "max_new_tokens", "max_gen_toks", "do_sample", "temperature", "top_p", "top_k", "num_beams"}
OPTIONS |= {"repetition_penalty", "length_penalty"}
"""Generation options of a task that are used. Some tasks give others, for other models."""

TIMES = {"start_time": ("start_time", "video_start"), "end_time": ("end_time", "video_end")}
"""The two names that tasks have for either end of a video's cut, in seconds."""


def as_conversation(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages whose parts name their picture or file by "url", and the processor's, which name it by its kind."""
    return [{"role": message["role"], "content": _content(message["content"])} for message in messages]


def as_part(visual: Any) -> dict[str, Any]:
    """A visual of a task without messages, as a part of one: a picture, a path, or a dict."""
    if isinstance(visual, Mapping):
        return {"type": visual.get("type", "video"), "url": visual}
    is_path = isinstance(visual, str | Path)
    is_image = isinstance(visual, Image.Image) or (is_path and str(visual).lower().endswith((*IMAGE_SUFFIXES, ".gif")))
    return {"type": "image" if is_image else "video", "url": visual}


def _content(content: Any) -> Any:
    return content if isinstance(content, str) else [_part(part) for part in content]


def _part(part: Any) -> Any:
    """lmms-eval goes by a file's ending alone: .webm is sound to it, and every GIF a picture."""
    if isinstance(part, str) or part["type"] == "text":
        return part
    url, given = part.get("url", part.get(part["type"])), dict(part)
    if isinstance(url, Mapping):
        given |= {key: value for key, value in url.items() if value is not None}
        url = next((url[key] for key in ("url", "path", "video", "image") if url.get(key) is not None), None)
    if part["type"] == "image" and not _moves(url):
        return {"type": "image", "image": url}
    times = {end: given[name] for end, names in TIMES.items() for name in names if given.get(name) is not None}
    return {"type": "video", "video": url, **times}


def _moves(url: Any) -> bool:
    if not isinstance(url, str | Path) or not str(url).lower().endswith(".gif") or not os.path.isfile(url):
        return False
    try:
        with Image.open(url) as image:
            return bool(getattr(image, "is_animated", False))
    except Exception:  # the processor says what is wrong with it
        return False


def stop_strings(options: Mapping[str, Any]) -> list[str]:
    """A task's `until`: what ends an answer without being part of it."""
    until = options.get("until") or ()
    return [text for text in ([until] if isinstance(until, str) else until) if text]


def generation_options(options: Mapping[str, Any], defaults: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """A task's options under vl3ref's names: of `beam_search` if there are "beams" among them, else of `generate`.

    Args:
        options: transformers', by which a temperature of 0 is greedy, and so is do_sample=False.
        defaults: max_new_tokens and repetition_penalty where the task gives none.
        seed: for sampling.

    Raises:
        InputError: beams are to be sampled.
    """
    given = {**defaults, **{name: value for name, value in options.items() if value is not None}}
    if others := sorted(given.keys() - OPTIONS):
        warnings.warn(f"generation options that vl3ref does not have are left out: {', '.join(others)}", stacklevel=2)
    temperature = given.get("temperature", 1.0 if given.get("do_sample") else 0.0)
    sampled = temperature > 0 and given.get("do_sample", True)
    most = options.get("max_new_tokens") or given.get("max_gen_toks") or given["max_new_tokens"]
    how: dict[str, Any] = {"max_new_tokens": int(most)}
    if (beams := given.get("num_beams", 1)) > 1:
        if sampled:
            raise InputError("beam search does not sample: give num_beams=1, or temperature=0")
        return {**how, "beams": beams, "length_penalty": given.get("length_penalty", 1.0)}
    if sampled:
        how |= {"temperature": temperature, "top_p": given.get("top_p"), "top_k": given.get("top_k") or None}
        how["seed"] = seed
    return {**how, "repetition_penalty": given["repetition_penalty"], "stop": stop_strings(options)}
