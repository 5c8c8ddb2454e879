"""Every notebook runs to its last cell; its executed copy has the same cells; its exercises can be solved."""

import re
import sys
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType

import pytest

from tests.helpers import ROOT

NOTEBOOKS = ROOT / "notebooks"
SOURCES = sorted(NOTEBOOKS.glob("[0-9]*.py"))
NUMBERS = [source.name[:2] for source in SOURCES]


@pytest.fixture
def lesson(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """check.py, as a notebook imports it: by its plain name, from the folder it lies in."""
    monkeypatch.syspath_prepend(str(NOTEBOOKS))
    yield import_module("check")
    for name in [name for name in sys.modules if name.partition(".")[0] in ("check", "exercises", "solutions")]:
        del sys.modules[name]


@pytest.mark.parametrize("source", SOURCES, ids=NUMBERS)
def test_it_runs_to_the_last_cell(source, monkeypatch):
    pytest.importorskip("nbclient")
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    notebook = import_module("build_notebooks").executed(source)  # raises what a cell raises
    told = [text for cell in notebook.cells for text in _printed(cell)]
    assert not any("Traceback" in text or "Error in callback" in text for text in told)
    exercises = [text for text in told if " not yet: " in text]
    assert len(exercises) == 3 and not any("it raised" in text for text in exercises)


@pytest.mark.parametrize("source", SOURCES, ids=NUMBERS)
def test_the_executed_copy_is_the_sources(source):
    """The cells are equal, all were run in order, and nothing was left on stderr. `python scripts/build_notebooks.py N`
    makes the copy again."""
    jupytext = pytest.importorskip("jupytext")
    written, copy = jupytext.read(source), jupytext.read(source.with_suffix(".ipynb"))
    assert [(cell.cell_type, cell.source) for cell in copy.cells] == [(x.cell_type, x.source) for x in written.cells]
    code = [cell for cell in copy.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [x for x in outputs if x.output_type == "error" or x.get("name") == "stderr"]
    assert any("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.parametrize("number", NUMBERS)
def test_its_exercises_can_be_solved(number, lesson, capsys, monkeypatch):
    """By the solutions, which the check finds right; nothing and nonsense it does not."""
    monkeypatch.chdir(NOTEBOOKS)
    exercises, solutions = import_module(f"exercises.n{number}"), import_module(f"solutions.n{number}")
    names = [name for name in vars(exercises) if name.startswith("exercise_")]
    assert names == ["exercise_1", "exercise_2", "exercise_3"]
    for name in names:
        label = f"{int(number)}.{name[-1]}"
        lesson.check(label, getattr(solutions, f"solution_{name[-1]}"))
        assert capsys.readouterr().out == f"{label} is right.\n"
        for wrong in (..., None, lambda *_, **__: None, lambda *_, **__: ..., 3.0):
            lesson.check(label, wrong)
            assert capsys.readouterr().out.startswith(f"{label} not yet: ")


@pytest.mark.parametrize("source", SOURCES, ids=NUMBERS)
def test_no_measured_number_is_typed_by_hand(source):
    """What the text quotes, a cell printed."""
    text = source.read_text(encoding="utf-8")
    prose = "\n".join(line for line in text.splitlines() if line.startswith("# ") and not line.startswith("# %%"))
    assert not re.findall(r"\d[\d.,]* ?(?:%|ms|MB|GB|seconds|minutes|hours|tokens/s|times as)", prose)
    assert re.search(r"After this notebook you can", prose) and re.search(r"takes (?:half )?an? (?:half )?\w+", prose)


def _printed(cell) -> Iterator[str]:
    for output in cell.get("outputs", ()):
        yield from output.get("text", "").splitlines()
