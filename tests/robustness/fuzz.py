"""Mutations: what is given is changed at random, and whatever happens must be one of our exceptions, or nothing.

    python -m tests.robustness.fuzz [--seconds 3600] [--seed 0] [--targets mp4,png,...]         (make fuzz)

Cases run in another process, so that a decoder that crashes ends no more than that, and the next case begins a new one.
A finding is printed with the options that make the case again.
"""

import argparse
import io
import json
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TINY = ROOT / "weights" / "vl3-tiny"
MEDIA = ROOT / "docs" / "media"
CLIPS = ROOT / "tests" / "goldens" / "frames"
SECONDS = 20
"""What no case should need; some files make a decoder work for a while."""

LONGEST = 2500
"""Characters of a message; some list tensors."""

VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1.5,
    10**30,
    float("nan"),
    float("inf"),
    "",
    "x",
    "\ud800",
    "\x00",
    [],
    {},
]
VALUES += ["../../etc/passwd", "x" * 5000, [[]], [None], {"": None}, -(2**63), 2**64, "<image>", "<|im_end|>"]

# ---------------------------------------------------------------------------------------------------------- mutations


def mutate_bytes(content: bytes, chance: random.Random) -> bytes:
    """A few of: bits turned, bytes set, numbers written over, pieces removed, doubled, moved or cleared, an end cut."""
    data = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        if not data:
            return b""
        place, length = chance.randrange(len(data)), chance.choice((1, 2, 4, 8, 64, 512))
        kind = chance.randrange(8)
        if kind == 0:
            data[place] ^= 1 << chance.randrange(8)
        elif kind == 1:
            data[place] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
        elif kind == 2:
            number = chance.choice((0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF))
            data[place : place + 4] = struct.pack(chance.choice("<>") + "I", number)
        elif kind == 3:
            del data[place : place + length]
        elif kind == 4:
            data[place:place] = data[place : place + length]
        elif kind == 5:
            data[place : place + length] = bytes(min(length, len(data) - place))
        elif kind == 6:
            other = chance.randrange(len(data))
            data[place : place + length] = data[other : other + length]
        else:
            del data[max(place, len(data) // 8) :]
    return bytes(data)


def mutate_value(value: Any, chance: random.Random, depth: int = 0) -> Any:
    """One place of a JSON value is another value, is gone, is there twice, or has another name."""
    inside = isinstance(value, dict | list) and value and chance.random() < 0.85
    if not inside or depth > 8:
        return chance.choice(VALUES)
    if isinstance(value, list):
        changed = list(value)
        place = chance.randrange(len(changed))
        kind = chance.randrange(4)
        if kind == 0:
            del changed[place]
        elif kind == 1:
            changed.insert(place, changed[place])
        else:
            changed[place] = mutate_value(changed[place], chance, depth + 1)
        return changed
    key = chance.choice([*value])
    kind = chance.randrange(5)
    if kind == 0:
        return {name: x for name, x in value.items() if name != key}
    if kind == 1:
        return {(name + chance.choice("x_ ") if name == key else name): x for name, x in value.items()}
    return value | {key: mutate_value(value[key], chance, depth + 1)}


# ------------------------------------------------------------------------------------------------------------ targets


def gif() -> bytes:
    from PIL import Image

    file = io.BytesIO()
    frames = [Image.new("RGB", (32, 24), (60 * number, 90, 0)) for number in range(4)]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=200)
    return file.getvalue()


def media(name: str, content: bytes, load: str) -> Callable[[random.Random, Path], None]:
    """A file with other bytes, given to a loader."""

    def attempt(chance: random.Random, folder: Path) -> None:
        from vl3ref.inputs.images import load_image
        from vl3ref.inputs.videos import load_video

        file = folder / name
        file.write_bytes(mutate_bytes(content, chance))
        load_image(file) if load == "image" else load_video(file, fps=2, max_frames=8)

    return attempt


def checkpoint(name: str, as_bytes: bool) -> Callable[[random.Random, Path], None]:
    """A checkpoint with another file; what still loads is asked something."""

    def attempt(chance: random.Random, folder: Path) -> None:
        import vl3ref

        content = (TINY / name).read_bytes()
        if name.endswith(".safetensors"):
            size = int.from_bytes(content[:8], "little") + 8
            header = mutate_bytes(content[:size], chance)
            if not as_bytes:
                text = json.dumps(mutate_value(json.loads(content[8:size]), chance)).encode()
                header = len(text).to_bytes(8, "little") + text
            content = header + content[size:]
        elif as_bytes:
            content = mutate_bytes(content, chance)
        else:
            content = json.dumps(mutate_value(json.loads(content), chance)).encode()
        changed = folder / "checkpoint"
        changed.mkdir(exist_ok=True)
        for file in TINY.iterdir():
            (changed / file.name).unlink(missing_ok=True)
            (changed / file.name).symlink_to(file)
        (changed / name).unlink()
        (changed / name).write_bytes(content)
        model, processor = vl3ref.load(changed, device="cpu")
        inputs = processor([{"role": "user", "content": "Hello"}])
        processor.decode(model.generate(inputs, max_new_tokens=1)[0])

    return attempt


def messages() -> Callable[[random.Random, Path], None]:
    """A conversation with another value somewhere; what is taken is answered."""
    import vl3ref

    model, processor = vl3ref.load(TINY, device="cpu")
    cat, clip = str(MEDIA / "tinyworld" / "chart.png"), str(CLIPS / "v10_3s.mp4")
    talk = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "image", "image": cat}, {"type": "text", "text": "What is it?"}]},
        {"role": "assistant", "content": "A chart."},
        {"role": "user", "content": [{"type": "video", "video": clip, "fps": 1, "max_frames": 3, "start_time": 0.0}]},
    ]

    def attempt(chance: random.Random, folder: Path) -> None:
        given = mutate_value(talk, chance)
        options = mutate_value({"max_tokens": 64, "fps": 1.0, "max_frames": 4}, chance)
        options = options if isinstance(options, dict) and all(isinstance(key, str) for key in options) else {}
        inputs = processor(given, **({"max_tokens": 64} if chance.random() < 0.7 else options))
        processor.decode(model.generate(inputs, max_new_tokens=1)[0])

    return attempt


def annotations() -> Callable[[random.Random, Path], None]:
    """An annotation file with another value or other bytes somewhere, of which every sample is read."""
    from vl3ref.training.annotations import Annotations

    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A chart."}]
    samples = [
        {"image": ["tinyworld/chart.png"], "conversations": turns},
        {
            "video": ["tinyworld/moves.mp4"],
            "fps": 1,
            "conversations": [{**turns[0], "value": "<video>What?"}, turns[1]],
        },
        {"conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hello"}]},
    ]

    def attempt(chance: random.Random, folder: Path) -> None:
        file = folder / chance.choice(("data.json", "data.jsonl"))
        given = mutate_value(samples, chance)
        lines = given if isinstance(given, list) else [given]
        text = json.dumps(given) if file.suffix == ".json" else "\n".join(json.dumps(line) for line in lines)
        content = text.encode()
        file.write_bytes(mutate_bytes(content, chance) if chance.random() < 0.3 else content)
        data = Annotations([file], MEDIA)
        for index in range(len(data)):
            data.conversation(index)

    return attempt


def targets() -> dict[str, Callable[[], Callable[[random.Random, Path], None]]]:
    """Name -> what makes the function that tries one case."""
    tiny = MEDIA / "tinyworld"
    found: dict[str, Any] = {
        "png": lambda: media("chart.png", (tiny / "chart.png").read_bytes(), "image"),
        "jpg": lambda: media("cat.jpg", (MEDIA / "cat.jpg").read_bytes(), "image"),
        "mp4": lambda: media("v10_3s.mp4", (CLIPS / "v10_3s.mp4").read_bytes(), "video"),
        "mkv": lambda: media("v12_offset.mkv", (CLIPS / "v12_offset.mkv").read_bytes(), "video"),
        "gif": lambda: media("a.gif", gif(), "video"),
        "safetensors": lambda: checkpoint("model.safetensors", False),
        "safetensors bytes": lambda: checkpoint("model.safetensors", True),
        "messages": messages,
        "annotations": annotations,
    }
    for file in sorted(TINY.glob("*.json")):
        found[file.name] = lambda name=file.name: checkpoint(name, False)
        found[f"{file.name} bytes"] = lambda name=file.name: checkpoint(name, True)
    return found


# ------------------------------------------------------------------------------------------------------------ running


def late(*_: Any) -> None:
    raise TimeoutError(f"more than {SECONDS} seconds")


def child(names: list[str], seed: int, first: int, count: int) -> None:
    """Try cases, of each target in turn; print a line's beginning before each and its end after it."""
    import torch

    import vl3ref

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, late)
    make = targets()
    attempts = {name: make[name]() for name in names}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(first, first + count):
            name = names[number % len(names)]
            print(f"{number}\t{name}\t", end="", flush=True)
            signal.alarm(SECONDS)
            try:
                attempts[name](random.Random(f"{name} {seed} {number}"), Path(folder))
                said = "taken"
            except vl3ref.VL3Error as error:
                long = len(str(error)) > LONGEST
                said = f"FOUND a message of {len(str(error))} characters: {str(error)[:200]!r}" if long else "refused"
            except BaseException as error:
                said = f"FOUND {type(error).__name__}: {str(error)[:300]!r}"
            signal.alarm(0)
            print(said, flush=True)


def run(names: list[str], seed: int, first: int, count: int) -> tuple[Counter[str], list[str]]:
    """How many cases of each target were taken and refused, and the findings, of which an ended process is one."""
    counts, findings, end = Counter[str](), [], first + count
    while first < end:
        given = [",".join(names), str(seed), str(first), str(end - first)]
        done = subprocess.run(
            [sys.executable, "-m", "tests.robustness.fuzz", "--child", *given],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
            timeout=120 + SECONDS * (end - first),
        )
        lines = done.stdout.splitlines()
        if not lines:
            raise RuntimeError(f"it does not begin: {done.stderr[-2000:]}")
        for line in lines:
            number, name, said = line.split("\t")
            said = said or f"FOUND the process ended with {done.returncode}: {done.stderr[-300:]}"
            counts[f"{name} {said.partition(' ')[0]}"] += 1
            if said.startswith("FOUND"):
                findings.append(f"--targets {name!r} --seed {seed} --first {number} --count 1: {said}")
        first = int(lines[-1].split("\t")[0]) + 1
    return counts, findings


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        names, *numbers = sys.argv[2:]
        child(names.split(","), *(int(number) for number in numbers))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="The number of the first case.")
    parser.add_argument("--count", type=int, help="So many cases, whatever the time.")
    parser.add_argument("--targets", default=",".join(targets()))
    arguments = parser.parse_args()
    names, until, first = arguments.targets.split(","), time.monotonic() + arguments.seconds, arguments.first
    total, found = Counter[str](), 0
    while True:
        counts, findings = run(names, arguments.seed, first, arguments.count or 1000)
        total, found, first = total + counts, found + len(findings), first + 1000
        for finding in findings:
            print(finding, flush=True)
        if arguments.count or time.monotonic() > until:
            break
    for name, count in sorted(total.items()):
        print(f"{count:7,} {name}")
    print(f"{total.total():,} cases, {found} findings")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
