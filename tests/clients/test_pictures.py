"""Pictures to the wire and back."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from indomain.constants import MAX_RAW_PICTURE_BYTES
from indomain.v1 import editing_pb2 as pb
from indomain.wire.pictures import is_picture, picture_from_wire, picture_to_wire


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
    "wrong", [np.zeros((4, 4, 2), np.uint8), np.zeros(4, np.uint8), np.zeros((4, 4, 3), np.float32)]
)
def test_other_arrays_are_refused_by_shape_and_type(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8"):
        picture_to_wire(wrong)


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
