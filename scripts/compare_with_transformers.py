"""vl3ref beside transformers as its users have it: AutoProcessor on files, with torchvision and torchcodec.

    .venv-lmms/bin/python -m scripts.compare_with_transformers [--model FOLDER]      (after `make lmms-env`)

200 questions about pictures and clips of the small world, written to PNG and mp4. Where the two answers differ, what
transformers does in another way is put into vl3ref's input piece by piece, until its answer is no longer vl3ref's.
Writes docs/results/transformers_users.md.
"""

import argparse
import tempfile
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchcodec.decoders import VideoDecoder
from transformers import AutoModelForImageTextToText, AutoProcessor

import vl3ref
from scripts.small_world_files import questions, write_clip, write_picture
from vl3ref.generation import score
from vl3ref.inputs.video_files import open_video_file
from vl3ref.inputs.videos import open_video

PAGE = Path(__file__).parents[1] / "docs" / "results" / "transformers_users.md"
COUNT, SEED, MOST_NEW = 100, 2_000_003, 32

REASONS = {
    "count": "more frames are taken: transformers takes at least 4",
    "kept": "other frames of the same picture are taken, so that DiffFP keeps other tokens",
    "frames": "other frames are taken, whatever is kept",
    "decoding": "the same frames are decoded to other colours",
    "resizing": "the same pixels are resized, or rounded, in another way",
    "model": "the same inputs are answered in another way",
}
"""In the order in which they are put in."""


@dataclass
class Asked:
    """One question, and how its two inputs and answers compare.

    Attributes:
        pixels: largest difference of a pixel, in 1/255; None if the two have other numbers of them.
        decoded: the same of the frames that transformers takes, as both decode them, before resizing.
        margin: log-probability of our first differing token, less that of theirs: by our input, by theirs.
    """

    kind: str
    question: str
    expected: str
    ours: str
    theirs: str
    same_count: bool
    same_frames: bool
    same_sizes: bool
    same_kept: bool
    pixels: float | None
    decoded: float = 0.0
    reason: str = ""
    margin: tuple[float, float] = (0.0, 0.0)


class Pair:
    """The two models, of one folder's weights in float32."""

    def __init__(self, source: str, folder: Path) -> None:
        self.model, self.processor = vl3ref.load(source, device="cpu", dtype="float32")
        vl3ref.save(self.model, self.processor, folder, layout="hf")
        self.their_processor = AutoProcessor.from_pretrained(folder)
        self.their_model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()

    def ask(self, kind: str, path: Path, question: str, expected: str) -> Asked:
        inputs = self.processor(conversation(kind, str(path), question))
        ours = self.answer(inputs)
        theirs, given, metadata = self.their_answer(kind, path, question)
        pixels, grid = given[f"pixel_values{plural(kind)}"], given[f"{kind}_grid_thw"]
        same_sizes = inputs.grid_sizes.tolist() == grid.tolist()
        keep = self.model.pruner(inputs, None)
        their_keep = given.get("video_compression_mask", torch.ones(1, dtype=torch.bool))
        frames = list(open_video(path).indices) if kind == "video" else [0]
        their_frames = [int(index) for index in metadata[0].frames_indices] if metadata else [0]
        asked = Asked(
            kind,
            question,
            expected,
            ours,
            theirs,
            same_count=len(frames) == len(their_frames),
            same_frames=frames == their_frames,
            same_sizes=inputs.grid_sizes[:, 1:].tolist() == grid[:, 1:].tolist(),
            same_kept=kind == "image" or torch.equal(keep, their_keep),
            pixels=float((inputs.pixel_values - pixels).abs().max() * 127.5) if same_sizes else None,
        )
        if kind == "video":
            both = zip(*decoded_twice(path, their_frames), strict=True)
            asked.decoded = max(float(np.abs(a.astype(int) - b.astype(int)).max()) for a, b in both)
        if ours != theirs:
            asked.reason = self.reason(kind, path, question, inputs, ours, metadata)
            asked.margin = self.margins(inputs, given, kind, ours, theirs)
        return asked

    def answer(self, inputs: Any, pruner: Any = None) -> str:
        return str(self.processor.decode(self.model.generate(inputs, max_new_tokens=MOST_NEW, pruner=pruner)[0]))

    def their_answer(self, kind: str, path: Path, question: str) -> tuple[str, dict[str, Any], Any]:
        """As in transformers' documentation."""
        part = {"type": kind, "path": str(path)}
        messages = [{"role": "user", "content": [part, {"type": "text", "text": question}]}]
        options: dict[str, Any] = {"return_metadata": True} if kind == "video" else {}
        given = self.their_processor.apply_chat_template(
            messages,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs=options,
        )
        metadata = given.pop("video_metadata", None)
        return self.their_generate(given), dict(given), metadata

    def their_generate(self, given: Mapping[str, Any]) -> str:
        ids = self.their_model.generate(**given, max_new_tokens=MOST_NEW, do_sample=False)
        return str(self.their_processor.decode(ids[0, given["input_ids"].shape[1] :], skip_special_tokens=True))

    def reason(self, kind: str, path: Path, question: str, inputs: Any, ours: str, metadata: Any) -> str:
        """The first of `REASONS` that changes our answer."""
        if self.their_generate(self.in_their_names(inputs, kind)) != ours:
            return "model"
        if kind == "image":  # Pillow decodes the file for both
            return "resizing"
        indices = [int(index) for index in metadata[0].frames_indices]
        times = [index / metadata[0].fps for index in indices]
        by_us, by_them = decoded_twice(path, indices)
        chosen = self.processor(conversation(kind, by_us, question, times))
        if self.answer(chosen) != ours:
            if len(indices) != int(inputs.grid_sizes[0, 0]):
                return "count"
            keep = self.model.pruner(inputs, None)
            return "kept" if self.answer(chosen, lambda *_: keep) == ours else "frames"
        same = self.answer(self.processor(conversation(kind, by_them, question, times))) == ours
        return "resizing" if same else "decoding"

    def in_their_names(self, inputs: Any, kind: str) -> dict[str, Any]:
        """Our inputs as their model takes them: what is pruned is not in the ids."""
        keep = self.model.pruner(inputs, None)
        is_visual = inputs.input_ids == self.processor.config.token_id_for(kind)
        kept = ~is_visual
        kept[is_visual] = keep
        ids = inputs.input_ids[kept].clone()
        ids[is_visual[kept]] = getattr(self.their_model.config, f"{kind}_token_id")
        given = {f"pixel_values{plural(kind)}": inputs.pixel_values, f"{kind}_grid_thw": inputs.grid_sizes}
        given |= {f"{kind}_merge_sizes": inputs.merge_sizes, "input_ids": ids[None]}
        given["attention_mask"] = torch.ones_like(ids[None])
        return given | ({"video_compression_mask": keep} if kind == "video" else {})

    def margins(self, inputs: Any, given: Mapping[str, Any], kind: str, ours: str, theirs: str) -> tuple[float, float]:
        """How much likelier our first differing token is than theirs: by our input, and (negative) by their own."""
        end = self.processor.tokenizer.special("<|im_end|>")
        mine, other = ([*self.processor.tokenizer.encode(text)[0], end] for text in (ours, theirs))
        place = next(i for i, pair in enumerate(zip(mine, other, strict=False)) if pair[0] != pair[1])
        pair = [mine[: place + 1], other[: place + 1]]
        likely = score(self.model, inputs, pair, per_token=True)
        ids = torch.cat([given["input_ids"], torch.tensor([mine[:place]], dtype=torch.int64)], dim=1)
        with torch.inference_mode():
            logits = self.their_model(**{**given, "input_ids": ids, "attention_mask": torch.ones_like(ids)}).logits[
                0, -1
            ]
        return float(likely[0][-1] - likely[1][-1]), float(logits[mine[place]] - logits[other[place]])


def decoded_twice(path: Path, indices: Sequence[int]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Frames of a clip, (H, W, 3) uint8, as vl3ref decodes them, and torchcodec."""
    file, decoder = open_video_file(path), VideoDecoder(path)
    return [file.read(i) for i in indices], [decoder[i].permute(1, 2, 0).numpy() for i in indices]


def conversation(kind: str, source: Any, question: str, times: Sequence[float] | None = None) -> list[dict[str, Any]]:
    part = {"type": kind, kind: source} | ({} if times is None else {"timestamps": [*times]})
    return [{"role": "user", "content": [part, question]}]


def plural(kind: str) -> str:
    return "_videos" if kind == "video" else ""


def row(name: str, asked: Sequence[Asked]) -> str:
    equal = [x for x in asked if x.ours == x.theirs]
    right = [f"{sum(getattr(x, who) == x.expected for x in asked)}" for who in ("ours", "theirs")]
    return f"| {name} | {len(asked)} | {len(equal)} ({len(equal) / len(asked):.1%}) | {' | '.join(right)} |"


def inputs_row(name: str, asked: Sequence[Asked]) -> str:
    counts = [sum(getattr(x, what) for x in asked) for what in ("same_count", "same_frames", "same_sizes", "same_kept")]
    pixels = np.array([x.pixels for x in asked if x.pixels is not None] or [np.nan])
    exact = int((pixels < 0.01).sum())
    figures = f"{exact} | {np.median(pixels):.1f} | {pixels.max():.0f} | {max(x.decoded for x in asked):.0f}"
    return f"| {name} | {' | '.join(map(str, counts))} | {figures} |"


def page(asked: Sequence[Asked], model: str) -> str:
    groups = {"pictures": [x for x in asked if x.kind == "image"], "clips": [x for x in asked if x.kind == "video"]}
    groups["all"] = [*asked]
    other = [x for x in asked if x.ours != x.theirs]
    counts = Counter((x.kind, x.reason) for x in other)
    why = [f"| {what} | {counts['image', name]} | {counts['video', name]} |" for name, what in REASONS.items()]
    shown = []
    for x in other:
        cells = [x.kind, x.question, x.ours, x.theirs, x.expected, x.reason, *(f"{m:.2f}" for m in x.margin)]
        shown.append(f"| {' | '.join(cells)} |")
    names = ("torch", "transformers", "torchvision", "torchcodec", "pillow", "av")
    return TEXT.format(
        model=model,
        versions=", ".join(f"{name} {version(name)}" for name in names),
        answers="\n".join(row(name, group) for name, group in groups.items()),
        inputs="\n".join(inputs_row(name, group) for name, group in groups.items() if name != "all"),
        reasons="\n".join(why),
        differing="\n".join(shown) or "| none | | | | | | | |",
        seed=SEED,
    )


TEXT = """# Beside transformers, as its users have it

`AutoProcessor` and `AutoModelForImageTextToText` on files, with torchvision and torchcodec, and vl3ref on the same
files: {model}, in float32 on a CPU, greedily. The tests compare models and processors number by number
([parity](../parity.md)); here is what is left of that when each side decodes, samples and resizes by itself.

{versions}.
Questions about the small world, seed {seed}: pictures as PNG, clips as H.264 of 10 frames a second, each drawn frame
shown for a second (questions about half seconds so have a wrong answer beside them). Written by
`.venv-lmms/bin/python -m scripts.compare_with_transformers` after `make lmms-env`.

## Answers

| | questions | equal answers | right: vl3ref | right: transformers |
|---|---:|---:|---:|---:|
{answers}

## Inputs

Of as many questions, how often the two have the same: number of frames, their places in the file, sizes after resizing,
video tokens kept by DiffFP, pixels. Then the largest difference of a pixel in a question's pictures, in steps of 1/255:
its median, and its maximum, over the questions with as many pixels; and the maximum for the same frame, decoded by
both, before resizing.

| | frames | places | sizes | kept tokens | pixels | median | maximum | decoded |
|---|---:|---:|---:|---:|---:|---:|---:|---:|
{inputs}

- Frames: transformers takes the first frame of every second, and at least 4 of a clip; vl3ref, as the official loader,
  takes the last frame shown before the second ends, and as many as there are seconds.
  Where a picture stands still for a second, as here, both show the same, but for what the codec makes of it: DiffFP
  keeps tokens that changed by more than 0.1 of 255, which is less than the change from one compressed frame to another.
- Decoding: torchcodec and PyAV bring the same colours where *decoded* is 0.
- Resizing: torchvision's bicubic filter on tensors and Pillow's, which the official processor uses, round otherwise.
  (PNG is lossless, so it is resizing alone that pictures differ by; those with the same pixels are not resized.)

## Answers that differ

Each cause is put into vl3ref's input, one after the other (their frames decoded by us; then their decoding; what is
left is resizing), and the first that changes vl3ref's answer is named. Before that, vl3ref's own input is given to
transformers' model: it has to answer as vl3ref does, or the cause is the model.

| cause | pictures | clips |
|---|---:|---:|
{reasons}

The last two columns: how much likelier vl3ref's first differing token is than transformers', as a difference of
log-probabilities, by vl3ref's input and by transformers'. Small numbers are near ties that any change of input turns.

| kind | question | vl3ref | transformers | right | cause | by ours | by theirs |
|---|---|---|---|---|---|---:|---:|
{differing}
"""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--model", default="vl3-tiny", help="a folder or a name, as vl3ref.load takes it")
    arguments.add_argument("--count", type=int, default=COUNT, help="pictures, and clips")
    options = arguments.parse_args()
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    asked = []
    with tempfile.TemporaryDirectory() as folder:
        pair = Pair(options.model, Path(folder) / "hf")
        for kind, write, ending in (("image", write_picture, "png"), ("video", write_clip, "mp4")):
            for number, (sample, question, expected) in enumerate(questions(kind, options.count, SEED)):
                path = write(Path(folder) / f"{number}.{ending}", sample)
                asked.append(pair.ask(kind, path, question, expected))
            equal = sum(x.ours == x.theirs for x in asked if x.kind == kind)
            print(f"{kind}: {equal} of {options.count} answers are equal", flush=True)
    PAGE.write_text(page(asked, Path(options.model).name), "utf-8")


if __name__ == "__main__":
    main()
