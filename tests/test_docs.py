"""The documentation builds without a warning, and what scripts write into it is what the code does now."""

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
