"""`vl3ref ask` and `vl3ref chat`."""

import json
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vl3ref.cli.options import (
    Device,
    Dtype,
    End,
    Fps,
    MaxFrames,
    MaxTokens,
    Merge,
    MinTokens,
    ModelName,
    NoPrune,
    Penalty,
    Sample,
    Seed,
    Start,
    System,
    Temperature,
    TopK,
    TopP,
    VisualTokens,
    check_times,
    load,
    message_parts,
    note,
    option,
    processor_overrides,
    sampling_rule,
    stderr,
)
from vl3ref.errors import InputError, VL3Error

if TYPE_CHECKING:
    from vl3ref.conversation import Chat
    from vl3ref.model_inputs import ModelInputs


def ask(
    arguments: Annotated[list[str], typer.Argument(metavar="[FILE]... QUESTION", show_default=False)],
    model: ModelName = "vl3-tiny",
    fps: Fps = None,
    max_frames: MaxFrames = None,
    start: Start = None,
    end: End = None,
    visual_tokens: VisualTokens = None,
    merge: Merge = None,
    no_prune: NoPrune = False,
    system: System = None,
    max_tokens: MaxTokens = 512,
    min_tokens: MinTokens = 0,
    sample: Sample = False,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    repetition_penalty: Penalty = None,
    seed: Seed = None,
    device: Device = None,
    dtype: Dtype = None,
    as_json: Annotated[bool, option("--json", help="One JSON object in place of the answer.")] = False,
) -> None:
    """Ask about pictures and videos (files, GIFs, folders of frames), or, with no file, just ask."""
    clock = Clock()
    *files, question = arguments
    parts = message_parts(files, start, end)
    _check_question(question, files)
    check_times(parts, start, end)
    conversation = _conversation(
        *(model, device, dtype, system, max_tokens, min_tokens),
        sampling=(sample, temperature, top_k, top_p, repetition_penalty, seed),
        overrides=processor_overrides(fps, max_frames, visual_tokens, merge, no_prune),
    )
    clock.lap("load")
    inputs = _prepare(conversation, question, parts)
    clock.lap("prepare")
    pieces: list[str] = []
    for piece in _answer(conversation, inputs):
        if not pieces:
            clock.lap("first_text")
        pieces.append(piece)
        if not as_json:
            typer.echo(piece, nl=False)
    clock.lap("rest")
    if as_json:
        typer.echo(json.dumps(_report(conversation, inputs, model, "".join(pieces), clock), ensure_ascii=False))
    else:
        typer.echo()
        _note_cut(conversation)


def chat(
    files: Annotated[list[str] | None, typer.Argument(metavar="[FILE]...", show_default=False)] = None,
    model: ModelName = "vl3-tiny",
    fps: Fps = None,
    max_frames: MaxFrames = None,
    start: Start = None,
    end: End = None,
    visual_tokens: VisualTokens = None,
    merge: Merge = None,
    no_prune: NoPrune = False,
    system: System = None,
    max_tokens: MaxTokens = 512,
    min_tokens: MinTokens = 0,
    sample: Sample = False,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    repetition_penalty: Penalty = None,
    seed: Seed = None,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Talk about pictures and videos, shown with the first question. Each turn computes its own tokens alone.

    /add FILE shows another with the next question, /reset starts over, /exit or Ctrl-D ends, Ctrl-C stops an answer.
    """
    parts = message_parts(files or [], start, end)
    conversation = _conversation(
        *(model, device, dtype, system, max_tokens, min_tokens),
        sampling=(sample, temperature, top_k, top_p, repetition_penalty, seed),
        overrides=processor_overrides(fps, max_frames, visual_tokens, merge, no_prune),
    )
    for line in _lines():
        try:
            if line.startswith("/add "):
                parts += message_parts([line.removeprefix("/add ").strip()], start, end)
            elif line == "/reset":
                conversation.reset()
                parts = []
            elif line.startswith("/"):
                note("commands: /add FILE, /reset, /exit")
            else:
                # Files that cannot be read are let go of: else every later question would fail with them.
                shown, parts = parts, []
                _turn(conversation, line, shown)
        except VL3Error as error:
            note(f"error: {error}")


def _conversation(
    model: str,
    device: str | None,
    dtype: str | None,
    system: str | None,
    max_tokens: int,
    min_tokens: int,
    sampling: tuple[Any, ...],
    overrides: dict[str, Any],
) -> "Chat":
    """
    Args:
        sampling: --sample, --temperature, --top-k, --top-p, --repetition-penalty, --seed.
        overrides: of the processor.
    """
    from vl3ref.conversation import Chat

    network, processor = load(model, device, dtype)
    sample, *given = sampling
    names = ("temperature", "top_k", "top_p", "repetition_penalty", "seed")
    rule = sampling_rule(network, sample, **dict(zip(names, given, strict=True)))
    return Chat(network, processor, system, max_tokens, min_tokens, rule, **overrides)


def _check_question(question: str, files: list[str]) -> None:
    if not question.strip():
        raise InputError("the question is empty")
    if os.path.isfile(question) or (not files and os.path.exists(question)):
        raise InputError(f"there is no question; ask one after the file: vl3ref ask {question} 'What is this?'")


def _prepare(conversation: "Chat", question: str, parts: list[dict[str, Any]]) -> "ModelInputs":
    names = ", ".join(str(part[part["type"]]) for part in parts)
    with stderr.status(f"reading {names}"):
        return conversation.prepare(question, parts)


def _answer(conversation: "Chat", inputs: "ModelInputs") -> Iterator[str]:
    """The answer's text as it comes, with progress until its first piece."""
    with stderr.status(f"prefilling {len(inputs.input_ids)} tokens"):
        pieces = conversation.answer(inputs)
        first = next(pieces, "")
    yield first
    yield from pieces


def _turn(conversation: "Chat", line: str, parts: list[dict[str, Any]]) -> None:
    try:
        for piece in _answer(conversation, _prepare(conversation, line, parts)):
            typer.echo(piece, nl=False)
        typer.echo()
        _note_cut(conversation)
    except KeyboardInterrupt:
        typer.echo()
        note("note: stopped; the conversation goes on from here")


def _lines() -> Iterator[str]:
    """What a person types, until /exit or the end of the input. The prompt goes to stderr."""
    while True:
        typer.echo("> ", nl=False, err=True)
        try:
            line = input().strip()
        except EOFError:
            note("")
            return
        if line == "/exit":
            return
        if line:
            yield line


def _note_cut(conversation: "Chat") -> None:
    if conversation.finish_reason == "length":
        note(f"note: the answer was cut after {len(conversation.answer_ids)} tokens (--max-tokens)")


class Clock:
    """Seconds that each step took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.began = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name], self.began = round(now - self.began, 4), now


def _report(conversation: "Chat", inputs: "ModelInputs", model: str, answer: str, clock: Clock) -> dict[str, Any]:
    """What `ask --json` prints. Prompt tokens are those the decoder reads, after DiffFP."""
    from vl3ref.inspection import visuals_of

    visuals = visuals_of(inputs, conversation.model.keep_mask(inputs))
    before, after = sum(seen.tokens for seen in visuals), sum(seen.kept for seen in visuals)
    return {
        "answer": answer,
        "ids": conversation.answer_ids,
        "finish_reason": conversation.finish_reason,
        "model": model,
        "prompt_tokens": len(inputs.input_ids) - before + after,
        "visual_tokens": {"before_diff_fp": before, "after_diff_fp": after},
        "sources": [seen.as_dict() for seen in visuals],
        "seconds": clock.seconds,
    }
