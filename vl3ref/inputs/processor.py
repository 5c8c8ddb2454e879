"""Conversations with images and videos -> ModelInputs.

    open images and videos -> choose sizes -> cut into patches        pixel_values, grid_sizes, merge_sizes
    render the prompt -> encode -> repeat each frame's visual token   input_ids, labels

Each conversation is prepared on its own (the limit of visual tokens is a conversation's, not a call's).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import torch

from vl3ref.errors import InputError, quoted
from vl3ref.inputs.images import RGB, load_image
from vl3ref.inputs.patches import patchify, target_sizes
from vl3ref.inputs.processor_config import ProcessorConfig
from vl3ref.inputs.template import Message, Piece, check_messages, is_visual, parts, prompt_text, render
from vl3ref.inputs.tokenizer import GrowingText, Tokenizer
from vl3ref.inputs.videos import open_video
from vl3ref.limits import check_memory, memory_errors, pixel_bytes
from vl3ref.model_inputs import IGNORE_INDEX, ModelInputs, VisualSource, join


class Processor:
    """Turns conversations into ModelInputs, and ids back into text.

    Args:
        tokenizer: the checkpoint's.
        config: the checkpoint's sampling, sizes and visual token ids.
    """

    def __init__(self, tokenizer: Tokenizer, config: ProcessorConfig) -> None:
        self.tokenizer = tokenizer
        self.config = config

    @memory_errors()
    def __call__(
        self,
        conversations: Any,
        add_system_prompt: bool = True,
        add_generation_prompt: bool = True,
        return_labels: bool = False,
        check: Callable[[ModelInputs], None] | None = None,
        **overrides: Any,
    ) -> ModelInputs:
        """One conversation, or several, as the model takes them.

        Args:
            conversations: one (a list of messages) or several. A message is `{"role": ..., "content": ...}`; content is
                text or a list of parts: `{"type": "text", "text": ...}`, `{"type": "image", "image": ...}`,
                `{"type": "video", "video": ...}`, the latter optionally with fps, max_frames, start_time, end_time,
                or, for frames given as an array or a list, their timestamps in seconds.
            add_system_prompt: start with the default system prompt where a conversation has none of its own.
            add_generation_prompt: end with the opening of the assistant's turn.
            return_labels: fill in `ModelInputs.labels`: the assistant's words, -100 elsewhere.
            check: called with the inputs of each conversation, without their pixels, before its frames are decoded: it
                may refuse what would be too large.
            overrides: any field of `ProcessorConfig`, for this call: max_tokens, image_merge_size, video_merge_size,
                fps, max_frames, ...

        Raises:
            InputError: a conversation is malformed, a file cannot be read, a value is out of range, the pixels need
                more memory than there is.
        """
        config = self.config.override(**overrides)
        if not isinstance(conversations, Sequence) or isinstance(conversations, str) or not conversations:
            raise InputError("a conversation should be a list of messages; give one, or a list of several")
        batch = [conversations] if isinstance(conversations[0], Mapping) else conversations
        prepared = [
            self._prepare(one, config, add_system_prompt, add_generation_prompt, return_labels, check) for one in batch
        ]
        return prepared[0] if len(prepared) == 1 else join(prepared)

    def _prepare(
        self,
        conversation: Any,
        config: ProcessorConfig,
        add_system_prompt: bool,
        add_generation_prompt: bool,
        return_labels: bool,
        check: Callable[[ModelInputs], None] | None,
    ) -> ModelInputs:
        messages, visuals = _open_visuals(conversation, config)
        merges = [visual.merge for visual in visuals]
        originals = [(visual.count, visual.source.height, visual.source.width) for visual in visuals]
        sizes = target_sizes(originals, merges, config.max_tokens, config.min_tokens, config.patch_size)
        grids = [
            (visual.count, height // config.patch_size, width // config.patch_size)
            for visual, (height, width) in zip(visuals, sizes, strict=True)
        ]
        check_memory(pixel_bytes(grids, 3 * config.patch_size**2), torch.device("cpu"))
        frame_tokens = [
            (config.token_id_for(visual.modal), rows * columns // visual.merge**2)
            for visual, (frames, rows, columns) in zip(visuals, grids, strict=True)
            for _ in range(frames)
        ]
        prompt = render(messages, add_system_prompt, add_generation_prompt)
        ids, labels = encode_pieces(prompt, self.tokenizer, frame_tokens)
        inputs = ModelInputs(
            input_ids=torch.tensor(ids),
            lengths=torch.tensor([len(ids)]),
            grid_sizes=torch.tensor(grids) if grids else None,
            merge_sizes=torch.tensor(merges) if merges else None,
            modals=[visual.modal for visual in visuals],
            labels=torch.tensor(labels) if return_labels else None,
            sources=[visual.source for visual in visuals],
        )
        if check is not None:
            check(inputs)
        pixels = [
            patchify(visual.frames(), visual.count, size, visual.merge, config.patch_size)
            for visual, size in zip(visuals, sizes, strict=True)
        ]
        if pixels:
            inputs.pixel_values = torch.cat(pixels) if len(pixels) > 1 else pixels[0]
        return inputs

    def prompt(self, conversation: Any, add_system_prompt: bool = True, add_generation_prompt: bool = True) -> str:
        """The prompt of one conversation as text, one <image> per frame. Videos are sampled, but not decoded."""
        messages, _ = _open_visuals(conversation, self.config)
        return prompt_text(render(messages, add_system_prompt, add_generation_prompt))

    def decode(self, ids: Any, skip_special_tokens: bool = True) -> str:
        """Generated ids of one conversation, a tensor (T,) or a list -> text.

        Raises:
            InputError: they are not a row of ids.
        """
        try:
            return self.tokenizer.decode([int(i) for i in ids], skip_special_tokens)
        except (TypeError, ValueError, RuntimeError, OverflowError):
            raise InputError(
                "decode takes the ids of one conversation, whole numbers from 0: of what generate returns, one entry"
            ) from None

    def decode_stream(self, tokens: Iterable[tuple[int, int]]) -> Iterator[tuple[int, str]]:
        """(conversation, token) pairs, as `generation.stream` yields them -> (conversation, text) pairs.

        A character of several tokens comes when it is complete; joined, the texts of a conversation are what `decode`
        gives.
        """
        growing: dict[int, GrowingText] = {}
        for conversation, token in tokens:
            text = growing.setdefault(conversation, GrowingText(self.tokenizer))
            if piece := text.add(token):
                yield conversation, piece
        for conversation, text in growing.items():
            if piece := text.rest():
                yield conversation, piece


@dataclass
class _Visual:
    """An opened image, or a video whose frames are chosen but not decoded."""

    modal: Literal["image", "video"]
    count: int
    merge: int
    source: VisualSource
    frames: Callable[[], Iterator[RGB]]


def _open_visuals(conversation: Any, config: ProcessorConfig) -> tuple[list[Message], list[_Visual]]:
    """The images and videos of a conversation, and its messages with what the template needs to know: how many frames
    each has, and when they are shown."""
    check_messages(conversation)
    messages: list[Message] = []
    visuals: list[_Visual] = []
    for message in conversation:
        content = parts(message["content"])
        for index, part in enumerate(content):
            if is_visual(part):
                visual = _open(part, config, len(visuals) + 1)
                visuals.append(visual)
                times = {"timestamps": visual.source.timestamps} if part["type"] == "video" else {}
                content[index] = {**part, "num_frames": visual.count, **times}
        messages.append({"role": message["role"], "content": content})
    return messages, visuals


def _open(part: Message, config: ProcessorConfig, number: int) -> _Visual:
    """One image or video: `{"type": "video", "video": data, "fps": 1}`, or in the official form
    `{"type": "video", "video": {"video_path": data, "fps": 1}}`."""
    kind = part["type"]
    data, options = part.get(kind, part.get("path")), dict(part)
    if isinstance(data, Mapping):
        options |= data
        data = data.get(f"{kind}_path")
    if data is None:
        raise InputError(f"a part of type {kind} names no {kind}: give {{'type': '{kind}', '{kind}': a path or data}}")
    if isinstance(data, str) and data.startswith(("http://", "https://")):
        raise InputError(f"{quoted(data, 300)} is on the network; download it first")
    name = str(data) if isinstance(data, str | Path) else f"{kind} {number}"

    if kind == "image":
        image = load_image(data)
        height, width, _ = image.shape
        times = None if part.get("timestamp") is None else [float(part["timestamp"])]
        source = VisualSource(name, 0, height, width, times, config.image_token_id)
        return _Visual("image", 1, config.image_merge_size, source, lambda: iter([image]))
    video = open_video(
        data,
        options.get("fps", config.fps),
        options.get("max_frames", config.max_frames),
        options.get("start_time"),
        options.get("end_time"),
        part.get("timestamps"),
    )
    source = VisualSource(name, 0, video.height, video.width, video.timestamps.tolist(), config.video_token_id)
    return _Visual("video", len(video.indices), config.video_merge_size, source, video.frames)


def encode_pieces(
    pieces: Iterable[Piece], tokenizer: Tokenizer, frame_tokens: Sequence[tuple[int, int]]
) -> tuple[list[int], list[int]]:
    """Ids of a rendered prompt, and its labels.

    Adjacent text is encoded as one string, as the official processor does: words may merge across pieces. A token is a
    target if the character it begins with is.

    Args:
        frame_tokens: for each frame, in order, the id of its visual tokens and their number.
    """
    ids: list[int] = []
    labels: list[int] = []
    frames = iter(frame_tokens)
    for is_text, group in groupby(pieces, key=lambda piece: piece.kind == "text"):
        if is_text:
            texts = list(group)
            targets = [piece.is_target for piece in texts for _ in piece.text]
            new, starts = tokenizer.encode("".join(piece.text for piece in texts))
            ids += new
            labels += [i if targets[start] else IGNORE_INDEX for i, start in zip(new, starts, strict=True)]
            continue
        for piece in group:
            token, count = next(frames) if piece.kind == "frame" else (tokenizer.special(piece.text), 1)
            ids += [token] * count
            labels += [token if piece.is_target else IGNORE_INDEX] * count
    return ids, labels
