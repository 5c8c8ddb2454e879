"""A file's name -> the part of a message that shows it, as an image or as a video."""

import os
from pathlib import Path
from typing import Any, Literal

from vl3ref.errors import InputError
from vl3ref.files import check_regular
from vl3ref.inputs.images import IMAGE_SUFFIXES, load_image
from vl3ref.inputs.videos import open_video

VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".m2ts", ".wmv", ".flv", ".3gp", ".ogv"),
    ".gif",
)


def file_part(path: str | Path, start_time: float | None = None, end_time: float | None = None) -> dict[str, Any]:
    """The part of a message that shows a file.

    Args:
        path: a picture, a video, a GIF, or a folder of frames.
        start_time, end_time: seconds, for a video; a picture has no time and leaves them out.

    Raises:
        InputError: the file does not exist, or is neither a picture nor a video.
    """
    if kind_of(path) == "image":
        return {"type": "image", "image": str(path)}
    times = {"start_time": start_time, "end_time": end_time}
    return {"type": "video", "video": str(path)} | {key: time for key, time in times.items() if time is not None}


def kind_of(path: str | Path) -> Literal["image", "video"]:
    """What a file shows, by its suffix; folders are videos, and a file with an unknown suffix is opened to find out.

    Raises:
        InputError: the file does not exist, or is neither.
    """
    if not str(path):
        raise InputError("a file's name is empty")
    path = Path(path)
    if os.path.isdir(path):  # unlike Path.is_dir, never raises (names too long, null bytes)
        return "video"
    check_regular(path, InputError)
    suffix = path.suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        return "video"
    if suffix in IMAGE_SUFFIXES or _opens(load_image, path):
        return "image"
    if _opens(open_video, path):
        return "video"
    raise InputError(f"{path} is neither a picture that Pillow reads nor a video that ffmpeg reads")


def _opens(reader: Any, path: Path) -> bool:
    try:
        reader(path)
    except InputError:
        return False
    return True
