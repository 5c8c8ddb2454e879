"""All ten benchmarks' files and items, made once and left as they are."""

from pathlib import Path

import pytest

from tests.evaluation.benchmark_data import NAMES, make
from vl3ref.evaluation.benchmark import Item
from vl3ref.evaluation.benchmarks import BENCHMARKS


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("benchmarks")
    return {name: make(name, root) for name in NAMES}


@pytest.fixture(scope="session")
def all_items(folders: dict[str, Path]) -> dict[str, list[Item]]:
    return {name: list(BENCHMARKS[name].items(folder)) for name, folder in folders.items()}
