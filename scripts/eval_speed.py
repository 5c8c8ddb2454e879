"""How many questions a minute are answered about one clip of 30 seconds, together and one at a time.

python scripts/eval_speed.py [MODEL] [REPEATS]        default: vl3-tiny, 3; one core, its own time

Fills the table of docs/evaluation.md. Both ways run in turn in one process, on the same items: four options each, of
which the likelihoods are computed too, as `vl3ref eval` does. The clock is the process's own, so that what else the
machine does hardly matters.
"""

import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path
from statistics import median
from typing import Any

import av
import numpy as np
import torch
from report_tiny import ROOT, fill

import vl3ref
from vl3ref.evaluation.asking import ask, prepare
from vl3ref.evaluation.benchmark import Item
from vl3ref.evaluation.choices import choice_prompt

SECONDS, RATE, SIZE = 30, 5, (224, 168)
QUESTIONS = (1, 3, 8)
NEW_TOKENS = 16
OPTIONS = ("It moves to the left.", "It moves to the right.", "It turns.", "It stays.")


def main(name: str, repeats: int) -> None:
    torch.set_num_threads(1)
    model, processor = vl3ref.load(name, "cpu")
    with tempfile.TemporaryDirectory() as folder:
        clip = film(Path(folder) / "clip.mp4")
        lines = ["| questions | alone, a minute | together, a minute | times as fast |", "|---:|---:|---:|---:|"]
        for count in QUESTIONS:
            items = [question(clip, number) for number in range(count)]
            took: dict[str, list[float]] = {"alone": [], "together": []}
            for _ in range(repeats):
                started = time.process_time()
                alone = [reply for item in items for reply in asked(model, processor, [item])]
                took["alone"].append(time.process_time() - started)
                started = time.process_time()
                together = asked(model, processor, items)
                took["together"].append(time.process_time() - started)
                if [reply.text for reply in alone] != [reply.text for reply in together]:
                    raise SystemExit("answers differ")
            rates = [60 * count / median(times) for times in took.values()]
            ratio = median(a / b for a, b in zip(took["alone"], took["together"], strict=True))
            lines.append(f"| {count} | {rates[0]:.0f} | {rates[1]:.0f} | {ratio:.1f} |")
            print(lines[-1], flush=True)
    fill(ROOT / "docs" / "evaluation.md", "speed", "\n".join(lines) + "\n")


def asked(model: Any, processor: Any, items: list[Item]) -> list[Any]:
    return ask(model, processor, prepare(model, processor, items), NEW_TOKENS)


def question(clip: Path, number: int) -> Item:
    text = choice_prompt(f"What does the square do in second {number}?", OPTIONS)
    content = [{"type": "video", "video": str(clip)}, {"type": "text", "text": text}]
    return Item(str(number), str(clip), content, "A", OPTIONS)


def film(path: Path) -> Path:
    """A square that moves over a striped ground that moves as well, so that no token is dropped."""
    width, height = SIZE
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=RATE)
        stream.width, stream.height, stream.pix_fmt, stream.time_base = *SIZE, "yuv420p", Fraction(1, RATE)
        for number in range(SECONDS * RATE):
            stripes = (np.add.outer(np.arange(height), np.arange(width)) // 8 + number) % 2
            frame = np.repeat((60 + 80 * stripes).astype(np.uint8)[:, :, None], 3, axis=2)
            left = 2 * number % (width - 40)
            frame[60:100, left : left + 40] = (200, 40, 40)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame))))
        container.mux(stream.encode())
    return path


if __name__ == "__main__":
    arguments = sys.argv[1:]
    main(arguments[0] if arguments else "vl3-tiny", int(arguments[1]) if len(arguments) > 1 else 3)
