"""The benchmark: its counts are exact, its checks can fail, its output has what it promises. Nothing here is about how
fast anything is."""

import json
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.helpers import ROOT
from vl3ref import decoding as ways
from vl3ref.bench import clips, decoding, limits, loading, processes
from vl3ref.bench.count import (
    cache_bytes,
    decode_bytes,
    language_operations,
    parameter_bytes,
    vision_operations,
)
from vl3ref.bench.curves import curves, sizes
from vl3ref.bench.machine import largest_cache, machine, versions
from vl3ref.bench.measure import Samples, in_turn
from vl3ref.bench.report import Report, cells
from vl3ref.bench.result import Check, Limit, Row, close, same
from vl3ref.bench.run import PARTS, run_bench
from vl3ref.bench.settings import Pair, Settings, drawn_ids, drawn_pixels
from vl3ref.cli import main
from vl3ref.errors import InputError
from vl3ref.inputs.videos import load_video
from vl3ref.model.videollama3 import VideoLLaMA3
from vl3ref.parity.reference import twin
from vl3ref.parity.run import geometry, random_geometry

SMALL = Settings(
    threads=1,
    layers=1,
    frames=2,
    rows=4,
    columns=6,
    tokens=12,
    context=8,
    new_tokens=4,
    batch=2,
    repeats=2,
    clip_height=64,
)
CLIP = str(ROOT / "tests" / "goldens" / "frames" / "v10_3s.mp4")


@pytest.fixture
def small_limits(monkeypatch):
    """Limits of this machine are not what is tested: small matrices, and a buffer that any cache holds."""
    monkeypatch.setitem(limits.SIDE, "cpu", 64)
    monkeypatch.setattr(limits, "largest_cache", lambda: 0)
    monkeypatch.setattr(limits, "LEAST", 2**20)
    monkeypatch.setattr(decoding, "largest_cache", lambda: 0)


# ------------------------------------------------------------------------------------------------------------- counts


def counted(run):
    """Linear layers' and attention's operations, by torch's own counter."""
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    found = {str(op): count for op, count in counter.get_flop_counts()["Global"].items()}
    attention = sum(count for op, count in found.items() if "bmm" in op)
    return sum(found.values()) - attention, attention


def test_vision_operations_are_those_torch_counts():
    model = random_geometry("tiny", 2, "cpu", torch.float32)
    pixels, grid_sizes, merge_sizes = drawn_pixels(model.config, 3, 4, 6)
    linear, attention = counted(lambda: model.vision_encoder(pixels, grid_sizes, merge_sizes))
    found = vision_operations(model.config.vision, [24] * 3)
    assert (found.linear, found.attention) == (linear, attention)
    assert found.total == linear + attention


@pytest.mark.parametrize("logits", [1, 4])
def test_language_operations_are_those_torch_counts(logits):
    model = random_geometry("tiny", 2, "cpu", torch.float32)
    lengths = [10, 7]
    linear, attention = counted(
        lambda: model.language_model(drawn_ids(model.config, 17), lengths, logits_to_keep=logits)
    )
    found = language_operations(model.config.language, lengths, logits)
    assert found.linear == linear
    whole = sum(n * n for n in lengths)  # the plain kernel computes all pairs; half of them are masked
    assert found.attention * whole == attention * sum(n * (n + 1) // 2 for n in lengths)


@pytest.mark.parametrize("name", ["tiny", "7b"])
def test_bytes_of_a_decode_are_the_parameters_that_are_read(name):
    config = geometry(name, 2)
    with torch.device("meta"):
        decoder = VideoLLaMA3(config).language_model
    read = sum(parameter.numel() for parameter in decoder.parameters())
    if not config.language.tie_word_embeddings:
        read -= decoder.embed_tokens.weight.numel()
    assert decode_bytes(config.language, [], 4) == 4 * read
    one = 2 * 2 * config.language.num_key_value_heads * config.language.head_dim * 2
    assert cache_bytes(config.language, 2) == one
    assert decode_bytes(config.language, [5, 7.5], 2) == 2 * read + round(12.5 * one)


def test_bytes_of_a_model():
    model = random_geometry("tiny", 1, "cpu", torch.bfloat16)
    assert parameter_bytes(model.config, 2) == sum(parameter.nbytes for parameter in model.parameters())


# ---------------------------------------------------------------------------------------------------------- measuring


def test_candidates_take_turns_and_the_first_turn_does_not_count():
    calls = []

    def candidate(name):
        def run():
            calls.append(name)
            return float(len(calls))

        return run

    found = in_turn({"a": candidate("a"), "b": candidate("b")}, 3, 60.0)
    assert calls == ["a", "b"] * 4
    assert found["a"].values == [3.0, 5.0, 7.0] and found["b"].values == [4.0, 6.0, 8.0]
    once = in_turn({"a": candidate("a")}, 3, 0.0)
    assert len(once["a"].values) == 1  # the budget is spent, but something has to be measured


def test_medians_and_quartiles():
    samples = Samples([4.0, 1.0, 2.0, 3.0, 100.0])
    assert samples.median == 3.0 and samples.quartiles == (2.0, 4.0)
    assert Samples([2.0]).quartiles == (2.0, 2.0)
    assert samples.divided(2).median == 1.5
    with pytest.raises(InputError, match="nothing was measured"):
        Samples([])


def test_a_row_without_equal_output_has_no_ratio():
    row = Row("vision", "x", Samples([1.0]), Samples([3.0]), work=4.0)
    assert row.ratio == 3.0 and row.fraction(Limit("x", 8.0, Samples([1.0]), "B")) == 0.5
    row.checks.append(Check("features differ", False))
    assert row.ratio is None and "NOT EQUAL" in cells(row)


def test_close_and_same():
    ones = torch.ones(4)
    assert close("x", ones, ones.clone()).what == "x equal bit for bit"
    assert close("x", ones, ones + 1e-6).passed
    for other in (ones * 1.01, ones * float("nan"), torch.ones(5)):
        assert not close("x", ones, other).passed
    assert close("x", ones.bfloat16(), (ones * 1.01).bfloat16()).passed
    assert same("x", 1, 1).passed and not same("x", 1, 2).passed


def test_ids_may_part_at_a_tie_alone():
    decoder = random_geometry("tiny", 1, "cpu", torch.float32).language_model
    prompt = torch.tensor([5, 6, 7])
    ours = [int(i) for i in decoder.generate(prompt, 3, 3)[0]]
    logits = decoder(torch.cat([prompt, torch.tensor(ours[:1])]), [4], logits_to_keep=1)[0]
    unlikely = [ours[0], int(logits.argmin()), ours[2]]
    assert decoding.same_ids(decoder, prompt, ours, ours).passed
    assert not decoding.same_ids(decoder, prompt, ours, unlikely).passed
    assert not decoding.same_ids(decoder, prompt, ours, ours[:2]).passed
    embedded = decoder.embed_tokens(prompt).detach()
    assert not decoding.same_ids(decoder, embedded, ours, unlikely).passed
    with torch.no_grad():  # now the two are the same token
        decoder.embed_tokens.weight[unlikely[1]] = decoder.embed_tokens.weight[ours[1]]
    assert "tie at 2 of 3" in decoding.same_ids(decoder, prompt, ours, unlikely).what


def test_the_machine_is_described():
    found = machine(torch.device("cpu"))
    assert found["cores"] >= 1 and found["threads"] >= 1 and largest_cache() > 0
    assert {"torch", "transformers", "decord"} <= versions().keys()


# --------------------------------------------------------------------------------------------------------- end to end


def test_everything_at_once(small_limits, tmp_path):
    settings = replace(SMALL, videos=(CLIP,), clip_seconds=1, repeats=1)
    parts = [part for part in PARTS if part != "memory"]  # which starts many processes, and has a test of its own
    report = run_bench(settings, parts, command="vl3ref bench")
    assert not report.unequal and not report.skipped
    content = json.loads(report.json())
    assert content["equal"] and content["about"]["command"] == "vl3ref bench"
    assert {row["part"] for row in content["rows"]} == set(parts)
    by_part = {row["part"]: row for row in reversed(content["rows"])}
    for part in parts:
        row = by_part[part]
        assert len(row["ours"]["values"]) == 1 and row["theirs"]["median"] == row["theirs"]["values"][0]
        assert row["checks"] and row["equal"]
    for part, unit in (("vision", "FLOP"), ("prefill", "FLOP"), ("decode", "B")):
        limit = by_part[part]["limits"][0]
        assert limit["unit"] == unit and limit["rate"] > 0 and limit["fraction"] > 0
    assert by_part["screen"]["numbers"]["frames"] == 2
    assert by_part["screen"]["numbers"]["projected"] == by_part["screen"]["numbers"]["kept"]
    batches = [row["numbers"]["batch"] for row in content["rows"] if "batch" in row["numbers"]]
    assert batches == [1, 2]
    markdown = report.markdown()
    assert "`vl3ref bench`" in markdown and "transformers' processor needs torchvision" in markdown
    assert markdown.count("\n| ") == len(report.rows) + 1
    assert report.table().row_count == len(report.rows)


def test_decoding_compiled_beside_decoding_as_it_is(monkeypatch):
    """Compiling takes a minute and is tested elsewhere: here the step is only noted, and computed as it is."""
    steps = []

    def noted(decoder, *arguments):
        steps.append(decoder.decode)
        return ways.static_logits(decoder, *arguments)

    monkeypatch.setattr(ways, "compiled_logits", lambda: noted)
    monkeypatch.setattr(decoding, "largest_cache", lambda: 2**40)
    plain, compiled, *together = decoding.decode(Pair(replace(SMALL, compiled=True)))
    assert plain.equal and compiled.equal and compiled.case == f"{plain.case}, compiled"
    assert compiled.theirs == plain.theirs and compiled.ours != plain.ours
    assert steps == ["compiled"] * (1 + SMALL.repeats) * (SMALL.new_tokens - 1)
    assert len(together) == 2
    # what caches hold is not bound by memory: the limit is the step's own products
    assert "the 8 matrix-vector products of a step" in plain.limits[0].name and plain.limits == compiled.limits


def test_curves_and_their_plot(tmp_path):
    pytest.importorskip("matplotlib")
    from vl3ref.bench.plots import plot

    pair = Pair(replace(SMALL, tokens=70, repeats=1))
    found = curves(pair, memory=False)
    assert [curve.name for curve in found] == ["vision", "prefill", "decode side by side", "generate"]
    assert [[point.size for point in curve.points] for curve in found] == [[1, 2], [64, 70], [1, 2], [2, 4]]
    assert sizes(180)[-2:] == [128, 180] and sizes(1) == [1]
    points = [replace(point, peak=2.0**20, their_peak=2.0**21) for point in found[0].points]
    report = Report([], [replace(found[0], points=points), *found[1:]], {}, {"command": "x"})
    assert not report.unequal
    assert "1 MiB" in report.markdown() and len(json.loads(report.json())["curves"]) == 4
    plot(report, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match="nothing to draw"):
        plot(Report([], [], {}, {}), tmp_path / "none.png")


def test_a_wrong_model_is_noticed(small_limits):
    """The other side gets other weights: features, logits and ids differ, and that is what the report says."""
    pair = Pair(SMALL)
    pair.__dict__["theirs"] = twin(random_geometry("tiny", 1, "cpu", torch.float32, seed=1))
    rows = [row for part in ("vision", "prefill", "decode", "screen") for row in PARTS[part](pair)]
    unequal = Report(rows, [], {}, {}).unequal
    assert {what.split(":")[0] for what in unequal} == {"vision", "prefill", "decode", "screen"}
    assert any("ids differ at" in what for what in unequal)


# --------------------------------------------------------------------------------------------- clips, child processes


def test_drawn_clips(tmp_path):
    av = pytest.importorskip("av")
    path = clips.write_clip(tmp_path / "clip.mp4", 2, 64, gop=50)
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    assert len(packets) == 50 and sum(packet.is_keyframe for packet in packets) == 1
    frames, times = load_video(path)
    assert frames.shape == (2, 64, 114, 3) and times.tolist() == [0, 1]
    screen = clips.screen_frames(7, 56, 84, 3)
    assert [bool((a == b).all()) for a, b in pairwise(screen)] == [True, True, False] * 2


def test_a_peak_is_seen():
    """A child that holds 64 MiB for a moment."""
    code = """if True:
        import sys, time
        print('ready', flush=True)
        sys.stdin.readline()
        moment = b'1' * 2**26
        time.sleep(0.05)
        del moment
        print('over', flush=True)
        sys.stdin.readline()"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True) as child:
        assert child.stdin and child.stdout
        child.stdout.readline()
        with processes.Watch(child.pid) as watch:
            print("go", file=child.stdin, flush=True)
            child.stdout.readline()
        print("over", file=child.stdin, flush=True)
    assert watch.peak - watch.start > 2**25
    assert processes.anonymous_memory(2**30) == 0


def test_peaks_of_both_sides():
    row = loading.peaks_of("vision", processes.Job("vision", "ours", replace(SMALL, repeats=1), frames=4))
    assert row.unit == "B" and row.theirs is not None and row.checks[0].what.startswith("features' mean size")
    assert row.equal


def test_a_job_survives_the_way_to_its_process():
    job = processes.Job("vision", "theirs", replace(SMALL, videos=(CLIP,)), frames=3)
    assert processes.Job.read(job.text()) == job


def test_a_failing_process_says_why(tmp_path):
    with pytest.raises(InputError, match=r"measuring load .* failed: .*nowhere"):
        processes.in_process(processes.Job("load", "ours", SMALL, path=str(tmp_path / "nowhere")))


# ---------------------------------------------------------------------------------------------------------------- cli


TINY = ("--layers", "1", "--frames", "1", "--patches", "4x4", "--tokens", "8", "--context", "4", "--new-tokens", "3")


def run(capfd, *arguments, rc=0):
    with pytest.raises(SystemExit) as stop:
        main(["bench", *map(str, arguments)])
    out, err = capfd.readouterr()
    assert (stop.value.code or 0) == rc, err
    assert "Traceback" not in err
    return out, err


def test_the_command(capfd, small_limits, tmp_path):
    written, plotted, threads = tmp_path / "bench.json", tmp_path / "bench.png", torch.get_num_threads()
    outputs = ("--json", written, "--markdown", tmp_path / "bench.md", "--plot", plotted)
    out, err = run(capfd, "vision", "--device", "cpu", "--repeats", 1, "--threads", 1, *TINY, *outputs)
    assert "1 frames of 4×4 patches" in out and "equal" in out and err.count("wrote") == 3
    assert plotted.exists() and "| vision |" in (tmp_path / "bench.md").read_text(encoding="utf-8")
    content = json.loads(written.read_text(encoding="utf-8"))
    assert content["about"]["machine"]["threads"] == 1 and torch.get_num_threads() == threads
    assert content["about"]["settings"]["geometry"] == "tiny" and content["rows"][0]["equal"]


def test_unequal_output_ends_with_one(capfd, small_limits, monkeypatch):
    from vl3ref.bench import towers

    real = towers.encode_theirs
    monkeypatch.setattr(towers, "encode_theirs", lambda *given: real(*given) + 1)
    out, err = run(capfd, "vision", "--device", "cpu", "--repeats", 1, *TINY, rc=1)
    assert "NOT EQUAL" in out and "not equal: vision: features differ" in err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["speed"], "there is no part named speed; there are preprocessing"),
        (["--patches", "24"], "--patches should be rows x columns"),
        (["--patches", "5x4"], "even numbers of rows and columns"),
        (["--repeats", "0"], "repeats should be at least 1, not 0"),
        (["--new-tokens", "2"], "new-tokens should be at least 3"),
        (["--dtype", "int8"], "no dtype named 'int8'"),
        (["ask", "--video", "nowhere.mp4"], "nowhere.mp4 is not a file"),
        (["--clip-height", "33"], "clip-height should be an even number"),
        (["--device", "tpu"], "device tpu cannot be used"),
    ],
)
def test_what_is_wrong_is_one_line(capfd, arguments, sentence):
    out, err = run(capfd, *arguments, rc=2)
    assert sentence in err and err.count("\n") == 1 and not out


def test_what_cannot_be_measured_is_named(monkeypatch, small_limits):
    def missing(pair):
        raise InputError("drawing a clip needs PyAV")

    for part in PARTS:
        monkeypatch.setitem(PARTS, part, missing)
    report = run_bench(SMALL)
    assert report.skipped["preprocessing"] == "drawing a clip needs PyAV" and not report.rows
    assert "preprocessing was left out: drawing a clip needs PyAV" in report.markdown()
    with pytest.raises(InputError, match="PyAV"):
        run_bench(SMALL, ["preprocessing"])


def test_a_missing_extra_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InputError, match="pip install 'av"):
        clips.write_clip(Path("x.mp4"), 1, 64)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    from vl3ref.bench.plots import plot

    with pytest.raises(InputError, match="pip install 'vl3ref\\[plots\\]'"):
        plot(Report([], [], {}, {}), Path("x.png"))
    monkeypatch.setattr(processes, "available_memory", lambda: 2**30)
    with pytest.raises(InputError, match=r"load needs about 2.0 GiB of memory and 1.0 GiB are free"):
        processes.check_room(2**31, "load")
