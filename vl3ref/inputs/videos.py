"""Videos -> chosen frames, and the second at which each is shown.

The rules are the official loader's, which leaves sampling to ffmpeg's fps filter. Here the same frames are computed
from the times at which frames are shown, so that only the chosen ones are decoded. There are four kinds of source:

    a file (mp4, mkv, webm, ...)   by time; a cut shorter than one second goes by index
    a GIF                          by index, taken as 25 frames a second
    a folder of images             by index, taken as 3 frames a second
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
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float64, UInt8

from vl3ref.errors import InputError, quoted
from vl3ref.files import check_regular
from vl3ref.inputs.images import IMAGE_SUFFIXES, RGB, as_array, image_from_array, load_image
from vl3ref.inputs.video_files import open_video_file
from vl3ref.limits import check_memory

FOLDER_RATE = 3.0
"""Frames a second, as the official loader takes folders."""

MOST_FRAMES = 1_000_000
"""Of one video. An hour of film has 90,000."""

SLACK = 1e-4
"""Seconds by which a frame may miss a boundary, as its rounded time in the file may."""

Choice: TypeAlias = tuple[list[int], Float64[np.ndarray, " frames"]]
"""Indices of the chosen frames, ascending, and their timestamps in seconds."""


def load_video(
    source: Any, fps: Any = 1, max_frames: Any = 180, start_time: Any = None, end_time: Any = None
) -> tuple[UInt8[np.ndarray, "frames height width 3"], Float64[np.ndarray, " frames"]]:
    """Sampled frames of a video.

    Args:
        source: a file, a GIF, a folder of frames in natural order, an array (T, H, W, 3), or a list of images.
        fps: frames taken per second, a number; None takes every frame.
        max_frames: if there are more, this many are taken evenly, a whole number; None for no limit.
        start_time, end_time: seconds; only what is shown between them is used. None for the whole video. The times of a
            file whose clock starts later than 0 count from its first frame.

    Returns:
        frames (T, H, W, 3) uint8 and timestamps (T,) float64 in seconds. At least one frame, also where the official
        loader finds none (a clip shorter than 1/fps, or a cut outside the clip: the nearest frame).

    Raises:
        InputError: the source cannot be read, an argument is out of range, or the frames need more memory than there
            is.
    """
    video = open_video(source, fps, max_frames, start_time, end_time)
    check_memory(len(video.indices) * video.first.nbytes, torch.device("cpu"))
    frames = np.empty((len(video.indices), *video.first.shape), np.uint8)
    for place, frame in zip(frames, video.frames(), strict=True):
        place[:] = frame
    return frames, video.timestamps


@dataclass
class SampledVideo:
    """A video whose frames are chosen but, except the first, not decoded yet.

    Attributes:
        indices: places of the chosen frames in the source.
        timestamps: (T,) float64 seconds.
        read: decodes one frame of the source, (H, W, 3) uint8.
        files: a folder's, to name the frames in errors.
        height, width: of the first frame, in pixels.
    """

    indices: list[int]
    timestamps: Float64[np.ndarray, " frames"]
    read: Callable[[int], RGB]
    files: Sequence[Path] = ()

    def __post_init__(self) -> None:
        self.first = self.read(self.indices[0])
        self.height, self.width, _ = self.first.shape

    def frames(self) -> Iterator[RGB]:
        """Decode the chosen frames, one after another: (H, W, 3) uint8 each.

        Raises:
            InputError: a frame cannot be decoded, or has another size than the first.
        """
        shown, frame = self.indices[0], self.first
        for index in self.indices:
            if index != shown:  # a frame that is shown for long can be chosen several times
                shown, frame = index, self.read(index)
            height, width, _ = frame.shape
            if (height, width) != (self.height, self.width):
                name = self.files[index] if self.files else f"frame {index}"
                raise InputError(f"{name} is {height} x {width}, other frames are {self.height} x {self.width}")
            yield frame


def open_video(
    source: Any,
    fps: Any = 1,
    max_frames: Any = 180,
    start_time: Any = None,
    end_time: Any = None,
    timestamps: Any = None,
) -> SampledVideo:
    """Choose frames as `load_video` does, without decoding them.

    Args:
        timestamps: seconds of each frame of an array, a list or a folder; without them, frame n of an array or a list
            stands for second n / fps.
    """
    cut = checked_cut(fps, max_frames, start_time, end_time)
    if hasattr(source, "__array__") or isinstance(source, list | tuple):
        return _open_sampled(source, cut, timestamps)
    if not isinstance(source, str | Path):
        raise InputError(f"a video should be a path, an array or a list of pictures, not a {type(source).__name__}")
    if not str(source):
        raise InputError("the video's path is empty")
    path = Path(source)
    if os.path.isdir(path):
        return _open_folder(path, cut, timestamps)
    check_regular(path, InputError)
    if timestamps is not None:
        raise InputError(f"timestamps go with an array or a list of frames; those of {path} are read from it")
    return _open_file(path, cut)


@dataclass(frozen=True)
class Cut:
    """Which frames of a video are wanted: see `load_video`."""

    fps: float | None = None
    max_frames: int | None = None
    start: float | None = None
    end: float | None = None


def checked_cut(fps: Any = None, max_frames: Any = None, start_time: Any = None, end_time: Any = None) -> Cut:
    """A `Cut` of anything that a user gave.

    Raises:
        InputError: a value is out of range; says which.
    """
    rate, start, end = _number(fps), _number(start_time), _number(end_time)
    begin = start or 0.0
    if rate is not None and not 0 < rate <= 1e12:
        raise InputError(f"fps should be a number above 0 (to a trillion), or None for every frame, not {quoted(fps)}")
    if max_frames is not None and not (isinstance(max_frames, Integral) and 1 <= _number(max_frames) < math.inf):
        wanted = "max_frames should be a whole number of at least 1, or None for no limit"
        raise InputError(f"{wanted}, not {quoted(max_frames)}")
    if not 0 <= begin < math.inf:
        raise InputError(f"start_time should be a number of seconds, 0 or more, not {quoted(start_time)}")
    if end is not None and not begin < end < math.inf:
        wanted = f"end_time should be a number of seconds after the start ({begin:g} s)"
        raise InputError(f"{wanted}, not {quoted(end_time)}")
    return Cut(rate, None if max_frames is None else int(max_frames), start, end)


def _number(value: Any) -> Any:
    """As a float; nan, which fails every comparison, if it is no number. None stays None."""
    if value is None:
        return None
    if not isinstance(value, Real) or isinstance(value, bool):
        return math.nan
    try:
        return float(value)
    except OverflowError:  # a whole number of hundreds of digits
        return math.inf


def sample_by_time(starts: Float64[np.ndarray, " all"], ends: Float64[np.ndarray, " all"], cut: Cut) -> Choice:
    """ffmpeg's fps filter with round=down: the official loader's rule for files.

    Slot n shows the last frame that appears before s + (n + 1) / fps; its timestamp is s + n / fps, with s the start of
    the cut. Slots end no later than the last frame does.

    Args:
        starts, ends: seconds at which each frame of the file appears and disappears.
    """
    begin = starts[0] if cut.start is None else cut.start
    finish = ends[-1] if cut.end is None else cut.end
    shown = np.flatnonzero((starts >= begin - SLACK) & (starts < finish - SLACK))
    if not len(shown):
        return _frame_shown_at(begin, starts, ends[-1])
    if cut.fps is None:
        duration = ends[-1] - starts[0] if cut.start is None and cut.end is None else ends[shown[-1]] - begin
        return _at_most(cut.max_frames, shown, np.linspace(begin, begin + duration, len(shown)))

    slots = int(np.floor((ends[shown[-1]] - begin + SLACK) * cut.fps))
    if slots < 1:
        return [int(shown[-1])], np.array([begin])
    taken = _evenly(slots, cut.max_frames)
    closes = begin + (taken + 1) / cut.fps
    chosen = shown[np.maximum(np.searchsorted(starts[shown], closes - SLACK) - 1, 0)]
    step = (begin + 1 / cut.fps) - begin  # rounded as in the official np.arange(begin, ..., 1 / fps)
    return chosen.tolist(), begin + taken * step


def sample_by_index(count: int, rate: float, cut: Cut) -> Choice:
    """Every (rate // fps)-th frame, starting with half of that: the official loader's rule for GIFs, folders and cuts
    shorter than a second.

    Args:
        count: frames in the source.
        rate: frames a second, of the source.
    """
    begin, finish = cut.start or 0.0, count / rate if cut.end is None else cut.end
    first = max(int(begin * rate) - 1, 0)
    last = min(int(finish * rate) - 1, count - 1)
    if first > last:
        return _frame_shown_at(begin, np.arange(count) / rate, count / rate)
    length = last - first + 1
    if cut.fps is None:
        chosen = np.arange(length)
    elif cut.max_frames is None or length / rate < cut.max_frames:
        gap = max(min(rate // cut.fps, length), 1)
        chosen = np.arange(gap // 2, length, gap).astype(int)
    else:
        chosen = _evenly(length, cut.max_frames)
    return _at_most(cut.max_frames, first + chosen, (first + chosen) / rate)


def sample_given(times: Float64[np.ndarray, " all"], cut: Cut) -> Choice:
    """Of frames that were sampled already, those within the cut."""
    begin, finish = cut.start or 0.0, math.inf if cut.end is None else cut.end
    inside = np.flatnonzero((times >= begin - SLACK) & (times < finish - SLACK))
    return _at_most(cut.max_frames, inside, times[inside]) if len(inside) else _frame_shown_at(begin, times, times[-1])


def _frame_shown_at(begin: float, starts: Float64[np.ndarray, " all"], end: float) -> Choice:
    """The frame on the screen at `begin`; past the end, the last one."""
    if begin >= end - SLACK:
        message = f"nothing is shown from {begin} s on: the video ends at {end:.2f} s; taking its last frame"
        warnings.warn(message, stacklevel=2)
    frame = max(int(np.searchsorted(starts, begin + SLACK)) - 1, 0)
    return [frame], starts[[frame]]


def _at_most(most: int | None, indices: np.ndarray, timestamps: np.ndarray) -> Choice:
    taken = _evenly(len(indices), most)
    return indices[taken].tolist(), timestamps[taken]


def _evenly(count: int, most: int | None) -> np.ndarray:
    """At most `most` of 0 .. count-1, spread evenly and truncated to whole numbers; none twice.

    Raises:
        InputError: that is too many.
    """
    taken = count if most is None else min(count, most)
    if taken > MOST_FRAMES:
        raise InputError(f"{taken} frames would be taken, of {MOST_FRAMES} at most; lower fps or max_frames")
    return np.linspace(0, count - 1, taken).astype(int)


def _open_file(path: Path, cut: Cut) -> SampledVideo:
    video = open_video_file(path)
    count, rate = len(video.starts), video.rate
    below_a_second = cut.start is not None and cut.end is not None and cut.end - cut.start < 1
    # If the container states a rate at which the cut lies past the last frame, the frames' own times decide.
    if video.by_index or (below_a_second and int((cut.start or 0) * rate) <= count):
        return SampledVideo(*sample_by_index(count, rate, cut), video.read)
    return SampledVideo(*sample_by_time(video.starts, video.ends, cut), video.read)


def _open_folder(path: Path, cut: Cut, timestamps: Any) -> SampledVideo:
    shown = (file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and not file.is_dir())
    files = sorted((file for file in shown if not file.name.startswith(".")), key=_natural)  # macOS leaves ._frame.png
    if not files:
        raise InputError(f"the folder {path} holds no pictures ({', '.join(IMAGE_SUFFIXES)})")
    if timestamps is not None:
        return _open_sampled(files, cut, timestamps)
    return SampledVideo(*sample_by_index(len(files), FOLDER_RATE, cut), lambda index: load_image(files[index]), files)


def _open_sampled(source: Any, cut: Cut, timestamps: Any) -> SampledVideo:
    to_rgb: Callable[[Any], RGB] = load_image
    if hasattr(source, "__array__"):
        source, to_rgb = as_array(source), image_from_array
        if source.ndim != 4:
            raise InputError(f"a video's array should be (frames, height, width, 3), not {source.shape}")
    if not len(source):
        raise InputError("the video has no frames")
    times = np.arange(len(source)) / (cut.fps or 1.0) if timestamps is None else _seconds(timestamps, len(source))
    return SampledVideo(*sample_given(times, cut), lambda index: to_rgb(source[index]))


def _seconds(timestamps: Any, count: int) -> Float64[np.ndarray, " frames"]:
    """The timestamps of `count` frames that were sampled already, checked."""
    given = as_array(timestamps).tolist() if hasattr(timestamps, "__array__") else timestamps
    if not isinstance(given, list | tuple):
        raise InputError(f"timestamps should be a list of seconds, one for each frame, not {quoted(timestamps)}")
    if len(given) != count:
        raise InputError(f"there are {len(given)} timestamps for {count} frames; give one for each")
    times = np.array([math.nan if time is None else _number(time) for time in given])
    wrong = np.flatnonzero(~(np.abs(times) < 1e9))
    if len(wrong):
        raise InputError(f"timestamps should be numbers of seconds; number {wrong[0]} is {quoted(given[wrong[0]])}")
    return times


def _natural(path: Path) -> tuple[list[Any], str]:
    """A key that puts frame_2 before frame_10: every second part of the split name is a number."""
    parts: list[Any] = re.split(r"(\d+)", path.name)
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], path.name
