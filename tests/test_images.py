"""Pictures of any kind become (height, width, 3) uint8, or one clear error."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageCms

from tests.media import noise
from vl3ref.errors import InputError
from vl3ref.inputs.images import load_image

COLOUR = noise(11, 7, 3)
GREY = COLOUR[:, :, 0]


def grey_rgb(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[:, :, None], 3, axis=2)


# --------------------------------------------------------------------------------------------------------- Pillow modes


def test_rgb_comes_back_as_it_is() -> None:
    assert np.array_equal(load_image(Image.fromarray(COLOUR)), COLOUR)


def test_grey_becomes_three_equal_channels() -> None:
    assert np.array_equal(load_image(Image.fromarray(GREY)), grey_rgb(GREY))


def test_one_bit_becomes_black_and_white() -> None:
    picture = Image.fromarray(GREY).point(lambda v: 255 if v > 127 else 0).convert("1")
    assert np.array_equal(load_image(picture), grey_rgb(np.where(GREY > 127, 255, 0).astype(np.uint8)))


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_alpha_is_dropped_without_blending(mode: str) -> None:
    channels = [GREY] if mode == "LA" else [COLOUR[:, :, i] for i in range(3)]
    picture = Image.fromarray(np.stack([*channels, noise(11, 7, seed=1)], axis=2))
    assert picture.mode == mode
    assert np.array_equal(load_image(picture), grey_rgb(GREY) if mode == "LA" else COLOUR)


@pytest.mark.parametrize("transparency", [None, 1, bytes([0, 128, 255])])
@pytest.mark.filterwarnings("error::UserWarning")
def test_palettes_give_their_colours_whatever_is_transparent(transparency: object, tmp_path: Path) -> None:
    palette = [10, 20, 30, 40, 50, 60, 70, 80, 90]
    picture = Image.frombytes("P", (7, 11), (GREY % 3).tobytes())
    picture.putpalette(palette)
    options = {} if transparency is None else {"transparency": transparency}
    picture.save(tmp_path / "p.png", **options)
    expected = np.array(palette, np.uint8).reshape(3, 3)[GREY % 3]
    assert Image.open(tmp_path / "p.png").mode == "P"
    assert np.array_equal(load_image(tmp_path / "p.png"), expected)


def test_cmyk_and_ycbcr_become_rgb() -> None:
    ink = np.zeros((2, 1, 4), np.uint8)
    ink[1] = (255, 0, 0, 0)  # cyan
    assert load_image(Image.fromarray(ink, "CMYK")).tolist() == [[[255, 255, 255]], [[0, 255, 255]]]
    red = Image.new("RGB", (1, 1), (255, 0, 0)).convert("YCbCr")
    assert np.abs(load_image(red).astype(int) - [255, 0, 0]).max() <= 2


@pytest.mark.parametrize("mode", ["HSV", "RGBX", "RGBa", "La", "PA", "LAB"])
def test_rare_modes_are_converted(mode: str) -> None:
    assert load_image(Image.new(mode, (5, 4))).shape == (4, 5, 3)


def test_lab_keeps_its_colour() -> None:
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    lab = ImageCms.applyTransform(Image.new("RGB", (1, 1), (200, 30, 60)), to_lab)
    assert lab is not None
    assert np.abs(load_image(lab)[0, 0].astype(int) - [200, 30, 60]).max() <= 6


SIXTEEN = np.array([[0, 128, 257, 25700, 32768, 65535]], np.uint16)
SCALED = [0, 0, 1, 100, 128, 255]


def test_a_16_bit_png_is_scaled_not_clipped(tmp_path: Path) -> None:
    Image.fromarray(SIXTEEN).save(tmp_path / "deep.png")
    assert Image.open(tmp_path / "deep.png").mode.startswith("I")
    assert load_image(tmp_path / "deep.png")[0, :, 0].tolist() == SCALED


@pytest.mark.parametrize("mode", ["I", "I;16", "I;16B", "I;16L"])
def test_every_16_bit_mode_is_scaled_alike(mode: str) -> None:
    values = {"I": np.int32, "I;16": "<u2", "I;16B": ">u2", "I;16L": "<u2"}[mode]
    picture = Image.frombytes(mode, (6, 1), SIXTEEN.astype(values).tobytes())
    assert load_image(picture)[0, :, 1].tolist() == SCALED


def test_values_beyond_16_bits_are_refused() -> None:
    with pytest.raises(InputError, match="outside 16 bits"):
        load_image(Image.fromarray(np.array([[70000]], np.int32)))


def test_floating_point_pictures_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((2, 2), np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(InputError, match="floating-point"):
        load_image(tmp_path / "f.tif")


UPRIGHT = {  # EXIF orientation -> how a camera stored the upright picture
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("opened", [True, False])
def test_the_cameras_rotation_is_applied(orientation: int, opened: bool, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(UPRIGHT[orientation](COLOUR))
    Image.fromarray(stored).save(tmp_path / "turned.png", exif=exif)
    source = Image.open(tmp_path / "turned.png") if opened else str(tmp_path / "turned.png")
    assert np.array_equal(load_image(source), COLOUR)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_unreadable_exif_does_not_spoil_a_picture(tmp_path: Path) -> None:
    Image.fromarray(COLOUR).save(tmp_path / "x.png", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12garbage")
    assert np.array_equal(load_image(tmp_path / "x.png"), COLOUR)


# --------------------------------------------------------------------------------------------------------------- arrays


@given(
    hnp.arrays(
        st.sampled_from([np.dtype("uint8"), np.dtype("<u2"), np.dtype(">u2"), np.dtype("bool")]),
        st.one_of(
            st.tuples(st.integers(1, 5), st.integers(1, 5)),
            st.tuples(st.integers(1, 5), st.integers(1, 5), st.sampled_from([1, 3, 4])),
        ),
    )
)
@settings(max_examples=60)
def test_arrays_of_every_shape_and_depth_become_rgb_bytes(array: np.ndarray) -> None:
    full = {"u1": 1, "u2": 257, "b1": 1 / 255}[array.dtype.str[1:]]
    values = (array if array.ndim == 3 else array[:, :, None]).astype(np.float64)[:, :, :3] / full
    got = load_image(array)
    assert got.dtype == np.uint8
    assert got.shape == (*array.shape[:2], 3)
    assert np.abs(got - values).max() <= 0.5


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.uint16])
def test_tensors_are_arrays_too(dtype: torch.dtype) -> None:
    assert load_image(torch.ones(4, 5, 3, dtype=dtype)).shape == (4, 5, 3)
    assert np.array_equal(load_image(torch.from_numpy(COLOUR)), COLOUR)


def test_the_callers_array_is_left_alone() -> None:
    mine = COLOUR.copy()
    load_image(mine)
    assert np.array_equal(mine, COLOUR)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), "float32"),
        (np.zeros((4, 4, 3), np.int64), "int64"),
        (np.zeros(4, np.uint8), r"\(4,\)"),
        (np.uint8(3), r"\(\)"),
        (np.zeros((4, 4, 2), np.uint8), r"\(4, 4, 2\)"),
        (np.zeros((3, 4, 5), np.uint8), r"\(3, 4, 5\)"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"\(1, 4, 4, 3\)"),
        (np.zeros((0, 4, 3), np.uint8), r"\(0, 4, 3\)"),
        (np.zeros((4, 4, 0), np.uint8), r"\(4, 4, 0\)"),
        (torch.zeros(4, 4, 3, requires_grad=True), "float32"),
        (torch.zeros(4, 4, 3, dtype=torch.bfloat16), "BFloat16"),
        (Image.new("L", (0, 3)), "3 x 0"),
        (Image.new("I", (3, 0)), "0 x 3"),
    ],
)
def test_what_is_no_picture_is_refused_by_shape_or_type(array: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_image(array)


@pytest.mark.parametrize("source", [None, 5, b"bytes", [1, 2], {"image": "x.png"}])
def test_what_is_no_source_is_refused_by_its_type(source: object) -> None:
    with pytest.raises(InputError, match=type(source).__name__):
        load_image(source)


# ---------------------------------------------------------------------------------------------------------------- files


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no\.png' does not exist"):
        load_image(tmp_path / "no.png")


@pytest.mark.parametrize("name", ["a" * 300 + ".png", "a\0b.png"])
def test_impossible_names_are_input_errors(name: str) -> None:
    with pytest.raises(InputError):
        load_image(name)


def test_a_folder_is_named_as_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder"):
        load_image(tmp_path)


@pytest.mark.parametrize("content", [b"", b"this is text, not a picture\n" * 20])
def test_a_file_that_is_no_picture_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.png is not a picture"):
        load_image(tmp_path / "x.png")


def test_a_very_long_or_small_picture_is_taken_and_a_bomb_is_not(tmp_path: Path) -> None:
    for size in ((1, 1), (20_000, 20)):
        Image.new("RGB", size).save(tmp_path / "x.png")
        assert load_image(tmp_path / "x.png").shape[:2] == size[::-1]
    Image.new("1", (14_000, 14_000)).save(tmp_path / "bomb.png")
    with pytest.raises(InputError, match=r"bomb\.png cannot be read as a picture: Image size \(196000000 pixels\)"):
        load_image(tmp_path / "bomb.png")


@pytest.mark.parametrize("kind", ["png", "jpg"])
@pytest.mark.parametrize("share", [0.2, 0.6])
def test_a_truncated_file_is_refused(kind: str, share: float, tmp_path: Path) -> None:
    path = tmp_path / f"x.{kind}"
    Image.fromarray(noise(64, 64, 3)).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(InputError, match=f"x\\.{kind}"):
        load_image(path)


def test_a_truncated_picture_that_pillow_has_opened_already_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    Image.fromarray(noise(64, 64, 3)).save(path)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(InputError, match="the picture cannot be read"):
        load_image(Image.open(path))
