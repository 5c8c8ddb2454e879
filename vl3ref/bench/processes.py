"""Measurements in processes of their own, where nothing else has touched the memory.

    we      start the child                    look, say "go"           stop looking, say "tell"
    child   import, build, warm up, "ready"    work, say how long       say what came out

We look at the child's anonymous memory from outside, every few milliseconds: that takes none of the child's time, and
Python's lock cannot hide a peak. Anonymous memory is what was allocated; pages of mapped files do not count, because
the kernel can drop them at any time.
"""

import json
import subprocess
import sys
import tempfile
import threading
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any, Literal

from vl3ref.bench.machine import available_memory
from vl3ref.bench.settings import Settings
from vl3ref.errors import InputError

INTERVAL = 0.003
"""Seconds between two looks."""


WARM = "small"
"""Folder, within that of a checkpoint that is loaded, of a small one to load first."""


@dataclass(frozen=True)
class Job:
    """What a child does. Settings give geometry, device, dtype and threads.

    Attributes:
        work, side: what is run, and whose.
        path: of the checkpoint that is loaded, or the video that is preprocessed.
        frames, tokens, batch, new_tokens: sizes, as far as the work has them.
    """

    work: Literal["load", "vision", "prefill", "decode", "preprocess"]
    side: Literal["ours", "theirs"]
    settings: Settings
    path: str = ""
    frames: int = 1
    tokens: int = 1
    batch: int = 1
    new_tokens: int = 2

    def text(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def read(text: str) -> "Job":
        given = json.loads(text)
        settings = given.pop("settings")
        return Job(settings=Settings(**{**settings, "videos": tuple(settings["videos"])}), **given)


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes:
        seconds: the work took.
        peak: bytes of anonymous memory (on CUDA: of the device's) at the peak, above what there was before, less
            `wanted`.
        wanted: bytes that the work returns or fills on purpose (a cache, pixels).
        told: whatever else the child said.
    """

    seconds: float
    peak: float
    wanted: int
    told: dict[str, Any]


def in_process(job: Job) -> Outcome:
    """Run a job, and watch its memory.

    Raises:
        InputError: the child failed (its last line says why), or this system has no /proc.
    """
    if not Path("/proc/self/status").exists():
        raise InputError(
            "memory is read from /proc, which this system does not have; leave out memory, load and curves"
        )
    command = [sys.executable, "-m", "vl3ref.bench.child", job.text()]
    with (
        tempfile.TemporaryFile("w+") as complaints,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints, text=True) as child,
    ):
        try:
            _hear(child, "ready")
            with Watch(child.pid) as watch:
                _say(child, "go")
                seconds = float(_hear(child))
            _say(child, "tell")
            told = json.loads(_hear(child))
        except (EOFError, BrokenPipeError):
            child.wait()
            reason = _last_line(complaints) or f"it ended with code {child.returncode}"
            raise InputError(f"measuring {job.work} ({job.side}) in a process of its own failed: {reason}") from None
    wanted, device = told.pop("wanted"), told.pop("device peak")
    peak = watch.peak - watch.start if device is None else device
    return Outcome(seconds, float(peak - wanted), wanted, told)


def both_sides(job: Job, repeats: int) -> tuple[list[Outcome], list[Outcome]]:
    """The same job of ours and of transformers', in turn."""
    theirs = replace(job, side="theirs")
    pairs = [(in_process(job), in_process(theirs)) for _ in range(repeats)]
    return [a for a, _ in pairs], [b for _, b in pairs]


class Watch:
    """Looks at a process's anonymous memory while a `with` block runs.

    Attributes:
        start, peak: bytes.
    """

    def __init__(self, pid: int) -> None:
        self.pid, self.stop = pid, threading.Event()
        self.start = self.peak = anonymous_memory(pid)
        self.thread = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        while not self.stop.wait(INTERVAL):
            self.peak = max(self.peak, anonymous_memory(self.pid))

    def __enter__(self) -> "Watch":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()
        self.peak = max(self.peak, anonymous_memory(self.pid))


def anonymous_memory(pid: int) -> int:
    """Bytes; 0 once the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), 0)


def check_room(wanted: int, part: str) -> None:
    """Refuse what would push the machine into swapping.

    Raises:
        InputError: less than `wanted` bytes are free.
    """
    room = available_memory()
    if room is not None and wanted > room:
        raise InputError(
            f"{part} needs about {wanted / 2**30:.1f} GiB of memory and {room / 2**30:.1f} GiB are free; "
            "give fewer --layers or another --dtype"
        )


def _say(child: "subprocess.Popen[str]", word: str) -> None:
    assert child.stdin
    print(word, file=child.stdin, flush=True)


def _hear(child: "subprocess.Popen[str]", expected: str | None = None) -> str:
    assert child.stdout
    line = child.stdout.readline().strip()
    if not line or (expected and line != expected):
        raise EOFError
    return line


def _last_line(complaints: IO[str]) -> str:
    complaints.seek(0)
    lines = [line for line in complaints.read().splitlines() if line.strip()]
    return lines[-1] if lines else ""
