"""Every bad call of the catalogue raises one of our exceptions, with one sentence that names what is wrong."""

import json
import os
import subprocess
import sys

import pytest

from tests.helpers import ROOT
from tests.robustness import python_api

REFUSED, STILL_OPEN = python_api.of_calls()
SETTINGS = python_api.of_settings()
Outcome = tuple[str, bool, str]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """What became of each expression, in a process that checks no types at run time."""
    expressions = [case[0] for case in (*REFUSED, *STILL_OPEN, *SETTINGS)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.robustness.child", str(tmp_path_factory.mktemp("child"))],
        input=json.dumps(expressions),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        timeout=600,
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == len(expressions), f"{expressions[len(found)]} ended the process: {done.stderr[-2000:]}"
    return dict(zip(expressions, found, strict=True))


def check(outcome: Outcome, raised: str, sentence: str) -> None:
    name, ours, message = outcome
    assert name == raised and sentence in message, outcome
    if raised:
        assert ours and len(message) < 600, outcome
        assert "\n" not in message or "\n  " in message  # a list of tensors has a line for each


@pytest.mark.parametrize(("expression", "raised", "sentence"), REFUSED, ids=lambda x: "")
def test_a_bad_call(expression: str, raised: str, sentence: str, outcomes: dict[str, Outcome]) -> None:
    check(outcomes[expression], raised, sentence)


@pytest.mark.parametrize(("expression", "raised", "sentence"), SETTINGS, ids=lambda x: "")
def test_a_changed_setting(expression: str, raised: str, sentence: str, outcomes: dict[str, Outcome]) -> None:
    check(outcomes[expression], raised, sentence)


@pytest.mark.xfail(strict=True, reason="still open: raised by Python, or not refused")
@pytest.mark.parametrize(("expression", "raised", "sentence"), STILL_OPEN, ids=lambda x: "")
def test_still_open(expression: str, raised: str, sentence: str, outcomes: dict[str, Outcome]) -> None:
    assert outcomes[expression][1]


def test_there_are_enough() -> None:
    assert len(REFUSED) > 450 and len({case[0] for case in (*REFUSED, *SETTINGS)}) > 700
