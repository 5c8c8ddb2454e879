"""Every shape and type that vl3ref's signatures state is checked while the tests run, so what is written is true."""

from collections.abc import Callable
from typing import Any

import pytest
from jaxtyping import install_import_hook

hook = install_import_hook("vl3ref", "beartype.beartype")


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
