"""What importing costs and brings along, and that the shipped files are what they should be."""

import subprocess
import sys

import pytest

from tests.helpers import ROOT

EXTRAS = ("transformers", "torchvision", "matplotlib", "pytest", "av")


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT).stdout


def test_the_core_imports_no_extra() -> None:
    """Answering included, not only the import: nothing is fetched lazily either."""
    code = (
        "import sys, vl3ref\n"
        "model, processor = vl3ref.load('vl3-tiny', device='cpu')\n"
        "clip = {'type': 'video', 'video': 'tests/goldens/frames/v10_3s.mp4'}\n"
        "inputs = processor([{'role': 'user', 'content': [clip, 'What?']}])\n"
        "processor.decode(model.generate(inputs, max_new_tokens=2)[0])\n"
        f"print([name for name in {EXTRAS} if name in sys.modules])"
    )
    assert python(code).strip() == "[]"


def test_importing_takes_little_longer_than_importing_torch() -> None:
    def seconds(module: str) -> float:
        code = f"import time; start = time.perf_counter(); import {module}; print(time.perf_counter() - start)"
        return float(python(code))

    rounds = [(seconds("torch"), seconds("vl3ref")) for _ in range(5)]
    torch_time, our_time = (min(times) for times in zip(*rounds, strict=True))
    assert our_time < 1.3 * torch_time


def test_it_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "vl3ref", "--version"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and done.stdout.startswith("vl3ref ")


def test_the_package_is_typed_and_has_a_version() -> None:
    import vl3ref

    assert (ROOT / "vl3ref" / "py.typed").exists()
    assert vl3ref.__version__.split(".")[0].isdigit()


@pytest.mark.parametrize("name", ["vl3-tiny"])
def test_the_embedded_checkpoint_is_small_and_complete(name: str) -> None:
    import vl3ref

    folder = vl3ref.find_checkpoint(name)
    assert sum(f.stat().st_size for f in folder.iterdir()) <= 20 * 2**20
    model, processor = vl3ref.load(name, device="cpu")
    assert model.config.layout == "official" and len(processor.tokenizer) <= model.config.language.vocab_size
