"""Run the notebooks and keep their outputs: notebooks/NAME.py (jupytext) -> notebooks/NAME.ipynb.

python scripts/build_notebooks.py [NUMBER...]        default: all
"""

import sys
import time
from pathlib import Path
from typing import Any

import jupytext
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def executed(source: Path) -> Any:
    """The notebook of a source with the outputs of all its cells. A cell that fails raises CellExecutionError."""
    notebook = jupytext.read(source)
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(NOTEBOOKS)}}
    ).execute()
    for cell in notebook.cells:  # what differs from run to run
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", ()):
            output.pop("execution_count", None)
    notebook.metadata.pop("language_info", None)
    return notebook


def main(numbers: list[str]) -> None:
    for source in sorted(NOTEBOOKS.glob("[0-9]*.py")):
        if not numbers or str(int(source.name[:2])) in numbers:
            start = time.time()
            jupytext.write(executed(source), source.with_suffix(".ipynb"))
            size = source.with_suffix(".ipynb").stat().st_size / 1e6
            print(f"{source.stem}: {time.time() - start:.0f} s, {size:.1f} MB", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
