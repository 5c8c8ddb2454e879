"""Every bad command line of the catalogue ends with one line on stderr and exit code 2."""

import io
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

import vl3ref
from tests.helpers import ROOT
from tests.robustness import command_line
from vl3ref.tinyworld import TinyWorld
from vl3ref.tinyworld.samples import write

TINY = ROOT / "weights" / "vl3-tiny"
Run = Callable[..., tuple[str, str]]


@pytest.fixture(scope="module")
def loaded() -> tuple[vl3ref.VideoLLaMA3, vl3ref.Processor]:
    return vl3ref.load(TINY, device="cpu")


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the names in capitals stand for."""
    folder = tmp_path_factory.mktemp("files")
    noise = bytes(range(255, -1, -1)) * 40
    named = {"TEXT": b"some text\n", "TEXT.py": b"some text\n", "EMPTY": b""}
    named |= {f"EMPTY.{suffix}": b"" for suffix in ("mp4", "png", "json", "jsonl")}
    named |= {f"NOISE.{suffix}": noise for suffix in ("mp4", "gif", "png", "jpg", "bin", "json", "jsonl")}
    for name, content in named.items():
        (folder / name).write_bytes(content)
    for name in ("PIPE", "PIPE.json"):
        os.mkfifo(folder / name)
    (folder / "FOLDER").mkdir()
    world = TinyWorld(5, {"scene": 1.0}, turns=2)
    data = write([world[i] for i in range(2)], folder / "data")
    media = {"CAT": ROOT / "docs" / "media" / "cat.jpg", "CLIP": ROOT / "tests" / "goldens" / "frames" / "v10_3s.mp4"}
    found = {name: folder / name for name in (*named, "PIPE", "PIPE.json", "FOLDER")}
    return {name: str(path) for name, path in {**found, **media, "TINY": TINY, "DATA": data}.items()}


@pytest.fixture(autouse=True)
def quiet_place(monkeypatch: pytest.MonkeyPatch, loaded: tuple[object, object], tmp_path: Path) -> None:
    """vl3-tiny is loaded once, nothing is fetched, nothing is typed, and nothing begins to train or to be examined."""
    load = vl3ref.load

    def once(folder: Path, *options: object, **more: object) -> object:
        asked = (folder, *options) == (TINY, None, None) and not any(more.values())
        return loaded if asked else load(folder, *options, **more)

    def begun(*_: object, **__: object) -> None:
        raise AssertionError("it begins")

    monkeypatch.setattr(vl3ref, "load", once)
    for name in ("vl3ref.training.run.train_stage", "vl3ref.tinyworld.recipe.train_tiny"):
        monkeypatch.setattr(name, begun)
    monkeypatch.setattr("vl3ref.tinyworld.examination.examine", begun)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello\n"))
    monkeypatch.chdir(tmp_path)


def ends_in_one_line(run: Run, places: dict[str, str], arguments: list[str]) -> str:
    """The line, in which the names in capitals stand for their files again."""
    pattern = re.compile(r"\b(CAT|CLIP|TINY|DATA|FOLDER|(?:TEXT|EMPTY|PIPE|NOISE)(?:\.\w+)?)\b")
    given = [pattern.sub(lambda match: places[match[0]], argument) for argument in arguments]
    _, err = run(*given, rc=2)
    lines = [line for line in err.splitlines() if not line.startswith(("note: vl3-tiny", "> "))]
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", err)
    if not arguments:  # the help
        return ""
    assert len(lines) == 1 and lines[0].startswith("error: ") and len(lines[0]) < 620, lines
    for name, path in sorted(places.items(), key=lambda item: -len(item[1])):
        lines[0] = lines[0].replace(path, name)
    return lines[0]


def cases() -> list[command_line.Case]:
    return [*command_line.of_numbers(), *command_line.TEXTS, *command_line.OTHERS]


def name_of(arguments: object) -> str | None:
    return ascii(" ".join(arguments)[:60]) if isinstance(arguments, list) else ""


@pytest.mark.parametrize(("arguments", "sentence"), cases(), ids=name_of)
def test_a_bad_command_line(arguments: list[str], sentence: str, vl3ref_main: Run, places: dict[str, str]) -> None:
    assert sentence in ends_in_one_line(vl3ref_main, places, arguments)


@pytest.mark.parametrize(("arguments", "sentences"), command_line.MEDIA, ids=name_of)
def test_a_file_that_is_no_media(
    arguments: list[str], sentences: tuple[str, ...], vl3ref_main: Run, places: dict[str, str]
) -> None:
    line = ends_in_one_line(vl3ref_main, places, arguments)
    assert any(sentence in line for sentence in sentences)


def test_there_are_enough() -> None:
    assert len(cases()) + len(command_line.MEDIA) > 500
