"""Videos -> sampled frames and the second each stands for.

The rules are the official loader's, which leaves sampling to ffmpeg's fps filter. They are worked out here from the time
each frame is shown, so that only the frames that are needed get decoded. Four kinds of source:

    a file (mp4, mkv, webm, ...)   by time, with decord; a cut shorter than one second goes by index
    a GIF                          by index, taken as 25 frames a second, with Pillow
    a folder of pictures           by index, taken as 3 frames a second
    an array or a list             frames that were sampled already, at `fps` a second
"""

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from vl3ref.errors import InputError
from vl3ref.inputs.images import RGB, image_from_array, load_image

FOLDER_RATE = 3.0
GIF_RATE = 25.0
SLACK = 1e-4
"""Seconds by which a frame may miss a boundary: decord gives times as float32."""

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".avif")


def load_video(
    source: Any,
    fps: float | None = 1,
    max_frames: int | None = 180,
    start_time: float | None = None,
    end_time: float | None = None,
) -> tuple[UInt8[np.ndarray, "frames height width 3"], Float[np.ndarray, " frames"]]:
    """Sampled frames of a video.

    Args:
        source: a file, a GIF, a folder of frames in their natural order, an array (T, H, W, 3), or a list of pictures.
        fps: frames taken per second; None takes every frame.
        max_frames: more than these are thinned evenly; None for no limit.
        start_time, end_time: seconds; only what is shown between them is used.

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
    fps: float | None = 1,
    max_frames: int | None = 180,
    start_time: float | None = None,
    end_time: float | None = None,
) -> SampledVideo:
    """Choose frames as `load_video` does, without decoding them."""
    cut = _Cut(fps, max_frames, start_time, end_time)
    if isinstance(source, str | Path):
        path = Path(source)
        if not path.exists():
            raise InputError(f"{path} does not exist")
        if path.is_dir():
            return _open_folder(path, cut)
        return _open_gif(path, cut) if path.suffix.lower() == ".gif" else _open_file(path, cut)
    if hasattr(source, "__array__") or isinstance(source, list | tuple):
        return _open_sampled(source, cut)
    raise InputError(f"a video should be a path, an array or a list of pictures, not a {type(source).__name__}")


# --------------------------------------------------------------------------------------------------- choosing frames


@dataclass(frozen=True)
class _Cut:
    """What of a video is wanted."""

    fps: float | None
    max_frames: int | None
    start: float | None
    end: float | None

    def __post_init__(self) -> None:
        if self.fps is not None and not self.fps > 0:
            raise InputError(f"fps should be above 0, not {self.fps}")
        if self.max_frames is not None and self.max_frames < 1:
            raise InputError(f"max_frames should be at least 1, not {self.max_frames}")
        if self.start is not None and not self.start >= 0:
            raise InputError(f"start_time should be 0 or more seconds, not {self.start}")
        if self.end is not None and not self.end > (self.start or 0):
            raise InputError(f"end_time should be after the start ({self.start or 0} s), not {self.end}")

    @property
    def below_a_second(self) -> bool:
        return self.start is not None and self.end is not None and self.end - self.start < 1


def sample_by_time(
    starts: Float[np.ndarray, " all"],
    ends: Float[np.ndarray, " all"],
    cut: _Cut,
) -> tuple[list[int], np.ndarray]:
    """ffmpeg's fps filter with round=down, from the seconds at which each frame appears and disappears.

    Slot n is the last frame shown before s + (n+1)/fps, and its timestamp is s + n/fps. Slots run while they end no
    later than the last frame does.
    """
    begin = starts[0] if cut.start is None else cut.start
    finish = ends[-1] if cut.end is None else cut.end
    shown = np.flatnonzero((starts >= begin - SLACK) & (starts < finish - SLACK))
    if not len(shown):
        return _nearest(starts, begin)
    if cut.fps is None:
        duration = ends[-1] - starts[0] if cut.start is None and cut.end is None else ends[shown[-1]] - begin
        return _thin(shown.tolist(), np.linspace(begin, begin + duration, len(shown)), cut.max_frames)

    slots = int(np.floor((ends[shown[-1]] - begin + SLACK) * cut.fps))
    if slots < 1:
        return [int(shown[-1])], np.array([begin])
    closes = begin + np.arange(1, slots + 1) / cut.fps
    chosen = shown[np.maximum(np.searchsorted(starts[shown], closes - SLACK) - 1, 0)]
    timestamps = np.arange(begin, begin + (slots + 1) / cut.fps, 1 / cut.fps)[:slots]  # numpy's steps, as the original
    return _thin(chosen.tolist(), timestamps, cut.max_frames)


def sample_by_index(count: int, rate: float, cut: _Cut) -> tuple[list[int], np.ndarray]:
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
        chosen = np.linspace(0, length - 1, cut.max_frames).astype(int)
    chosen = first + chosen
    return _thin(chosen.tolist(), chosen / rate, cut.max_frames)


def _nearest(starts: np.ndarray, begin: float) -> tuple[list[int], np.ndarray]:
    """The frame on the screen at `begin`; the last one where that is past the end."""
    frame = max(int(np.searchsorted(starts, begin + SLACK)) - 1, 0)
    if frame == len(starts) - 1:
        _warn_outside(begin, float(starts[-1]))
    return [frame], starts[frame : frame + 1].copy()


def _warn_outside(begin: float, end: float) -> None:
    warnings.warn(f"nothing is shown from {begin} s on (the last frame is at {end:.2f} s); taking it", stacklevel=2)


def _thin(indices: list[int], timestamps: np.ndarray, most: int | None) -> tuple[list[int], np.ndarray]:
    """At most `most` of the frames, evenly."""
    if most is None or len(indices) <= most:
        return indices, timestamps
    kept = np.linspace(0, len(indices) - 1, most).astype(int)
    return [indices[i] for i in kept], timestamps[kept]


# ---------------------------------------------------------------------------------------------------- reading sources


def _open_file(path: Path, cut: _Cut) -> SampledVideo:
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    try:
        reader = decord.VideoReader(str(path))
        count = len(reader)
        if not count:
            raise InputError(f"{path} holds no video frames")
        times = np.asarray(reader.get_frame_timestamp(range(count)), dtype=np.float64)
        rate = float(reader.get_avg_fps())
        first = reader[0].asnumpy()
    except InputError:
        raise
    except Exception as error:  # decord raises its own types, RuntimeError and IndexError on damaged files
        raise InputError(f"{path} cannot be read as a video: {_first_line(error)}") from None
    indices, timestamps = (
        sample_by_index(count, rate, cut) if cut.below_a_second else sample_by_time(times[:, 0], times[:, 1], cut)
    )

    def frames() -> Iterator[RGB]:
        for index in indices:
            try:
                yield reader[index].asnumpy()
            except Exception as error:
                raise InputError(f"{path}: frame {index} cannot be decoded: {_first_line(error)}") from None

    return SampledVideo(timestamps, first.shape[0], first.shape[1], frames, indices)


def _open_gif(path: Path, cut: _Cut) -> SampledVideo:
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


def _open_folder(path: Path, cut: _Cut) -> SampledVideo:
    files = sorted((f for f in path.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES), key=_natural)
    if not files:
        raise InputError(f"the folder {path} holds no pictures ({', '.join(IMAGE_SUFFIXES)})")
    indices, timestamps = sample_by_index(len(files), FOLDER_RATE, cut)
    height, width, _ = load_image(files[indices[0]]).shape

    def frames() -> Iterator[RGB]:
        for index in indices:
            yield _same_size(load_image(files[index]), (height, width), str(files[index]))

    return SampledVideo(timestamps, height, width, frames, indices)


def _open_sampled(source: Any, cut: _Cut) -> SampledVideo:
    """Frames that were sampled already: frame n stands for second n / fps."""
    if not len(source):
        raise InputError("the video has no frames")
    if hasattr(source, "__array__"):
        array = np.asarray(source)
        if array.ndim != 4:
            raise InputError(f"a video's array should be (frames, height, width, 3), not {array.shape}")
        source, to_rgb = array, image_from_array
    else:
        to_rgb = load_image
    times = np.arange(len(source)) / (cut.fps or 1.0)
    finish = np.inf if cut.end is None else cut.end
    inside = np.flatnonzero((times >= (cut.start or 0) - SLACK) & (times < finish - SLACK))
    indices, timestamps = (
        _thin(inside.tolist(), times[inside], cut.max_frames) if len(inside) else _nearest(times, cut.start or 0)
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


def _natural(path: Path) -> list[Any]:
    """frame_2 before frame_10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[-1 if "]" in str(error).split("\n")[0] else 0] or type(error).__name__
