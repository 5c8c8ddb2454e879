"""The benchmark's own arithmetic, and that it compares before it prints a ratio. No speed is asserted."""

from argparse import Namespace
from itertools import count

import pytest
import torch

pytest.importorskip("psutil")
pytest.importorskip("transformers")

from benchmarks import __main__ as command
from benchmarks import measure, rows
from vl3ref.inputs.videos import open_video
from vl3ref.parity.reference import reference_model
from vl3ref.parity.synthetic import geometry, random_geometry

SMALL = Namespace(
    geometry="tiny", layers=1, repeats=1, frames=2, tokens=12, compiled=False, device="cpu", dtype="float32"
)


@pytest.fixture
def small(monkeypatch):
    """Rows in this process, with fewer tokens and small matrices for limits."""
    monkeypatch.setattr(rows, "CONTEXT", 40)
    monkeypatch.setattr(rows, "NEW", 4)
    monkeypatch.setattr(measure, "BUFFER", 2**20)
    monkeypatch.setattr(measure, "SIDE", {"cpu": 64, "cuda": 64})
    for module in (command, rows):
        monkeypatch.setattr(module, "in_child", lambda function, *arguments: function(*arguments))
    before = torch.is_grad_enabled()
    torch.set_grad_enabled(False)
    yield
    torch.set_grad_enabled(before)


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_command_prints_every_row_and_writes_the_page(small, capsys, tmp_path):
    names = ["vision", "prefill", "decode", "conversations"]
    sizes = ["--geometry", "tiny", "--layers", "1", "--frames", "2", "--tokens", "12", "--repeats", "1"]
    assert command.main([*names, *sizes, "--out", str(tmp_path / "page.md")]) == 0
    printed, page = capsys.readouterr().out, (tmp_path / "page.md").read_text(encoding="utf-8")
    table = [cells(line) for line in page.splitlines() if line.startswith("| ")]
    assert [row[0] for row in table] == ["row", *names] and {len(row) for row in table} == {7}
    for name, _, ours, theirs, ratio, limit, output in table[1:]:
        assert ours.endswith(" ms") and theirs.endswith(" ms") and float(ratio.split()[0]) > 0
        assert ("%" in limit) == (name != "conversations") and "turns: 1" in output
    assert "python -m benchmarks vision" in page and all(line in printed for line in page.splitlines()[2:])


def test_a_row_that_differs_has_no_ratio_and_the_command_fails(small, monkeypatch, capsys):
    """transformers' side gets other weights."""
    other = reference_model(random_geometry("tiny", 1, "cpu", torch.float32, seed=1))
    models = rows.models
    monkeypatch.setattr(rows, "models", lambda options: (models(options)[0], other))
    names = ["vision", "prefill", "decode", "screen"]
    sizes = ["--geometry", "tiny", "--layers", "1", "--frames", "6", "--tokens", "12", "--repeats", "1"]
    assert command.main([*names, *sizes]) == 1
    table = [cells(line) for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][1:]
    assert [row[0] for row in table] == names
    assert all(row[4] == row[5] == "" and row[6].startswith("NOT EQUAL") for row in table)


def test_a_row_that_cannot_be_measured_says_why(small, monkeypatch, capsys):
    def fails(options):
        raise ValueError("no memory left")

    monkeypatch.setitem(command.ROWS, "vision", (fails, "tiny"))
    assert command.main(["vision"]) == 1
    assert "| vision | NOT MEASURED: ValueError('no memory left')" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        command.main(["speed"])


def test_a_screen_recording(small):
    line = next(rows.ask("screen", Namespace(**{**vars(SMALL), "frames": 12})))
    assert "12 frames of a screen" in line and "4 of 4 ids equal" in line


def test_memory_and_loading(small):
    vision, prefill = (cells(line) for line in rows.memory(SMALL))
    assert "2 frames" in vision[0] and "12 tokens" in prefill[0] and vision[1].endswith(" MiB")
    seconds, peaks = (cells(line) for line in rows.load(SMALL))
    assert seconds[1].endswith(" ms") and "times the weights" in peaks[0]
    assert not any("NOT EQUAL" in row[-1] for row in (vision, prefill, seconds, peaks))
    total, peak = rows.with_peak(lambda: torch.ones(2**24).sum())
    assert total == 2**24 and peak > 2**25


def test_a_process_of_its_own_keeps_no_gradients():
    with torch.enable_grad():
        assert measure.in_child(torch.is_grad_enabled) is False


def test_turns_alternate_and_the_first_does_not_count():
    order = []

    def run(name, seconds):
        return lambda: (order.append(name), next(seconds))[1]

    ours, theirs, limit = count(1.0), iter([9.0, 4.0, 3.0, 8.0]), iter([9.0, 1.0, 1.5, 1.0])
    runs = {"ours": run("a", ours), "theirs": run("b", theirs), "the limit": run("c", limit)}
    row = cells(measure.beside("x", 3, runs, (True, "equal")))
    assert order == ["a", "b", "c"] * 4
    # ours 2, 3, 4; theirs 4, 3, 8: ratios 2, 1, 2; the limit is reached to 1/2, 1/2, 1/4
    assert row[1].startswith("3000 (2500 to 3500)") and row[3] == "2.00 (1.50 to 2.00)" and row[4] == "50% of the limit"


def test_close_and_same_ids():
    ones = torch.ones(4)
    assert measure.close(ones, ones + 1e-6)[0]
    assert not measure.close(ones, ones * 1.01)[0] and not measure.close(ones, ones * float("nan"))[0]
    assert measure.close(ones.bfloat16(), (ones * 1.01).bfloat16())[0]
    assert measure.same_ids([1, 2], [1, 2], torch.float32)[0] and not measure.same_ids([1, 2], [1, 3], torch.float32)[0]
    assert measure.same_ids([1, 2], [1, 3], torch.bfloat16) == (True, "1 of 2 ids equal")


def test_operations_are_those_of_the_geometry():
    """2 n a b for each matrix product; attention among the pairs that there are."""
    config = geometry("tiny", 1)
    with torch.no_grad():
        _, (run, _), _, n, causal, cache = rows.reading(*rows.models(SMALL), 12)
        found = measure.operations(run, causal)
    c = config.language
    kv = c.num_key_value_heads * c.head_dim
    linear = 2 * n * (2 * c.hidden_size**2 + 2 * c.hidden_size * kv + 3 * c.hidden_size * c.intermediate_size)
    attention = 2 * 2 * c.hidden_size * n * (n + 1) // 2
    assert found == linear + attention + 2 * c.hidden_size * c.vocab_size
    assert cache == 2 * n * kv * 4


def test_the_clip_is_the_documentations_six_times(tmp_path):
    video = open_video(rows.write_clip(str(tmp_path)), fps=None, max_frames=None)
    assert len(video.indices) == 6 * 132 and video.timestamps[-1] > 31
    first, again = video.read(60), video.read(5 * 132 + 60)
    assert first.shape == (720, 1280, 3) and (first == again).all()
