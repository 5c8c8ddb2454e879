"""`vl3ref ask` and `vl3ref chat`."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vl3ref.cli.interrupts import raising
from vl3ref.cli.options import AnswerOptions, load, option, with_options
from vl3ref.cli.printing import note, say, say_json, status
from vl3ref.errors import InputError, VL3Error

if TYPE_CHECKING:
    from vl3ref.chat import Chat
    from vl3ref.model_inputs import ModelInputs


@with_options(AnswerOptions)
def ask(
    arguments: Annotated[
        list[str], typer.Argument(metavar="[FILE]... QUESTION", help="Files, then a question.", show_default=False)
    ],
    *,
    as_json: Annotated[bool, option("--json", help="One JSON object instead of the answer.")] = False,
    options: AnswerOptions,
) -> None:
    """Ask about images and videos (files, GIFs, folders of frames), or, with no file, just ask."""
    clock = [time.perf_counter()]
    *files, question = arguments
    parts = options.parts(files)
    _check_question(question, files)
    options.check_times(parts)
    chat = _start(options)
    clock.append(time.perf_counter())
    inputs = _read(chat, question, parts, options)
    clock.append(time.perf_counter())
    pieces: list[str] = []
    for piece in _answer(chat, inputs):
        if not pieces:
            clock.append(time.perf_counter())
        pieces.append(piece)
        if not as_json:
            say(piece, end="")
    clock.append(time.perf_counter())
    if as_json:
        say_json(_report(chat, inputs, options, "".join(pieces), clock))
    else:
        say("")
        _note_ending(chat, "".join(pieces))


@with_options(AnswerOptions)
def chat(
    files: Annotated[list[str] | None, typer.Argument(metavar="[FILE]...", show_default=False)] = None,
    *,
    options: AnswerOptions,
) -> None:
    """A conversation about images and videos, which go with the first question. Each turn computes only its own tokens.

    /add FILE adds one to the next question, /reset starts over, /exit or Ctrl-D ends, Ctrl-C stops an answer.
    """
    parts = options.parts(files or [])
    chat = _start(options)
    with raising():
        for line in _lines():
            try:
                if line.startswith("/add "):
                    parts += options.parts([line.removeprefix("/add ").strip()])
                elif line == "/reset":
                    chat.reset()
                    parts = []
                elif line.startswith("/"):
                    note("commands: /add FILE, /reset, /exit")
                else:
                    # Files that cannot be read are not shown again: else every later question would fail with them.
                    shown, parts = parts, []
                    pieces = []
                    for piece in _answer(chat, _read(chat, line, shown, options)):
                        pieces.append(piece)
                        say(piece, end="")
                    say("")
                    _note_ending(chat, "".join(pieces))
            except VL3Error as error:
                note(f"error: {error}")
            except KeyboardInterrupt:
                say("")
                note("note: stopped; the conversation goes on from here")


def _start(options: AnswerOptions) -> "Chat":
    from vl3ref.chat import Chat

    model, processor = load(options.model, options.device, options.dtype, options.adapter, options.change)
    # With an adapter or a change it is another model, and the checkpoint's threshold is not that one's.
    if options.unsure_below is not None or options.adapter or options.change:
        model.unsure_below = options.unsure_below
    return Chat(model, processor, options.system, **options.generation(model))


def _check_question(question: str, files: list[str]) -> None:
    if not question.strip():
        raise InputError("the question is empty")
    if os.path.isfile(question) or (not files and os.path.exists(question)):
        raise InputError(f"there is no question; ask one after the file: vl3ref ask {question} 'What is this?'")


def _lines() -> Iterator[str]:
    """What a person types, until /exit or the end of the input. The prompt goes to stderr."""
    while True:
        note("> ", end="")
        line = sys.stdin.readline() if sys.stdin else ""  # Python has no stdin where it was closed: vl3ref chat <&-
        if not line:
            note("")
        if not line or line.strip() == "/exit":
            return
        if line.strip():
            yield line.strip()


def _read(chat: "Chat", question: str, parts: list[dict[str, Any]], options: AnswerOptions) -> "ModelInputs":
    names = ", ".join(part[part["type"]] for part in parts)
    with status(f"reading {names}"):
        return chat.prepare(question, parts, **options.overrides)


def _answer(chat: "Chat", inputs: "ModelInputs") -> Iterator[str]:
    """The answer's text as it is generated. The status shows until its first piece."""
    from vl3ref.fast import encode_equal_frames_once

    # Entering it encodes a tiny clip, which a question without a video need not wait for.
    once = encode_equal_frames_once(chat.model) if "video" in inputs.modals else nullcontext()
    with status(f"prefilling {len(inputs.input_ids)} tokens"), once:
        pieces = chat.answer(inputs)
        first = next(pieces, "")
    yield first
    yield from pieces


def _note_ending(chat: "Chat", answer: str) -> None:
    if not answer.strip():
        note("note: the answer is empty")
    elif (below := chat.model.unsure_below) is not None and (found := _mean_log_prob(chat)) < below:
        note(f"note: the model is unsure of this answer (mean log-probability {found:.2f}, below {below:g})")
    if chat.finish_reason == "length":
        note(f"note: the answer was cut after {len(chat.answer_ids)} tokens (--max-tokens)")


def _mean_log_prob(chat: "Chat") -> float:
    return sum(chat.answer_log_probs) / max(len(chat.answer_log_probs), 1)


def _report(
    chat: "Chat", inputs: "ModelInputs", options: AnswerOptions, answer: str, clock: list[float]
) -> dict[str, Any]:
    """What `ask --json` prints. Prompt tokens are those the decoder reads, after pruning; "log_prob" is the mean
    log-probability of the answer's tokens, "unsure" whether it lies below the threshold (null: there is none)."""
    from vl3ref.inspection import visuals_of

    pruner = options.pruner or chat.model.pruner
    visuals = visuals_of(inputs, pruner(inputs.to(chat.model.device), None))
    before, after = sum(seen.tokens for seen in visuals), sum(seen.kept for seen in visuals)
    steps = zip(("load", "prepare", "first_text", "rest"), pairwise(clock), strict=True)
    return {
        "answer": answer,
        "ids": chat.answer_ids,
        "finish_reason": chat.finish_reason,
        "log_prob": _mean_log_prob(chat),
        "unsure": None if (below := chat.model.unsure_below) is None else _mean_log_prob(chat) < below,
        "model": options.model,
        "prompt_tokens": len(inputs.input_ids) - before + after,
        "visual_tokens": {"before_diff_fp": before, "after_diff_fp": after},
        "sources": [seen.as_dict() for seen in visuals],
        "seconds": {step: round(end - start, 4) for step, (start, end) in steps},
    }
