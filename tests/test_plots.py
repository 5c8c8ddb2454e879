"""Figures show what they are given, frame by frame and value by value."""

import io
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers import ROOT
from vl3ref import inspection, plots
from vl3ref.checkpoints import load_processor, read_config
from vl3ref.errors import InputError
from vl3ref.inputs.files import file_part

TINY = ROOT / "weights" / "vl3-tiny"
CLIP = ROOT / "tests" / "goldens" / "frames" / "v25_10s.mp4"


@pytest.fixture(scope="module")
def seen():
    model, processor = inspection.without_weights(read_config(TINY)), load_processor(TINY)
    return inspection.inspect_part(file_part(CLIP), model, processor, min_tokens=16, fps=0.5)


def drawn(figure):
    """The figure as it is saved, (height, width, 3)."""
    memory = io.BytesIO()
    figure.savefig(memory, format="png")
    return np.asarray(Image.open(memory).convert("RGB"))


def test_a_sheet_shows_every_frame(seen):
    figure = plots.contact_sheet(seen)
    sheet = drawn(figure)
    assert sheet.shape[1] == 1500 and len(figure.axes) == len(seen.keep) == 5
    for axis, picture, keep, kept in zip(figure.axes, seen.pictures(), seen.keep, seen.kept_per_frame, strict=True):
        assert np.array_equal(axis.get_images()[0].get_array(), inspection.dim(picture, keep))
        assert axis.get_xlabel().endswith(f"{kept}/{keep.numel()}")
        (left, bottom), (right, top) = (axis.get_window_extent().min, axis.get_window_extent().max)
        middle = sheet[len(sheet) - int(top) + 2 : len(sheet) - int(bottom) - 2, int(left) + 2 : int(right) - 2]
        assert abs(middle.mean() - inspection.dim(picture, keep).mean()) < 8  # it lies where its axis is


@pytest.mark.parametrize("count", [1, 2, 7, 40, 180])
def test_a_sheet_is_as_wide_as_a_slide(count):
    pictures = np.random.default_rng(0).integers(0, 255, (count, 28, 140, 3)).astype(np.uint8)
    figure = plots.frames(pictures, [str(n) for n in range(count)])
    assert len(figure.axes) == count and figure.get_figwidth() == plots.WIDTH
    boxes = [axis.get_position() for axis in figure.axes]
    assert all(0 <= box.x0 < box.x1 <= 1 and 0 <= box.y0 < box.y1 <= 1 for box in boxes)
    assert not any(a.overlaps(b) for n, a in enumerate(boxes) for b in boxes[:n])


def test_a_line_for_every_patch_and_a_thick_one_for_every_token(seen):
    axis = plots.patches(seen).axes[0]
    _, rows, columns = seen.grid
    widths = [line.get_linewidth() for line in axis.get_lines()]
    assert len(widths) == rows + columns + 2 and widths.count(max(widths)) == rows // 2 + columns // 2 + 2


def test_heat_lies_on_the_frames(seen):
    values = torch.arange(5 * 4 * 4.0).reshape(5, 4, 4)
    figure = plots.heat(seen.pictures(), values)
    for axis, one, picture in zip(figure.axes, values, seen.pictures(), strict=True):
        below, above = axis.get_images()
        assert np.array_equal(below.get_array(), picture) and np.array_equal(above.get_array(), one.numpy())
        assert above.get_extent() == [-0.5, 111.5, 111.5, -0.5] and above.get_clim() == (0, 79)


def test_features_that_are_alike_have_one_colour():
    kinds = torch.tensor([[0, 0, 1, 1, 2, 2], [3, 3, 1, 1, 2, 0]])
    features = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))[kinds.flatten()]
    pictures = plots.colours(features, 1, 2, 6)
    assert pictures.shape == (1, 2, 6, 3) and pictures.dtype == np.uint8
    of_each = [{tuple(pixel) for pixel in pictures[0][kinds.numpy() == kind]} for kind in range(4)]
    assert [len(found) for found in of_each] == [1, 1, 1, 1] and len(set.union(*of_each)) == 4
    assert np.array_equal(plots.colours(-features, 1, 2, 6), pictures)
    assert np.array_equal(plots.colours(torch.ones(4, 8), 2, 2, 1), np.zeros((2, 2, 1, 3), np.uint8))
    assert plots.colours(torch.eye(2), 1, 1, 2).shape == (1, 1, 2, 3)


def test_a_matrix_and_lines():
    values = torch.tensor([[1.0, -2.0], [0.5, 0.0]])
    axis = plots.matrix(values, ["a", "b"], ["c", "d"], "title", diverging=True).axes[0]
    assert np.array_equal(axis.get_images()[0].get_array(), values.numpy()) and axis.get_images()[0].get_clim() == (
        -2,
        2,
    )
    assert [label.get_text() for label in axis.get_yticklabels()] == ["a", "b"]
    axis = plots.lines({"one": [3, 1], "two": ([0, 5], [1, 1])}, "step", "loss", log_y=True).axes[0]
    assert [line.get_label() for line in axis.get_lines()] == ["one", "two"] and axis.get_yscale() == "log"
    assert axis.get_lines()[1].get_xdata().tolist() == [0, 5]


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(InputError, match=r"pip install 'vl3ref\[plots\]'"):
        plots.frames(np.zeros((1, 2, 2, 3), np.uint8))
