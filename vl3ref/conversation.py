"""A conversation that keeps its KV cache: each turn computes its own tokens alone, on top of the turns before.

    turn 1   <|im_start|>system ... <|im_start|>user ... <|im_start|>assistant     prefilled; the answer is decoded
    turn 2   the answer's last token, <|im_end|>, newline                          closes the answer
             <|im_start|>user ... <|im_start|>assistant                            prefilled; the answer is decoded

Text is never merged with a special token or across one, so what the turns add up to is what the processor makes of the
whole conversation at once. Two things are a turn's own here that would be the conversation's there: an answer stays as
the model tokenised it, and the budget of visual tokens is shared by the files of one turn only.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from vl3ref.generation import Sampling, decoder_dtype, decoder_ends, stream
from vl3ref.inputs.files import file_part
from vl3ref.inputs.processor import Processor
from vl3ref.model.kv_cache import KVCache
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.model_inputs import ModelInputs


class Chat:
    """A conversation with a model.

    An answer may be abandoned half-way, and a turn that fails leaves the conversation as it was: the next turn goes on
    from what was given out.

    Args:
        model, processor: of the same checkpoint.
        system: the system prompt; None for the checkpoint's default.
        max_new_tokens, min_new_tokens: of each answer.
        sampling: how tokens are chosen; default greedy. The "prompt" of its penalty_scope is the latest turn's.
        overrides: of the processor (max_tokens, fps, max_frames, diff_fp, ...).

    Attributes:
        ids: every token so far as the processor counts them, before DiffFP.
        answer_ids: tokens of the latest answer, the end-of-text id included when it came.
    """

    def __init__(
        self,
        model: VideoLLaMA3,
        processor: Processor,
        system: str | None = None,
        max_new_tokens: int = 512,
        min_new_tokens: int = 0,
        sampling: Sampling | None = None,
        **overrides: Any,
    ) -> None:
        self.model, self.processor, self.system = model, processor, system
        self.max_new_tokens, self.min_new_tokens = max_new_tokens, min_new_tokens
        self.sampling = Sampling() if sampling is None else sampling
        self.overrides = overrides
        self.ends = decoder_ends(model.language_model)
        self.reset()

    def reset(self) -> None:
        """Forget everything that was said."""
        decoder = self.model.language_model
        self.cache = KVCache(decoder.config, 1, 0, decoder_dtype(decoder), self.model.device)
        self.ids: list[int] = []
        self.answer_ids: list[int] = []
        self._held = 0
        self._open = False

    @property
    def finish_reason(self) -> str:
        """Why the latest answer stopped: "end" (the model ended it) or "length" (it was cut)."""
        return "end" if self.answer_ids and self.answer_ids[-1] in self.ends else "length"

    def ask(self, text: str, files: Sequence[str | Path | Mapping[str, Any]] = ()) -> Iterator[str]:
        """Say something, and get the answer's text as it is generated.

        Args:
            text: the question.
            files: pictures and videos to go before it; paths, or a message's parts as the processor takes them.

        Raises:
            InputError: at once, if a file cannot be read.
        """
        return self.answer(self.prepare(text, files))

    def prepare(self, text: str, files: Sequence[str | Path | Mapping[str, Any]] = ()) -> ModelInputs:
        """The new turn's own inputs: what `ask` reads from files and renders, before the model sees it."""
        shown = [file if isinstance(file, Mapping) else file_part(file) for file in files]
        messages: list[dict[str, Any]] = [{"role": "user", "content": [*shown, {"type": "text", "text": text}]}]
        first = not self.ids
        if first and self.system is not None:
            messages.insert(0, {"role": "system", "content": self.system})
        return self.processor(messages, add_system_prompt=first, **self.overrides)

    def answer(self, inputs: ModelInputs) -> Iterator[str]:
        """The answer to a turn that `prepare` made."""
        return (piece for _, piece in self.processor.decode_stream(self._tokens(inputs)))

    def _tokens(self, inputs: ModelInputs) -> Iterator[tuple[int, int]]:
        self._close_answer()
        options = asdict(self.sampling)
        tokens = stream(self.model, inputs, self.max_new_tokens, self.min_new_tokens, cache=self.cache, **options)
        for conversation, token in tokens:
            if not self._open:  # the first token: the turn is in the cache
                self._open, self.answer_ids = True, []
                self.ids += inputs.input_ids.tolist()
            self.answer_ids.append(token)
            self.ids.append(token)
            self._held = self.cache.lengths[0]
            yield conversation, token

    @torch.inference_mode()
    def _close_answer(self) -> None:
        """Feed the cache what stands between the latest answer and the next turn.

        The answer's last token is not in the cache yet. Whichever end-of-text token it was, a turn ends in <|im_end|>.
        """
        self.cache.lengths = [self._held]  # less than it holds if a turn was interrupted between two tokens
        if not self._open:
            return
        tokenizer = self.processor.tokenizer
        unfed = [] if self.finish_reason == "end" else self.answer_ids[-1:]
        closing = [*unfed, tokenizer.special("<|im_end|>"), *tokenizer.encode("\n")[0]]
        self.cache.reserve(len(closing))
        self.model.language_model.hidden(torch.tensor(closing, device=self.model.device), [len(closing)], self.cache)
        self.ids[-1:] = closing
        self._held, self._open = self.cache.lengths[0], False
