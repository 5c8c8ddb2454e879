"""A model that watches: frame after frame goes into the KV cache, and questions are answered at any time.

    <|im_start|>system ... <|im_end|>                              stays
    <|im_start|>user Tell me when ... <|im_end|>                   stays                                 tell
    <|stream_start|>stream Time 0.0s: <image> <|stream_end|>       leaves when there is no room left     see
    <|stream_start|>stream Time 1.0s: <image> <|stream_end|>
    <|im_start|>assistant Now. <|im_end|>                          leaves with the frame before it       speak

A frame is encoded once, pruned against the one before, and prefilled. Until something leaves, the model computes what
it would compute of the whole conversation at once. This layout is the one that streams are trained in; the other,
"video", is the message that holds an ordinary video, left open at its end for the next frame or a question.

What leaves takes its slots of the cache along. Positions stay: keys are rotated to the position they had, and the next
token's position goes on counting, so distances between what is kept are the true ones. A place of the picture whose
last kept token has left is kept in the next frame even if nothing changed there.
"""

import math
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from vl3ref.chat import text_of
from vl3ref.errors import InputError, quoted
from vl3ref.forgetting import FramePruner, Held, oldest
from vl3ref.generation import FIRST_ROOM, stream
from vl3ref.inputs.images import RGB, load_image
from vl3ref.inputs.patches import patchify, target_sizes
from vl3ref.inputs.processor import Processor, encode_pieces
from vl3ref.inputs.sources import frames_of
from vl3ref.inputs.template import FRAME, SYSTEM_PROMPT, Message, Piece, render
from vl3ref.limits import memory_errors, trained_positions
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.model_inputs import ModelInputs
from vl3ref.sampling import is_whole

OPENING = (Piece("special", "<|im_start|>"), Piece("text", "assistant\n"))
CLOSING = (Piece("special", "<|im_end|>"), Piece("text", "\n"))

SPARE = 16
"""When frames have to leave, a sixteenth of the cache is cleared at once: closing the gap copies the rest."""


class Stream:
    """A model that is watching.

    Threads may use one Stream: a frame can be seen while an answer is read.

    Args:
        model, processor: of the same checkpoint.
        system: the system prompt; None for the default one.
        layout: of the prompt. "stream" as in streaming samples, where the model may speak of itself; "video" as in an
            ordinary question about a video.
        frame_tokens: visual tokens of a frame at most, before pruning; default: max_tokens / max_frames of the
            processor, the share of a frame in its longest video.
        most_tokens: tokens in the cache at most (an answer is computed in a copy, and comes on top); default: the
            processor's max_tokens.
        forget: which frames leave when there is no room: `oldest`, `every_nth(n)`, or a function of one's own.
        options: of every answer, as `vl3ref.generation.stream` takes them, apart from `cache`, `processor` and
            `copies`; `pruner` has to compare a frame with no more than the one before, as DiffFP does.
            max_new_tokens is 512 if not given.

    Attributes:
        cache: the KV cache of what is watched; it holds `cache.lengths[0]` tokens.

    Raises:
        InputError: an argument out of range.
    """

    def __init__(
        self,
        model: VideoLLaMA3,
        processor: Processor,
        system: str | None = None,
        layout: Any = "stream",
        frame_tokens: Any = None,
        most_tokens: Any = None,
        forget: Any = oldest,
        **options: Any,
    ) -> None:
        config = processor.config
        share = max(config.max_tokens // (config.max_frames or 180), 1)
        self.model, self.processor, self.layout, self.forget = model, processor, layout, forget
        self.frame_tokens = share if frame_tokens is None else frame_tokens
        self.most_tokens = config.max_tokens if most_tokens is None else most_tokens
        for name in ("frame_tokens", "most_tokens"):
            if not is_whole(value := getattr(self, name)) or value < 1:
                raise InputError(f"{name} should be a whole number of at least 1, not {quoted(value)}")
        if layout not in ("stream", "video"):
            raise InputError(f"layout should be stream or video, not {quoted(layout)}")
        if not callable(forget):
            raise InputError(f"forget should be a function, as in vl3ref.forgetting, not {quoted(forget)}")
        self._pruner = FramePruner(options.pop("pruner", None) or model.pruner)
        self.options = {"max_new_tokens": 512} | options
        self.cache = model.language_model.new_cache(1)
        self._lock = threading.Lock()
        self._held: list[Held] = []  # what the cache holds, in order
        self._count, self._latest = 0, -math.inf  # frames seen, and the second of the latest
        self._size: tuple[int, int, int, int] | None = None  # of the frames' pixels, and what they are resized to
        self._hidden: Tensor | None = None  # after the latest frame, if nothing followed it
        self._warned = False
        self._append(self._words([{"role": "system", "content": SYSTEM_PROMPT if system is None else system}]))

    @property
    def frames(self) -> list[Held]:
        """The frames in the cache, oldest first."""
        return [held for held in self._held if held.number is not None]

    # ------------------------------------------------------------------------------------------------------ watching

    def see(self, frame: Any, seconds: Any) -> None:
        """Take in one frame.

        Args:
            frame: a path, a PIL image, or an array or tensor (H, W, 3); all frames have one size.
            seconds: when it is shown, a number; never earlier than the frame before.

        Raises:
            InputError: the frame cannot be read, has another size, or is too large for `most_tokens`; the time goes
                backwards.
        """
        rgb = load_image(frame)
        with self._lock:
            seconds = self._checked_time(seconds)
            self._append(self._frame_inputs(rgb, seconds), self._count, seconds)
            self._latest = seconds

    def tell(self, text: str) -> None:
        """Say something that stays, such as what to look out for; it becomes a turn of the user's.

        Raises:
            InputError: it is no text, or there is no room for it; the layout has no such turns.
        """
        self._check_turns()
        with self._lock:
            self._append(self._words([{"role": "user", "content": text}]))

    def speak_probability(self) -> float:
        """How likely, after the latest frame, the model speaks rather than waits for the next: the probability of the
        token that opens the assistant's turn, among it and the one that opens a frame. This is what streams train.

        Raises:
            InputError: no frame is the latest thing in the conversation; values are not finite.
        """
        self._check_turns()
        with self._lock, torch.inference_mode():
            if self._hidden is None:
                raise InputError("whether to speak is decided after a frame: see one first")
            ids = [self.processor.tokenizer.special(name) for name in ("<|im_start|>", "<|stream_start|>")]
            speak, _ = self.model.language_model.head(self._hidden)[0, ids].double().softmax(0).tolist()
        if math.isnan(speak):
            raise InputError("the model's values are not finite: a damaged checkpoint, or an overflow of its dtype")
        return speak

    def should_speak(self, threshold: Any = 0.5) -> bool:
        """Whether the model would rather speak now than see the next frame.

        Raises:
            InputError: the threshold is no probability; see `speak_probability`.
        """
        if not _is_number(threshold) or not 0 <= threshold <= 1:
            raise InputError(f"threshold should be a probability, from 0 to 1, not {quoted(threshold)}")
        return self.speak_probability() > threshold

    # ----------------------------------------------------------------------------------------------------- answering

    def ask(self, question: str) -> Iterator[str]:
        """The answer to a question about what has been seen so far, in pieces of text.

        It is computed in a copy of the cache: what is watched meanwhile, or asked later, knows nothing of it.

        Raises:
            InputError: at once, if there is nothing to ask about; while it is read, see `vl3ref.generation.stream`.
        """
        if self.layout == "stream":
            inputs = self._words([{"role": "user", "content": question}], add_generation_prompt=True)
        elif not self._count:
            raise InputError("a question about a video comes after a frame: see one first")
        else:
            inputs = self._encode(self._video([0.0], question)[-1])
        return self._text(self._tokens(inputs))

    def speak(self) -> Iterator[str]:
        """What the model has to say now, in pieces of text. Once it has been read, it is part of what was watched, and
        leaves with the latest frame; of what is not read to its end, the part that was."""
        self._check_turns()
        opening = self._encode(OPENING)
        return self._spoken(opening, self._tokens(opening))

    def _spoken(self, opening: ModelInputs, tokens: Iterator[tuple[int, int]]) -> Iterator[str]:
        said: list[int] = []

        def heard() -> Iterator[tuple[int, int]]:
            for conversation, token in tokens:
                said.append(token)
                yield conversation, token

        try:
            yield from self._text(heard())
        finally:
            ends = self.model.language_model.config.eos_token_ids
            turn = [*opening.input_ids.tolist(), *said[:-1], *(token for token in said[-1:] if token not in ends)]
            with self._lock:
                self._append(_of_ids([*turn, *self._encode(CLOSING).input_ids.tolist()]), said=True)

    def watch(
        self,
        source: Any,
        question: str,
        fps: Any = None,
        every: Any = None,
        start_time: Any = None,
        end_time: Any = None,
        threshold: Any = 0.5,
    ) -> Iterator[tuple[float, str]]:
        """See a whole source, and yield (second, text) whenever the model speaks.

        Args:
            source: a file, "camera", or pairs (frame, seconds): what `vl3ref.inputs.sources.frames_of` takes.
            question: told before the first frame.
            fps: frames a second; default: the processor's.
            every: seconds after which the question is asked again; default: the model decides when to speak.
            start_time, end_time: seconds, of a file.
            threshold: of `should_speak`.

        Raises:
            InputError: while it is read: the source cannot be; see `see`.
        """
        if every is not None and not (_is_number(every) and every > 0):
            raise InputError(f"every should be a number of seconds above 0, not {quoted(every)}")
        if every is None:
            self.tell(question)
        due = -math.inf
        fps = self.processor.config.fps if fps is None else fps
        for frame, seconds in frames_of(source, fps, start_time, end_time):
            self.see(frame, seconds)
            if every is None and self.should_speak(threshold):
                yield seconds, "".join(self.speak())
            elif every is not None and seconds >= due:
                yield seconds, "".join(self.ask(question))
                due = seconds + every - 1e-6

    # ------------------------------------------------------------------------------------------------- into the cache

    @memory_errors()
    @torch.inference_mode()
    def _append(self, inputs: ModelInputs, frame: int | None = None, seconds: float = 0.0, said: bool = False) -> None:
        """Prefill a frame, or words: those the model `said` go with the frame before them."""
        decoder = self.model.language_model
        self._make_room(len(inputs.input_ids))
        spliced = self.model.splice(inputs, self._pruner)
        hidden = decoder.hidden(spliced.embeddings, spliced.lengths, self.cache, spliced.positions)
        held = Held(frame, seconds, len(hidden))
        if said:
            last = self._held.pop()
            held = replace(last, tokens=last.tokens + len(hidden))
        self._held.append(held)
        self._hidden = None
        if frame is not None:
            self._hidden, self._count = hidden[-1:].clone(), frame + 1
            self._pruner.seen(frame, spliced.keep_mask)
        trained = trained_positions(decoder.config)
        if self.cache.next_positions[0] > trained and not self._warned and not self.options.get("allow_long"):
            self._warned = True
            warnings.warn(
                f"{trained:,} positions have been watched, as many as the model was trained on: what stays in front "
                "is now farther away than it has ever seen (start a new Stream to count from 0)",
                stacklevel=4,
            )

    def _make_room(self, tokens: int) -> None:
        """Let frames leave until `tokens` more fit. All of a frame's tokens count, before it is pruned: what is lost
        with those that leave can then be kept in it."""
        excess = self.cache.lengths[0] + tokens - self.most_tokens
        if excess <= 0:
            return
        frames = self.frames
        most = sum(held.tokens for held in frames)
        if most < excess:
            raise InputError(
                f"{tokens} more tokens do not fit into most_tokens={self.most_tokens}, of which "
                f"{self.cache.lengths[0] - most} are words that stay: raise it, or lower frame_tokens"
            )
        leaving = set(frames) & set(self.forget(frames, min(excess + self.most_tokens // SPARE, most)))
        if sum(held.tokens for held in leaving) < excess:
            raise InputError(f"the rule that makes room freed too little: {excess} tokens have to go")
        stays = [held not in leaving for held in self._held]
        slots = torch.tensor(stays).repeat_interleave(torch.tensor([held.tokens for held in self._held]))
        self.cache.forget(slots.nonzero()[:, 0].to(self.cache.device))
        self._held = [held for held, stay in zip(self._held, stays, strict=True) if stay]
        self._pruner.left(held.number for held in leaving if held.number is not None)

    def _tokens(self, inputs: ModelInputs) -> Iterator[tuple[int, int]]:
        """A continuation, in a copy of the cache as it is now."""
        with self._lock, memory_errors():
            fork = self.cache.fork(len(inputs.input_ids) + FIRST_ROOM)
        return stream(self.model, inputs, cache=fork, processor=self.processor, **self.options)

    def _text(self, tokens: Iterator[tuple[int, int]]) -> Iterator[str]:
        return text_of(self.processor, tokens, self.options.get("stop", ()))

    # ----------------------------------------------------------------------------------------------------- the prompt

    def _frame_inputs(self, rgb: RGB, seconds: float) -> ModelInputs:
        config = self.processor.config
        merge, patch = config.video_merge_size, config.patch_size
        height, width, _ = rgb.shape
        if self._size is None or not self._count:
            [size] = target_sizes([(1, height, width)], [merge], self.frame_tokens, config.min_tokens, patch)
            self._size = (height, width, *size)
        if self._size[:2] != (height, width):
            before = f"{self._size[0]} x {self._size[1]}"
            raise InputError(f"the frame at {seconds:g} s is {height} x {width}, those before are {before}")
        rows, columns = self._size[2] // patch, self._size[3] // patch
        if self.layout == "stream":
            shown = {"type": "image", "timestamp": seconds}
            pieces = list(render([{"role": "stream", "content": [shown]}], False, False))
        else:
            pieces = self._video([seconds] * 2)[min(self._count, 1)]
        inputs = self._encode(pieces, rows * columns // merge**2)
        return replace(
            inputs,
            pixel_values=patchify([rgb], 1, self._size[2:], merge, patch),
            grid_sizes=torch.tensor([[1, rows, columns]]),
            merge_sizes=torch.tensor([merge]),
            modals=["video"],
        )

    def _video(self, times: Sequence[float], question: str = "") -> list[list[Piece]]:
        """The pieces of a question about a video: up to the first frame, up to each later one, and the rest."""
        content = [{"type": "video", "timestamps": times}, {"type": "text", "text": question}]
        parts: list[list[Piece]] = [[]]
        for piece in render([{"role": "user", "content": content}], add_system_prompt=False):
            parts[-1].append(piece)
            if piece is FRAME:
                parts.append([])
        return parts

    def _words(self, messages: Sequence[Message], add_generation_prompt: bool = False) -> ModelInputs:
        return self._encode(render(messages, False, add_generation_prompt))

    def _encode(self, pieces: Iterable[Piece], visual_tokens: int = 0) -> ModelInputs:
        frame = (self.processor.config.video_token_id, visual_tokens)
        return _of_ids(encode_pieces(pieces, self.processor.tokenizer, [frame])[0])

    # --------------------------------------------------------------------------------------------------------- checks

    def _checked_time(self, seconds: Any) -> float:
        if not _is_number(seconds):
            raise InputError(f"seconds should be a number, the time at which the frame is shown, not {quoted(seconds)}")
        if seconds < self._latest:
            raise InputError(f"the frame at {seconds:g} s comes after one at {self._latest:g} s: show frames in order")
        return float(seconds)

    def _check_turns(self) -> None:
        if self.layout == "video":
            raise InputError('turns of a conversation belong to layout="stream"; in layout="video", use ask')


def _of_ids(ids: list[int]) -> ModelInputs:
    return ModelInputs(torch.tensor(ids), torch.tensor([len(ids)]))


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and abs(float(value)) < 1e9
