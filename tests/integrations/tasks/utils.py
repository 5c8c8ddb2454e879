"""Functions of the tasks beside it, found by name. A document is a line of the file that a task names."""

from typing import Any

from PIL import Image


def text(doc: dict[str, Any], lmms_eval_specific_kwargs: Any = None) -> str:
    return str(doc["question"])


def visuals(doc: dict[str, Any], lmms_eval_specific_kwargs: Any = None) -> list[Any]:
    """Pictures as PIL images; clips as paths, or as dicts where only a part is to be seen."""
    pictures = [Image.open(path) for path in doc.get("images") or []]
    cuts = doc.get("cuts") or [None] * len(doc.get("videos") or [])
    clips = [
        path if cut is None else {"type": "video", "path": path, "video_start": cut[0], "video_end": cut[1]}
        for path, cut in zip(doc.get("videos") or [], cuts, strict=True)
    ]
    return [*pictures, *clips]


def messages(doc: dict[str, Any], lmms_eval_specific_kwargs: Any = None) -> list[dict[str, Any]]:
    """Pictures and clips between words, and a system prompt."""
    [first, *others] = doc["images"]
    parts: list[dict[str, Any]] = [{"type": "text", "text": "First: "}, {"type": "image", "url": first}]
    parts += [{"type": "text", "text": "Then: "}, *({"type": "image", "url": path} for path in others)]
    parts += [
        {"type": "video", "url": path, "start_time": cut[0], "end_time": cut[1]}
        for path, cut in zip(doc["videos"], doc["cuts"], strict=True)
    ]
    system = {"role": "system", "content": [{"type": "text", "text": "Answer in one word."}]}
    return [system, {"role": "user", "content": [*parts, {"type": "text", "text": doc["question"]}]}]


def rounds(
    doc: dict[str, Any],
    lmms_eval_specific_kwargs: Any = None,
    previous_output: Any = None,
    round_idx: int | None = None,
    previous_round_info: Any = None,
) -> Any:
    """A question, and then one about each other picture that quotes the answer before."""
    if round_idx is None:
        return doc["question"]
    if round_idx == len(doc["images"]):
        return None, None, True, previous_output, None
    question = f"Before: {previous_output[-1]}\n{doc['question']}"
    return [Image.open(doc["images"][round_idx])], question, False, previous_output, None


def first_visual(doc: dict[str, Any], lmms_eval_specific_kwargs: Any = None) -> list[Any]:
    return visuals(doc)[:1]


def said(doc: dict[str, Any], results: list[Any]) -> dict[str, float]:
    """How many rounds were answered."""
    return {"rounds": float(len(results[0]))}
