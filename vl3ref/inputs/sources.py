"""Where a stream's frames come from: files, cameras, anything that yields them."""

import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from vl3ref.errors import InputError, quoted
from vl3ref.extras import import_extra
from vl3ref.inputs.images import RGB
from vl3ref.inputs.videos import checked_cut, open_video

CAMERA = re.compile(r"camera(?::([0-9]{1,4}))?")
"""The first camera, or the one of that number, from 0."""


def frames_of(source: Any, fps: Any = 1, start_time: Any = None, end_time: Any = None) -> Iterator[tuple[Any, float]]:
    """The frames of a source, one after another, each with its second.

    Args:
        source: a video file or a folder of frames; "camera" or "camera:1"; or anything that yields (frame, seconds),
            which is handed on as it comes.
        fps: frames a second, of files and cameras; None for all.
        start_time, end_time: seconds, of files.

    Raises:
        InputError: the source cannot be read.
    """
    checked_cut(fps, None, start_time, end_time)
    if isinstance(source, str) and (camera := CAMERA.fullmatch(source)):
        yield from _camera(int(camera[1] or 0), fps)
    elif isinstance(source, str | Path):
        video = open_video(source, fps, None, start_time, end_time)
        yield from zip(video.frames(), video.timestamps.tolist(), strict=True)
    else:
        for pair in source if isinstance(source, Iterable) else [source]:
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise InputError(f"a source should yield pairs (frame, seconds), not {quoted(pair)}")
            yield pair[0], pair[1]


def _camera(number: int, fps: int | float | None) -> Iterator[tuple[RGB, float]]:
    """A camera's frames as they come, with the seconds since the first. What comes too early is passed over."""
    cv2 = import_extra("cv2", "camera", "cameras are read by OpenCV")
    camera = cv2.VideoCapture(number)
    try:
        if not camera.isOpened():
            raise InputError(f"camera {number} cannot be opened: is it there, and free?")
        camera.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # what is seen should be now
        begin, due = None, 0.0
        while True:
            there, frame = camera.read()
            if not there:
                raise InputError(f"camera {number} gives no more frames")
            now = time.monotonic()
            begin = now if begin is None else begin
            if now - begin >= due:
                yield frame[:, :, ::-1].copy(), now - begin  # OpenCV has blue first
                due = 0.0 if fps is None else max(due + 1 / fps, time.monotonic() - begin)
    finally:
        camera.release()
