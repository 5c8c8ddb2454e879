"""A walk of one `vl3ref ask` through the source, in the order of execution, with the shapes of the shipped clip.

python scripts/walk.py [--check]        writes docs/walk.md; --check says whether it is as it should be

Every stop names a function that this ask really calls; the script follows the call and takes order, lines and shapes
from what it sees. A stop that is not reached, or not in its order, is an error.
"""

import contextlib
import io
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "walk.md"
CLIP, QUESTION = "docs/media/tinyworld/turns.mp4", "When does the cross turn yellow?"

STOPS_AS_TEXT = """
cli/conversation.py ask
    The command. Options are checked before anything is loaded; files become parts of a message.
hub.py find_checkpoint
    A short name, a folder or a hub name becomes a folder. The model in the box needs no network.
checkpoints/loading.py load_model
    Reads config.json, builds the model without memory for its weights, and gives each parameter the tensor of
    its name in the file.
checkpoints/layouts.py read_config
    Both layouts' config.json become one `ModelConfig`; the layout is told by its keys.
model/videollama3.py VideoLLaMA3.__init__
    The whole model is four attributes: encoder, pruner, projector, decoder.
checkpoints/loading.py load_processor
    What turns files and words into tensors: the tokenizer, and the checkpoint's frame rate, sizes and ids.
chat.py Chat.prepare
    A turn of a conversation. Later turns prepare only what is new, and continue the cache.
inputs/processor.py Processor.__call__
    From here to `ModelInputs`, the model is not touched.
inputs/videos.py open_video
    Opens the file and says which frames are wanted, before any is decoded.
inputs/videos.py sample_by_time
    One frame for every 1 / fps seconds, at most `max_frames`.
inputs/patches.py target_sizes
    Sizes in pixels, multiples of a patch times the merge size, that fit the budget of visual tokens together.
inputs/processor.py encode_pieces
    Words become ids; each frame's placeholder is repeated once for each of its visual tokens, before pruning.
inputs/template.py render
    What `encode_pieces` takes in: the prompt's words, and a placeholder for each frame after its time.
limits.py check_prompt
    What would not fit into memory, or the trained positions, is refused before a frame is decoded.
inputs/patches.py patchify
    Frames are resized and cut into patches of 14 x 14 pixels, normalised to [-1, 1], in the order in which
    the encoder merges them.
fast.py encode_equal_frames_once
    Frames that are equal to the bit will be encoded once, without a change to any number.
model/videollama3.py VideoLLaMA3.splice
    The heart: encode, project, ask the pruner, and put the features where the placeholders were.
model/vision.py VisionEncoder.forward
    All frames, packed: no batch axis, no padding.
model/rope.py ImageRotary.forward
    Rows and columns enter as rotations of queries and keys.
model/vision.py PatchEmbeddings.forward
    A linear map of a patch's 588 values. There is no position table.
model/vision.py VisionAttention.forward
    Attention within each frame.
model/attention.py packed_attention
    The one function of attention, which the decoder calls too.
model/token_merge.py TokenMerge.forward
    Each 2 x 2 features of a video become one: its visual tokens.
model/projector.py Projector.forward
    Two linear layers lead from the encoder's width to the decoder's.
model/diff_fp.py DiffFP.__call__
    Which tokens are kept, from pixels alone: those that changed since the frame before.
prefill.py prefill
    The prompt goes through the decoder once and leaves its keys and values in the cache.
model/language_model.py DecoderLayer.forward
    Qwen2's block: RMSNorm, attention, RMSNorm, gated MLP.
model/language_model.py SelfAttention.forward
    Fewer key heads than query heads; rotations by the token's place.
model/kv_cache.py KVCache.write
    Keys and values are written once and never moved.
model/language_model.py LanguageModel.head
    Logits of the last token alone: the others' are not needed.
generation.py _decode
    Token after token.
sampling.py Sampler.__call__
    Greedy, unless a temperature is given.
inputs/tokenizer.py GrowingText.add
    Bytes become text as soon as a character is whole.
model/kv_cache.py KVCache.attend
    From the second token on, one query reads the whole cache.
"""
"""A function, and below it what to know about it."""


def read_stops(text: str) -> dict[str, str]:
    stops: dict[str, str] = {}
    for line in text.strip().splitlines():
        if line.startswith(" "):
            name = [*stops][-1]
            stops[name] = f"{stops[name]} {line.strip()}".strip()
        else:
            stops[line] = ""
    return stops


STOPS: Mapping[str, str] = read_stops(STOPS_AS_TEXT)
HEART = "model/videollama3.py VideoLLaMA3.splice"


@dataclass
class Call:
    line: int
    given: dict[str, Any]
    returned: str = ""
    count: int = 1


def follow() -> dict[str, Call]:
    """One ask, and the first call of each function of the package, in order."""
    calls: dict[str, Call] = {}
    first: dict[FrameType, Call] = {}

    def watch(frame: FrameType, event: str, value: Any) -> None:
        _, inside, file = frame.f_code.co_filename.partition(f"{ROOT / 'vl3ref'}{os.sep}")
        if not inside:
            return
        name = f"{Path(file).as_posix()} {frame.f_code.co_qualname}"
        if name == HEART and event == "call":
            # What was called before belongs to a trial on two frames.
            for early in [x for x in calls if x.startswith("model/") and not x.endswith("__init__")]:
                del calls[early]
        if event == "call" and name in calls:
            calls[name].count += 1
        elif event == "call":
            code = frame.f_code
            names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
            given = {x: shape for x in names if x != "self" and (shape := described(frame.f_locals.get(x)))}
            calls[name] = first[frame] = Call(code.co_firstlineno, given)
        elif event == "return" and frame in first:
            first.pop(frame).returned = described(value)

    from vl3ref.cli import main

    sys.argv = ["vl3ref", "ask", str(ROOT / CLIP), QUESTION, "--device", "cpu"]
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        contextlib.suppress(SystemExit),
    ):
        sys.setprofile(watch)  # type: ignore[arg-type]
        try:
            main()
        finally:
            sys.setprofile(None)
    return calls


def described(value: Any) -> str:
    """Shapes, and small numbers; nothing for what is neither."""
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    if type(value).__name__ == "ModelInputs":
        pixels = value.pixel_values
        return "" if pixels is None else f"{len(value.input_ids)} ids, pixels {tuple(pixels.shape)}"
    if type(value).__name__ == "Spliced":
        return f"embeddings {tuple(value.embeddings.shape)}"
    if isinstance(value, list | tuple) and value and all(isinstance(x, int) for x in value) and len(value) < 12:
        return str(list(value))
    if isinstance(value, list | tuple) and value and all(isinstance(x, torch.Tensor) for x in value):
        return " and ".join(dict.fromkeys(described(x) for x in value))
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else ""


def page(calls: Mapping[str, Call]) -> str:
    order = [name for name in calls if name in STOPS]
    if missing := [name for name in STOPS if name not in calls]:
        raise SystemExit(f"this ask does not call {', '.join(missing)}")
    if order != [*STOPS]:
        wrong = next(a for a, b in zip(order, STOPS, strict=True) if a != b)
        raise SystemExit(
            f"the stops are not in the order of the calls, which is: {', '.join(order)} (first at {wrong})"
        )
    lines = [*HEAD.format(clip=CLIP, question=QUESTION).splitlines(), ""]
    for number, (name, sentence) in enumerate(STOPS.items(), start=1):
        file, function = name.split(" ")
        call = calls[name]
        lines += [f"### {number}. {function}", "", f"`vl3ref/{file}`, line {call.line}. {sentence}", ""]
        lines += list(facts(call))
    return "\n".join(lines).rstrip() + "\n"


def facts(call: Call) -> Iterable[str]:
    given = ", ".join(f"`{name}` {shape}" for name, shape in call.given.items())
    told = [f"in: {given}" if given else "", f"out: {call.returned}" if call.returned else ""]
    told += [f"called {call.count} times in all" if call.count > 1 else ""]
    if any(told):
        yield f"*{'; '.join(filter(None, told))}*"
        yield ""


HEAD = """# A walk through one question

<!-- made by scripts/walk.py -->

`vl3ref ask {clip} "{question}"` passes these stops, in this order. Shapes are those of the first
call, with vl3-tiny. Read the files beside it: each is short, and its first lines say what it is about.
"""


def main(check: bool) -> None:
    text = page(follow())
    if check and PAGE.read_text(encoding="utf-8") != text:
        raise SystemExit("docs/walk.md is not what the code does now: python scripts/walk.py writes it again")
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main("--check" in sys.argv[1:])
