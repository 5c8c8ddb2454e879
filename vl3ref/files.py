"""Files from elsewhere, and files that are written.

Only regular files are opened. What is written gets its name when all of it is on the disk: a name never stands for half
of a file, or for a folder with files of two saves.
"""

import errno
import glob
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from vl3ref.errors import VL3Error, quoted

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

MOST_JSON = 200_000_000
"""Bytes of the largest JSON file of a checkpoint; Qwen's tokenizer.json has 11 million."""


def check_regular(path: str | Path, error: type[VL3Error]) -> None:
    """Only regular files are opened: a pipe, a socket or a device may never end.

    Args:
        path: of a file, or of a link to one.
        error: raised if it does not exist, is a folder, or is something else than a file.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # ValueError: a null byte in the name
        raise error(f"{quoted(str(path), 300)} does not exist") from None
    if stat.S_ISDIR(mode):
        raise error(f"{path} is a folder, not a file")
    if not stat.S_ISREG(mode):
        raise error(f"{path} is no regular file (a pipe, a socket or a device): copy what it gives to a file first")


def read_bytes(path: str | Path, error: type[VL3Error], most: int | None = None) -> bytes:
    """A whole file of at most `most` bytes."""
    check_regular(path, error)
    try:
        if most is not None and (size := os.path.getsize(path)) > most:
            raise error(f"{path} has {size / 1e6:.0f} MB; a file of its kind has at most {most / 1e6:.0f}")
        return Path(path).read_bytes()
    except OSError as problem:
        raise error(f"{path} cannot be read: {problem.strerror or problem}") from None


def parse_json(text: str | bytes, where: str | Path, error: type[VL3Error]) -> Any:
    """Any JSON value; `where` it stands is named if it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as problem:  # a number of thousands of digits, lists in lists in lists
        raise error(f"{where} cannot be read as JSON: {str(problem).partition(';')[0]}") from None


def read_json(path: str | Path, error: type[VL3Error], most: int = MOST_JSON) -> dict[str, Any]:
    """The JSON object in a file; `error` is raised if there is none."""
    content = parse_json(read_bytes(path, error, most), path, error)
    if not isinstance(content, dict):
        raise error(f"{path} should hold a JSON object, not a {type(content).__name__}")
    return content


def read_json_if_there(path: str | Path, error: type[VL3Error]) -> dict[str, Any]:
    """As `read_json`; an empty dict if there is no such file."""
    return read_json(path, error) if os.path.lexists(path) else {}


def listed(problems: Sequence[str], most: int = 8) -> str:
    """Lines of a message: the first few problems, and the temporary file that has all of them."""
    lines = [_shown(line) for line in problems[:most]]
    if len(problems) > most:
        lines.append(f"... {len(problems) - most} more")
        with suppress(OSError):
            descriptor, name = tempfile.mkstemp(".txt", "vl3ref-")
            with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write("".join(f"{line}\n" for line in problems))
            lines[-1] += f"; all of them are in {name}"
    return "".join(f"\n  {line}" for line in lines)


def _shown(line: str, most: int = 300) -> str:
    """A line of a message as it can be shown: without control characters, and cut."""
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in line[: most + 1])
    return line if len(line) <= most else f"{line[:most]}..."


# -------------------------------------------------------------------------------------------------------------- writing


@contextmanager
def writing(path: str | Path, error: type[VL3Error]) -> Iterator[None]:
    """What the system refuses while `path` is written becomes one sentence."""
    try:
        yield
    except OSError as problem:
        full = problem.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        advice = "; make room, or name another place" if full else ""
        raise error(f"{path} cannot be written: {problem.strerror or problem}{advice}") from None


@contextmanager
def new_file(path: str | Path, error: type[VL3Error]) -> Iterator[Path]:
    """Where to write a file: it takes its name, and the place of an older one, if the block ends well.

    Args:
        error: raised if it cannot be written, or if `path` is a folder, a pipe or a device.
    """
    if os.path.lexists(path):
        check_regular(path, error)
    path = Path(os.path.realpath(path))
    fresh = path.with_name(f".{path.name}.saving")
    with writing(path, error):
        try:
            yield fresh
            _sync(fresh)
            os.replace(fresh, path)
            _sync_folder(path.parent)
        finally:
            fresh.unlink(missing_ok=True)


@contextmanager
def new_folder(folder: Path, error: type[VL3Error], own: re.Pattern[str]) -> Iterator[Path]:
    """Where to write a folder's files: it takes its name if the block ends well.

    A folder that exists is exchanged as a whole, so that it never holds files of two saves. For a moment it has no
    name but `.NAME.old`; if the process ends just then, the next `new_folder` puts it back.

    Args:
        error: raised if it cannot be written, or if another process is writing it.
        own: names of files that a save writes. Others stay in a folder that exists, unless they are written anew.
    """
    folder = Path(os.path.realpath(folder))
    staging, old = (folder.with_name(f".{folder.name}.{state}") for state in ("saving", "old"))
    with writing(folder, error):
        if folder.exists() and not folder.is_dir():
            raise error(f"{folder} is a file; name a folder to save to")
        if folder.exists() and (os.path.ismount(folder) or folder == Path.cwd()):
            raise error(f"{folder} cannot be exchanged (it is a mount, or the working folder): name a folder inside it")
        clear(folder.parent, glob.escape(staging.name))
        if staging.exists():
            raise error(f"another process is writing {folder}; wait until it is done")
        staging.mkdir(parents=True)
        with held(staging, error):
            try:
                _put_back(old, folder)
                shutil.rmtree(old, ignore_errors=True)
                yield staging
                _sync(staging)
                if folder.exists():
                    _keep_others(folder, staging, own)
                    _sync_folder(staging)
                    os.rename(folder, old)
                os.rename(staging, folder)
                _sync_folder(folder.parent)
                shutil.rmtree(old, ignore_errors=True)
            finally:
                _put_back(old, folder)
                shutil.rmtree(staging, ignore_errors=True)


def _put_back(old: Path, folder: Path) -> None:
    if old.exists() and not folder.exists():
        os.rename(old, folder)


def clear(folder: Path, pattern: str) -> None:
    """Remove the folders in it that killed processes left: those that match a pattern and no process holds."""
    for leftover in [path for path in folder.glob(pattern) if path.is_dir()]:
        with suppress(VL3Error, OSError), held(leftover, VL3Error):
            shutil.rmtree(leftover)


@contextmanager
def held(path: Path, error: type[VL3Error]) -> Iterator[None]:
    """A lock on a folder or a file that ends with the process, however it ends. Where a file system has no locks,
    nothing is held."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise error(f"another process holds {path}; wait until it is done") from None
        except OSError:
            pass
        yield
    finally:
        os.close(descriptor)


def _keep_others(folder: Path, staging: Path, own: re.Pattern[str]) -> None:
    """Link what else is in a folder into the one that takes its place."""

    def replaced(directory: str, names: list[str]) -> set[str]:
        top = Path(directory) == folder
        return {name for name in names if top and (own.fullmatch(name) or (staging / name).exists())}

    def link(source: str, target: str) -> None:
        try:
            os.link(source, target, follow_symlinks=False)
        except OSError:  # a file system without links
            shutil.copy2(source, target, follow_symlinks=False)

    shutil.copytree(folder, staging, symlinks=True, ignore=replaced, copy_function=link, dirs_exist_ok=True)


def _sync(path: Path) -> None:
    """Wait until a file, or a folder with its files, is on the disk, and would be there after a power cut."""
    if path.is_dir():
        for inside in path.iterdir():
            _sync(inside)
        _sync_folder(path)
    else:
        with path.open("rb+") as file:
            os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # Windows does not sync folders, nor do some file systems
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
