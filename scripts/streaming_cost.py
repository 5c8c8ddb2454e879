"""Watch an hour of synthetic video, and write what a frame costs: docs/results/streaming.md and .png.

python scripts/streaming_cost.py [SECONDS]        default: 3600, one frame a second
"""

import resource
import sys
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import numpy as np
import torch
from matplotlib import pyplot

import vl3ref
from vl3ref.forgetting import read_rule

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
MOST_TOKENS = 4096
PARTS = 12
"""Rows of the table: an hour has one for every five minutes."""


def picture(second: int) -> np.ndarray:
    """A square on a plain ground, somewhere else every second; every ten seconds the ground changes."""
    frame = np.full((84, 112, 3), 40 + 20 * (second // 10 % 9), dtype=np.uint8)
    x, y = 28 * (second % 4), 28 * (second // 4 % 3)
    frame[y : y + 28, x : x + 28] = (200, 60, 60)
    return frame


def watch(rule: str, seconds: int) -> dict[str, np.ndarray]:
    """Per frame: milliseconds of the processor, tokens held, the cache's MB, the process's largest MB so far."""
    model, processor = vl3ref.load("vl3-tiny", "cpu")
    stream = vl3ref.Stream(model, processor, most_tokens=MOST_TOKENS, forget=read_rule(rule), allow_long=True)
    rows = []
    for second in range(seconds):
        frame = picture(second)
        start = time.process_time()
        stream.see(frame, second)
        took = time.process_time() - start
        cached = 2 * len(stream.cache.keys) * stream.cache.keys[0].nbytes / 1e6
        largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        rows.append((1e3 * took, stream.cache.lengths[0], cached, largest))
    oldest = stream.frames[0].seconds
    print(f"{rule}: the oldest frame held is from second {oldest:.0f} of {seconds}")
    return dict(zip(("ms", "tokens", "cache", "largest"), np.array(rows).T, strict=True)) | {"oldest": oldest}


def main(seconds: int) -> None:
    torch.set_num_threads(1)
    rules = ("oldest", "every=4")
    seen = {rule: watch(rule, seconds) for rule in rules}
    plot(seen)
    columns = " | ".join(f"{rule}: ms a frame | tokens held | cache, MB" for rule in rules)
    lines = [
        "# The cost of watching",
        "",
        f"`python scripts/streaming_cost.py {seconds}`: vl3-tiny watches {seconds:,} drawn frames of 84 x 112",
        f"pixels, one a second, in the stream layout, in float32 on one thread. At most {MOST_TOKENS:,} tokens stay.",
        "Milliseconds are means of the processor's time (the machine had other work); the process's memory is its",
        "largest up to there, torch and the model included.",
        "",
        f"| seconds | {columns} | process, MB |",
        "|---|" + "---:|" * (3 * len(rules) + 1),
    ]
    for part in np.array_split(np.arange(seconds), PARTS):
        cells = [f"{part[0]} to {part[-1]}"]
        for rule in rules:
            x = {name: seen[rule][name][part] for name in ("ms", "tokens", "cache")}
            cells += [f"{x['ms'].mean():.1f}", f"{x['tokens'][-1]:,.0f}", f"{x['cache'][-1]:,.0f}"]
        lines.append(f"| {' | '.join(cells)} | {seen[rules[0]]['largest'][part[-1]]:,.0f} |")
    held = ", ".join(f"{seconds - seen[rule]['oldest']:,.0f} s with `{rule}`" for rule in rules)
    lines += [
        "",
        f"At the end the oldest frame in the cache lies {held} back.",
        "",
        "![cost of a frame](streaming.png)",
    ]
    (RESULTS / "streaming.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def plot(seen: dict[str, dict[str, np.ndarray]]) -> None:
    figure, (above, below) = pyplot.subplots(2, 1, figsize=(8, 5), sharex=True)
    for rule, x in seen.items():
        window = min(60, len(x["ms"]))
        smooth = [np.mean(x["ms"][max(0, end - window) : end]) for end in range(1, len(x["ms"]) + 1)]
        above.plot(smooth, label=rule)
        below.plot(x["tokens"], label=rule)
    above.set_ylabel("ms a frame (mean of a minute)")
    above.set_ylim(bottom=0)
    below.set_ylabel("tokens held")
    below.set_xlabel("seconds watched")
    above.legend()
    figure.tight_layout()
    figure.savefig(RESULTS / "streaming.png", dpi=100)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3600)
