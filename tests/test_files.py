"""What is opened, JSON, and files and folders that are written: whole, or not at all."""

import gc
import os
import random
import re
import shutil
import signal
import socket
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers import room_for
from vl3ref import CheckpointError, ConfigError, InputError
from vl3ref.checkpoints import load_model, save_model
from vl3ref.files import check_regular, clear, listed, new_file, new_folder, read_json, read_json_if_there
from vl3ref.parity import load_activations, save_activations

OWN = re.compile("own.*")


def make(kind: str, path: Path) -> None:
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind(str(path))


# ---------------------------------------------------------------------------------------------------------- reading

NOT_FILES = {
    "pipe": "no regular file",
    "folder": "is a folder",
    "loop": "does not exist",
    "device": "no regular file",
    "socket": "no regular file",
    "nothing": "does not exist",
}


@pytest.mark.parametrize(("kind", "message"), NOT_FILES.items())
def test_only_regular_files_are_opened(
    kind: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's name is at most 107 bytes long
    path = Path("x.json")
    make(kind, path)
    for read in (check_regular, read_json):
        with pytest.raises(ConfigError, match=message):
            read(path, ConfigError)


def test_a_link_to_a_file_is_a_file_and_names_that_cannot_be_do_not_exist(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": 1}')
    (tmp_path / "b.json").symlink_to("a.json")
    assert read_json(tmp_path / "b.json", ConfigError) == {"a": 1}
    for name in ("x" * 5000, "a\0b", "\udcff"):
        with pytest.raises(ConfigError, match="does not exist") as error:
            check_regular(tmp_path / name, ConfigError)
        assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as JSON: Expecting value"),
        (b'{"a": 1', "cannot be read as JSON"),
        (b'{"a": "\xff\xfe"}', "cannot be read as JSON: 'utf-8' codec"),
        (b'{"a": ' + b"9" * 5000 + b"}", r"cannot be read as JSON: Exceeds the limit \(4300 digits\)"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "cannot be read as JSON: maximum recursion depth"),
        (b"[1]", "should hold a JSON object, not a list"),
        (b"null", "should hold a JSON object, not a NoneType"),
        (b" " * 2000, "has 0 MB; a file of its kind has at most 0"),
    ],
    ids=["empty", "cut", "not utf-8", "5,000 digits", "100,000 lists", "list", "null", "large"],
)
def test_what_is_no_json_object_is_one_sentence(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as error:
        read_json(path, ConfigError, most=1000 if content.isspace() else 10**6)
    assert str(path) in str(error.value) and len(str(error.value)) < 500 and "\n" not in str(error.value)


def test_a_file_that_may_be_absent_may_not_be_a_broken_link(tmp_path: Path) -> None:
    assert read_json_if_there(tmp_path / "x.json", ConfigError) == {}
    make("loop", tmp_path / "x.json")
    with pytest.raises(ConfigError, match="does not exist"):
        read_json_if_there(tmp_path / "x.json", ConfigError)


def test_a_long_list_is_cut_and_a_file_has_the_rest() -> None:
    lines = [f"problem {n}" for n in range(900)]
    text = listed([*lines[:1], "\x1b[31m" + "x" * 5000, *lines[2:]])
    assert len(text) < 700 and "\x1b" not in text and "... 892 more; all of them are in " in text
    path = Path(text.rpartition(" ")[2])
    assert len(path.read_text().splitlines()) == 900
    path.unlink()
    assert listed(lines[:8]) == "".join(f"\n  {line}" for line in lines[:8])


# ---------------------------------------------------------------------------------------------------------- writing


def test_a_file_takes_its_name_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("before")
    with pytest.raises(ZeroDivisionError), new_file(path, InputError) as fresh:
        fresh.write_text("half")
        raise ZeroDivisionError
    full = pytest.raises(InputError, match="x cannot be written: File too large; make room")
    with full, room_for(1000), new_file(path, InputError) as fresh:
        fresh.write_bytes(b"x" * 2000)
    assert path.read_text() == "before" and os.listdir(tmp_path) == ["x"]
    with new_file(path, InputError) as fresh:
        fresh.write_text("after")
    assert path.read_text() == "after" and os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_file_is_not_replaced_by_one(kind: str, tmp_path: Path) -> None:
    make(kind, tmp_path / "x")
    with pytest.raises(InputError, match="x is"), new_file(tmp_path / "x", InputError):
        pass
    assert not (tmp_path / "x").is_file() and os.listdir(tmp_path) == ["x"]


def save(folder: Path, number: int, size: int = 100) -> None:
    with new_folder(folder, CheckpointError, OWN) as staging:
        for name in ("own.1", "own.2", "config", *(["own.3"] if number % 2 else [])):
            (staging / name).write_text(str(number) * size)


def found(folder: Path) -> set[str]:
    """The numbers in a folder's files, apart from "mine", which no save touches."""
    return {path.read_text()[0] for path in folder.iterdir() if path.is_file() and path.name != "mine"}


def test_a_folder_is_exchanged_as_a_whole_and_what_others_put_there_stays(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    save(folder, 1)
    (folder / "mine").write_text("precious")
    (folder / "sub").mkdir()
    (folder / "sub" / "own.1").write_text("precious")
    (folder / "link").symlink_to("nowhere")
    os.mkfifo(folder / "pipe")
    save(folder, 2)
    assert sorted(os.listdir(folder)) == ["config", "link", "mine", "own.1", "own.2", "pipe", "sub"]
    assert found(folder) == {"2"} and (folder / "sub" / "own.1").read_text() == "precious"
    assert os.listdir(tmp_path / "a") == ["b"]


def test_a_linked_folder_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    save(tmp_path / "link", 1)
    assert (tmp_path / "link").is_symlink() and found(tmp_path / "real") == {"1"}


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("file", "file is a file"),
        ("file/under", "under cannot be written: Not a directory"),
        ("cwd", "cannot be exchanged"),
        ("/proc", r"/proc cannot be exchanged \(it is a mount"),
        ("/proc/x", "/proc/x cannot be written"),
        ("x" * 300, "cannot be written: File name too long"),
    ],
)
def test_where_nothing_can_be_written(
    place: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("precious")
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    with pytest.raises(CheckpointError, match=message):
        save(tmp_path / place, 1)
    assert sorted(os.listdir(tmp_path)) == ["cwd", "file"] and (tmp_path / "file").read_text() == "precious"


def test_a_full_disk_leaves_the_folder_that_was_there(tmp_path: Path) -> None:
    save(tmp_path / "x", 1)
    with pytest.raises(CheckpointError, match="x cannot be written: File too large; make room"), room_for(1000):
        save(tmp_path / "x", 2, size=2000)
    assert found(tmp_path / "x") == {"1"} and os.listdir(tmp_path) == ["x"]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="Linux says which file a descriptor is of")
def test_files_are_on_the_disk_before_they_have_their_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[str, str]] = []
    sync, rename = os.fsync, os.rename

    def noted_sync(descriptor: int) -> None:
        sync(descriptor)
        done.append(("sync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))

    def noted_rename(old: Path, new: Path) -> None:
        rename(old, new)
        done.append(("rename", Path(new).name))

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(os, "rename", noted_rename)
    save(tmp_path / "x", 2)
    named = done.index(("rename", "x"))
    assert {name for _, name in done[:named]} == {"own.1", "own.2", "config", ".x.saving"}
    assert done[named + 1 :] == [("sync", tmp_path.name)]


# ---------------------------------------------------------------------------------------------------------- killed


def child(work: Callable[[], None]) -> int:
    """Another process that does it, and is killed by the test."""
    if (process := os.fork()) == 0:
        gc.disable()  # what other tests left may wait for threads that are not here
        try:
            work()
        finally:
            os._exit(1)
    return process


def kill(process: int) -> None:
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


def test_what_a_process_is_writing_is_left_alone_until_it_is_dead(tmp_path: Path) -> None:
    def write() -> None:
        with new_folder(tmp_path / "x", CheckpointError, OWN) as staging:
            (staging / "own.1").write_text("1")
            time.sleep(60)

    writer = child(write)
    try:
        while not (tmp_path / ".x.saving" / "own.1").exists():
            time.sleep(0.01)
        with pytest.raises(CheckpointError, match=r"another process is writing .*x; wait"):
            save(tmp_path / "x", 2)
        clear(tmp_path, ".x*")
        assert (tmp_path / ".x.saving" / "own.1").exists()
    finally:
        kill(writer)
    save(tmp_path / "x", 2)
    assert found(tmp_path / "x") == {"2"} and os.listdir(tmp_path) == ["x"]


def test_a_save_that_is_killed_at_any_step_leaves_one_save_or_the_other(tmp_path: Path) -> None:
    """A process is killed before its n-th call that changes the disk, for every n."""
    changing = [(os, name) for name in ("fsync", "rename", "mkdir", "link")] + [(shutil, "rmtree")]
    for moment in range(1, 99):
        parent = tmp_path / str(moment)
        parent.mkdir()
        save(parent / "x", 1)

        def work(moment: int = moment, folder: Path = parent / "x") -> None:
            left = [moment]

            def or_die(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
                left[0] -= 1
                if not left[0]:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*args, **kwargs)

            for module, name in changing:
                setattr(module, name, partial(or_die, getattr(module, name)))
            save(folder, 2)
            os._exit(0)

        process = child(work)
        ended = os.waitpid(process, 0)[1]
        states = [path for path in (parent / "x", parent / ".x.old") if path.exists()]
        assert found(states[0]) in ({"1"}, {"2"}) and len(found(states[0])) == 1
        save(parent / "x", 4)
        assert found(parent / "x") == {"4"} and os.listdir(parent) == ["x"]
        if ended == 0:
            assert moment > 8
            return
    raise AssertionError("the save never ended")


def kill_writers(folder: Path, write: Callable[[int], None], whole: Callable[[Path], bool], until: float) -> None:
    """A process writes to a folder without a pause, and is killed at a random moment; and so on."""
    kills, seen, chance = 0, False, random.Random(0)
    while time.monotonic() < until or kills < 25:

        def work() -> None:
            for number in range(1, 10**6):
                write(number)

        writer = child(work)
        time.sleep(chance.uniform(0.0, 0.05))
        kill(writer)
        kills += 1
        states = [path for path in (folder, folder.parent / f".{folder.name}.old") if path.exists()]
        assert not folder.exists() or whole(folder), f"kill {kills}: {folder} is not of one save"
        seen = seen or bool(states)
        assert not seen or whole(states[0]), f"kill {kills}: nothing whole is left"
    write(1)
    assert os.listdir(folder.parent) == [folder.name] and whole(folder)
    print(f"{kills} kills")


def test_a_folder_that_is_exchanged_is_of_one_save_however_it_is_killed(tmp_path: Path) -> None:
    def whole(folder: Path) -> bool:
        odd = {"1", "3", "5", "7", "9"} >= found(folder)
        return len(found(folder)) == 1 and len(os.listdir(folder)) == (4 if odd else 3)

    kill_writers(tmp_path / "x", lambda number: save(tmp_path / "x", number % 10), whole, until=0)


@pytest.mark.slow
def test_ten_minutes_of_kills_leave_whole_checkpoints(tmp_path: Path) -> None:
    from tests.small_runs import small_model

    torch.set_num_threads(1)
    models = [small_model(seed) for seed in range(3)]
    expected = [model.state_dict() for model in models]

    def whole(folder: Path) -> bool:
        state = load_model(folder, "cpu").state_dict()
        return any(all(torch.equal(x, one[name]) for name, x in state.items()) for one in expected)

    def write(number: int) -> None:
        save_model(models[number % 3], tmp_path / "x", max_shard_bytes=10**9 if number % 2 else 50_000)

    kill_writers(tmp_path / "x", write, whole, until=time.monotonic() + 600)


# ------------------------------------------------------------------------------------------------------------- dumps


def test_activations_are_dumped_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "dump.safetensors"
    save_activations(path, {"logits": torch.ones(3)})
    full = pytest.raises(InputError, match=r"dump\.safetensors cannot be written: File too large; make room")
    with full, room_for(10_000):
        save_activations(path, {"logits": torch.zeros(30_000)})
    assert torch.equal(load_activations(path)[0]["logits"], torch.ones(3)) and len(os.listdir(tmp_path)) == 1
    make("pipe", tmp_path / "pipe")
    with pytest.raises(InputError, match="no regular file"):
        load_activations(tmp_path / "pipe")
