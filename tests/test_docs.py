"""The documentation builds without a warning, and what scripts write into it is what the code does now."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_it_builds(tmp_path: Path) -> None:
    """Strictly: no dead link, no page that is not in the navigation, no reference that leads nowhere."""
    pytest.importorskip("mkdocstrings")
    pytest.importorskip("material")
    done = run("-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site"))
    assert done.returncode == 0, done.stderr[-3000:]
    api = (tmp_path / "site" / "api" / "model" / "index.html").read_text(encoding="utf-8")
    assert "packed_attention" in api and "frame_change" in api


@pytest.mark.skipif(sys.version_info < (3, 11), reason="functions do not know their qualified names")
def test_the_walk_is_what_happens() -> None:
    done = run("scripts/walk.py", "--check")
    assert done.returncode == 0, done.stderr[-2000:]


def commands() -> list[tuple[str, str]]:
    """Every command line of the README and the documentation, with the page that it stands on."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    found = []
    for page in pages:
        blocks = re.findall(r"```(\w*)\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
        for block in [block for language, block in blocks if language != "python"]:
            lines = [line.strip().removeprefix("$ ") for line in block.replace("\\\n", " ").splitlines()]
            wanted = [
                match[1] for line in lines if (match := re.match(r"(?:.*\s|\.venv/bin/)?vl3ref ((?!\s).*)", line))
            ]
            found += [(str(page.relative_to(ROOT)), line) for line in wanted if re.match(r"[a-z]+ \S|[a-z]+$", line)]
    return found


@pytest.mark.parametrize(("page", "line"), commands())
def test_commands_have_these_options(page: str, line: str) -> None:
    """A command that documentation shows is parsed by the command line: its name, its options and their values."""
    from typer.main import get_command

    from vl3ref.cli.app import app

    words = [word for word in shlex.split(line, comments=True) if word not in ("...", "data.jsonl", "DATA")]
    group = get_command(app)
    name, *arguments = words
    command = group.commands[name]  # type: ignore[attr-defined]
    if name == "train" and "--recipe" not in arguments:
        arguments.insert(0, "data.jsonl")
    with command.make_context(name, arguments):
        pass


def test_there_are_commands_to_check() -> None:
    assert len(commands()) > 40 and {"ask", "train", "eval", "watch"} <= {line.split()[0] for _, line in commands()}
