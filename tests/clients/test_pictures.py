"""Pictures to the wire and back."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import indomain
from indomain.constants import MAX_RAW_PICTURE_BYTES
from indomain.v1 import editing_pb2 as pb
from indomain.wire.pictures import is_picture, picture_from_wire, picture_to_wire
from serving.jobs import EncodedPicture, ImageFormat
from serving.photographs.pictures import centre_square
from tests.serving.pictures import (
    DISPLAY_P3,
    cmyk_profile,
    grey_profile,
    photograph,
    rgb_profile,
    samples_of_png,
)


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8)


def test_an_array_travels_raw_and_comes_back_the_same(pixels: np.ndarray) -> None:
    wire = picture_to_wire(pixels)
    assert (wire.format, wire.width, wire.height) == (pb.IMAGE_FORMAT_RAW, 4, 6)
    assert np.array_equal(np.asarray(picture_from_wire(wire)), pixels)


def test_an_array_that_is_a_view_keeps_its_pixels(pixels: np.ndarray) -> None:
    flipped = pixels[::-1, ::2]
    assert np.array_equal(np.asarray(picture_from_wire(picture_to_wire(flipped))), flipped)


def test_a_large_array_travels_as_png() -> None:
    large = np.zeros((700, 700, 3), np.uint8)
    assert large.nbytes > MAX_RAW_PICTURE_BYTES
    wire = picture_to_wire(large)
    assert wire.format == pb.IMAGE_FORMAT_PNG
    assert picture_from_wire(wire).size == (700, 700)


@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 4)])
def test_grey_and_alpha_arrays_travel_as_png_of_their_kind(shape: tuple[int, ...]) -> None:
    wire = picture_to_wire(np.full(shape, 7, np.uint8))
    with Image.open(io.BytesIO(wire.data)) as image:
        assert image.mode == {2: "L", 3: "RGBA"}[len(shape)]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (np.zeros((4, 4, 2), np.uint8), r"not uint8 \[4, 4, 2\]"),
        (np.zeros(4, np.uint8), r"not uint8 \[4\]"),
        (np.zeros((3, 4, 9), np.uint8), "channels come last"),
        (np.zeros((0, 4, 3), np.uint8), r"not uint8 \[0, 4, 3\]"),
        (np.zeros((4, 4, 3), np.int64), "not int64"),
        (np.full((4, 4, 3), 255, np.float32), "not float32 from 255 to 255"),
        (np.full((4, 4), np.nan), "not float64 from nan"),
        (np.linspace(-1, 1, 48).reshape(4, 4, 3), "from -1 to 1"),
    ],
)
def test_other_arrays_are_refused_by_shape_and_type(wrong: np.ndarray, says: str) -> None:
    with pytest.raises(ValueError, match=f"uint8.*{says}"):
        picture_to_wire(wrong)


@pytest.mark.parametrize("mode", ["I", "F", "LAB"])
def test_modes_without_an_agreed_meaning_are_refused_by_name(mode: str) -> None:
    with pytest.raises(ValueError, match=f"mode '{mode}' is not taken"):
        picture_to_wire(Image.new(mode, (4, 4)))


# --- an object means what the same picture means as a file -----------------------------------------------------------


def seen(picture: pb.Picture) -> np.ndarray:
    """A picture of the wire as the gateway sees it: uint8 [16, 16, 3], in sRGB, over white."""
    size = {"width": picture.width, "height": picture.height}
    given = (
        EncodedPicture(picture.data, ImageFormat.RAW, **size)
        if picture.format == pb.IMAGE_FORMAT_RAW
        else EncodedPicture(picture.data)
    )
    return centre_square(given, 16, max_bytes=2**24, max_pixels=2**20)[0]


def file_of(image: Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def of_mode(mode: str) -> Image.Image:
    """A smooth picture 16 x 16 of a mode, half of it half transparent where the mode can say so."""
    colours = Image.fromarray(photograph(5, 16, 16))
    if mode == "I;16":
        return Image.fromarray(np.asarray(colours.convert("L")).astype(np.uint16) * 257)
    if mode in ("LA", "RGBA"):
        image = colours.convert(mode)
        image.putalpha(Image.fromarray(np.repeat([[255, 90]], 8, axis=1).repeat(16, axis=0).astype(np.uint8)))
        return image
    return colours.convert(mode)


FILES = {
    **{f"{mode} in PNG": file_of(of_mode(mode), "PNG") for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")},
    "grey JPEG": file_of(of_mode("L"), "JPEG"),
    "CMYK JPEG": file_of(of_mode("CMYK"), "JPEG", quality=95),
    "CMYK TIFF": file_of(of_mode("CMYK"), "TIFF"),
    "CMYK JPEG with its profile": file_of(of_mode("CMYK"), "JPEG", icc_profile=cmyk_profile()),
    "16-bit TIFF": file_of(of_mode("I;16"), "TIFF"),
    "palette with a transparent colour": file_of(of_mode("P"), "PNG", transparency=of_mode("P").getpixel((3, 3))),
    "palette with many transparent colours": file_of(of_mode("P"), "PNG", transparency=bytes(range(256))),
    "RGB with a transparent colour": file_of(of_mode("RGB"), "PNG", transparency=of_mode("RGB").getpixel((3, 3))),
    "GIF": file_of(of_mode("P"), "GIF", transparency=of_mode("P").getpixel((3, 3))),
    "P3": file_of(of_mode("RGB"), "JPEG", icc_profile=rgb_profile(*DISPLAY_P3)),
    "P3 with alpha": file_of(of_mode("RGBA"), "PNG", icc_profile=rgb_profile(*DISPLAY_P3)),
    "palette of P3": file_of(of_mode("P"), "PNG", icc_profile=rgb_profile(*DISPLAY_P3)),
    "grey with a profile": file_of(of_mode("L"), "PNG", icc_profile=grey_profile(1.0)),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_an_opened_file_means_what_the_file_means(name: str) -> None:
    with Image.open(io.BytesIO(FILES[name])) as image:
        wire = picture_to_wire(image)
    difference = seen(wire).astype(int) - seen(picture_to_wire(FILES[name]))
    assert np.abs(difference).max() <= 1


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    channels=st.sampled_from([(), (1,), (3,), (4,)]),
    dtype=st.sampled_from(["uint8", "uint16", ">u2", "bool", "float16", "float32", "float64"]),
)
def test_an_array_means_what_its_values_say(
    seed: int, height: int, width: int, channels: tuple[int, ...], dtype: str
) -> None:
    """The same picture as uint8, as a file, is seen alike; views too."""
    values = np.random.default_rng(seed).integers(0, 256, (height, width, *channels), np.uint8)
    if dtype == "bool":
        values = (values > 127).astype(np.uint8) * 255
    scale = {"uint8": 1, "uint16": 257, ">u2": 257}.get(dtype, 1 / 255)
    array = (values * np.float64(scale)).astype(dtype)
    mode_channels = values[..., 0] if channels == (1,) else values
    file = file_of(Image.fromarray(np.ascontiguousarray(mode_channels[::-1])), "PNG")
    np.testing.assert_array_equal(seen(picture_to_wire(array[::-1])), seen(picture_to_wire(file)))


def test_sixteen_bits_in_colours_travel_as_they_are() -> None:
    array = np.random.default_rng(0).integers(0, 65536, (5, 4, 3)).astype(np.uint16)
    np.testing.assert_array_equal(samples_of_png(picture_to_wire(array).data), array)


def test_what_a_picture_says_of_itself_goes_along() -> None:
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    file = file_of(of_mode("RGB"), "PNG", exif=exif, dpi=(300, 300), icc_profile=rgb_profile(*DISPLAY_P3))
    with Image.open(io.BytesIO(file)) as image, Image.open(io.BytesIO(picture_to_wire(image).data)) as sent:
        assert sent.getexif()[0x010F] == "a camera"
        assert round(sent.info["dpi"][0]) == 300
        assert sent.info["icc_profile"] == image.info["icc_profile"]
        # A profile of RGB says nothing of a picture that was made grey.
        grey = picture_to_wire(image.convert("L"))
    with Image.open(io.BytesIO(grey.data)) as sent:
        assert "icc_profile" not in sent.info


def test_a_float_array_with_channels_is_a_picture_and_any_other_a_code() -> None:
    assert is_picture(np.zeros((8, 8, 3)))
    assert is_picture(np.zeros((8, 8), np.uint16))
    assert not is_picture(np.zeros((14, 512)))
    assert not is_picture(np.zeros((2, 14, 512)))


HEIC = Path(__file__).parent / "portrait.heic"


def test_heic_is_converted() -> None:
    pytest.importorskip("pi_heif", reason="the extra heif is not installed")
    wire = picture_to_wire(HEIC)
    with Image.open(io.BytesIO(wire.data)) as image:
        assert (image.format, image.size) == ("JPEG", (48, 64))
        assert image.getexif()[0x010F] == "a phone"
        assert image.getexif().get(0x0112, 1) == 1
        assert image.info["icc_profile"][16:20] == b"RGB "
    with pytest.raises(indomain.InvalidPictureError, match="HEIC"):
        picture_to_wire(HEIC.read_bytes()[:300])


def test_heic_without_the_package_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    with pytest.raises(indomain.NotInstalledError, match=r"indomain-client\[heif\]"):
        picture_to_wire(HEIC)


def test_other_things_are_refused() -> None:
    with pytest.raises(TypeError, match="int"):
        picture_to_wire(7)  # type: ignore[arg-type]


def test_files_and_bytes_travel_as_they_are(tmp_path: Path, pixels: np.ndarray) -> None:
    file = tmp_path / "a.webp"
    Image.fromarray(pixels).save(file)
    assert picture_to_wire(file).data == file.read_bytes()
    assert picture_to_wire(str(file)).data == file.read_bytes()
    with file.open("rb") as opened:
        assert picture_to_wire(opened).data == file.read_bytes()
    with file.open(errors="replace") as text, pytest.raises(TypeError, match="binary"):
        picture_to_wire(text)  # type: ignore[arg-type]
    assert picture_to_wire(file.read_bytes()).data == file.read_bytes()


def test_a_missing_file_says_so() -> None:
    with pytest.raises(FileNotFoundError):
        picture_to_wire("no/such/file.png")


def test_a_pil_picture_is_turned_as_its_exif_says(pixels: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", exif=exif)
    with Image.open(buffer) as image:
        wire = picture_to_wire(image)
    assert np.array_equal(np.asarray(picture_from_wire(wire)), np.rot90(pixels, -1))


def test_a_transparent_pil_picture_keeps_its_alpha() -> None:
    wire = picture_to_wire(Image.new("RGBA", (4, 4), (255, 0, 0, 0)))
    with Image.open(io.BytesIO(wire.data)) as image:
        assert image.mode == "RGBA"


def test_what_counts_as_a_picture(pixels: np.ndarray) -> None:
    assert is_picture(pixels)
    assert is_picture("a.png")
    assert not is_picture(np.zeros((10, 512), np.float32))
    assert not is_picture([[0.0]])
