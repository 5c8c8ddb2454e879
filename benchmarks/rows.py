"""What is measured. Functions of the command's options yield lines of the table, each in a process of its own."""

import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import torch
from torch import Tensor, nn
from torch.utils.benchmark import timer

from benchmarks import measure
from benchmarks.measure import in_child, line, timed
from vl3ref import ModelInputs, VideoLLaMA3, load_model, load_processor
from vl3ref.checkpoints import save_model
from vl3ref.fast import CapturedStep, CompiledStep, encode_equal_frames_once
from vl3ref.generation import stream
from vl3ref.inputs.videos import open_video
from vl3ref.parity.reference import reference_inputs, reference_model
from vl3ref.parity.synthetic import random_geometry

CONTEXT, NEW = 64, 32
"""Tokens before a decode, and new tokens."""

MLP_GAIN = 30
"""Factor on the decoder's MLPs, which at random add so little to the embedding that the same token comes every time."""

Part = tuple[str, tuple[Callable[[], Tensor], Callable[[], Tensor]], nn.Module, int, int, int]
"""What it is; ours and transformers'; a layer and its products' rows; tokens if causal; bytes left in the cache."""


def models(options: Namespace) -> tuple[VideoLLaMA3, Any]:
    """Ours with random weights, and transformers' (sdpa) on the same tensors; inputs are random from here on."""
    torch.manual_seed(0)
    ours = random_geometry(options.geometry, options.layers, options.device, getattr(torch, options.dtype))
    for layer in ours.language_model.layers:
        layer.get_parameter("mlp.down_proj.weight").mul_(MLP_GAIN)
    return ours, reference_model(ours)


def encoding(ours: VideoLLaMA3, theirs: Any, frames: int) -> Part:
    """Features of frames of noise."""
    pixels = torch.rand(frames * 24**2, ours.config.vision.patch_values, device=ours.device) * 2 - 1
    grid, merge, layers = torch.tensor([[frames, 24, 24]]), torch.tensor([2]), ours.vision_encoder.encoder.layers
    given = {"pixel_values": pixels, "grid_thw": grid.to(ours.device), "merge_sizes": merge.to(ours.device)}
    their_run = lambda: theirs.model.vision_model(**given).last_hidden_state  # noqa: E731
    what = f"{len(layers)} layers: {frames} frames of 24×24 patches"
    return what, (lambda: ours.vision_encoder(pixels, grid, merge), their_run), layers[0], len(pixels), 0, 0


def reading(ours: VideoLLaMA3, theirs: Any, n: int) -> Part:
    """A prompt into the cache, and its last token's logits (transformers' own forward makes those of all tokens)."""
    decoder, ids = ours.language_model, random_ids(ours, n)
    run = lambda: decoder.head(decoder.hidden(ids, [n], decoder.new_cache(1, n))[-1:])  # noqa: E731
    their_run = lambda: theirs.lm_head(theirs.model(ids[None], use_cache=True).last_hidden_state[0, -1:])  # noqa: E731
    cache = 2 * len(decoder.layers) * decoder.config.num_key_value_heads * decoder.config.head_dim * ours.dtype.itemsize
    return f"{len(decoder.layers)} layers: {n} tokens", (run, their_run), decoder.layers[0], n, n, n * cache


def arithmetic(part: Callable[..., Part], options: Namespace) -> Iterator[str]:
    size = (options.frames or 8) if part is encoding else (options.tokens or 512)
    what, (run, their_run), layer, rows, causal, _ = part(*models(options), size)
    limits = measure.product_limits(measure.operations(run, causal), layer, rows)
    runs = {"ours": partial(timed, run), "theirs": partial(timed, their_run), **limits}
    yield measure.beside(f"{options.geometry}, {what}", options.repeats, runs, measure.close(run(), their_run()))


def decode(options: Namespace) -> Iterator[str]:
    ours, theirs = models(options)
    decoder, ids = ours.language_model, random_ids(ours, CONTEXT)
    limits = measure.step_limits(decoder)
    their_run = partial(generate_theirs, theirs, NEW, input_ids=ids[None])
    compiled = partial(CapturedStep, compiled=True) if ids.is_cuda else CompiledStep
    for name, step in [("", None), ("compiled, ", compiled)][: 1 + options.compiled]:
        run = partial(generate, decoder, ids, NEW, step)
        runs = {"ours": lambda run=run: run()[0], "theirs": lambda: their_run()[0], **limits}
        what = f"{options.geometry}, {len(decoder.layers)} layers and head: {name}a token of {NEW} after {CONTEXT}"
        yield measure.beside(what, options.repeats, runs, measure.same_ids(run()[1][0], their_run()[1], ours.dtype))


def conversations(options: Namespace) -> Iterator[str]:
    ours = models(options)[0]
    texts = [random_ids(ours, CONTEXT - 5 * n) for n in range(8)]
    together = ModelInputs(torch.cat(texts), torch.tensor([len(text) for text in texts]))
    answers = [token for answer in generate(ours, together)[1] for token in answer]
    alone = [token for text in texts for token in generate(ours.language_model, text)[1][0]]
    runs = {"ours": lambda: generate(ours, together)[0], "theirs": lambda: generate(ours.language_model, texts[0])[0]}
    what = f"{options.geometry}: 8 conversations together; theirs: ours, one alone; the ratio: tokens per second"
    yield measure.beside(what, options.repeats, runs, measure.same_ids(answers, alone, ours.dtype), scale=8)


def random_ids(ours: VideoLLaMA3, tokens: int) -> Tensor:
    return torch.randint(0, min(ours.config.visual_token_ids), (tokens,), device=ours.device)


def generate(model: Any, inputs: Any, new: int = NEW, step: Any = None) -> tuple[float, list[list[int]]]:
    """Seconds a token from the second (the first step may set something up) to the last, and all new ids."""
    answers: list[list[int]] = [[] for _ in getattr(inputs, "lengths", [0])]
    times = []
    for conversation, token in stream(model, inputs, new, new, step=step and step()):
        answers[conversation].append(token)
        times += [timer()] * (conversation == len(answers) - 1)
    return (times[-1] - times[1]) / (new - 2), answers


def generate_theirs(theirs: Any, new: int, **given: Any) -> tuple[float, list[int]]:
    """The same of transformers, which hands the prompt and then every new token to a streamer."""
    times: list[float] = []
    streamer = Namespace(put=lambda _: times.append(timer()), end=lambda: None)
    given |= {"max_new_tokens": new, "min_new_tokens": new, "pad_token_id": 0, "do_sample": False}
    ids = theirs.generate(**given, streamer=streamer)[0, given["input_ids"].shape[1] :]
    return (times[-1] - times[2]) / (new - 2), ids.tolist()


def ask(about: str, options: Namespace) -> Iterator[str]:
    """All that `vl3ref ask` does. transformers' processor needs torchvision, so ours feeds both sides."""
    ours, theirs = models(options)
    with tempfile.TemporaryDirectory() as folder:
        if about == "screen":
            shape = (max((options.frames or 24) // 6, 1), 336, 336, 3)
            pages: Any = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
            what, new, video = f"{6 * len(pages)} frames of a screen that changes every 6", 4, pages.repeat(6, axis=0)
        else:
            what, new, video = "a clip of 32 s in 720p", NEW, write_clip(folder)
        prepare = asking(video, ours.config)
        given = reference_inputs(ours, prepare())

        def run() -> list[int]:
            with encode_equal_frames_once(ours):
                return generate(ours, prepare(), new)[1][0]

        def their_run() -> list[int]:
            inputs = prepare().to(ours.device)
            pixels = {"pixel_values_videos": inputs.pixel_values, "video_compression_mask": ours.pruner(inputs, None)}
            return generate_theirs(theirs, new, **{**given, **pixels})[1]

        runs = {"ours": partial(timed, run), "theirs": partial(timed, their_run)}
        output = measure.same_ids(run(), their_run(), ours.dtype)
        yield measure.beside(f"{options.geometry}: {what} to {new} new tokens", options.repeats, runs, output)


def preprocessing(options: Namespace) -> Iterator[str]:
    """From a file to a prompt with its patches, beside PyAV decoding it in order and converting the same frames."""
    with tempfile.TemporaryDirectory() as folder:
        clip = write_clip(folder)
        chosen = set(open_video(clip).indices)

        def frames() -> np.ndarray:
            with av.open(clip) as container:
                container.streams.video[0].thread_type = "AUTO"
                found = (frame for n, frame in enumerate(container.decode(video=0)) if n in chosen)
                return np.stack([frame.to_ndarray(format="rgb24") for frame in found])

        equal = np.array_equal(frames(), np.stack([*open_video(clip).frames()]))
        what = f"a clip of 32 s in 720p to {len(chosen)} frames of patches; theirs: PyAV alone, in order"
        runs = {"ours": partial(timed, asking(clip)), "theirs": partial(timed, frames)}
        yield measure.beside(what, options.repeats, runs, (equal, "frames compared bit for bit"))


def with_peak(run: Callable[[], Any]) -> tuple[Any, int]:
    """A call's result, and the most memory in bytes above what was held before: on a GPU what torch allocates, else
    anonymous memory (mapped files do not count: the kernel can drop them), looked at every two milliseconds."""

    def held() -> int:
        found, on_gpu = psutil.Process().memory_info(), torch.cuda.is_initialized()
        return torch.cuda.max_memory_allocated() if on_gpu else found.rss - getattr(found, "shared", 0)

    with ThreadPoolExecutor(1, "work", torch.set_grad_enabled, (False,)) as pool:
        seen, work = [held()], pool.submit(run)
        while not work.done():
            time.sleep(0.002)
            seen.append(held())
    return work.result(), max(seen) - seen[0]


def memory(options: Namespace) -> Iterator[str]:
    for part, size in (encoding, options.frames or 180), (reading, options.tokens or 16384):
        (what, ours, peak), (_, theirs, their_peak) = (in_child(_run, options, part, size, side) for side in (0, 1))
        what = f"{options.geometry}, {what}: peak above weights, inputs and cache"
        yield line(what, [peak], [their_peak], measure.close(torch.tensor(ours), torch.tensor(theirs)), "MiB")


def _run(options: Namespace, part: Callable[..., Part], size: int, side: int) -> tuple[str, float, int]:
    pair = models(options)
    part(*pair, 2)[1][side]()  # warms up
    what, runs, *_, cache = part(*pair, size)
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
    output, peak = with_peak(runs[side])
    return what, float(output.abs().mean(dtype=torch.float32)), peak - cache


def load(options: Namespace) -> Iterator[str]:
    """A checkpoint of bfloat16 in the layout that both sides read, from the page cache; every weight is read once."""
    with tempfile.TemporaryDirectory() as folder:
        model = models(Namespace(**{**vars(options), "device": "cpu", "dtype": "bfloat16"}))[0]
        save_model(model, folder, layout="hf")
        turns = [[in_child(_load, folder, options, side) for side in ("ours", "theirs")] for _ in range(3)]
    size = sum(p.numel() for p in model.parameters()) * getattr(torch, options.dtype).itemsize
    ours, peaks, sums, theirs, their_peaks, their_sums = zip(*(a + b for a, b in turns), strict=True)
    what = f"{options.geometry}, {options.layers or 'all'} layers: {size / 2**30:.2f} GiB of {options.dtype}"
    output = (sums == their_sums, "sum of each weight compared")
    yield line(what, ours, theirs, output, "ms")
    yield line(f"{what}, peak: {max(peaks) / size:.3f} times the weights", peaks, their_peaks, output, "MiB")


def _load(folder: str, options: Namespace, side: str) -> tuple[float, int, list[tuple[int, float]]]:
    from transformers import VideoLlama3ForConditionalGeneration as Theirs

    make: Any = partial(load_model, device=options.device) if side == "ours" else Theirs.from_pretrained
    run = lambda: make(folder, dtype=getattr(torch, options.dtype)).to(options.device)  # noqa: E731
    _first = run()  # imports what is imported late; it stays, for the second not to use its memory again
    start = timer()
    model, peak = with_peak(run)
    sums = sorted((p.numel(), float(p.sum())) for p in model.parameters())
    return timer() - start, peak, sums


def asking(video: Any, config: Any = None) -> Callable[[], ModelInputs]:
    """Prepares a question with vl3-tiny's processor: random weights have no tokenizer of their own."""
    content = [{"type": "video", "video": video, "fps": 1}, {"type": "text", "text": "What happens in the video?"}]
    return partial(load_processor(config=config), [{"role": "user", "content": content}])


def write_clip(folder: str) -> str:
    """The documentation's clip (5.3 s, 720p, 25 frames a second) six times in a row, without encoding it again."""
    pieces, path = Path(folder, "pieces.txt"), f"{folder}/clip.mp4"
    pieces.write_text(f"file '{Path(__file__).parents[1]}/docs/media/bunny.mp4'\n" * 6)
    with av.open(str(pieces), format="concat", options={"safe": "0"}) as source, av.open(path, "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    return path
