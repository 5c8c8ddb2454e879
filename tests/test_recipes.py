"""The Python of docs/recipes runs as it stands."""

import re
import shutil
from typing import Any

import pytest

from tests.helpers import ROOT

RECIPES = ROOT / "docs" / "recipes"


def run(name: str) -> dict[str, Any]:
    """Run a page's Python, and return its names."""
    names: dict[str, Any] = {}
    exec("".join(re.findall(r"```python\n(.*?)```", (RECIPES / name).read_text("utf-8"), re.DOTALL)), names)
    return names


def test_likelihood(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "docs" / "media" / "tinyworld" / "chart.png", "chart.png")
    names = run("likelihood.md")
    assert len(names["log_likelihood"]) == 3 and names["options"][int(names["complete"].argmax())] == "6"
    assert len(names["likeliest"]) and len(names["sure"]) == 1
