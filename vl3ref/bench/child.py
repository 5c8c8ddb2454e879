"""What runs in a process of its own: `python -m vl3ref.bench.child JOB`. The talk with the parent is in `processes`."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vl3ref.bench.count import cache_bytes
from vl3ref.bench.measure import synchronise
from vl3ref.bench.processes import WARM, Job
from vl3ref.bench.settings import Pair, drawn_ids, drawn_pixels

Told = dict[str, Any]
Prepared = tuple[Callable[[], Any], Callable[[Any], Told]]
"""The work, and what there is to tell of its result: at least "wanted", the bytes that it was to fill."""


def main() -> None:
    job = Job.read(sys.argv[1])
    answers, sys.stdout = sys.stdout, sys.stderr  # nothing that a library prints may come between
    if job.settings.threads:
        torch.set_num_threads(job.settings.threads)
    device = torch.device("cpu" if job.work == "preprocess" else job.settings.device)
    work, tell = PREPARE[job.work](job)

    def exchange(word: object) -> None:
        print(word, file=answers, flush=True)
        sys.stdin.readline()

    exchange("ready")
    before = _device_memory(device)
    start = time.perf_counter()
    result = work()
    synchronise(device)
    seconds = time.perf_counter() - start
    peak = None if before is None else torch.cuda.max_memory_allocated(device) - before
    exchange(seconds)
    print(json.dumps({**tell(result), "device peak": peak}), file=answers, flush=True)


def load(job: Job) -> Prepared:
    """The first load of a process imports what is imported late; a small one comes before the one that counts."""
    dtype = job.settings.torch_dtype
    if job.side == "ours":
        from vl3ref import load_model

        def load_from(folder: str) -> nn.Module:
            return load_model(folder, job.settings.device, dtype)
    else:
        import transformers

        reference: Any = transformers.VideoLlama3ForConditionalGeneration  # imported here, not within the work

        def load_from(folder: str) -> nn.Module:
            return reference.from_pretrained(folder, dtype=dtype).to(job.settings.device)

    start = time.perf_counter()
    load_from(str(Path(job.path) / WARM))
    first = time.perf_counter() - start

    def tell(model: nn.Module) -> Told:
        start = time.perf_counter()
        sums = [(parameter.numel(), float(parameter.detach().sum())) for parameter in model.parameters()]
        return {"wanted": 0, "first": first, "reading": time.perf_counter() - start, "weights": sorted(sums)}

    return lambda: load_from(job.path), tell


def vision(job: Job) -> Prepared:
    from vl3ref.bench.towers import encode, encode_theirs

    pair, settings = Pair(job.settings), job.settings
    pixels, grid_sizes, merge_sizes = drawn_pixels(pair.ours.config, job.frames, settings.rows, settings.columns)
    video = (pixels.to(pair.device), grid_sizes, merge_sizes)
    model, run = (pair.ours, encode) if job.side == "ours" else (pair.theirs, encode_theirs)
    run(model, (video[0][:4], torch.tensor([[1, 2, 2]]), merge_sizes))
    return lambda: run(model, video), _digest


def prefill(job: Job) -> Prepared:
    from vl3ref.bench.towers import prefill, prefill_theirs

    pair = Pair(job.settings)
    ids = drawn_ids(pair.ours.config, job.tokens).to(pair.device)
    config = pair.ours.config.language
    wanted = job.tokens * cache_bytes(config, job.settings.torch_dtype.itemsize)
    model, run = (pair.ours.language_model, prefill) if job.side == "ours" else (pair.theirs, prefill_theirs)
    run(model, ids[:2])
    return lambda: run(model, ids), lambda token: {"wanted": wanted, "digest": token}


def decode(job: Job) -> Prepared:
    from vl3ref.bench.decoding import Ours, generate_theirs, ragged

    pair, config = Pair(job.settings), job.settings.config.language
    tokens = job.settings.context + job.new_tokens
    wanted = job.batch * tokens * cache_bytes(config, job.settings.torch_dtype.itemsize)
    inputs, ends = ragged(pair, job.batch), list(config.eos_token_ids)
    if job.side == "ours":
        run: Callable[[int], Any] = lambda new: Ours(pair.ours, inputs, new)()  # noqa: E731
    else:
        given = {"input_ids": inputs.input_ids[None]}
        run = lambda new: generate_theirs(pair.theirs, given, new, ends)  # noqa: E731
    run(2)
    return lambda: run(job.new_tokens), lambda _: {"wanted": wanted}


def preprocess(job: Job) -> Prepared:
    from vl3ref.bench.asking import any_processor, question

    processor = any_processor(job.settings)
    return (
        lambda: processor(question(job.path), max_frames=job.frames),
        lambda inputs: {"wanted": inputs.pixel_values.nbytes, "digest": float(inputs.pixel_values.abs().mean())},
    )


def _digest(features: torch.Tensor) -> Told:
    return {"wanted": 0, "digest": float(features.abs().mean(dtype=torch.float32))}


def _device_memory(device: torch.device) -> int | None:
    """Bytes in use on a GPU, from where its peak is counted; None without one."""
    if device.type != "cuda":
        return None
    torch.cuda.init()
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


PREPARE: dict[str, Callable[[Job], Prepared]] = {
    "load": load,
    "vision": vision,
    "prefill": prefill,
    "decode": decode,
    "preprocess": preprocess,
}

if __name__ == "__main__":
    main()
