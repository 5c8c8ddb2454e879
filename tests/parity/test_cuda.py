"""Ours on a GPU is as near to a more precise computation as transformers', at the released sizes. The same measurement
runs small on the CPU."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.helpers import ROOT, needs_gpu
from tests.parity.accuracy import LIMIT, POINTS, Accuracy, fitting_layers, measure, write_report
from vl3ref.model.vision import VisionMLP

VIDEO_AND_IMAGE = {"video": (16, 16, 24), "image": (1, 32, 40)}
SMALL = {"video": (4, 8, 12), "image": (1, 12, 16)}
PRECISE = {torch.float32: torch.float64, torch.bfloat16: torch.float32}


@pytest.fixture(scope="module")
def page() -> Iterator[list[Accuracy]]:
    """What was measured on the GPU, written down in the end, whether or not it was good enough.

    Without TF32, which torch allows in convolutions and transformers' patch embedding therefore has by default: float32
    is compared with float32.
    """
    rows: list[Accuracy] = []
    before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    yield rows
    torch.backends.cudnn.allow_tf32 = before
    if rows:
        write_report(ROOT / "docs" / "results" / "parity-cuda.md", rows, "cuda", "make test-cuda")


def check(rows: list[Accuracy], dtype: torch.dtype, limit: float) -> None:
    for row in rows:
        assert all(0 < error < 0.2 for error in row.ours + row.theirs), row
        assert all(ratio <= limit for ratio in row.ratios), row
        assert dtype != torch.float32 or row.ids_equal == row.inputs, row


@pytest.mark.cuda
@needs_gpu
@pytest.mark.parametrize("dtype", list(PRECISE), ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["2b", "7b"])
def test_a_released_geometry_on_the_gpu_is_as_accurate_as_transformers(
    page: list[Accuracy], name: str, dtype: torch.dtype
) -> None:
    torch.cuda.empty_cache()
    layers = fitting_layers(name, torch.cuda.mem_get_info()[0], PRECISE[dtype].itemsize)
    rows = measure(name, layers, "cuda", dtype, PRECISE[dtype], VIDEO_AND_IMAGE, range(4), 16)
    page += rows
    check(rows, dtype, LIMIT)


@pytest.mark.parametrize("dtype", list(PRECISE), ids=["float32", "bfloat16"])
def test_the_same_measurement_small_on_the_cpu(tmp_path: Path, dtype: torch.dtype) -> None:
    rows = measure("tiny", 1, "cpu", dtype, PRECISE[dtype], SMALL, range(2), 2)
    assert [row.modal for row in rows] == ["video", "image"] and {row.inputs for row in rows} == {2}
    check(rows, dtype, 2.0)  # few numbers, and any processor's kernels: the same order of magnitude

    write_report(tmp_path / "page.md", rows, "cpu", "make test")
    page = (tmp_path / "page.md").read_text()
    assert all(f"| {point} |" in page for point in POINTS) and f"torch {torch.__version__}" in page
    assert page.count("| tiny | 1 + 1 |") == 4


def test_a_worse_computation_is_measured_as_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    """An MLP of ours that rounds its input to bfloat16 is less accurate."""
    right = VisionMLP.forward

    def coarse(self, x):
        return right(self, x.bfloat16().float() if x.dtype == torch.float32 else x)

    monkeypatch.setattr(VisionMLP, "forward", coarse)
    rows = measure("tiny", 1, "cpu", torch.float32, torch.float64, {"image": (1, 4, 6)}, range(2), 1)
    assert all(ratio > 10 for ratio in rows[0].ratios)


@pytest.mark.parametrize(("gib", "expected"), [(80, None), (16, 17), (12, 9)])
def test_as_many_layers_are_taken_as_fit(gib: int, expected: int | None) -> None:
    assert fitting_layers("2b", gib * 2**30, 8) == expected


def test_a_card_too_small_for_one_layer_is_said_to_be() -> None:
    with pytest.raises(MemoryError, match="not even one layer of the 7b fits into 4 GiB"):
        fitting_layers("7b", 4 * 2**30, 8)
