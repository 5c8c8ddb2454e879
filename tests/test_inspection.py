"""What `vl3ref inspect` shows is what the model gets."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

import vl3ref
from tests.helpers import ROOT
from vl3ref import inspection
from vl3ref.checkpoints import read_config
from vl3ref.errors import InputError
from vl3ref.inputs.files import file_part, kind_of
from vl3ref.inputs.images import load_image
from vl3ref.inputs.processor import Processor
from vl3ref.model.diff_fp import keep_all
from vl3ref.trace import trace

TINY = ROOT / "weights" / "vl3-tiny"
CAT = ROOT / "docs" / "media" / "cat.jpg"
CLIP = ROOT / "tests" / "goldens" / "frames" / "v25_10s.mp4"


@pytest.fixture(scope="module")
def processor():
    """The tiny model's, which shows small pictures as large as the released models see them."""
    shipped = vl3ref.load_processor(TINY)
    return Processor(shipped.tokenizer, replace(shipped.config, min_tokens=16))


@pytest.fixture(scope="module")
def model():
    return inspection.without_weights(read_config(TINY))


def inspect(path, model, processor, **overrides):
    return inspection.inspect_part(file_part(path), model, processor, **overrides)


def test_video_counts_are_the_real_models(model, processor):
    seen = inspect(CLIP, model, processor)
    inputs = processor([{"role": "user", "content": [file_part(CLIP)]}])
    real, _ = vl3ref.load(TINY, device="cpu")
    with torch.no_grad():
        mask = real(inputs, logits_to_keep=1).keep_mask
    kept = trace(inputs, mask)
    assert seen.kept_per_frame == torch.bincount(kept.frame, minlength=10).tolist()
    assert 0 < seen.kept == len(kept) < seen.tokens == len(mask)
    assert seen.times == [float(second) for second in range(10)]
    assert seen.grid == (10, 8, 8) and seen.pictures().shape == (10, 112, 112, 3)


def test_pictures_are_the_resized_pixels(model, processor):
    seen = inspect(CAT, model, processor, image_merge_size=2)
    pictures = seen.pictures()
    height, width = pictures.shape[1:3]
    original = Image.fromarray(load_image(CAT))
    assert np.array_equal(pictures[0], original.resize((width, height), Image.Resampling.BICUBIC))
    assert seen.modal == "image" and seen.times == [None] and seen.kept == seen.tokens == height * width // 28**2


def test_another_pruner(model, processor):
    seen = inspect(CLIP, model, processor, pruner=keep_all)
    assert bool(seen.keep.all()) and seen.tokens == 160
    scores = torch.tensor([0.5, 0.0] * 80)  # those above 0 are kept
    assert inspect(CLIP, model, processor, pruner=lambda inputs, features: scores).kept == 80


def test_dropped_tokens_alone_are_dimmed():
    picture = np.full((28, 42, 3), 200, dtype=np.uint8)
    keep = torch.tensor([[True, False, True], [False, True, True]])
    dimmed = inspection.dim(picture, keep)
    for row in range(2):
        for column in range(3):
            token = dimmed[row * 14 : row * 14 + 14, column * 14 : column * 14 + 14]
            assert (token == (200 if keep[row, column] else 88)).all()
    assert (inspection.dim(np.zeros_like(picture), keep) > 0).any()


def test_table(model, processor):
    seen = inspect(CLIP, model, processor, fps=0.5)
    output = io.StringIO()
    Console(file=output, width=100).print(inspection.table_of(seen))
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in output.getvalue().split("\n") if "│" in line]
    assert [row[1] for row in rows[:-1]] == ["0.00s", "2.00s", "4.00s", "6.00s", "8.00s"]
    assert [int(row[3]) for row in rows[:-1]] == seen.kept_per_frame
    assert rows[-1][2:4] == ["80", str(seen.kept)]
    assert "64 x 64 pixels" in inspection.headline(seen) and "4 x 4 tokens" in inspection.headline(seen)


def test_several_visuals_of_several_conversations(model, processor):
    def ask(*files):
        return [{"role": "user", "content": [file_part(file) for file in files]}]

    inputs = processor([ask(CAT, CLIP), ask(CLIP)], max_tokens=100)
    keep_mask = model.pruner(inputs, None)
    seen = inspection.visuals_of(inputs, keep_mask)
    assert [one.modal for one in seen] == ["image", "video", "video"]
    assert [one.tokens for one in seen] == inputs.tokens_per_visual()
    assert [len(one.pictures()) for one in seen] == [1, 10, 10]
    assert sum(one.kept for one in seen) == int(keep_mask.sum())


def test_text_has_nothing_to_show(model, processor):
    inputs = processor([{"role": "user", "content": "hello"}])
    assert inspection.visuals_of(inputs, model.pruner(inputs, None)) == []


def test_kind_of_file(tmp_path):
    assert kind_of(CLIP) == "video" and kind_of(CAT) == "image" and kind_of(tmp_path) == "video"
    (tmp_path / "a.GIF").touch()
    assert kind_of(tmp_path / "a.GIF") == "video"
    for name, source, kind in (("clip", CLIP, "video"), ("picture.dat", CAT, "image")):
        (tmp_path / name).write_bytes(source.read_bytes())
        assert kind_of(tmp_path / name) == kind  # the suffix says nothing: by opening it
    (tmp_path / "notes.txt").write_text("neither")
    with pytest.raises(InputError, match="neither a picture"):
        kind_of(tmp_path / "notes.txt")
    for missing in (tmp_path / "missing.mp4", "x" * 5000):
        with pytest.raises(InputError, match="does not exist"):
            kind_of(missing)


def test_times_are_for_videos():
    assert file_part(CLIP, 1.0, 2.5) == {"type": "video", "video": str(CLIP), "start_time": 1.0, "end_time": 2.5}
    assert file_part(CAT, 1.0, 2.5) == {"type": "image", "image": str(CAT)}
