"""Time and memory of vl3ref beside transformers on the same weights and inputs, and beside what the machine can do.

Each row is measured in a process of its own and printed as soon as it is there."""

import argparse
import os
import platform
import shlex
import sys
from functools import partial
from importlib.metadata import version
from pathlib import Path

import psutil
import torch

from benchmarks import rows
from benchmarks.measure import HEAD, in_child, print_lines

ROWS = {
    "vision": (partial(rows.arithmetic, rows.encoding), "2b"),
    "prefill": (partial(rows.arithmetic, rows.reading), "2b"),
    "decode": (rows.decode, "2b"),
    "load": (rows.load, "2b"),
    "memory": (rows.memory, "2b"),
    "tiny-decode": (rows.decode, "tiny"),
    "conversations": (rows.conversations, "tiny"),
    "ask": (partial(rows.ask, "clip"), "tiny"),
    "screen": (partial(rows.ask, "screen"), "tiny"),
    "preprocessing": (rows.preprocessing, "tiny"),
}
"""What measures a row, and the geometry it is measured at unless --geometry says otherwise."""


def main(arguments: list[str]) -> int:
    """Returns the exit code: 1 where outputs differ or a row could not be measured."""
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", choices=["all", *ROWS], default="all", help=", ".join(ROWS))
    parser.add_argument("--geometry", choices=["tiny", "2b", "7b"], help="of the models; weights are random")
    parser.add_argument("--layers", type=int, help="of each tower, at most (4; vl3-tiny: all)")
    parser.add_argument("--repeats", type=int, default=9, help="turns that count (9); fewer where they take long")
    parser.add_argument("--frames", type=int, help="of vision (8), screen (24) and memory (180)")
    parser.add_argument("--tokens", type=int, help="of prefill (512) and memory (16384)")
    parser.add_argument("--compiled", action="store_true", help="decode compiled as well; compiling takes a minute")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (cpu)")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--out", type=Path, help="file for the results (docs/results/bench-cpu.md for all rows)")
    options = parser.parse_args(arguments)
    head = [f"- `{shlex.join(['python', '-m', 'benchmarks', *arguments])}`", *about(options.device), "", *HEAD]
    print(*head, sep="\n", flush=True)
    lines: list[str] = []
    for name in ROWS if "all" in options.rows else options.rows:
        measure, default = ROWS[name]
        sizes = argparse.Namespace(**{**vars(options), "geometry": options.geometry or default})
        sizes.layers = options.layers or (None if sizes.geometry == "tiny" else 4)
        try:
            lines += in_child(print_lines, name, measure, sizes)
        except Exception as error:  # or the process was killed, as where memory does not suffice
            lines.append(f"| {name} | NOT MEASURED: {error!r} | | | | | |")
            print(lines[-1], flush=True)
    if out := options.out or ("all" in options.rows and Path(f"docs/results/bench-{options.device[:4].strip(':')}.md")):
        out.write_text("\n".join(["# Time and memory beside transformers", "", *head, *lines, ""]), encoding="utf-8")
    return int(any("NOT EQUAL" in line or "NOT MEASURED" in line for line in lines))


def about(device: str) -> list[str]:
    """The machine and the versions."""
    info = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    cpu = next((row.partition(": ")[2] for row in info if row.startswith("model name")), platform.processor())
    gpu = f", {torch.cuda.get_device_name(device)}" if device.startswith("cuda") else ""
    simd, load = torch.backends.cpu.get_cpu_capability(), psutil.getloadavg()[0]
    machine = f"{cpu}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, {simd}{gpu}, load average {load:.2f}"
    return [f"- {machine}", *(f"- {package} {version(package)}" for package in ("vl3ref", "torch", "transformers"))]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
