"""Conversations with pictures and videos -> ModelInputs.

    load and sample -> choose sizes -> patches                        pixel_values, grid_sizes, merge_sizes
    render the prompt -> encode -> repeat a visual token per frame    input_ids, labels

Each conversation is prepared on its own (the token budget is a conversation's, not a call's), then all are packed.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from vl3ref.config import ModelConfig
from vl3ref.config_json import read_config
from vl3ref.errors import InputError
from vl3ref.inputs.chat import Message, Piece, check_messages, is_visual, parts, prompt_text, render
from vl3ref.inputs.images import load_image
from vl3ref.inputs.patches import patchify, target_sizes
from vl3ref.inputs.processor_config import ProcessorConfig, check_options, read_processor_config
from vl3ref.inputs.tokenizer import GrowingText, Tokenizer
from vl3ref.inputs.videos import open_video
from vl3ref.model_inputs import IGNORED, ModelInputs, VisualSource


class Processor:
    """Turns conversations into ModelInputs and ids back into text.

    Args:
        tokenizer: the checkpoint's.
        config: how to sample, resize and mark.
    """

    def __init__(self, tokenizer: Tokenizer, config: ProcessorConfig) -> None:
        self.tokenizer = tokenizer
        self.config = config

    def __call__(
        self,
        conversations: Any,
        add_system_prompt: bool = True,
        add_generation_prompt: bool = True,
        return_labels: bool = False,
        **overrides: Any,
    ) -> ModelInputs:
        """
        Args:
            conversations: one (a list of messages) or several. A message is `{"role": ..., "content": ...}`; content is
                text or a list of parts: `{"type": "text", "text": ...}`, `{"type": "image", "image": ...}`,
                `{"type": "video", "video": ...}`, the latter optionally with fps, max_frames, start_time, end_time,
                or, for frames given as an array or list, their timestamps in seconds.
            add_system_prompt: put the default system prompt in front where a conversation has none.
            add_generation_prompt: end with the opening of the assistant's turn.
            return_labels: fill in `ModelInputs.labels`: the assistant's words, -100 elsewhere.
            overrides: any field of `ProcessorConfig`, for this call: max_tokens, image_merge_size, video_merge_size,
                fps, max_frames, diff_fp, ...

        Raises:
            InputError: a conversation is not understood, a file cannot be read, a value is out of range.
        """
        check_options(overrides)
        config = replace(self.config, **overrides)
        if not isinstance(conversations, Sequence) or isinstance(conversations, str) or not conversations:
            raise InputError("a conversation should be a list of messages; give one, or a list of several")
        batch = [conversations] if isinstance(conversations[0], Mapping) else conversations
        prepared = [
            self._prepare(messages, config, add_system_prompt, add_generation_prompt, index)
            for index, messages in enumerate(batch)
        ]
        return _pack(prepared, config, return_labels)

    def prompt(
        self,
        conversation: Any,
        add_system_prompt: bool = True,
        add_generation_prompt: bool = True,
    ) -> str:
        """The prompt of one conversation as text, one <image> per frame. Videos are sampled, but not decoded."""
        messages, _ = _load(conversation, self.config, 0)
        return prompt_text(render(messages, add_system_prompt, add_generation_prompt))

    def decode(self, ids: Any, skip_special_tokens: bool = True) -> str:
        """Generated ids of one conversation, a tensor or a list -> text.

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
        """What `generation.stream` yields -> (conversation, text) as it becomes readable.

        A character of several tokens is given out when it is complete, so the pieces of a conversation, joined, are
        what `decode` gives.
        """
        growing: dict[int, GrowingText] = {}
        for conversation, token in tokens:
            text = growing.setdefault(conversation, GrowingText(self.tokenizer))
            if piece := text.add(token):
                yield conversation, piece
        for conversation, text in growing.items():
            if piece := text.rest():
                yield conversation, piece

    def _prepare(
        self,
        conversation: Any,
        config: ProcessorConfig,
        add_system_prompt: bool,
        add_generation_prompt: bool,
        index: int,
    ) -> "_Prepared":
        messages, visuals = _load(conversation, config, index)
        sizes = target_sizes(
            [(visual.count, visual.source.height, visual.source.width) for visual in visuals],
            [visual.merge for visual in visuals],
            config.max_tokens,
            config.min_tokens,
            config.patch_size,
        )
        prepared = _Prepared()
        frame_tokens: list[tuple[int, int]] = []
        for visual, size in zip(visuals, sizes, strict=True):
            rows, columns = (side // config.patch_size for side in size)
            prepared.pixels.append(patchify(visual.frames(), visual.count, size, visual.merge, config.patch_size))
            prepared.grids.append([visual.count, rows, columns])
            prepared.merges.append(visual.merge)
            prepared.modals.append(visual.modal)
            prepared.sources.append(visual.source)
            tokens = rows * columns // visual.merge**2
            frame_tokens += [(config.token_id_for(visual.modal), tokens)] * visual.count
        pieces = render(messages, add_system_prompt, add_generation_prompt)
        prepared.ids, prepared.labels = encode_pieces(pieces, self.tokenizer, frame_tokens)
        return prepared


def encode_pieces(
    pieces: Iterable[Piece], tokenizer: Tokenizer, frame_tokens: Sequence[tuple[int, int]]
) -> tuple[list[int], list[int]]:
    """Ids of a rendered prompt, and its labels.

    Neighbouring text is encoded as one string, as the official processor sees it: words may merge across pieces. Where
    a token begins decides whether it is learnt.

    Args:
        frame_tokens: for each frame, in order, the id of its visual tokens and their number.
    """
    ids: list[int] = []
    labels: list[int] = []
    text = ""
    learnt: list[bool] = []
    frames = iter(frame_tokens)

    def flush() -> None:
        nonlocal text, learnt
        new, starts = tokenizer.encode(text) if text else ([], [])
        ids.extend(new)
        labels.extend(i if learnt[start] else IGNORED for i, start in zip(new, starts, strict=True))
        text, learnt = "", []

    for piece in pieces:
        if piece.kind == "text":
            text += piece.text
            learnt += [piece.learnt] * len(piece.text)
            continue
        flush()
        token, count = next(frames) if piece.kind == "frame" else (tokenizer.special(piece.text), 1)
        ids += [token] * count
        labels += [token if piece.learnt else IGNORED] * count
    flush()
    return ids, labels


# ------------------------------------------------------------------------------------------------------------ visuals


@dataclass
class _Visual:
    """One loaded picture, or one video chosen but not decoded."""

    modal: Literal["image", "video"]
    count: int
    merge: int
    source: VisualSource
    frames: Any  # () -> iterator of (H, W, 3) uint8


@dataclass
class _Prepared:
    """One conversation, ready to be packed."""

    ids: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    pixels: list[Tensor] = field(default_factory=list)
    grids: list[list[int]] = field(default_factory=list)
    merges: list[int] = field(default_factory=list)
    modals: list[str] = field(default_factory=list)
    sources: list[VisualSource] = field(default_factory=list)


def _load(conversation: Any, config: ProcessorConfig, index: int) -> tuple[list[dict[str, Any]], list[_Visual]]:
    """Open every picture and video of a conversation, and tell the template how many frames each has, and when."""
    check_messages(conversation)
    messages: list[dict[str, Any]] = []
    visuals: list[_Visual] = []
    for message in conversation:
        content = []
        for part in parts(message["content"]):
            if not is_visual(part):
                content.append(part)
                continue
            visual = (_load_video if part["type"] == "video" else _load_image)(part, config, index, len(visuals))
            visuals.append(visual)
            times = {"timestamps": visual.source.timestamps} if part["type"] == "video" else {}
            content.append({**part, "num_frames": visual.count, **times})
        messages.append({"role": message["role"], "content": content})
    return messages, visuals


def _load_image(part: Message, config: ProcessorConfig, conversation: int, number: int) -> _Visual:
    source, _ = _source_and_options(part, "image")
    picture = load_image(source)
    height, width, _ = picture.shape
    times = None if part.get("timestamp") is None else [float(part["timestamp"])]
    described = VisualSource(_name(source, "image", number), conversation, height, width, times)
    return _Visual("image", 1, config.image_merge_size, described, lambda: iter([picture]))


def _load_video(part: Message, config: ProcessorConfig, conversation: int, number: int) -> _Visual:
    source, nested = _source_and_options(part, "video")
    options = {"fps": config.fps, "max_frames": config.max_frames}
    options |= {key: part[key] for key in VIDEO_OPTIONS if key in part}
    options |= {key: nested[key] for key in VIDEO_OPTIONS if key in nested}
    video = open_video(source, **options, timestamps=part.get("timestamps"))
    times = [float(time) for time in video.timestamps]
    described = VisualSource(_name(source, "video", number), conversation, video.height, video.width, times)
    return _Visual("video", len(video.indices), config.video_merge_size, described, video.frames)


VIDEO_OPTIONS = ("fps", "max_frames", "start_time", "end_time")


def _source_and_options(part: Message, kind: str) -> tuple[Any, Mapping[str, Any]]:
    """The picture or video of a part: `{"video": x}`, or the official `{"video": {"video_path": x, "fps": 1}}`."""
    source = part.get(kind, part.get("path"))
    nested: Mapping[str, Any] = {}
    if isinstance(source, Mapping):
        nested, source = source, source.get(f"{kind}_path")
    if source is None:
        raise InputError(f"a part of type {kind} names no {kind}: give {{'type': '{kind}', '{kind}': a path or data}}")
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        raise InputError(f"{source} is on the network; download it first")
    return source, nested


def _name(source: Any, kind: str, number: int) -> str:
    return str(source) if isinstance(source, str | Path) else f"{kind} {number + 1}"


def _pack(prepared: Sequence[_Prepared], config: ProcessorConfig, return_labels: bool) -> ModelInputs:
    def joined(name: str) -> list[Any]:
        return [x for one in prepared for x in getattr(one, name)]

    pixels = joined("pixels")
    return ModelInputs(
        input_ids=torch.tensor(joined("ids")),
        lengths=torch.tensor([len(one.ids) for one in prepared]),
        pixel_values=torch.cat(pixels) if len(pixels) > 1 else pixels[0] if pixels else None,
        grid_sizes=torch.tensor(joined("grids")) if pixels else None,
        merge_sizes=torch.tensor(joined("merges")) if pixels else None,
        modals=joined("modals"),
        diff_fp=float(config.diff_fp) if type(config.diff_fp) is int else config.diff_fp,
        labels=torch.tensor(joined("labels")) if return_labels else None,
        sources=joined("sources"),
    )


def load_processor(folder: str | Path, config: ModelConfig | None = None) -> Processor:
    """The processor of a checkpoint folder of either layout.

    Args:
        folder: with config.json and a tokenizer; the processor's own files are read where they are there.
        config: the model's, if it is read already.

    Raises:
        CheckpointError, ConfigError: a file is missing or damaged.
    """
    folder = Path(folder)
    model = read_config(folder) if config is None else config
    return Processor(Tokenizer.from_folder(folder), read_processor_config(folder, model))
