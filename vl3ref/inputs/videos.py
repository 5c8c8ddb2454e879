"""Videos -> sampled frames and the second each stands for.

The rules are the official loader's, which leaves sampling to ffmpeg's fps filter. They are worked out here from the
time each frame is shown, so that only the frames that are needed get decoded. Four kinds of source:

    a file (mp4, mkv, webm, ...)   by time, with decord; a cut shorter than one second goes by index
    a GIF                          by index, taken as 25 frames a second, with Pillow
    a folder of pictures           by index, taken as 3 frames a second
    an array or a list             frames that were sampled already, at `fps` a second
"""

import math
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from vl3ref.errors import InputError
from vl3ref.inputs.images import RGB, as_array, image_from_array, load_image

FOLDER_RATE = 3.0
GIF_RATE = 25.0
SLACK = 1e-4
"""Seconds by which a frame may miss a boundary: decord gives times as float32."""

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".avif")


def load_video(
    source: Any, fps: Any = 1, max_frames: Any = 180, start_time: Any = None, end_time: Any = None
) -> tuple[UInt8[np.ndarray, "frames height width 3"], Float[np.ndarray, " frames"]]:
    """Sampled frames of a video.

    Args:
        source: a file, a GIF, a folder of frames in their natural order, an array (T, H, W, 3), or a list of pictures.
        fps: frames taken per second, a number; None takes every frame.
        max_frames: more than these are thinned evenly, a whole number; None for no limit.
        start_time, end_time: seconds; only what is shown between them is used. None for the whole video. A file whose
            clock starts later than 0 is counted from its first frame: decord hides the rest.

    Returns:
        frames (T, H, W, 3) uint8 and timestamps (T,) float64 in seconds. At least one frame, also where the official
        loader finds none (a clip shorter than 1/fps, or a cut that lies outside the clip: the nearest frame).

    Raises:
        InputError: the source cannot be read, or an argument is out of range.
    """
    video = open_video(source, fps, max_frames, start_time, end_time)
    return np.stack(list(video.frames())), video.timestamps


@dataclass
class SampledVideo:
    """A video whose frames are chosen but not decoded yet.

    Attributes:
        timestamps: (T,) float64 seconds.
        height, width: of the original, in pixels.
        frames: call it to decode the chosen frames one after another, (H, W, 3) uint8.
        indices: which frames of the source were chosen.
    """

    timestamps: Float[np.ndarray, " frames"]
    height: int
    width: int
    frames: Callable[[], Iterator[RGB]]
    indices: list[int]


def open_video(
    source: Any,
    fps: Any = 1,
    max_frames: Any = 180,
    start_time: Any = None,
    end_time: Any = None,
    timestamps: Any = None,
) -> SampledVideo:
    """Choose frames as `load_video` does, without decoding them.

    `timestamps` are the seconds of frames given as an array or a list, in place of frame n at n / fps.
    """
    cut = _checked_cut(fps, max_frames, start_time, end_time)
    if isinstance(source, str | Path):
        if not str(source):
            raise InputError("the video's path is empty")
        path = Path(source)
        if timestamps is not None and not path.is_dir():
            raise InputError(f"timestamps go with an array or a list of frames; those of {path} are read from it")
        if not os.path.exists(path):  # Path.exists raises on names that are too long
            raise InputError(f"{path} does not exist")
        if path.is_dir():
            return _open_folder(path, cut, timestamps)
        return _open_gif(path, cut) if path.suffix.lower() == ".gif" else _open_file(path, cut)
    if hasattr(source, "__array__") or isinstance(source, list | tuple):
        return _open_sampled(source, cut, timestamps)
    raise InputError(f"a video should be a path, an array or a list of pictures, not a {type(source).__name__}")


# --------------------------------------------------------------------------------------------------- choosing frames


@dataclass(frozen=True)
class Cut:
    """What of a video is wanted: see `load_video`."""

    fps: float | None = None
    max_frames: int | None = None
    start: float | None = None
    end: float | None = None

    @property
    def below_a_second(self) -> bool:
        return self.start is not None and self.end is not None and self.end - self.start < 1


def _checked_cut(fps: Any, max_frames: Any, start_time: Any, end_time: Any) -> Cut:
    fps, start, end = _number("fps", fps), _number("start_time", start_time), _number("end_time", end_time)
    if fps is not None and not 0 < fps <= 1e12:
        raise InputError(f"fps should be above 0 and at most a trillion, not {fps:g}; None takes every frame")
    if max_frames is not None and (isinstance(max_frames, bool) or not isinstance(max_frames, Integral)):
        raise InputError(f"max_frames should be a whole number, not {max_frames!r}")
    if max_frames is not None and max_frames < 1:
        raise InputError(f"max_frames should be at least 1, not {max_frames}")
    if start is not None and start < 0:
        raise InputError(f"start_time should be 0 or more seconds, not {start:g}")
    if end is not None and end <= (start or 0):
        raise InputError(f"end_time should be after the start ({start or 0:g} s), not {end:g}")
    return Cut(fps, None if max_frames is None else int(max_frames), start, end)


def _number(name: str, value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise InputError(f"{name} should be a number, not {value!r}")
    return float(value)


def sample_by_time(
    starts: Float[np.ndarray, " all"],
    ends: Float[np.ndarray, " all"],
    cut: Cut,
) -> tuple[list[int], np.ndarray]:
    """ffmpeg's fps filter with round=down, from the seconds at which each frame appears and disappears.

    Slot n is the last frame shown before s + (n+1)/fps, and its timestamp is s + n/fps. Slots run while they end no
    later than the last frame does.
    """
    begin = starts[0] if cut.start is None else cut.start
    finish = ends[-1] if cut.end is None else cut.end
    shown = np.flatnonzero((starts >= begin - SLACK) & (starts < finish - SLACK))
    if not len(shown):
        return _nearest(starts, ends[-1], begin)
    if cut.fps is None:
        duration = ends[-1] - starts[0] if cut.start is None and cut.end is None else ends[shown[-1]] - begin
        return _thin(shown.tolist(), np.linspace(begin, begin + duration, len(shown)), cut.max_frames)

    slots = int(np.floor((ends[shown[-1]] - begin + SLACK) * cut.fps))
    if slots < 1:
        return [int(shown[-1])], np.array([begin])
    wanted = np.arange(slots) if cut.max_frames is None or slots <= cut.max_frames else _evenly(slots, cut.max_frames)
    closes = begin + (wanted + 1) / cut.fps
    chosen = shown[np.maximum(np.searchsorted(starts[shown], closes - SLACK) - 1, 0)]
    step = (begin + 1 / cut.fps) - begin  # rounded as in np.arange(begin, ..., 1 / fps), the original's way to count
    return chosen.tolist(), begin + wanted * step


def sample_by_index(count: int, rate: float, cut: Cut) -> tuple[list[int], np.ndarray]:
    """The rule for GIFs, folders and cuts shorter than a second: every (rate // fps)-th frame, from half that on."""
    begin = 0.0 if cut.start is None else cut.start
    finish = count / rate if cut.end is None else cut.end
    first = max(int(begin * rate) - 1, 0)
    last = min(int(finish * rate) - 1, count - 1)
    if first > last:
        frame = min(first, count - 1)
        if begin * rate >= count:
            _warn_outside(begin, count / rate)
        return [frame], np.array([frame / rate])
    length = last - first + 1
    if cut.fps is None:
        chosen = np.arange(length)
    elif cut.max_frames is None or length / rate < cut.max_frames:
        gap = max(min(rate // cut.fps, length), 1)
        chosen = np.arange(gap // 2, length, gap).astype(int)
    else:
        chosen = _evenly(length, cut.max_frames)
    chosen = first + chosen
    return _thin(chosen.tolist(), chosen / rate, cut.max_frames)


def _nearest(starts: np.ndarray, end: float, begin: float) -> tuple[list[int], np.ndarray]:
    """The frame on the screen at `begin`; the last one where that is past the end."""
    frame = max(int(np.searchsorted(starts, begin + SLACK)) - 1, 0)
    if begin >= end - SLACK:
        _warn_outside(begin, float(end))
    return [frame], starts[frame : frame + 1].copy()


def _warn_outside(begin: float, end: float) -> None:
    warnings.warn(
        f"nothing is shown from {begin} s on: the video ends at {end:.2f} s; taking its last frame", stacklevel=2
    )


def _thin(indices: list[int], timestamps: np.ndarray, most: int | None) -> tuple[list[int], np.ndarray]:
    """At most `most` of the frames, evenly."""
    if most is None or len(indices) <= most:
        return indices, timestamps
    kept = _evenly(len(indices), most)
    return [indices[i] for i in kept], timestamps[kept]


def _evenly(count: int, most: int) -> np.ndarray:
    return np.linspace(0, count - 1, most).astype(int)


# ---------------------------------------------------------------------------------------------------- reading sources


def _open_file(path: Path, cut: Cut) -> SampledVideo:
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    try:
        reader = decord.VideoReader(str(path))
        count = len(reader)
        if not count:
            raise InputError(f"{path} holds no video frames")
        times = np.asarray(reader.get_frame_timestamp(range(count)), dtype=np.float64)
        rate = float(reader.get_avg_fps())
    except InputError:
        raise
    except Exception as error:  # decord raises its own types, RuntimeError and IndexError on damaged files
        raise InputError(f"{path} cannot be read as a video: {_reason(error)}") from None
    if not 0 < rate < math.inf:
        rate = 1.0
    if not (np.abs(times) < 1e9).all():  # the file has no times, as a Matroska file of one frame
        times = (np.arange(count)[:, None] + np.array([0.0, 1.0])) / rate
    # A container may state a rate at which the cut lies past the last frame; then the frames' own times decide.
    by_index = cut.below_a_second and int((cut.start or 0) * rate) <= count
    indices, timestamps = (
        sample_by_index(count, rate, cut) if by_index else sample_by_time(times[:, 0], times[:, 1], cut)
    )

    try:
        first = _pixels(reader, indices[0])  # tells the size, and need not be decoded again
    except Exception as error:
        raise InputError(f"{path} cannot be read as a video: frame {indices[0]}: {_reason(error)}") from None

    def frames() -> Iterator[RGB]:
        for index in indices:
            try:
                yield first if index == indices[0] else _pixels(reader, index)
            except Exception as error:
                raise InputError(f"{path}: frame {index} cannot be decoded: {_reason(error)}") from None

    height, width, _ = first.shape
    return SampledVideo(timestamps, height, width, frames, indices)


def _pixels(reader: Any, index: int) -> RGB:
    """One decoded frame.

    Where its rows are padded by a quarter or more (narrow videos, and narrow ones turned upright), decord counts the
    padding as more channels.
    """
    frame = reader[index].asnumpy()
    height, width, channels = frame.shape
    return frame if channels == 3 else frame.reshape(height, -1)[:, : 3 * width].reshape(height, width, 3)


def _open_gif(path: Path, cut: Cut) -> SampledVideo:
    from PIL import Image

    try:
        image = Image.open(path)
        count = getattr(image, "n_frames", 1)
    except Exception as error:
        raise InputError(f"{path} cannot be read as a GIF: {error}") from None
    indices, timestamps = sample_by_index(count, GIF_RATE, cut)

    def frames() -> Iterator[RGB]:
        for index in indices:
            try:
                image.seek(index)
                yield np.array(image.convert("RGB"))
            except Exception as error:
                raise InputError(f"{path}: frame {index} cannot be decoded: {error}") from None

    return SampledVideo(timestamps, image.height, image.width, frames, indices)


def _open_folder(path: Path, cut: Cut, timestamps: Any = None) -> SampledVideo:
    files = sorted((f for f in path.iterdir() if _is_picture(f)), key=_natural)
    if not files:
        raise InputError(f"the folder {path} holds no pictures ({', '.join(IMAGE_SUFFIXES)})")
    if timestamps is not None:
        return _open_sampled(files, cut, timestamps)
    indices, timestamps = sample_by_index(len(files), FOLDER_RATE, cut)
    height, width, _ = load_image(files[indices[0]]).shape

    def frames() -> Iterator[RGB]:
        for index in indices:
            yield _same_size(load_image(files[index]), (height, width), str(files[index]))

    return SampledVideo(timestamps, height, width, frames, indices)


def _open_sampled(source: Any, cut: Cut, timestamps: Any) -> SampledVideo:
    """Frames that were sampled already: frame n stands for second n / fps, unless their times are given."""
    to_rgb: Callable[[Any], RGB] = load_image
    if hasattr(source, "__array__"):
        source, to_rgb = as_array(source), image_from_array
        if source.ndim != 4:
            raise InputError(f"a video's array should be (frames, height, width, 3), not {source.shape}")
    if not len(source):
        raise InputError("the video has no frames")
    if timestamps is None:
        times = np.arange(len(source)) / (cut.fps or 1.0)
    elif len(timestamps) == len(source):
        times = np.array([float(time) for time in timestamps])
    else:
        raise InputError(f"there are {len(timestamps)} timestamps for {len(source)} frames; give one for each")
    finish = np.inf if cut.end is None else cut.end
    inside = np.flatnonzero((times >= (cut.start or 0) - SLACK) & (times < finish - SLACK))
    indices, timestamps = (
        _thin(inside.tolist(), times[inside], cut.max_frames)
        if len(inside)
        else _nearest(times, times[-1], cut.start or 0)
    )
    height, width, _ = to_rgb(source[indices[0]]).shape

    def frames() -> Iterator[RGB]:
        for index in indices:
            yield _same_size(to_rgb(source[index]), (height, width), f"frame {index}")

    return SampledVideo(timestamps, height, width, frames, indices)


def _same_size(frame: RGB, size: Sequence[int], name: str) -> RGB:
    if frame.shape[:2] != tuple(size):
        raise InputError(f"{name} is {frame.shape[0]} x {frame.shape[1]}, other frames are {size[0]} x {size[1]}")
    return frame


def _is_picture(path: Path) -> bool:
    """By its name; hidden files (macOS leaves ._frame.png beside frame.png) and folders are none."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def _natural(path: Path) -> tuple[list[Any], str]:
    """frame_2 before frame_10: numbers, which stand at odd places, compare as numbers; frame_02 and frame_2 by name."""
    parts: list[Any] = re.split(r"(\d+)", path.name)
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], path.name


def _reason(error: Exception) -> str:
    """What a library said, without the places in its source and the checks that failed."""
    text = str(error).strip().split("\n")[0]
    text = re.sub(r"\[[\d:]+\] \S+\.cc:\d+: |Check failed: .*?\(.*? vs\. .*?\) ?|ERROR ", "", text)
    if "cannot find video stream" in text:
        return "it holds no moving pictures"
    return "it is damaged, or of another kind" if text.startswith("Error reading") else text or type(error).__name__
