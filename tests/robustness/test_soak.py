"""The short version of `make soak`: answers, threads and handles stay as they are; Ctrl-C and kills leave nothing."""

import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="terminals and signals are Unix's")


@pytest.mark.parametrize("part", ["requests", "threads", "interrupts", "kills"])
def test_the_short_version_goes_well(part: str) -> None:
    from scripts.soak import PARTS

    good, told = PARTS[part](True)
    assert good, told
