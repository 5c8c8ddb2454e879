"""The Python of docs/recipes runs as it stands."""

import runpy
import shutil
from typing import Any

import pytest

from tests.helpers import ROOT, run_page


def test_likelihood(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "docs" / "media" / "tinyworld" / "chart.png", "chart.png")
    names = run_page("recipes/likelihood.md")
    assert len(names["log_likelihood"]) == 3 and names["options"][int(names["complete"].argmax())] == "6"
    assert len(names["likeliest"]) and len(names["sure"]) == 1


def test_lora(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """With an adapter that changes nothing yet, in place of those of runs."""
    pytest.importorskip("peft")
    import vl3ref
    from vl3ref.checkpoints import save_adapter
    from vl3ref.training.lora import LoRA, adapt
    from vl3ref.training.stages import TINY

    monkeypatch.setattr("vl3ref.hub.download", lambda *_: ROOT / "weights" / "vl3-tiny")
    monkeypatch.chdir(tmp_path)
    model, _ = vl3ref.load("vl3-tiny")
    adapt(model, LoRA(2), TINY[3])
    for name in ("cats", "dogs"):
        save_adapter(model, f"runs/{name}/final")
    run_page("recipes/lora.md")
    assert (tmp_path / "merged" / "model.safetensors").exists()
    assert (tmp_path / "cats-hf" / "adapter_model.safetensors").exists()


def test_finetune(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """On the first of the made-up samples."""
    monkeypatch.chdir(tmp_path)
    script = runpy.run_path(str(ROOT / "scripts" / "make_finetune_set.py"))
    script["main"](tmp_path / "runs" / "toys", old=1)
    for name in ("train", "test"):
        path = tmp_path / "runs" / "toys" / f"{name}.jsonl"
        lines = path.read_text().splitlines()
        assert len(lines) == {"train": 200, "test": 50}[name]
        path.write_text("\n".join(lines[:2]))
    names = run_page("recipes/finetune.md")
    assert len(names["result"].answers) == 2 and names["good"]("A Wug.", "wug", {})
