"""A conversation that keeps its KV cache: each turn computes only its own tokens.

    turn 1   <|im_start|>system ... <|im_start|>user ... <|im_start|>assistant     prefilled; the answer is decoded
    turn 2   the answer's last token, <|im_end|>, newline                          closes the answer
             <|im_start|>user ... <|im_start|>assistant                            prefilled; the answer is decoded

Text is never merged with a special token or across one, so the turns add up to what the processor makes of the whole
conversation. Two things differ: an answer stays as the model tokenised it, and the files of one turn share a budget of
visual tokens, not those of the whole conversation.
"""

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from vl3ref.errors import InputError, quoted
from vl3ref.generation import stream
from vl3ref.inputs.files import file_part
from vl3ref.inputs.processor import Processor
from vl3ref.limits import check_prompt, memory_errors
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.model_inputs import ModelInputs


class Chat:
    """A conversation with a model.

    An answer may be abandoned half-way: the next turn continues after what was given out, and the old answer cannot be
    read on. A turn that fails leaves the conversation as it was. Threads may share the model, each with a Chat of its
    own; two that use one Chat at the same time are refused.

    Args:
        model, processor: of the same checkpoint.
        system: the system prompt; None for the default one.
        options: of every answer, as `vl3ref.generation.stream` takes them (temperature, seed, pruner, step, ...), apart
            from `cache`, `processor`, `log_probs` and `copies`. max_new_tokens is 512 if not given; a `stop` string is
            not part of the answer's text; penalty_scope="prompt" counts the latest turn's prompt.

    Attributes:
        ids: every token so far as the processor counts them, before pruning.
        answer_ids: tokens of the latest answer, the end-of-text id included when it came.
        answer_log_probs: their log-probabilities, as `stream` gives them.
    """

    def __init__(self, model: VideoLLaMA3, processor: Processor, system: str | None = None, **options: Any) -> None:
        if not isinstance(model, VideoLLaMA3) or not isinstance(processor, Processor):
            raise InputError("a Chat takes a model and its processor, as vl3ref.load returns them")
        self.model, self.processor, self.system = model, processor, system
        self.options = {"max_new_tokens": 512} | options
        self._computing = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Forget everything that was said."""
        self.cache = self.model.language_model.new_cache(1)
        self.ids: list[int] = []
        self.answer_ids: list[int] = []
        self.answer_log_probs: list[float] = []
        self._held = self.cache.lengths, self.cache.offsets  # after the latest token; a turn that fails goes back to it
        self._open = False  # whether the latest answer still has to be closed
        self._turn = object()  # stands for the latest answer; an older one cannot be read on

    @property
    def finish_reason(self) -> str:
        """Why the latest answer stopped: "end" (the model ended it), "stop" (a stop string), or "length" (its limit, or
        it was left)."""
        ends = self.options.get("end_token_ids")
        ends = self.model.language_model.config.eos_token_ids if ends is None else ends
        if self.answer_ids and self.answer_ids[-1] in ends:
            return "end"
        text = self.processor.decode(self.answer_ids)
        return "stop" if any(string in text for string in self.options.get("stop", ())) else "length"

    def ask(self, text: str, files: Sequence[str | Path | Mapping[str, Any]] = (), **overrides: Any) -> Iterator[str]:
        """Ask something, and get the answer's text in pieces as it is generated.

        Args:
            text: the question.
            files: images and videos to go before it: paths, or parts of a message as the processor takes them.
            overrides: of the processor, for this turn (max_tokens, fps, max_frames, ...).

        Raises:
            InputError: at once, if a file cannot be read, or the prompt is too long (see `vl3ref.limits`); while the
                answer is read, if another turn has begun meanwhile, or another thread is reading.
        """
        return self.answer(self.prepare(text, files, **overrides))

    def prepare(self, text: str, files: Sequence[str | Path | Mapping[str, Any]] = (), **overrides: Any) -> ModelInputs:
        """The inputs of the new turn alone: what `ask` makes of its arguments before the model sees them."""
        if not isinstance(files, list | tuple) or any(not isinstance(file, str | Path | Mapping) for file in files):
            raise InputError(f"files should be a list of paths, or of parts of a message, not {quoted(files)}")
        parts = [file if isinstance(file, Mapping) else file_part(file) for file in files]
        messages: list[dict[str, Any]] = [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]
        first = not self.ids
        if first and self.system is not None:
            messages.insert(0, {"role": "system", "content": self.system})

        def check(inputs: ModelInputs) -> None:
            allow_long = self.options.get("allow_long", False)
            check_prompt(self.model, inputs, self.options.get("pruner"), self.cache.lengths[0], allow_long)

        return self.processor(messages, add_system_prompt=first, check=check, **overrides)

    def answer(self, inputs: ModelInputs) -> Iterator[str]:
        """The answer to a turn that `prepare` made, in pieces of text."""
        tokens = self._alone(self._tokens(inputs), self._turn)
        return text_of(self.processor, tokens, self.options.get("stop", ()))

    def _alone(self, tokens: Iterator[tuple[int, int]], turn: object) -> Iterator[tuple[int, int]]:
        """The tokens, as long as no other turn begins. `turn`: the latest one when the question was asked."""
        while True:
            if not self._computing.acquire(blocking=False):
                raise InputError("this chat is answering already, in another thread: give each thread its own Chat")
            try:
                if self._turn is not turn:
                    raise InputError("another turn of this chat has begun since this one was asked: ask again")
                turn = self._turn = object()
                with memory_errors(), torch.inference_mode():
                    pair = next(tokens, None)
            finally:
                self._computing.release()
            if pair is None:
                return
            yield pair

    def _tokens(self, inputs: ModelInputs) -> Iterator[tuple[int, int]]:
        self._close_answer()
        given: list[float] = []
        told: dict[str, Any] = {"cache": self.cache, "processor": self.processor, "log_probs": given}
        for conversation, token in stream(self.model, inputs, **told, **self.options):
            if not self._open:  # the first token: the prompt is in the cache
                self._open, self.answer_ids, self.answer_log_probs = True, [], given
                self.ids += inputs.input_ids.tolist()
            self.answer_ids.append(token)
            self.ids.append(token)
            self._held = self.cache.lengths, self.cache.offsets
            yield conversation, token

    def _close_answer(self) -> None:
        """Bring the cache to where the next turn begins: <|im_end|> and a newline after the latest answer.

        The answer's last token is not in the cache yet. If it is an end-of-text token, <|im_end|> takes its place.
        """
        self.cache.lengths, self.cache.offsets = self._held
        if not self._open:
            return
        decoder, tokenizer = self.model.language_model, self.processor.tokenizer
        last = [token for token in self.answer_ids[-1:] if token not in decoder.config.eos_token_ids]
        closing = [*last, tokenizer.special("<|im_end|>"), *tokenizer.encode("\n")[0]]
        decoder.hidden(torch.tensor(closing, device=self.model.device), [len(closing)], self.cache)
        self.ids[-1:] = closing
        self._held, self._open = (self.cache.lengths, self.cache.offsets), False


def text_of(processor: Processor, tokens: Iterable[tuple[int, int]], stop: Sequence[str]) -> Iterator[str]:
    """The text of one conversation's tokens in pieces, up to a stop string."""
    return until((piece for _, piece in processor.decode_stream(tokens)), stop)


def until(pieces: Iterable[str], stop: Sequence[str]) -> Iterator[str]:
    """Pieces of a text up to where one of the stop strings begins. What may be the beginning of one is held back."""
    held = ""
    for piece in pieces:
        held += piece
        if found := [place for string in stop if (place := held.find(string)) >= 0]:
            yield from filter(None, [held[: min(found)]])
            return
        longest = max((len(string) for string in stop), default=0)
        begun = (n for n in range(min(longest, len(held)), 0, -1) if any(x.startswith(held[-n:]) for x in stop))
        keep = next(begun, 0)
        yield from filter(None, [held[: len(held) - keep]])
        held = held[len(held) - keep :]
    yield from filter(None, [held])
