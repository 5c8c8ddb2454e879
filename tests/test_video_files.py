"""The frames of a file are those that decoding it in order gives, whatever its kind; what is lost is said."""

import gc
import os
import random
import warnings
from pathlib import Path

import av
import numpy as np
import psutil
import pytest
from PIL import Image

from tests.media import (
    cut_without_decoding,
    decode_all,
    frame_number,
    noise,
    numbered,
    write_numbered,
    write_sound,
    write_video,
)
from vl3ref.errors import InputError
from vl3ref.inputs.files import kind_of
from vl3ref.inputs.images import load_image
from vl3ref.inputs.video_files import VideoFile
from vl3ref.inputs.videos import load_video, open_video

X265 = {"x265-params": "log-level=none:keyint=12:min-keyint=12"}
OPEN = {"x264-params": "open-gop=1:keyint=12:min-keyint=12"}
GROUPS = {"g": "12", "bf": "2"}

CLIPS: dict[str, dict[str, str]] = {  # the file's name: its codec, pixels, and options
    "mpeg1.mpg": {"codec": "mpeg1video", **GROUPS},
    "mpeg1.mkv": {"codec": "mpeg1video", **GROUPS},
    "mpeg1.avi": {"codec": "mpeg1video", **GROUPS},
    "mpeg2.mpg": {"codec": "mpeg2video", **GROUPS},
    "mpeg2.vob": {"codec": "mpeg2video", **GROUPS},
    "mpeg2.ts": {"codec": "mpeg2video", **GROUPS},
    "mpeg2.mp4": {"codec": "mpeg2video", **GROUPS},
    "mpeg4.mp4": {"codec": "mpeg4", **GROUPS},
    "mpeg4.mkv": {"codec": "mpeg4", **GROUPS},
    "mpeg4.avi": {"codec": "mpeg4", **GROUPS},
    "mpeg4-plain.avi": {"codec": "mpeg4", "g": "12"},
    "wmv1.wmv": {"codec": "wmv1", "g": "12"},
    "wmv2.wmv": {"codec": "wmv2", "g": "12"},
    "flv.flv": {"codec": "flv", "g": "12"},
    "x264.mp4": {"codec": "libx264", "g": "12"},
    "x264.mov": {"codec": "libx264", "pixels": "yuv420p10le", "g": "12"},
    "x264.mkv": {"codec": "libx264", "g": "12"},
    "x264.flv": {"codec": "libx264", "g": "12"},
    "x264.ts": {"codec": "libx264", "g": "12"},
    "x264.avi": {"codec": "libx264", "g": "12"},
    "x264.h264": {"codec": "libx264", "g": "12"},
    "x264-open.mp4": {"codec": "libx264", **OPEN},
    "x264-open.mkv": {"codec": "libx264", **OPEN},
    "x264-open.ts": {"codec": "libx264", **OPEN},
    "x264-refresh.mp4": {"codec": "libx264", "x264-params": "intra-refresh=1:keyint=12"},
    "x265.mp4": {"codec": "libx265", "x265-params": f"{X265['x265-params']}:open-gop=0"},
    "x265-open.mp4": {"codec": "libx265", **X265},
    "x265-open.mkv": {"codec": "libx265", **X265},
    "x265-open.ts": {"codec": "libx265", **X265},
    "vp8.webm": {"codec": "libvpx", "g": "12", "auto-alt-ref": "1", "lag-in-frames": "16"},
    "vp9.webm": {"codec": "libvpx-vp9", "g": "12", "lag-in-frames": "16", "cpu-used": "8"},
    "vp9.mp4": {"codec": "libvpx-vp9", "g": "12", "cpu-used": "8"},
    "mjpeg.avi": {"codec": "mjpeg", "pixels": "yuvj420p"},
    "mjpeg.mov": {"codec": "mjpeg", "pixels": "yuvj420p"},
    "prores.mov": {"codec": "prores_ks", "pixels": "yuv422p10le"},
    "ffv1.mkv": {"codec": "ffv1", "pixels": "gray16le"},
    "black-and-white.mov": {"codec": "png", "pixels": "monob"},
    "palette.avi": {"codec": "rawvideo", "pixels": "pal8"},
    "palette.mov": {"codec": "png", "pixels": "pal8"},
    "grey.mov": {"codec": "qtrle", "pixels": "gray"},
}

CUT = {name: name.replace(".", "-cut.") for name in ("x264.mp4", "x265.mp4", "x265-open.mp4", "mpeg4.mp4", "vp9.mp4")}
"""Of these there are pieces, cut in the middle of a group of frames without decoding them."""


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    for name, options in CLIPS.items():
        write_numbered(folder / name, **options)
    for name, piece in CUT.items():
        cut_without_decoding(folder / name, folder / piece, 19)
    return folder


def test_pieces_begin_before_they_are_shown(clips: Path) -> None:
    with av.open(str(clips / "x264-cut.mp4")) as container:
        assert next(container.demux(video=0)).pts < 0


@pytest.mark.parametrize("name", [*CLIPS, *CUT.values()])
@pytest.mark.filterwarnings("error")
def test_every_frame_is_the_one_that_decoding_in_order_gives(name: str, clips: Path) -> None:
    expected = [frame_number(frame) for frame in decode_all(clips / name)]
    assert expected == list(range(60 - len(expected), 60)), "the clip itself is not what it should be"
    rising = range(3, len(expected), 7)
    jumping = random.Random(0).sample(range(len(expected)), 9)
    for order in (rising, jumping):
        video = VideoFile(clips / name)
        assert len(video.starts) == len(video.ends) == len(expected)
        assert np.allclose(video.starts, np.arange(len(expected)) / 25, rtol=0, atol=2e-3)
        assert [frame_number(video.read(index)) for index in order] == [expected[index] for index in order]


@pytest.mark.parametrize(
    "name", ["x264.mp4", "x264-open.mkv", "x265-open.mp4", "mpeg2.ts", "mpeg4-plain.avi", "vp9.webm"]
)
def test_reading_begins_at_the_key_frame_before(name: str, clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video, decoded = VideoFile(clips / name), []
    one = video._decoder.next_frame
    monkeypatch.setattr(video._decoder, "next_frame", lambda: decoded.append(one()) or decoded[-1])
    assert frame_number(video.read(50)) == 50
    assert len(decoded) <= 15


def test_nothing_of_a_video_stays_open(clips: Path) -> None:
    def opened() -> list[str]:
        return sorted(file.path for file in psutil.Process().open_files())

    before = opened()
    gc.disable()
    try:
        for name in ("x264.mp4", "mpeg2.mpg", "x264-refresh.mp4"):
            load_video(clips / name)
        assert opened() == before
    finally:
        gc.enable()


# -------------------------------------------------------------------------------------------------- as a person sees it


def test_a_mirrored_video_is_turned_back(tmp_path: Path) -> None:
    ramp = np.broadcast_to(np.arange(0, 192, 3, dtype=np.uint8)[:, None], (48, 64, 3))
    path = write_video(tmp_path / "v.mp4", [ramp] * 2, [0, 1], "mirrored")
    assert np.array_equal(load_video(path, fps=None)[0], decode_all(path)[:, :, ::-1])


def test_frames_that_change_their_size_are_scaled_to_the_first(tmp_path: Path) -> None:
    sizes = ((48, 64), (80, 96))
    parts = [
        write_video(tmp_path / f"{h}.ts", [np.full((h, w, 3), h * 2, np.uint8)] * 25, np.arange(25) / 25)
        for h, w in sizes
    ]
    path = tmp_path / "both.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    with pytest.warns(UserWarning, match=r"both\.ts change from 48 x 64 to 80 x 96; all are scaled to the first"):
        frames, timestamps = load_video(path, fps=1)
    assert (frames.shape, timestamps.tolist()) == ((2, 48, 64, 3), [0, 1])
    assert np.abs(frames.mean(axis=(1, 2, 3)) - [96, 160]).max() < 4


def save_animation(path: Path, count: int = 20) -> Path:
    first, *rest = (Image.fromarray(frame) for frame in numbered(count))
    first.save(path, save_all=True, append_images=rest, duration=250, lossless=True)
    return path


@pytest.mark.parametrize("name", ["x.png", "x.webp", "x.mp4"])
def test_an_animated_png_or_webp_plays_as_a_video_and_is_one_picture_as_an_image(name: str, tmp_path: Path) -> None:
    path = save_animation(tmp_path / name.replace("mp4", "png")).rename(tmp_path / name)
    frames, timestamps = load_video(path, fps=2)
    assert [frame_number(frame) for frame in frames] == list(range(1, 20, 2))
    assert timestamps.tolist() == (np.arange(10) / 2).tolist()
    with pytest.warns(UserWarning, match=f"{name} holds several pictures: the first is shown"):
        assert frame_number(load_image(path)) == 0


def test_a_phones_photo_with_previews_is_a_picture_without_a_word(tmp_path: Path) -> None:
    first, second = (Image.fromarray(noise(8, 8, 3, seed=seed)) for seed in (0, 1))
    first.save(tmp_path / "x.jpg", format="MPO", save_all=True, append_images=[second])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_image(tmp_path / "x.jpg")


# --------------------------------------------------------------------------------------------------- what is lost, said


def head(source: Path, path: Path, share: float) -> Path:
    content = source.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


@pytest.mark.parametrize("name", ["x264.mkv", "vp9.webm", "x264.flv", "mjpeg.avi"])
def test_half_a_file_gives_what_is_left_and_says_what_is_lost(name: str, clips: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"is cut off or damaged after [01]\.\d s: [01]\.\d s are lost"):
        frames, _ = load_video(head(clips / name, tmp_path / name, 0.6), fps=None)
    numbers = [frame_number(frame) for frame in frames]
    assert numbers[:20] == list(range(20)) and 20 < len(numbers) < 55


def test_half_an_mp4_whose_index_comes_first_gives_what_is_left(clips: Path, tmp_path: Path) -> None:
    first = {"movflags": "faststart"}
    with av.open(str(clips / "x264.mp4")) as given, av.open(str(tmp_path / "x.mp4"), "w", options=first) as container:
        stream = container.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                container.mux(packet)
    with pytest.warns(UserWarning, match=r"is cut off or damaged after [01]\.\d s: [01]\.\d s are lost"):
        frames, _ = load_video(head(tmp_path / "x.mp4", tmp_path / "half.mp4", 0.8), fps=2)
    assert frame_number(frames[0]) == 12


@pytest.mark.parametrize(
    ("name", "said"), [("x.gif", "is cut off: 1. frames are left"), ("x.png", "is damaged at [123]")]
)
@pytest.mark.filterwarnings("ignore:.*is damaged at")
def test_half_an_animation_gives_what_is_left(name: str, said: str, tmp_path: Path) -> None:
    half = head(save_animation(tmp_path / name), tmp_path / f"half-{name}", 0.6)
    with pytest.warns(UserWarning, match=said):
        frames, _ = load_video(half, fps=None)
    numbers = [frame_number(frame) for frame in frames]
    assert numbers == sorted(numbers) and numbers[:8] == list(range(8)) and numbers[-1] < 19


def test_a_damaged_stretch_is_said_and_the_rest_is_used(clips: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.mp4"
    data = bytearray((clips / "x264.mp4").read_bytes())
    with av.open(str(clips / "x264.mp4")) as container:
        packet = next(packet for packet in container.demux(video=0) if packet.pts >= 25 * 512)
    data[packet.pos + 5 : packet.pos + packet.size] = noise(packet.size - 5).tobytes()
    path.write_bytes(data)
    with pytest.warns(UserWarning, match=r"x\.mp4 is damaged at [01]\.\d+ s: where a frame is lost"):
        frames, _ = load_video(path, fps=None)
    numbers = [frame_number(frame) for frame in frames]
    assert len(numbers) == 60 and numbers[:12] == list(range(12)) and numbers[-12:] == list(range(48, 60))


# --------------------------------------------------------------------------------------------------- what is not opened


def texts(clip: Path) -> dict[str, str]:
    sdp = "v=0 o=-|0|0|IN|IP4|127.0.0.1 s=x c=IN|IP4|127.0.0.1 t=0|0 m=video|5004|RTP/AVP|96 a=rtpmap:96|H264/90000 "
    dash = f'<Period><AdaptationSet><Representation id="1"><BaseURL>{clip}</BaseURL></Representation></AdaptationSet>'
    return {
        "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{clip}\n#EXT-X-ENDLIST\n",
        "concat": f"ffconcat version 1.0\nfile '{clip}'\n",
        "sdp": sdp.replace(" ", "\n").replace("|", " "),
        "dash": f'<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static">{dash}</Period></MPD>',
        "svg": f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{clip}"/></svg>',
    }


@pytest.mark.parametrize("kind", texts(Path()))
@pytest.mark.parametrize("suffix", [".mp4", ".txt", ".m3u8"])
def test_what_points_to_other_files_is_not_opened(kind: str, suffix: str, clips: Path, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_text(texts(clips / "x264.ts")[kind])
    with pytest.raises(InputError, match="cannot be read as a video: it is damaged, or of another kind"):
        load_video(path)


def test_a_name_that_ffmpeg_takes_for_an_address_is_a_file(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("concat:a|b.mp4", "http:x.mp4", "-"):
        Path(name).write_bytes((clips / "x264.mp4").read_bytes())
        assert len(open_video(name).indices) == 2


@pytest.mark.parametrize("read", [load_video, load_image, kind_of, lambda path: load_video(path.parent)])
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_pipes_are_refused_not_waited_for(read: object, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.png")
    with pytest.raises(InputError, match="is no regular file"):
        read(tmp_path / "x.png")


@pytest.mark.parametrize("path", ["/dev/zero", "/proc/kmsg"])
@pytest.mark.parametrize("read", [load_video, load_image, kind_of])
def test_devices_and_files_without_an_end_are_refused(read: object, path: str) -> None:
    if not os.path.exists(path):
        pytest.skip("there is none here")
    with pytest.raises(InputError, match=r"is no regular file|it is empty|is neither"):
        read(path)


def test_a_cover_is_no_video(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "x.mp4"), "w") as container, av.open(str(write_sound(tmp_path / "s.mp4"))) as sound:
        track = container.add_stream_from_template(sound.streams.audio[0])
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 64, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame(64, 64, "yuvj420p")) + cover.encode(None))
        for packet in sound.demux(audio=0):
            if packet.dts is not None:
                packet.stream = track
                container.mux(packet)
    with pytest.raises(InputError, match="it holds no moving pictures"):
        load_video(tmp_path / "x.mp4")
