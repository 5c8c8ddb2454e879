"""What importing brings along, and that the shipped files are what they should be."""

import json
import runpy
import subprocess
import sys

import pytest

import vl3ref
from tests.helpers import ROOT

EXTRAS = ("transformers", "torchvision", "matplotlib", "pytest")

AT_IMPORT = {"einops", "jaxtyping", "numpy", "safetensors", "tokenizers", "vl3ref"}
"""What importing vl3ref may import beside torch. Videos, images, the hub and the command line come when used."""

CODE = f"""
import json, sys, torch
before = set(sys.modules)
import vl3ref
from vl3ref import *
brought = sorted(set(sys.modules) - before)
model, processor = vl3ref.load("vl3-tiny", device="cpu")
clip = {{"type": "video", "video": "tests/goldens/frames/v10_3s.mp4"}}
inputs = processor([{{"role": "user", "content": [clip, "What?"]}}])
processor.decode(model.generate(inputs, max_new_tokens=2)[0])
print(json.dumps([brought, [name for name in {EXTRAS} if name in sys.modules]]))
"""


def test_importing_is_cheap_and_answering_needs_no_extra() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], check=True, capture_output=True, text=True, cwd=ROOT)
    brought, extras = json.loads(done.stdout)
    assert {name.partition(".")[0] for name in brought if name.partition(".")[0] not in sys.stdlib_module_names} <= (
        AT_IMPORT | {"torch", "sympy", "mpmath"}  # torch 2.6 imports the last two with torch.utils
    )
    assert not [name for name in brought if name.startswith(("torch._dynamo", "torch._inductor", "torch.distributed"))]
    assert extras == []


def test_the_command_line_answers_without_torch() -> None:
    """So Ctrl-C finds a handler within a few hundredths of a second, and --help does not wait."""
    code = "import sys, vl3ref.cli.app; print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "False False\n"


def test_names_are_fetched_when_they_are_used() -> None:
    assert sorted(name for names in vl3ref._HOMES.values() for name in [*names]) == sorted(
        set(vl3ref.__all__) - {"__version__"}
    )
    assert set(vl3ref.__all__) <= set(dir(vl3ref))
    assert callable(vl3ref.generation.stream)
    with pytest.raises(AttributeError, match="module 'vl3ref' has no attribute 'nothing'"):
        vl3ref.nothing  # noqa: B018


def test_it_runs_as_a_module(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["vl3ref", "--version"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("vl3ref", run_name="__main__")
    assert not stop.value.code and capsys.readouterr().out.startswith("vl3ref ")


def test_the_package_is_typed_and_has_a_version() -> None:
    assert (ROOT / "vl3ref" / "py.typed").exists()
    assert vl3ref.__version__.split(".")[0].isdigit()
    assert all(hasattr(vl3ref, name) for name in vl3ref.__all__)


def test_the_embedded_checkpoint_is_small_and_complete() -> None:
    folder = vl3ref.find_checkpoint("vl3-tiny")
    assert sum(f.stat().st_size for f in folder.iterdir()) <= 20 * 2**20
    model, processor = vl3ref.load("vl3-tiny", device="cpu")
    assert model.config.layout == "official" and len(processor.tokenizer) <= model.config.language.vocab_size
