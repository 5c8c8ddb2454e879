"""The frames of a video are those the official loader takes, from any kind of source."""

import json
import warnings
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.helpers import GOLDENS, ROOT
from tests.media import decode_all, frame_number, noise, qwen_processor, write_sound, write_video
from vl3ref.errors import InputError
from vl3ref.inputs.patches import patchify
from vl3ref.inputs.videos import Cut, SampledVideo, load_video, open_video, sample_by_index, sample_by_time

FRAMES = GOLDENS / "frames"
ROWS = json.loads((FRAMES / "frames.json").read_text())
OFFSET = 1.7
"""Seconds at which the clock of v12_offset.mkv starts. Our times count from the first frame."""


def row_name(row: dict) -> str:
    return row["video"] + "-" + ",".join(f"{key}={value}" for key, value in row["args"].items())


def is_trimmed(row: dict) -> bool:
    """Cut by time, where ffmpeg seeks a file with an offset twice; cuts below a second go by index."""
    start, end = row["args"].get("start_time"), row["args"].get("end_time")
    return (start, end) != (None, None) and (None in (start, end) or end - start >= 1)


def differs(row: dict) -> bool:
    """The two rows where the official loader's answer follows from its double seek."""
    return row["video"] == "v12_offset.mkv" and is_trimmed(row)


WITH_FRAMES = [row for row in ROWS if row.get("frame_ids")]
WITHOUT = [row for row in ROWS if not row.get("frame_ids")]


def test_the_rows_are_split_as_documented() -> None:
    assert (len(ROWS), len(WITH_FRAMES), len(WITHOUT)) == (99, 83, 16)
    assert [row["args"] for row in WITH_FRAMES if differs(row)] == [
        {"fps": 1, "max_frames": 180, "start_time": 1.0, "end_time": 3.5},
        {"fps": 4, "max_frames": 180, "start_time": 0.3},
    ]


@pytest.mark.parametrize("row", [row for row in WITH_FRAMES if not differs(row)], ids=row_name)
def test_frames_and_timestamps_equal_the_official_loaders(row: dict) -> None:
    frames, timestamps = load_video(FRAMES / row["video"], **row["args"])
    assert [frame_number(frame) for frame in frames] == row["frame_ids"]
    expected = np.array(row["timestamps"])
    if row["video"] == "v12_offset.mkv":
        if row["args"]["fps"] is None:
            # The original spreads all frames over offset + duration, 5.7 s: relative to the first frame, over 4.0 s.
            assert np.allclose(timestamps, (expected - OFFSET) * (4.0 / (expected[-1] - OFFSET)), rtol=0, atol=1e-6)
            return
        if "start_time" not in row["args"]:
            expected = expected - OFFSET
    assert np.abs(timestamps - expected).max() <= 1e-6


@pytest.mark.parametrize("row", [row for row in WITH_FRAMES if differs(row)], ids=row_name)
def test_trimming_a_file_with_an_offset_counts_from_its_first_frame(row: dict) -> None:
    frames, timestamps = load_video(FRAMES / row["video"], **row["args"])
    args = row["args"]
    assert timestamps[0] == pytest.approx(args["start_time"])
    assert np.allclose(np.diff(timestamps), 1 / args["fps"])
    shown = np.array([frame_number(frame) for frame in frames]) / 12
    assert (shown >= timestamps - 1e-6).all()
    assert (shown < timestamps + 1 / args["fps"]).all()


OURS_WHERE_THE_OFFICIAL_LOADER_FINDS_NOTHING = {
    "v1_5s.mp4": [0],  # a cut of 0.7 s at one frame a second
    "v24_0p5s.mp4": [11],  # half a second of film
    "single.mp4": [0],
    "v12_offset.mkv": [11, 23],  # cut at 2.2 s: two seconds from the first frame on
}


@pytest.mark.parametrize("row", WITHOUT, ids=row_name)
@pytest.mark.filterwarnings("ignore:nothing is shown")
def test_where_the_official_loader_finds_nothing_there_is_a_frame(row: dict) -> None:
    frames, timestamps = load_video(FRAMES / row["video"], **row["args"])
    assert [frame_number(frame) for frame in frames] == OURS_WHERE_THE_OFFICIAL_LOADER_FINDS_NOTHING[row["video"]]
    assert len(timestamps) == len(frames)
    assert 0 <= timestamps[0] < row["frames_in_file"] / float(Fraction(row["rate"]))


def test_timestamps_are_counted_as_the_official_loader_counts_them_to_the_last_bit() -> None:
    """The prompt rounds them to a tenth of a second, where 0.25 and 0.25000000000000006 part ways."""
    rows = [row for row in WITH_FRAMES if row["args"]["fps"] is not None and row["video"] != "v12_offset.mkv"]
    got = [open_video(FRAMES / row["video"], **row["args"]).timestamps.tolist() for row in rows]
    assert got == [row["timestamps"] for row in rows]


def test_a_cut_beyond_the_end_gives_the_last_frame_and_says_so() -> None:
    with pytest.warns(UserWarning, match=r"nothing is shown from 99\.0 s"):
        frames, timestamps = load_video(FRAMES / "v10_3s.mp4", start_time=99)
    assert [frame_number(frame) for frame in frames] == [29]
    assert timestamps == pytest.approx([2.9])


# ------------------------------------------------------------------------------------------------------- exact pixels


@pytest.mark.parametrize("name", sorted({row["video"] for row in ROWS}))
def test_a_whole_videos_pixel_values_equal_those_of_independently_decoded_frames(name: str) -> None:
    every = {"fps": None, "max_frames": None}
    inputs = qwen_processor()([{"role": "user", "content": [{"type": "video", "video": str(FRAMES / name), **every}]}])
    decoded = decode_all(FRAMES / name)
    t, rows, columns = inputs.grid_sizes[0].tolist()
    assert t == len(decoded)
    assert torch.equal(inputs.pixel_values, patchify(decoded, t, (rows * 14, columns * 14), 2))


def test_a_filmed_clip_is_decoded_bit_for_bit() -> None:
    frames, _ = load_video(ROOT / "docs" / "media" / "bunny.mp4", fps=2)
    chosen = open_video(ROOT / "docs" / "media" / "bunny.mp4", fps=2).indices
    assert np.array_equal(frames, decode_all(ROOT / "docs" / "media" / "bunny.mp4")[chosen])


@pytest.mark.parametrize("width", [16, 18, 40, 48, 64, 66])
@pytest.mark.parametrize("rotate", [0, 90, 180, 270])
def test_narrow_and_turned_videos_are_decoded_bit_for_bit_and_upright(width: int, rotate: int, tmp_path: Path) -> None:
    ramp = np.stack(np.broadcast_arrays(np.arange(width) * 3, np.arange(48)[:, None] * 4, 60), axis=2).astype(np.uint8)
    path = write_video(tmp_path / "v.mp4", [ramp] * 4, [0, 0.04, 0.08, 0.12], rotate)
    frames, _ = load_video(path, fps=None)
    assert np.array_equal(frames, np.rot90(decode_all(path), -rotate // 90, axes=(1, 2)))


# ------------------------------------------------------------------------------------------------------------- choosing


times = st.lists(st.floats(0.001, 2), min_size=1, max_size=60).map(lambda gaps: np.cumsum([0.0, *gaps]))
rates = st.one_of(st.none(), st.floats(0.05, 70))
limits = st.one_of(st.none(), st.integers(1, 20))


@st.composite
def cuts(draw: st.DrawFn) -> Cut:
    start = draw(st.one_of(st.none(), st.floats(0, 80)))
    end = draw(st.one_of(st.none(), st.floats(0.01, 80).map(lambda length: (start or 0) + length)))
    return Cut(draw(rates), draw(limits), start, end)


def check_choice(indices: list[int], timestamps: np.ndarray, count: int, cut: Cut) -> None:
    assert len(indices) == len(timestamps) >= 1
    assert all(isinstance(index, int) and 0 <= index < count for index in indices)
    assert indices == sorted(indices)
    assert (np.diff(timestamps) > 0).all()
    assert np.isfinite(timestamps).all()
    if cut.max_frames is not None:
        assert len(indices) <= cut.max_frames


@given(times, cuts(), st.floats(0, 5))
@settings(max_examples=150)
@pytest.mark.filterwarnings("ignore:nothing is shown")
def test_choosing_by_time_keeps_to_the_cut_and_in_order(edges: np.ndarray, cut: Cut, offset: float) -> None:
    starts, ends = edges[:-1] + offset, edges[1:] + offset
    indices, timestamps = sample_by_time(starts, ends, cut)
    check_choice(indices, timestamps, len(starts), cut)
    begin = starts[0] if cut.start is None else cut.start
    finish = np.inf if cut.end is None else cut.end
    inside = np.flatnonzero((starts >= begin - 1e-4) & (starts < finish - 1e-4))
    if len(inside):
        assert set(indices) <= set(inside.tolist())
        assert timestamps[0] == pytest.approx(begin)


@given(times, st.floats(0.05, 70))
@settings(max_examples=60)
def test_a_slot_shows_the_last_frame_before_it_closes(edges: np.ndarray, fps: float) -> None:
    starts, ends = edges[:-1], edges[1:]
    indices, timestamps = sample_by_time(starts, ends, Cut(fps))
    for n, (index, time) in enumerate(zip(indices, timestamps, strict=True)):
        assert time == pytest.approx(n / fps)
        if (ends[-1] + 1e-4) * fps >= 1:
            before = np.flatnonzero(starts < (n + 1) / fps - 1e-4)
            assert index == (before[-1] if len(before) else 0)


@given(st.integers(1, 200), st.floats(0.05, 70), cuts())
@example(2, 0.5, Cut(1.0, 3))
@settings(max_examples=150)
@pytest.mark.filterwarnings("ignore:nothing is shown")
def test_choosing_by_index_keeps_to_the_file_and_in_order(count: int, rate: float, cut: Cut) -> None:
    indices, timestamps = sample_by_index(count, rate, cut)
    check_choice(indices, timestamps, count, cut)
    assert len(set(indices)) == len(indices)
    assert np.allclose(timestamps, np.array(indices) / rate)


@given(st.floats(0.1, 40), st.integers(1, 40), st.floats(0, 12), st.floats(0.05, 12))
@settings(max_examples=25)
@pytest.mark.filterwarnings("ignore:nothing is shown")
def test_whatever_the_cut_a_file_gives_the_frames_it_chose(
    fps: float, max_frames: int, start: float, length: float
) -> None:
    video = open_video(FRAMES / "v25_10s.mp4", fps, max_frames, start, start + length)
    assert [frame_number(frame) for frame in video.frames()] == video.indices
    check_choice(video.indices, video.timestamps, 250, Cut(fps, max_frames))


def test_fewer_frames_than_max_frames_are_never_shown_twice(tmp_path: Path) -> None:
    """A source of less than a frame a second lasts for max_frames seconds with fewer frames than that."""
    indices, timestamps = sample_by_index(2, 0.5, Cut(1.0, 3))
    assert (indices, timestamps.tolist()) == ([0, 1], [0.0, 2.0])
    path = write_video(tmp_path / "slow.mp4", [noise(48, 64, 3, seed=i) for i in range(3)], [0, 4, 8])
    for options in ({}, {"max_frames": 2}, {"fps": None}, {"start_time": 3.5, "end_time": 4.2, "max_frames": 1}):
        assert (np.diff(open_video(path, **options).timestamps) > 0).all()


def test_more_frames_a_second_than_memory_could_list_are_thinned_to_max_frames() -> None:
    frames, timestamps = load_video(FRAMES / "v25_10s.mp4", fps=1e9, max_frames=5)
    assert [frame_number(frame) for frame in frames] == [0, 62, 124, 187, 249]
    assert timestamps == pytest.approx([0, 2.5, 5, 7.5, 10], abs=1e-3)


# ----------------------------------------------------------------------------------------------------------- file kinds


def test_frames_of_varying_length_are_shown_as_long_as_they_last(tmp_path: Path) -> None:
    shown = [0, 0.1, 0.2, 1.5, 1.52, 4.0]
    path = write_video(tmp_path / "v.mkv", [np.full((48, 64, 3), 40 * i, np.uint8) for i in range(6)], shown)
    assert open_video(path, fps=1).indices == [2, 4, 4, 4]
    assert open_video(path, start_time=2.0, end_time=2.5).indices == [4]


def test_a_file_without_times_starts_at_zero(tmp_path: Path) -> None:
    path = write_video(tmp_path / "one.mkv", [noise(48, 64, 3)], [0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frames, timestamps = load_video(path)
    assert (frames.shape, timestamps.tolist()) == ((1, 48, 64, 3), [0.0])


def colours(count: int, height: int = 6, width: int = 8) -> list[np.ndarray]:
    return [np.full((height, width, 3), 5 * index, np.uint8) for index in range(count)]


def save_gif(path: Path, frames: list[np.ndarray]) -> Path:
    first, *rest = (Image.fromarray(frame) for frame in frames)
    first.save(path, save_all=True, append_images=rest, duration=40, loop=0)
    return path


def test_a_gif_is_25_frames_a_second_by_index(tmp_path: Path) -> None:
    path = save_gif(tmp_path / "x.GIF", colours(50))
    frames, timestamps = load_video(path)
    assert [int(frame[0, 0, 0]) // 5 for frame in frames] == [12, 37]
    assert timestamps == pytest.approx([12 / 25, 37 / 25])
    assert open_video(path, fps=None, start_time=1, end_time=1.2).indices == [24, 25, 26, 27, 28, 29]


def test_a_folder_is_3_frames_a_second_in_natural_order(tmp_path: Path) -> None:
    for index, frame in enumerate(colours(12)):
        Image.fromarray(frame).save(tmp_path / f"frame_{index}.png")
    frames, timestamps = load_video(tmp_path)
    assert [int(frame[0, 0, 0]) // 5 for frame in frames] == [1, 4, 7, 10]
    assert timestamps == pytest.approx([1 / 3, 4 / 3, 7 / 3, 10 / 3])
    every, _ = load_video(str(tmp_path), fps=None)
    assert [int(frame[0, 0, 0]) // 5 for frame in every] == list(range(12))


def test_a_folder_may_hold_other_things_beside_pictures(tmp_path: Path) -> None:
    for name in ("²1.png", "1.png", "01.png", "a.PNG", "b.jpg"):
        Image.fromarray(colours(1)[0]).save(tmp_path / name)
    for name in ("notes.txt", "._1.png", "noext"):
        (tmp_path / name).write_text("not a picture")
    (tmp_path / "sub.png").mkdir()
    assert len(open_video(tmp_path, fps=None).indices) == 5


def test_frames_of_a_folder_have_to_have_one_size(tmp_path: Path) -> None:
    Image.fromarray(colours(1)[0]).save(tmp_path / "1.png")
    Image.fromarray(colours(1, height=7)[0]).save(tmp_path / "2.png")
    with pytest.raises(InputError, match=r"2\.png is 7 x 8, other frames are 6 x 8"):
        load_video(tmp_path, fps=None)


@pytest.mark.parametrize("kind", ["array", "tensor", "arrays", "pictures", "paths", "tuple"])
def test_frames_that_were_sampled_already_are_taken_as_they_are(kind: str, tmp_path: Path) -> None:
    clip = np.stack(colours(5))

    def paths() -> Iterator[str]:
        for index, frame in enumerate(clip):
            Image.fromarray(frame).save(tmp_path / f"{index}.png")
            yield str(tmp_path / f"{index}.png")

    source = {
        "array": lambda: clip,
        "tensor": lambda: torch.from_numpy(clip),
        "arrays": lambda: list(clip),
        "pictures": lambda: [Image.fromarray(frame) for frame in clip],
        "paths": lambda: list(paths()),
        "tuple": lambda: tuple(clip),
    }[kind]()
    frames, timestamps = load_video(source, fps=2)
    assert np.array_equal(frames, clip)
    assert timestamps.tolist() == [0, 0.5, 1, 1.5, 2]
    frames, timestamps = load_video(source, fps=2, start_time=0.5, end_time=1.5, max_frames=1)
    assert np.array_equal(frames, clip[1:2])
    assert timestamps.tolist() == [0.5]


def test_grey_and_transparent_arrays_are_videos_too() -> None:
    assert load_video(noise(2, 6, 8, 1))[0].shape == (2, 6, 8, 3)
    assert np.array_equal(load_video(noise(2, 6, 8, 4))[0], noise(2, 6, 8, 4)[..., :3])


def test_numbers_of_any_kind_are_accepted() -> None:
    frames, _ = load_video(FRAMES / "v25_10s.mp4", np.float32(2), np.int64(3), np.float64(1), 4)
    assert len(frames) == 3


# --------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fps": 0}, "fps should be a number above 0"),
        ({"fps": -1}, "fps should be a number above 0"),
        ({"fps": float("nan")}, "fps should be a number above 0"),
        ({"fps": float("inf")}, "fps should be a number above 0"),
        ({"fps": "2"}, "fps should be a number above 0"),
        ({"fps": True}, "fps should be a number above 0"),
        ({"fps": 10**400}, "fps should be a number above 0"),
        ({"fps": "2" * 10**6}, r"every frame, not '2{79,80}\.\.\.$"),
        ({"max_frames": 0}, "max_frames should be a whole number of at least 1"),
        ({"max_frames": -3}, "max_frames should be a whole number of at least 1"),
        ({"max_frames": 2.5}, "max_frames should be a whole number"),
        ({"max_frames": "4"}, "max_frames should be a whole number"),
        ({"max_frames": 10**400}, "max_frames should be a whole number"),
        ({"fps": 1e9, "max_frames": None}, "frames would be taken, of 1000000 at most"),
        ({"fps": 1e9, "max_frames": 10**300}, "frames would be taken, of 1000000 at most"),
        ({"start_time": -0.5}, "start_time should be a number of seconds, 0 or more"),
        ({"start_time": float("nan")}, "start_time should be a number of seconds, 0 or more"),
        ({"start_time": [1]}, "start_time should be a number of seconds, 0 or more"),
        ({"start_time": 10**400}, "start_time should be a number of seconds, 0 or more"),
        ({"end_time": 10**400}, "end_time should be a number of seconds after"),
        ({"end_time": float("nan")}, "end_time should be a number of seconds after"),
        ({"end_time": float("inf")}, "end_time should be a number of seconds after"),
        ({"end_time": 0}, "end_time should be a number of seconds after the start"),
        ({"start_time": 2, "end_time": 2}, "end_time should be a number of seconds after the start"),
        ({"start_time": 2, "end_time": 1}, "end_time should be a number of seconds after the start"),
    ],
)
def test_options_out_of_range_are_refused_by_name(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_video(FRAMES / "v10_3s.mp4", **options)
    if "taken" not in message:  # an array has no more frames than it has
        with pytest.raises(InputError, match=message):
            load_video(np.zeros((2, 6, 8, 3), np.uint8), **options)


@pytest.mark.parametrize(
    ("timestamps", "message"),
    [
        (iter([0, 1]), "timestamps should be a list of seconds, one for each frame, not <list_iterator"),
        ("01", "timestamps should be a list of seconds, one for each frame, not '01'"),
        (3, "timestamps should be a list of seconds, one for each frame, not 3"),
        ({0: 1, 1: 2}, "timestamps should be a list of seconds"),
        (np.float32(1), "timestamps should be a list of seconds"),
        ([0], "there are 1 timestamps for 2 frames"),
        ([0, None], "timestamps should be numbers of seconds; number 1 is None"),
        ([0, "1"], "timestamps should be numbers of seconds; number 1 is '1'"),
        ([float("nan"), 0], "timestamps should be numbers of seconds; number 0 is nan"),
        ([0, 10**400], "timestamps should be numbers of seconds; number 1 is "),
        ([0, [1]], r"timestamps should be numbers of seconds; number 1 is \[1\]"),
        (np.zeros((2, 2)), "timestamps should be numbers of seconds; number 0 is "),
        (np.array([0, 1j]), "timestamps should be numbers of seconds; number 0 is "),
    ],
)
def test_timestamps_that_are_no_times_are_refused(timestamps: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_video(np.zeros((2, 6, 8, 3), np.uint8), timestamps=timestamps)


@pytest.mark.parametrize("timestamps", [[0, 2.5], (0, Fraction(5, 2)), np.array([0, 2.5]), torch.tensor([0, 2.5])])
def test_timestamps_of_any_kind_are_taken(timestamps: object) -> None:
    video = open_video(np.zeros((2, 6, 8, 3), np.uint8), timestamps=timestamps)
    assert video.timestamps.tolist() == [0, 2.5]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "NoneType"),
        (5, "int"),
        ({"video": "x"}, "dict"),
        (Image.new("RGB", (4, 4)), "Image"),
        ([], "no frames"),
        (np.zeros((0, 4, 4, 3), np.uint8), "no frames"),
        (np.zeros((4, 4, 3), np.uint8), r"\(4, 4, 3\)"),
        (np.uint8(1), r"\(\)"),
        (np.zeros((2, 0, 4, 3), np.uint8), r"\(0, 4, 3\)"),
        (np.zeros((2, 4, 4, 2), np.uint8), r"\(4, 4, 2\)"),
        (np.zeros((2, 4, 4, 3), np.float32), "float32"),
        (torch.zeros(2, 4, 4, 3, dtype=torch.bfloat16), "BFloat16"),
        ([1, 2], "int"),
        (["no_such.png"], "'no_such.png' does not exist"),
        ([noise(4, 4, 3), noise(4, 5, 3)], "frame 1 is 4 x 5, other frames are 4 x 4"),
    ],
)
def test_what_is_no_video_is_refused(source: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_video(source)


@pytest.mark.parametrize("name", ["no.mp4", "a" * 300, "a\0b.mp4"])
def test_a_missing_file_is_named(name: str) -> None:
    with pytest.raises(InputError, match="does not exist"):
        load_video(name)


def test_a_folder_without_pictures_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(InputError, match="holds no pictures"):
        load_video(tmp_path)


@pytest.mark.parametrize("content", [b"", b"this is text, not a video\n" * 20], ids=["empty", "text"])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".gif", ".txt"])
def test_a_file_that_is_no_video_is_refused(content: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"x\\{suffix} cannot be read as a "):
        load_video(path)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95])
def test_a_truncated_mp4_is_refused(share: float, tmp_path: Path) -> None:
    data = (FRAMES / "v25_10s.mp4").read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(InputError, match=r"cut\.mp4 cannot be read as a video: it "):
        load_video(path)


def test_a_truncated_mkv_gives_the_frames_it_still_holds(tmp_path: Path) -> None:
    data = (FRAMES / "v30_bframes.mkv").read_bytes()
    path = tmp_path / "cut.mkv"
    path.write_bytes(data[: int(len(data) * 0.6)])
    frames, timestamps = load_video(path)
    assert [frame_number(frame) for frame in frames] == [29, 59, 89]
    assert timestamps.tolist() == [0, 1, 2]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_file_with_sound_alone_is_refused(suffix: str, tmp_path: Path) -> None:
    path = write_sound(tmp_path / f"sound{suffix}")
    with pytest.raises(InputError, match="it holds no moving pictures"):
        load_video(path)


def test_a_picture_given_as_a_video_is_refused(tmp_path: Path) -> None:
    Image.fromarray(noise(30, 40, 3)).save(tmp_path / "x.png")
    with pytest.raises(InputError, match=r"x\.png cannot be read as a video"):
        load_video(tmp_path / "x.png")


def test_choosing_frames_does_not_decode_them() -> None:
    video = open_video([noise(4, 4, 3), "no_such.png"])
    assert len(video.indices) == 2
    with pytest.raises(InputError, match="no_such"):
        list(video.frames())


def test_a_frame_chosen_several_times_is_decoded_once() -> None:
    read: list[int] = []
    video = SampledVideo(
        [1, 1, 4, 4, 4, 6], np.arange(6.0), lambda index: read.append(index) or noise(4, 4, 3, seed=index)
    )
    assert [frame[0, 0, 0] for frame in video.frames()] == [noise(4, 4, 3, seed=i)[0, 0, 0] for i in video.indices]
    assert read == [1, 4, 6]


def test_more_frames_than_memory_holds_are_refused_before_they_are_decoded() -> None:
    endless = np.broadcast_to(np.uint8(0), (900_000, 1000, 1000, 3))
    with pytest.raises(InputError, match=r"needs at least 2,700\.0 GB of memory, .* lower --visual-tokens or --max-fr"):
        load_video(endless, max_frames=None)
