"""A video file as ffmpeg decodes it: packets in, frames out, frames as RGB. By PyAV, which brings its own ffmpeg."""

import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from vl3ref.errors import InputError
from vl3ref.inputs.images import MOST_PIXELS, RGB

if TYPE_CHECKING:
    from av import Packet, VideoFrame, VideoStream
    from av.container import InputContainer

CONTAINERS = (
    "mov,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,ivf,obu,h264,hevc,m4v,mxf,nut,dv,rm,wtv,yuv4mpegpipe"
)
"""The kinds of file that ffmpeg may open. Among the others are playlists, which read further files, and text, which it
would paint."""

PATIENCE = 20.0
"""Seconds that ffmpeg may wait for data when it opens a file or reads a packet."""


SMALL = 320 * 240
"""Pixels of a frame up to which one thread decodes faster than several, which wait for each other."""

NO_TIME = -(2**63)


class Listed(NamedTuple):
    """What a packet says of its frame; times are in the stream's units.

    Attributes:
        pts, dts: when the frame is shown, and when it is decoded; `NO_TIME` if the file does not say.
        size: in bytes.
        duration: 0 if unknown.
        key: decoding can begin here.
        hidden: the frame is decoded for others alone, as in front of a cut.
    """

    pts: int
    dts: int
    size: int
    duration: int
    key: bool
    hidden: bool

    @classmethod
    def of(cls, packet: "Packet") -> "Listed":
        pts, dts = (NO_TIME if time is None else time for time in (packet.pts, packet.dts))
        return cls(pts, dts, packet.size, packet.duration or 0, packet.is_keyframe, packet.is_discard)

    def identity(self) -> tuple[int, int]:
        """What a packet has in common with itself when it is found again: Matroska's dts are inferred, and vary."""
        return self.pts, self.size


def _is_last(packet: "Packet") -> bool:
    """Whether it is PyAV's sign that the stream has ended."""
    return packet.size == 0 and packet.dts is None


class Decoder:
    """The frames of a file's video stream, one after another, from its start or from a key frame.

    Attributes:
        rate: frames a second, as the file states it.
        unit: seconds of one unit of a packet's times.
        damaged: whether something could not be decoded since the start or the last jump.

    Raises:
        InputError: the file holds no video, or none that can be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._listed: list[Listed] = []
        self.restart()
        stated = self.stream.average_rate or self.stream.guessed_rate
        self.rate = float(stated) if stated and stated > 0 else 1.0
        assert self.stream.time_base is not None
        self.unit = float(self.stream.time_base)

    def restart(self) -> None:
        """Begin at the first frame. Not every container can be wound back, so the file is opened anew."""
        self.close()
        self.container, self.stream = _open(self.path)
        self._begin(self.container.demux(self.stream))

    def close(self) -> None:
        """Let go of the file: PyAV's container and its streams hold each other until garbage is collected."""
        if hasattr(self, "container"):
            self.container.close()

    __del__ = close

    def _begin(self, packets: Iterator["Packet"], place: int | None = None) -> None:
        """Packets that should be those listed from a place on."""
        self._packets, self._expected = packets, None if place is None else iter(self._listed[place:])
        self._ready: deque[VideoFrame] = deque()
        self.damaged = self._begun = False  # what comes in front of the first frame may refer to what was cut off

    def next_frame(self) -> "VideoFrame | None":
        """The next frame to be shown; what cannot be decoded is left out. None at the end, and as soon as the packets
        after a jump are others than those in the list."""
        import av

        while not self._ready:
            try:
                packet = next(self._packets, None)
            except av.FFmpegError:
                return None
            if packet is None or not self._is_expected(packet):
                return None
            try:
                self._ready.extend(packet.decode())
            except av.FFmpegError:
                self.damaged = self._begun
        frame = self._ready.popleft()
        self.damaged, self._begun = self.damaged or frame.is_corrupt, True
        return frame

    def _is_expected(self, packet: "Packet") -> bool:
        if self._expected is None or _is_last(packet):
            return True
        listed = next(self._expected, None)
        return listed is not None and listed.identity() == Listed.of(packet).identity()

    def jump(self, wanted: Listed) -> int | None:
        """Begin at a key frame, or at one before it. The pts of the one that was found; None if none was."""
        import av

        for time in (wanted.pts, wanted.dts):  # some containers look for the one, some for the other
            with suppress(av.FFmpegError):
                self.container.seek(time, stream=self.stream)
                packets = self.container.demux(self.stream)
                key = next((packet for packet in packets if packet.is_keyframe), None)
                place = None if key is None else self._places.get(Listed.of(key).identity())
                if key is not None and place is not None and self._listed[place].pts <= wanted.pts:
                    self._begin(chain([key], packets), place)
                    return key.pts
        return None

    def list_packets(self) -> list[Listed]:
        """Every packet of the video, in the order of decoding. Warns if the file ends early. Begins anew."""
        import av

        ends = dict.fromkeys(self.container.streams, 0)  # sound may go on after the last frame
        whole = True
        try:
            for packet in self.container.demux():
                if packet.pts is not None:
                    ends[packet.stream] = max(ends[packet.stream], packet.pts + (packet.duration or 0))
                if packet.stream is self.stream and not _is_last(packet):
                    self._listed.append(Listed.of(packet))
        except av.FFmpegError:
            whole = False
        end = max(float(last * (stream.time_base or 0)) for stream, last in ends.items())
        stated = (self.container.duration or 0) / 1e6  # in Matroska counted from 0, elsewhere from the first packet
        frames = self.stream.frames  # 0 if unknown; AVI counts those that were dropped, MP4 those before a cut
        lost = max(stated - end, min(frames / self.rate - end, (frames - len(self._listed)) / self.rate))
        if not whole or lost > max(0.5, 0.01 * end):
            much = f": {lost:.1f} s are lost" if lost > 0 else ""
            warnings.warn(f"{self.path} is cut off or damaged after {end:.1f} s{much}", stacklevel=2)
        self._places = {packet.identity(): place for place, packet in enumerate(self._listed) if packet.key}
        self.restart()
        return self._listed

    @property
    def is_avi(self) -> bool:
        return self.container.format.name == "avi"

    def times_hold(self, packets: Sequence[Listed]) -> bool:
        """Whether packets tell the times at which their frames are shown."""
        times = [packet.pts for packet in packets]
        context = self.stream.codec_context
        if NO_TIME in times or (self.is_avi and context.has_b_frames):
            return False  # AVI knows the order of decoding alone; of frames that are shown in another, ffmpeg guesses
        if any(key.pts < before.pts for before, key in pairwise(packet for packet in packets if packet.key)):
            return False  # files were put one behind the other
        # VP8 has frames that are never shown, in packets with the next one's time.
        return context.name == "vp8" or len(set(times)) == len(times)


def _open(path: Path) -> tuple["InputContainer", "VideoStream"]:
    import av

    try:
        options = {"protocol_whitelist": "file", "format_whitelist": CONTAINERS}
        container = av.open(f"file:{path}", "r", container_options=options, metadata_errors="replace", timeout=PATIENCE)
        stream = container.streams.best("video")
    except av.ExitError:
        raise InputError(f"{path} cannot be read as a video: opening it takes over {PATIENCE:g} s") from None
    except (av.FFmpegError, ValueError) as error:  # ValueError: a name that is not text
        damaged = isinstance(error, av.InvalidDataError | av.ArgumentError)
        reason = "it is damaged, or of another kind" if damaged else getattr(error, "strerror", None) or str(error)
        raise InputError(f"{path} cannot be read as a video: {reason}") from None
    if not isinstance(stream, av.VideoStream) or stream.disposition & av.stream.Disposition.attached_pic:
        raise InputError(f"{path} cannot be read as a video: it holds no moving pictures")
    context = stream.codec_context
    if context is None:
        raise InputError(f"{path} cannot be read as a video: ffmpeg does not know its codec")
    if context.width * context.height > MOST_PIXELS:
        raise InputError(
            f"{path} cannot be read as a video: its frames are {context.height} x {context.width}; make them smaller"
        )
    context.options = {"max_pixels": str(MOST_PIXELS)}  # of frames that are larger than the file's header says
    stream.thread_type = "AUTO" if context.width * context.height > SMALL else "NONE"
    return container, stream


class ToRGB:
    """Frames -> RGB as a person sees them: the official loader's conversion, turned as the file says, all of one size.

    ffmpeg's filters are asked, not PyAV's own conversion, whose pixels differ for 10 bits and for interlaced video.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size: tuple[int, int] | None = None
        self.kind: tuple[int, int, str] | None = None

    def __call__(self, frame: "VideoFrame") -> RGB:
        kind = (frame.width, frame.height, frame.format.name)
        if kind != self.kind:
            self._set_up(frame)
            self.kind = kind
        self._graph.push(frame)
        return _upright(self._graph.pull().to_ndarray(), frame)

    def _set_up(self, frame: "VideoFrame") -> None:
        from av.filter import Graph

        width, height = self.size = self.size or (frame.width, frame.height)
        if (frame.width, frame.height) != (width, height):
            changed = f"from {height} x {width} to {frame.height} x {frame.width}"
            warnings.warn(f"the frames of {self.path} change {changed}; all are scaled to the first", stacklevel=2)
        self._graph = Graph()
        given = self._graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
        )
        steps = [given, self._graph.add("scale", f"{width}:{height}"), self._graph.add("format", "rgb24")]
        self._graph.link_nodes(*steps, self._graph.add("buffersink")).configure()


def _upright(rgb: UInt8[np.ndarray, "rows columns 3"], frame: "VideoFrame") -> RGB:
    """Apply the display matrix: x' = a x + c y, y' = b x + d y. Of slanted ones, the nearest quarter turn."""
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return rgb
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].astype(int)
    if abs(b) + abs(c) > abs(a) + abs(d):
        rgb, a, d = rgb.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(rgb[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])
