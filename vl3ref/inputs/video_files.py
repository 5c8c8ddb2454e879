"""Files of moving pictures -> the time of every frame, and the pixels of those asked for.

    VideoFile    mp4, mkv, webm, ...      by PyAV
    Animation    GIF, animated PNG, WebP  by Pillow

Seeking in compressed video is a guess: containers point to the wrong place, and decoders that begin in the middle
leave frames out or paint them grey. What a seek brings counts only if decoding began with a key frame, if the packets
from there on are those that stand there when the file is read from its start, and if the frame's own time is the one
asked for. Otherwise the file is decoded in order, as ffmpeg does it.
"""

import warnings
from bisect import bisect_right
from contextlib import suppress
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float64, Num

from vl3ref.errors import InputError
from vl3ref.inputs.decoder import Decoder, Listed, ToRGB
from vl3ref.inputs.images import RGB

if TYPE_CHECKING:
    from av import VideoFrame
    from PIL.Image import Image

GIF_RATE = 25.0
"""Frames a second, as the official loader takes GIFs."""

PREDICTED = (2, 3)
"""ffmpeg's types of frames that refer to others: P and B."""


class Decoded(NamedTuple):
    """A frame, and which of the file's it is."""

    place: int
    frame: "VideoFrame"


class VideoFile:
    """A video whose frames are decoded when they are asked for.

    Attributes:
        starts, ends: (frames,) float64 seconds at which each frame appears and disappears; the first appears at 0.
        rate: frames a second, as the file states it.
        by_index: whether the official loader passes over the times: GIFs.

    Raises:
        InputError: no frame of the file can be decoded.
    """

    by_index = False
    starts: Float64[np.ndarray, " frames"]
    ends: Float64[np.ndarray, " frames"]

    def __init__(self, path: Path) -> None:
        self._path = path
        self._decoder = Decoder(path)
        self.rate = self._decoder.rate
        self._to_rgb = ToRGB(path)
        self._times: list[int] = []  # when each frame is shown; empty if the n-th that comes out is frame n
        self._keys: list[Listed] = []  # key frames; empty if the file is decoded in order
        self._at: Decoded | None = None
        self._next: Decoded | None = None  # in order, the frame after that: until it comes, the other one is shown
        self._warned = False
        self._list_frames()

    def read(self, index: int) -> RGB:
        """One frame as a person sees it, (H, W, 3) uint8. In place of a damaged one, what is on the screen then."""
        frame = self._by_seeking(index) if self._keys else None
        if frame is None:
            frame = self._in_order(index)
        return self._to_rgb(frame)

    def _list_frames(self) -> None:
        """Find every frame's time: its packet's, without decoding, where packets can be believed."""
        packets = self._decoder.list_packets()
        first = self._decoder.next_frame()
        if first is None:
            raise InputError(f"{self._path} cannot be read as a video: none of its frames can be decoded")
        shown = [packet for packet in packets if not packet.hidden]
        durations = {packet.pts: packet.duration for packet in shown}
        if first.pts not in durations or not self._decoder.times_hold(shown):
            self._count_frames()
            return
        keys = sorted(packet for packet in packets if packet.key)
        begin = min([first.pts, *(key.pts for key in keys[:1])])  # frames before these refer to what was cut off
        durations = {time: duration for time, duration in durations.items() if time >= begin}
        self._times, self._keys = sorted(durations), keys
        self._set_seconds(np.array(self._times), np.array([durations[time] for time in self._times]))
        self._at = Decoded(self._index_at(first.pts), first)

    def _count_frames(self) -> None:
        """Find the frames by decoding all of them. If their times do not rise, they follow at the usual distance."""
        self._decoder.restart()
        frames = [frame.pts for frame in iter(self._decoder.next_frame, None)]
        if self._decoder.damaged:
            self._warned = True
            warnings.warn(f"{self._path} is damaged: what cannot be decoded is left out", stacklevel=2)
        pts = [time for time in frames if time is not None]
        times, durations = np.array(pts), np.zeros(len(frames))
        if self._decoder.is_avi or len(pts) < len(frames) or any(later <= time for time, later in pairwise(pts)):
            gaps = np.diff(np.unique(times))
            usual = np.median(gaps) if len(gaps) else 1 / self.rate / self._decoder.unit
            times, durations = np.arange(len(frames)) * usual, np.full(len(frames), usual)
        self._set_seconds(times, durations)

    def _set_seconds(self, times: Num[np.ndarray, " frames"], durations: Num[np.ndarray, " frames"]) -> None:
        unit, usual = self._decoder.unit, 1 / self.rate
        seconds = (times - times[0]) * unit
        if not seconds[-1] < 1e9:  # there are no times, or damaged ones
            seconds, durations = np.arange(len(times)) * usual, np.zeros(len(times))
        gaps = np.diff(seconds, append=seconds[-1] + usual)  # a frame of unknown duration lasts until the next
        self.starts, self.ends = seconds, seconds + np.where(durations > 0, durations * unit, gaps)

    def _by_seeking(self, index: int) -> "VideoFrame | None":
        """The frame, decoded from the last key frame before it on; None if that is not proven."""
        key = self._keys[max(bisect_right(self._keys, self._times[index], key=lambda packet: packet.pts) - 1, 0)]
        begun = None
        if self._at is None or not self._index_at(key.pts) <= self._at.place <= index:
            begun = self._decoder.jump(key)
            self._at = None if begun is None else self._decode()
        while self._at is not None:
            at, frame = self._at
            # What the container calls a key frame need not be one.
            if self._decoder.damaged or (frame.pts == begun and frame.pict_type in PREDICTED):
                return None
            if at >= index:
                return frame if frame.pts == self._times[index] else None
            self._at = self._decode()
        return None

    def _in_order(self, index: int) -> "VideoFrame":
        """What is on the screen at the frame's time, by decoding in order; from now on nothing else is tried."""
        if self._keys or self._at is None or self._at.place > index:
            self._keys = []
            self._decoder.restart()
            self._at, self._next = self._decode(0), self._decode(1)
        assert self._at is not None  # the constructor has seen a frame
        while self._next is not None and self._next.place <= index:
            self._at, self._next = self._next, self._decode(self._next.place + 1)
        if (self._at.place != index or self._decoder.damaged) and not self._warned:
            self._warned = True
            _warn_of_damage(self._path, self.starts[index])
        return self._at.frame

    def _decode(self, count: int = 0) -> Decoded | None:
        """The next frame, before which `count` came."""
        frame = self._decoder.next_frame()
        if frame is None:
            return None
        return Decoded(count if frame.pts is None or not self._times else self._index_at(frame.pts), frame)

    def _index_at(self, time: int) -> int:
        return bisect_right(self._times, time) - 1


class Animation:
    """A GIF, an animated PNG or an animated WebP; attributes as those of `VideoFile`.

    Raises:
        InputError: the file holds one picture only (a GIF may), or cannot be decoded.
    """

    def __init__(self, path: Path, image: "Image", content: bytes) -> None:
        self._path, self._image = path, image
        self.by_index = image.format == "GIF"
        self._first = int(getattr(image, "default_image", False))  # an animated PNG may have a still in front
        count = _count(image) - self._first
        if count < 2 and not self.by_index:
            raise InputError(f"{path} cannot be read as a video: it is a single picture; show it as an image")
        seconds = np.full(count, 1 / GIF_RATE) if self.by_index else np.array([self._duration(i) for i in range(count)])
        self.ends = np.cumsum(seconds)
        self.starts = self.ends - seconds
        self.rate = GIF_RATE if self.by_index else count / float(self.ends[-1])
        self._last = count - 1  # of those that can be decoded, as far as is known
        if self.by_index and not content.rstrip(b"\0").endswith(b";"):
            warnings.warn(f"{path} is cut off: {count} frames are left of it", stacklevel=2)

    def _duration(self, index: int) -> float:
        """Seconds that a frame is shown. What states none, or cannot be decoded, gets a tenth, as in browsers."""
        with suppress(Exception):
            self._image.seek(self._first + index)
            self._image.load()  # WebP says it no earlier
            return float(self._image.info["duration"]) / 1000 or 0.1
        return 0.1

    def read(self, index: int) -> RGB:
        """One frame, (H, W, 3) uint8. In place of a damaged one, and of those after it, the last one before."""
        while self._last >= 0:
            shown = min(index, self._last)
            try:
                self._image.seek(self._first + shown)
                return np.array(self._image.convert("RGB"))
            except Exception:  # Pillow's decoders raise many kinds
                self._last = shown - 1
                _warn_of_damage(self._path, self.starts[shown])
        raise InputError(f"{self._path} cannot be read as a video: none of its frames can be decoded")


def open_video_file(path: Path) -> VideoFile | Animation:
    """A file of moving pictures, of whatever kind; its name does not matter.

    Args:
        path: of a regular file.

    Raises:
        InputError: it is something else, or cannot be decoded.
    """
    from PIL import Image

    try:
        if not path.stat().st_size:  # the files of /proc, too, which may never end
            raise InputError(f"{path} cannot be read as a video: it is empty")
        with path.open("rb") as file:
            begin = file.read(12)
            if not begin.startswith((b"GIF8", b"\x89PNG")) and begin[8:] != b"WEBP":
                return VideoFile(path)
            content = begin + file.read()
        return Animation(path, Image.open(BytesIO(content)), content)
    except InputError:
        raise
    except Exception as error:  # Pillow's decoders raise many kinds
        raise InputError(f"{path} cannot be read as a video: {error}") from None


def _count(image: "Image") -> int:
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:  # a damaged GIF: those in front of the damage
        count = 0
        with suppress(Exception):
            while True:
                image.seek(count)
                count += 1
        return count


def _warn_of_damage(path: Path, second: float) -> None:
    warnings.warn(f"{path} is damaged at {second:.2f} s: where a frame is lost, the one before it stays", stacklevel=3)
