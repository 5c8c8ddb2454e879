"""Every shape and type that vl3ref's signatures state is checked while the tests run, so what is written is true.

The cases of hypothesis tests are the same in every run (`make test`), or new and many more (`make test-explore`).
"""

import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

hook = install_import_hook("vl3ref", "beartype.beartype")

EXPLORE = 20
"""How many times the cases of a hypothesis test `make test-explore` tries."""

SLOW_FILES = ("test_training.py", "test_recipe.py", "test_tiny.py")
"""They go first, so that the two processes of `make test` end together."""

settings.register_profile("same", derandomize=True, database=None, deadline=None, max_examples=25)
settings.register_profile("explore", database=None, deadline=None, max_examples=25, print_blob=True)
profile = os.environ.get("HYPOTHESIS_PROFILE", "same")
settings.load_profile(profile)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in SLOW_FILES)
    for item in items if profile == "explore" else []:
        test = getattr(item, "obj", None)
        own = getattr(test, "_hypothesis_internal_use_settings", None)  # hypothesis has no public name for them
        if own is not None:
            test._hypothesis_internal_use_settings = settings(own, max_examples=EXPLORE * own.max_examples)


@pytest.fixture
def vl3ref_main(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[str, str]]:
    """The command line in this process: arguments and the expected exit code -> stdout and stderr."""
    from vl3ref.cli import main

    def run(*arguments: Any, rc: int = 0) -> tuple[str, str]:
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        assert (stop.value.code or 0) == rc, err
        assert "Traceback" not in err
        return out, err

    return run
