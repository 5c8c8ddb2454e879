"""The Python of docs/use.md runs as it stands, with small files under the names that it uses."""

import shutil

import pytest
import torch

from tests.helpers import GOLDENS, ROOT, run_page


@pytest.mark.filterwarnings("ignore:.*projector")
def test_the_page_runs(monkeypatch, tmp_path):
    monkeypatch.setattr("vl3ref.hub.download", lambda *_: ROOT / "weights" / "vl3-tiny")
    monkeypatch.setattr(
        "vl3ref.sampling.Sampler.__call__", lambda self, logits: self.ends[:1]
    )  # every answer ends at once
    monkeypatch.chdir(tmp_path)
    shutil.copy(GOLDENS / "frames" / "v2997_12s.mp4", "cat.mp4")
    for number in range(2):
        shutil.copy(ROOT / "docs" / "media" / "cat.jpg", f"frame{number}.jpg")
    names = run_page("use.md")
    kept = names["output"].keep_mask
    assert len(names["rows"]) == int(kept.sum()) > 0 and len(names["features"]) == len(kept)
    assert names["chat"].ids == [] and isinstance(names["changed"].projector, torch.nn.Linear)
