"""Pictures in and out: formats, modes, orientation, limits, damage."""

from __future__ import annotations

import io
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from serving.errors import EditingError, InvalidOption, InvalidPicture, PictureTooLarge
from serving.jobs import EncodedPicture, ImageFormat, OutputOptions
from serving.photographs.formats.encoding import encode_picture
from serving.photographs.pictures import centre_square
from serving.pipeline.rendering import check_output
from tests.serving.pictures import encoded, photograph, png_header, webp_header


def align(data: bytes, resolution: int = 16, **picture: object) -> np.ndarray:
    image, _ = centre_square(
        EncodedPicture(data, **picture),  # type: ignore[arg-type]
        resolution,
        max_bytes=1_000_000,
        max_pixels=250_000,
    )
    return image


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "AVIF"])
def test_every_format_gives_the_same_picture(format: str) -> None:
    image = photograph(3, 64, 64)
    aligned = align(encoded(image, format, quality=95), resolution=64)
    assert aligned.shape == (64, 64, 3)
    assert aligned.dtype == np.uint8
    assert np.abs(aligned.astype(int) - image.astype(int)).mean() < 4.0


@pytest.mark.parametrize(("width", "height"), [(90, 30), (30, 90), (31, 30), (1, 200), (5, 3), (16, 16)])
def test_any_aspect_is_cropped_in_its_centre(width: int, height: int) -> None:
    image = np.zeros((height, width, 3), np.uint8)
    side = min(width, height)
    top, left = (height - side) // 2, (width - side) // 2
    image[top : top + side, left : left + side] = (200, 100, 50)
    aligned = align(encoded(image))
    assert aligned.shape == (16, 16, 3)
    assert np.abs(aligned[8, 8].astype(int) - (200, 100, 50)).max() <= 2


def test_resize_antialiases() -> None:
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(align(encoded(stripes))[:, 2:-2].astype(int) - 127).max() < 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(orientation: int) -> None:
    upright = photograph(1, 32, 32)
    picture = Image.fromarray(upright)
    exif = Image.Exif()
    exif[0x0112] = orientation
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = picture.transpose(undo[orientation]) if orientation in undo else picture
    target = io.BytesIO()
    stored.save(target, "PNG", exif=exif)
    np.testing.assert_array_equal(align(target.getvalue(), resolution=32), upright)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK", "I;16", "PA"])
def test_modes_become_rgb(mode: str) -> None:
    grey = Image.fromarray(np.tile(np.linspace(0, 255, 32).astype(np.uint8), (32, 1)))
    format = "JPEG" if mode == "CMYK" else "PNG"
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    elif mode == "PA":
        picture = grey.convert("P")
        picture.info["transparency"] = 0
    else:
        picture = grey.convert(mode)
    target = io.BytesIO()
    picture.save(target, format, **({"transparency": 0} if mode == "PA" else {}))
    aligned = align(target.getvalue(), resolution=32)
    assert aligned.shape == (32, 32, 3)
    assert aligned[16, 30].mean() > 200
    if mode not in ("1", "PA"):
        assert abs(float(aligned[16, 16].mean()) - 127) < 12


def test_transparent_is_white() -> None:
    picture = np.zeros((16, 16, 4), np.uint8)
    picture[:8] = (255, 0, 0, 255)
    aligned = align(encoded(picture))
    np.testing.assert_array_equal(aligned[2, 2], (255, 0, 0))
    np.testing.assert_array_equal(aligned[13, 2], (255, 255, 255))


def test_large_jpeg_decoded_in_draft_is_close_to_the_full_decode() -> None:
    image = photograph(5, 480, 480)
    draft = align(encoded(image, "JPEG", quality=95))
    exact = align(encoded(image, "PNG"))
    assert np.abs(draft.astype(int) - exact.astype(int)).max() <= 4


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", InvalidPicture),
        (b"not a picture at all", InvalidPicture),
        (b"GIF89a" + b"\0" * 40, InvalidPicture),
        (encoded(photograph())[:300], InvalidPicture),
        (encoded(photograph(), "JPEG")[:200], InvalidPicture),
        (encoded(photograph(), "WEBP")[:40], InvalidPicture),
        (b"\x89PNG\r\n\x1a\n", InvalidPicture),
        (b"RIFF\0\0\0\0WEBP", InvalidPicture),
        (png_header(60_000, 60_000), PictureTooLarge),
        (png_header(1_000, 1_000), PictureTooLarge),
        (webp_header(16_000, 16_000), PictureTooLarge),
        (png_header(100, 100), InvalidPicture),
        (b"\xff" * 1_000_001, PictureTooLarge),
    ],
)
def test_bad_pictures(data: bytes, kind: type[EditingError]) -> None:
    with pytest.raises(kind):
        align(data)


def test_other_bytes_are_refused_with_the_formats_that_are_read() -> None:
    for format in ("PPM", "ICO", "JPEG2000"):
        with pytest.raises(InvalidPicture, match="not a PNG, JPEG, WebP, TIFF, BMP, GIF or AVIF picture"):
            align(encoded(photograph(), format))
    with pytest.raises(InvalidPicture, match="HEIC is not read"):
        align(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(400))


def test_bomb_is_refused_without_decoding_it() -> None:
    tracemalloc.start()
    for data in (png_header(40_000, 40_000), webp_header(16_000, 16_000)):
        with pytest.raises(PictureTooLarge):
            align(data)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 1_000_000


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_bytes_never_do_worse_than_a_typed_error(data: st.DataObject) -> None:
    format = data.draw(st.sampled_from(["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "AVIF"]))
    whole = bytearray(encoded(photograph(2), format))
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(1, len(whole)))
    try:
        aligned = align(bytes(whole[:cut]))
    except (InvalidPicture, PictureTooLarge):
        return
    assert aligned.shape == (16, 16, 3)


def test_raw_pictures() -> None:
    image = photograph(4, 16, 16)
    raw = {"format": ImageFormat.RAW, "width": 16, "height": 16}
    np.testing.assert_array_equal(align(image.tobytes(), **raw), image)
    with pytest.raises(InvalidPicture, match="768 bytes"):
        align(image.tobytes()[:-1], **raw)
    with pytest.raises(InvalidPicture, match="width and height"):
        align(image.tobytes(), format=ImageFormat.RAW)
    with pytest.raises(PictureTooLarge):
        align(b"\0", format=ImageFormat.RAW, width=100_000, height=100_000)


@pytest.mark.parametrize("format", [ImageFormat.PNG, ImageFormat.RAW, ImageFormat.JPEG, ImageFormat.WEBP])
def test_encoded_answers_can_be_read_back(format: ImageFormat) -> None:
    image = photograph(6, 64, 64)
    quality = 100 if format is ImageFormat.WEBP else 95  # 100 is lossless
    answer = encode_picture(image, OutputOptions(format=format, quality=quality))
    assert (answer.width, answer.height, answer.format) == (64, 64, format)
    back, _ = centre_square(answer, 64, max_bytes=1_000_000, max_pixels=250_000)
    worst = np.abs(back.astype(int) - image.astype(int)).max()
    assert worst <= (12 if format is ImageFormat.JPEG else 0)


@pytest.mark.parametrize("quality", [0, 101, -5])
def test_quality_out_of_range(quality: int) -> None:
    with pytest.raises(InvalidOption):
        check_output(OutputOptions(quality=quality))
