"""Evaluates expressions of the catalogue, and says what became of each.

    python -m tests.robustness.child FOLDER < expressions.json > outcomes.json

It is a process of its own because the tests check the type of every argument, which users do not; and because a decoder
that crashes must not take the tests along. Each outcome is written as it is known: name of the exception, whether it is
one of ours, its message. The last is that of an expression that ended the process.
"""

import json
import math
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import vl3ref
from tests.helpers import GOLDENS, ROOT
from vl3ref.chat import Chat
from vl3ref.checkpoints import convert, load_language_model, load_vision_encoder, read_change, save
from vl3ref.generation import score, stream
from vl3ref.inputs.images import load_image
from vl3ref.inputs.videos import load_video
from vl3ref.training.annotations import Annotations
from vl3ref.training.trainer import Plan

TRIED = [Annotations, Chat, Plan, convert, load_image, load_language_model, load_video, load_vision_encoder]
TRIED += [read_change, save, score, stream]

TINY = ROOT / "weights" / "vl3-tiny"
CAT, CLIP = ROOT / "docs" / "media" / "cat.jpg", GOLDENS / "frames" / "v10_3s.mp4"
HUGE, NAN, INF = 10**400, math.nan, math.inf
SECONDS = 30
"""What no expression should need."""

fresh = iter(range(10**9))


def said(*parts: Any, role: Any = "user") -> list[dict[str, Any]]:
    return [{"role": role, "content": list(parts) or "Hello"}]


def picture(image: Any = CAT, **more: Any) -> dict[str, Any]:
    return {"type": "image", "image": image, **more}


def video(source: Any = CLIP, **more: Any) -> dict[str, Any]:
    return {"type": "video", "video": source, **more}


def zeros(*shape: int, dtype: Any = np.uint8) -> np.ndarray:
    return np.zeros(shape, dtype)


def inputs(ids: Any = (1, 2, 3), lengths: Any = (3,), **more: Any) -> vl3ref.ModelInputs:
    """ModelInputs, of lists or of what is given."""
    ids, lengths = (torch.tensor(x) if isinstance(x, list | tuple) else x for x in (ids, lengths))
    return vl3ref.ModelInputs(ids, lengths, **more)


def seeing(grid: Any = ((1, 2, 2),), merge: Any = (1,), modals: Any = ("image",), patches: int = 4) -> Any:
    """ModelInputs of four visual tokens, as a grid describes them."""
    pixels = torch.zeros(patches, 588)
    return inputs(
        [829] * 4,
        [4],
        pixel_values=pixels,
        grid_sizes=torch.tensor(grid),
        merge_sizes=torch.tensor(merge),
        modals=list(modals),
    )


def file(content: bytes | str, name: str = "file") -> Path:
    path = Path(f"{next(fresh)}-{name}")
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def folder_with(**files: bytes | str | None) -> Path:
    """vl3-tiny with other files, or without those that are None. In names, _json stands for .json."""
    folder = Path(f"{next(fresh)}-folder")
    folder.mkdir()
    other = {name.replace("_json", ".json").replace("_safetensors", ".safetensors"): x for name, x in files.items()}
    for shipped in TINY.iterdir():
        if shipped.name not in other:
            (folder / shipped.name).symlink_to(shipped)
    for name, content in other.items():
        if content is not None:
            (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def changed(name: str, keys: str, value: Any) -> Path:
    """vl3-tiny with another value in one of its JSON files; `keys` has dots between the levels."""
    content = json.loads((TINY / f"{name}.json").read_text())
    *outer, last = keys.split(".")
    inner = content
    for key in outer:
        inner = inner[key]
    inner[last] = value
    return folder_with(**{f"{name}_json": json.dumps(content)})


def model_of(name: str, keys: str, value: Any) -> Any:
    return vl3ref.load_model(changed(name, keys, value), device="cpu")


def processor_of(name: str, keys: str, value: Any) -> Any:
    """A processor, and what it makes of a clip."""
    return vl3ref.load_processor(changed(name, keys, value))(said(video()))


def weights(header: Any, body: bytes = b"") -> Any:
    """The model of a folder with a safetensors file of this header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return vl3ref.load_model(folder_with(model_safetensors=len(text).to_bytes(8, "little") + text + body), device="cpu")


def annotated(*samples: Any, suffix: str = "jsonl") -> Any:
    """The conversations of an annotation file."""
    text = "\n".join(json.dumps(sample) for sample in samples) if suffix == "jsonl" else json.dumps(samples)
    found = Annotations([file(text, f"data.{suffix}")], ROOT / "docs" / "media")
    return [found.conversation(index) for index in range(len(found))]


def picture_file(size: tuple[int, int] = (40, 30), mode: str = "RGB", suffix: str = "png", keep: float = 1.0) -> Path:
    path = Path(f"{next(fresh)}-picture.{suffix}")
    Image.new(mode, size).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    return path


def part_of(path: Path, begin: float = 0.0, end: float = 1.0) -> Path:
    """A file that holds a piece of another's bytes."""
    content = path.read_bytes()
    return file(content[int(begin * len(content)) : int(end * len(content))], path.name)


def names() -> dict[str, Any]:
    model, processor = vl3ref.load(TINY, device="cpu")
    tried = {function.__name__: function for function in TRIED}
    return {**globals(), **tried, "model": model, "processor": processor, "text": processor(said())}


def outcome(expression: str, known: dict[str, Any]) -> tuple[str, bool, str]:
    signal.alarm(SECONDS)
    try:
        eval(expression, known)
    except BaseException as error:
        return type(error).__name__, isinstance(error, vl3ref.VL3Error), str(error)[:2000]
    finally:
        signal.alarm(0)
    return "", False, ""


def late(*_: Any) -> None:
    raise TimeoutError(f"{SECONDS} seconds")


def main() -> None:
    expressions = json.load(sys.stdin)
    os.chdir(sys.argv[1])
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, late)
    known = names()
    for expression in expressions:
        print(json.dumps(outcome(expression, known)), flush=True)


if __name__ == "__main__":
    main()
