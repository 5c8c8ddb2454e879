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


def test_where_an_answer_looks(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "docs" / "media" / "tinyworld" / "moves.mp4", "clip.mp4")
    names = run_page("recipes/looking_inside.md")
    assert 0 < float(names["looks"].sum()) < 1 and (tmp_path / "looks.png").exists()
    kept = names["visual"].keep
    assert bool((names["on_frames"] > 0).equal(kept))
    words = names["inputs"].labels[names["inputs"].labels != -100]
    assert len(names["words"]) == len(words)  # one row for each, and the one before it predicts it
    predicted = names["output"].logits if names["output"].logits is not None else None
    assert predicted is None or bool((predicted[names["words"]].argmax(-1) == words).all())


def test_a_swapped_part(caplog: pytest.LogCaptureFixture) -> None:
    names = run_page("recipes/swap_a_part.md")
    assert "projector.down.weight" in caplog.text
    assert type(names["model"].projector).__name__ == "NarrowProjector"


def test_share(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.chdir(tmp_path)
    names = run_page("recipes/share.md")
    for (name, saved), loaded in zip(names["model"].named_parameters(), names["again"].parameters(), strict=True):
        assert saved.equal(loaded), name
    assert (tmp_path / "weights-alone" / "model.safetensors").exists() and (
        tmp_path / "mine-hf" / "config.json"
    ).exists()


def test_handed_to_transformers(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    pytest.importorskip("transformers")
    from vl3ref.checkpoints import convert

    monkeypatch.chdir(tmp_path)
    convert("vl3-tiny", tmp_path / "handed", "hf")
    shutil.copy(ROOT / "docs" / "media" / "tinyworld" / "moves.mp4", "clip.mp4")
    names = run_page("recipes/transformers.md")
    assert float(names["difference"]) < 1e-4 * float(names["logits"].abs().max())
