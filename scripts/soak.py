"""Long use: many requests, many threads, interrupts and kills at every moment. `make soak`; `--quick` takes seconds.

    python -m scripts.soak [--quick] [--only requests,threads,...] [--out report.md]

Each part prints a line, `ok` or `FAILED`, with its figures. The exit code is 1 if one failed.
"""

import argparse
import fcntl
import gc
import os
import pty
import random
import shutil
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch

import vl3ref
from tests.robustness.hub import serve
from vl3ref.chat import Chat

ROOT = Path(__file__).parents[1]
TINY = ROOT / "weights" / "vl3-tiny"
MEDIA = ROOT / "docs" / "media" / "tinyworld"
CLIP, PICTURE = str(MEDIA / "moves.mp4"), str(MEDIA / "chart.png")
RUN = [sys.executable, "-c", "import sys; from vl3ref.cli import main; main()"]

STARTED = 0.15
"""Seconds until Python itself has started: before that, Ctrl-C is the interpreter's own."""

MOMENTS = 20
"""At which each of five commands is interrupted."""

KILLING = 300.0
"""Seconds for which conversions are killed, and as many again for runs of training."""

Result = tuple[bool, str]
"""Whether it went well, and what there is to tell."""


# ------------------------------------------------------------------------------------------------- one process, long


def mixed(model: vl3ref.VideoLLaMA3, processor: vl3ref.Processor, number: int) -> Any:
    """The answer to request `number`; every tenth begins the round again."""

    def said(*parts: dict[str, Any], **options: Any) -> dict[str, Any]:
        return {"role": "user", "content": [*parts, {"type": "text", "text": "What is it?"}], **options}

    picture, clip = {"type": "image", "image": PICTURE}, {"type": "video", "video": CLIP}
    few: dict[str, Any] = {"max_new_tokens": 6, "min_new_tokens": 6}
    kind = number % 10
    if kind == 9:
        wrong = ["missing.png", str(ROOT / "pyproject.toml"), 7][number // 10 % 3]
        try:
            return processor([said({"type": "image", "image": wrong})])
        except vl3ref.VL3Error as error:
            return str(error)
    if kind == 8:
        chat = Chat(model, processor, **few)
        return ["".join(chat.ask("What is it?", [PICTURE])), "".join(chat.ask("And why?"))]
    if kind == 7:
        next(iter(Chat(model, processor, **few).ask("What is it?", [CLIP])))  # left after its first piece
        return ""
    conversations = [
        *([said()], [said(picture)], [said(clip)], [said(picture, clip)], [said(picture)], [said(clip | {"fps": 2})]),
        [[said(picture)], [said()], [said(clip)]],
    ]
    sampled = {"temperature": 1.0, "seed": 3} if kind == 4 else {}
    return [ids.tolist() for ids in model.generate(processor(conversations[kind]), **few, **sampled)]


def requests(quick: bool) -> Result:
    """Memory after the warm-up, open files, threads and answers stay what they were."""
    count, warm = (40, 15) if quick else (500, 100)
    model, processor = vl3ref.load(TINY, device="cpu")
    process = psutil.Process()
    first: dict[int, Any] = {}
    figures: list[tuple[int, int, int]] = []
    for number in range(count):
        answer = mixed(model, processor, number)
        expected = first.setdefault(number % 30, answer)  # the wrong ones have a period of 30
        if answer != expected:
            return False, f"request {number} was answered {answer}, and before that {expected}"
        if number >= warm:
            gc.collect()
            figures.append((process.memory_info().rss, process.num_fds(), process.num_threads()))
    last = len(figures) // 4
    begin, end = (sorted(rss for rss, *_ in part)[len(part) // 2] for part in (figures[:last], figures[-last:]))
    growth = end / begin - 1
    handles = {figure[1:] for figure in (figures[0], figures[-1])}
    told = f"{count} requests, {end / 2**20:.0f} MB ({growth:+.1%}), files and threads {handles}"
    return growth < (0.05 if quick else 0.02) and len(handles) == 1, told


def threads(quick: bool) -> Result:
    """Many threads on one model say what one says."""
    model, processor = vl3ref.load(TINY, device="cpu")
    kinds = [0, 1, 2, 4, 5, 6, 8]
    alone = {kind: mixed(model, processor, kind) for kind in kinds}
    wrong: list[int] = []

    def work(seed: int) -> None:
        order = random.Random(seed)
        for _ in range(2 if quick else 25):
            kind = order.choice(kinds)
            if mixed(model, processor, kind) != alone[kind]:
                wrong.append(kind)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return not wrong, f"{len(workers)} threads, {2 if quick else 25} requests each, {len(wrong)} other answers"


def processes(quick: bool) -> Result:
    """Two processes share a folder of weights."""
    ask = [*RUN, "ask", PICTURE, "How high is the green bar?", "--model", str(TINY)]
    running = [subprocess.Popen(ask, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) for _ in range(2)]
    answers = [process.communicate()[0] for process in running]
    good = answers[0] == answers[1] and all(process.returncode == 0 for process in running)
    return good, f"two processes, {len(set(answers))} answer"


# ------------------------------------------------------------------------------------------------------- interrupted


def commands(data: Path, out: Path) -> dict[str, tuple[list[str], bytes]]:
    """Name -> arguments, and what is typed. Those that write a folder write `out`."""
    few = ["--max-tokens", "300", "--min-tokens", "300"]
    steps = ["--stage", "1", "--model", str(TINY), "--steps", "3", "--batch", "2", "--workers", "1", "--device", "cpu"]
    return {
        "ask": (["ask", CLIP, "What happens?", *few], b""),
        "chat": (["chat", PICTURE, *few], b"What is it?\n"),
        "convert": (["convert", str(TINY), str(out), "--to", "hf"], b""),
        "download": (["download", "a/b", "--to", str(out)], b""),
        "train": (["train", str(data), *steps, "--out", str(out)], b""),
    }


def training_data(folder: Path) -> Path:
    from vl3ref.tinyworld import TinyWorld
    from vl3ref.tinyworld.samples import write

    world = TinyWorld(5, {"scene": 1.0}, turns=2)
    return write([world[i] for i in range(6)], folder / "data")


def on_a_terminal(arguments: list[str], typed: bytes, moment: float | None) -> tuple[int, str, float, bool]:
    """Run the command line on a terminal of its own, and press Ctrl-C after `moment` seconds; in a chat, until it ends.

    Returns:
        Its exit code, what the terminal showed, seconds, and whether the terminal is left as it was.
    """
    keyboard, terminal = pty.openpty()
    settings, shown, began = termios.tcgetattr(terminal), [], time.monotonic()
    streams: dict[str, Any] = {"stdin": terminal, "stdout": terminal, "stderr": terminal}
    owns = partial(fcntl.ioctl, terminal, termios.TIOCSCTTY, 0)  # so that Ctrl-C goes to it and its workers
    process = subprocess.Popen([*RUN, *arguments], **streams, start_new_session=True, preexec_fn=owns, close_fds=False)

    def read() -> None:
        with suppress(OSError):
            while piece := os.read(keyboard, 65536):
                shown.append(piece)

    reader = threading.Thread(target=read)
    reader.start()
    os.write(keyboard, typed if moment is not None else typed + b"\x04")
    presses = 0 if moment is None else 20 if arguments[0] == "chat" else 1
    for press in range(presses):
        with suppress(subprocess.TimeoutExpired):
            process.wait(moment if press == 0 else 1)
            break
        os.write(keyboard, b"\x03")
    code = process.wait(300)
    seconds, same = time.monotonic() - began, termios.tcgetattr(terminal) == settings
    os.close(terminal)
    reader.join()
    os.close(keyboard)
    text = b"".join(shown).decode(errors="replace")
    return code, text, seconds, same and text.rfind("\x1b[?25l") <= text.rfind("\x1b[?25h")


def interrupts(quick: bool) -> Result:
    """Ctrl-C, at moments spread over a whole run, ends each command with 130, no traceback and no half folder."""
    each, failures, codes = (1 if quick else MOMENTS), [], Counter[int]()
    with tempfile.TemporaryDirectory() as folder, serve(TINY, piece=1 << 18, pause=0.01) as hub:
        os.environ |= {"HF_ENDPOINT": hub, "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1"}
        data, out = training_data(Path(folder)), Path(folder) / "runs" / "out"
        out.parent.mkdir()
        for name, (arguments, typed) in commands(data, out).items():
            if quick and name != "convert":
                continue
            whole = 4.0 if quick else on_a_terminal(arguments, typed, None)[2]
            for number in range(each):
                shutil.rmtree(out, ignore_errors=True)
                moment = STARTED + (whole - STARTED) * (number + 0.5) / each
                code, shown, _, same = on_a_terminal(arguments, typed, moment)
                codes[code] += 1
                problems = [] if code in (0, 130) else [f"exit code {code}"]
                problems += ["a traceback"] * ("Traceback" in shown or "Exception ignored" in shown)
                problems += [] if same else ["the terminal"]
                problems += half_written(name, out)
                if problems:
                    failures.append(f"{name} after {moment:.2f} of {whole:.2f} s: {', '.join(problems)}\n{shown}")
    told = f"{sum(codes.values())} interrupts, exit codes {dict(codes)}"
    return not failures, "\n".join([told, *failures])


def half_written(command: str, out: Path) -> list[str]:
    """What is wrong with the folder that a command left."""
    left = [path.name for path in out.parent.iterdir() if path != out]
    found = {"convert": [out], "train": [*out.glob("final"), *out.glob("checkpoint-*")]}.get(command, [])
    for folder in found if out.exists() else []:
        try:
            vl3ref.load(folder, device="cpu")
        except vl3ref.VL3Error as error:
            left.append(f"{folder.name}: {error}")
    return [f"left {name}" for name in left]


# ------------------------------------------------------------------------------------------------------------- killed


def kills(quick: bool) -> Result:
    """A run that is killed at random moments and resumed has the weights of one that was not; so does a conversion."""
    seconds, count = (0.0 if quick else KILLING), Counter[str]()
    chance, failures = random.Random(0), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = training_data(folder)
        steps = ["--steps", "12", "--batch", "2", "--workers", "0", "--save-every", "2", "--device", "cpu"]
        train = ["train", str(data), "--stage", "1", "--model", str(TINY), *steps]
        convert = ["convert", str(TINY), str(folder / "hf"), "--to", "hf"]
        whole = run_and_kill(convert, None)
        until = time.monotonic() + seconds
        while time.monotonic() < until or not count["convert"]:
            shutil.rmtree(folder / "hf", ignore_errors=True)
            run_and_kill(convert, chance.uniform(0.5, 1) * whole)
            count["convert"] += 1
            if (folder / "hf").exists() and not same_weights(TINY, folder / "hf"):
                failures.append("convert left a folder with other weights")
        run_and_kill(convert, None) if not (folder / "hf").exists() else None
        if not same_weights(TINY, folder / "hf") or [path.name for path in folder.glob(".*")]:
            failures.append("a conversion after kills left something else than its folder")
        if not quick:
            whole = run_and_kill([*train, "--out", str(folder / "alone")], None)
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                run_and_kill([*train, "--out", str(folder / "killed"), "--resume"], chance.uniform(0.3, 1.1) * whole)
                count["train"] += 1
                if chance.random() < 0.2 or time.monotonic() > until:
                    run_and_kill([*train, "--out", str(folder / "killed"), "--resume"], None)
                    if not same_weights(folder / "alone" / "final", folder / "killed" / "final"):
                        failures.append("a killed run ended in other weights")
                    shutil.rmtree(folder / "killed")
    return not failures, "\n".join([f"kills: {dict(count)}", *failures])


def run_and_kill(arguments: list[str], moment: float | None) -> float:
    """Run the command line, and kill it if it still runs after `moment` seconds. Returns the seconds that it took."""
    began = time.monotonic()
    process = subprocess.Popen([*RUN, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        _, said = process.communicate(timeout=moment)
        if process.returncode and b"holds a run already" not in said:
            raise SystemExit(f"{' '.join(arguments)} ended with {process.returncode}: {said.decode()}")
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
    return time.monotonic() - began


def same_weights(one: Path, other: Path) -> bool:
    first, second = (vl3ref.load_model(folder, device="cpu").state_dict() for folder in (one, other))
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# ------------------------------------------------------------------------------------------------------------- report

PARTS: dict[str, Callable[[bool], Result]] = {
    part.__name__: part for part in (requests, threads, processes, interrupts, kills)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="Seconds instead of an hour.")
    parser.add_argument("--only", default=",".join(PARTS), help="Parts, with commas.")
    parser.add_argument("--out", type=Path, help="Also write the report here, as Markdown.")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lines, failed = [], False
    for name in arguments.only.split(","):
        began = time.monotonic()
        good, told = PARTS[name](arguments.quick)
        failed |= not good
        lines.append(f"- {name}: {'ok' if good else 'FAILED'}, {time.monotonic() - began:.0f} s: {told}")
        print(lines[-1], flush=True)
    if arguments.out:
        arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    sys.exit(failed)


if __name__ == "__main__":
    main()
