"""Decodes and encodes pictures: bytes <-> uint8 [H, W, 3], or a whole photograph (photograph.py).

Input is PNG, JPEG, WebP or raw RGB. Limits are checked against the header (headers.py), before anything is decoded.
EXIF orientation is applied; grey, palette, 16-bit and CMYK become RGB; transparent pixels become white; an animation
gives its first frame; colour profiles are ignored (values are taken as sRGB). A centred square is resized with Lanczos.

A picture is converted band by band, so that no step takes more than 7 bytes for each of its pixels.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
from PIL import Image as PillowImage
from PIL import UnidentifiedImageError

from serving.errors import InvalidOption, InvalidPicture, PictureTooLarge
from serving.jobs import EncodedPicture, Image, ImageFormat, OutputOptions
from serving.photographs.alignment import Similarity
from serving.photographs.headers import Header, check_scans, read_header, read_jpeg, read_orientation
from serving.photographs.pasting import paste_change, paste_picture
from serving.photographs.photograph import Photograph

T = TypeVar("T")

_ACCEPTED = ("PNG", "JPEG", "WEBP")
# EXIF orientation -> the operation that makes the picture upright.
_TURNS = {
    2: PillowImage.Transpose.FLIP_LEFT_RIGHT,
    3: PillowImage.Transpose.ROTATE_180,
    4: PillowImage.Transpose.FLIP_TOP_BOTTOM,
    5: PillowImage.Transpose.TRANSPOSE,
    6: PillowImage.Transpose.ROTATE_270,
    7: PillowImage.Transpose.TRANSVERSE,
    8: PillowImage.Transpose.ROTATE_90,
}
# The orientations whose first row of pixels comes last when the picture is upright.
_FROM_THE_END = (3, 4, 6, 7)
_BAND_PIXELS = 2**18
_ONE_BYTE_MODES = ("1", "L", "P")
# A picture of so many pixels is converted in one piece where that is faster and takes 8 bytes a pixel.
_AT_ONCE = 2**24
# libwebp's own pixels, and Pillow's, for each pixel that is encoded.
WEBP_ANSWER_PIXEL_BYTES = 10
# Pillow's own check for decompression bombs stays on after ours. Its warnings, one for each odd tag, are of no use.
warnings.filterwarnings("ignore", module="PIL")
# Each picture in one piece of memory: only that can be shown as another mode (`fromarrow`).
PillowImage.core.set_use_block_allocator(1)


class PictureReader:
    """A picture that a caller sent. What is asked of it decodes it.

    Its methods take processor time: call them off the event loop, and one at a time. They raise InvalidPicture and
    PictureTooLarge.
    """

    def __init__(self, picture: EncodedPicture, header: Header) -> None:
        self._picture = picture
        self._header = header
        self._photograph: Photograph | None = None

    def size(self) -> tuple[int, int]:
        """Width and height of the upright picture, which is decoded whole for what comes next."""
        photograph = self._opened()
        return photograph.width, photograph.height

    def centre_square(self, resolution: int) -> tuple[Image, tuple[int, int]]:
        """The centred square, uint8 [resolution, resolution, 3]; also the upright picture's width and height."""
        return _read(self._picture, self._header, lambda image, turn: _centre_square(image, turn, resolution))

    def cut(self, place: Similarity, side: int) -> Image:
        """The square at `place`, uint8 [side, side, 3]."""
        return self._opened().cut(place, side)

    def cut_for_detector(self, places: list[Similarity], side: int) -> Image:
        """The squares at `places`, uint8 [N, side, side, 3], black beyond the photograph's edges."""
        photograph = self._opened()
        return np.stack([photograph.cut(place, side, mirrored=False) for place in places])

    def paste(
        self, place: Similarity, before: Image | None, after: Image, output: OutputOptions, face: bool
    ) -> EncodedPicture:
        """The photograph with `after` pasted in, or, if `before` is given, with the change from `before` to `after`."""
        photograph = self._opened()
        if before is None:
            paste_picture(photograph, place, photograph.cut(place, len(after)), after, face=face)
        else:
            paste_change(photograph, place, before, after, face=face)
        # What was pasted into is of no further use, and its memory is needed for the answer.
        self._photograph = None
        return _encode(photograph.picture, output)

    def _opened(self) -> Photograph:
        if self._photograph is None:
            self._photograph = _read(self._picture, self._header, _photograph)
        return self._photograph


def centre_square(
    picture: EncodedPicture, resolution: int, *, max_bytes: int, max_pixels: int
) -> tuple[Image, tuple[int, int]]:
    """The same as PictureReader.centre_square, for one picture at once."""
    return PictureReader(picture, read_header(picture, max_bytes, max_pixels)).centre_square(resolution)


def encode_picture(image: Image, output: OutputOptions) -> EncodedPicture:
    """Encodes uint8 [H, W, 3] in the requested format."""
    height, width = image.shape[:2]
    if output.format is ImageFormat.RAW:
        return EncodedPicture(np.ascontiguousarray(image).tobytes(), ImageFormat.RAW, width, height)
    return _encode(PillowImage.fromarray(image), output)


def _encode(picture: PillowImage.Image, output: OutputOptions) -> EncodedPicture:
    target = io.BytesIO()
    if output.format is ImageFormat.RAW:
        for _, band in _bands(picture, 0, picture.height):
            target.write(band.tobytes())
    elif output.format is ImageFormat.PNG:
        # Level 6 takes three times as long and saves 2 %.
        picture.save(target, "PNG", compress_level=3)
    elif output.format is ImageFormat.JPEG:
        picture.save(target, "JPEG", quality=output.quality, subsampling=0 if output.quality >= 90 else 2)
    else:
        picture.save(target, "WEBP", quality=output.quality, lossless=output.quality == 100, method=2)
    return EncodedPicture(target.getvalue(), output.format, picture.width, picture.height)


def check_output(output: OutputOptions) -> None:
    """Raises InvalidOption if the quality is out of its range."""
    if not 1 <= output.quality <= 100:
        raise InvalidOption(f"output.quality is {output.quality}; it goes from 1 to 100.")


# --- reading ------------------------------------------------------------------------------------------------------


def _read(picture: EncodedPicture, header: Header, use: Callable[[PillowImage.Image, int], T]) -> T:
    """Opens a picture and passes it to `use`, with its EXIF orientation. Raises InvalidPicture and PictureTooLarge."""
    if header.format == "RAW":
        size = header.width, header.height
        return use(PillowImage.frombytes("RGB", size, picture.data), 1)
    data, exif, xmp = picture.data, b"", b""
    if header.format == "JPEG":
        jpeg = read_jpeg(data)
        check_scans(data, jpeg)
        exif, xmp = jpeg.exif, jpeg.xmp
        # Without its metadata, which Pillow would read through.
        data = b"".join([data[:2], *jpeg.kept, memoryview(data)[jpeg.scan_start :]])
    try:
        with PillowImage.open(io.BytesIO(data), formats=_ACCEPTED) as image:
            if image.size != (header.width, header.height):
                raise InvalidPicture("The picture has two headers that differ; open it and save it again.")
            if header.format == "JPEG":
                return use(image, read_orientation(exif, xmp))
            # A PNG may have its metadata after its pixels.
            image.load()
            return use(image, _orientation(image))
    except (InvalidPicture, PictureTooLarge):
        raise
    except UnidentifiedImageError:
        raise InvalidPicture(
            "The bytes are not a PNG, JPEG or WebP picture; convert it to one of these."
        ) from None
    except (MemoryError, PillowImage.DecompressionBombError):
        raise PictureTooLarge("The picture takes too much memory to decode; send a smaller one.") from None
    # Decoders raise errors of many types on bytes that are made to break them.
    except Exception:
        raise InvalidPicture("The picture is damaged or cut short; send the whole file.") from None


def _orientation(image: PillowImage.Image) -> int:
    """The orientation of a PNG or WebP that is loaded."""
    exif, xmp = image.info.get("exif", b""), image.info.get("xmp", b"")
    try:
        if not exif and (profile := image.info.get("Raw profile type exif")):
            # As ImageMagick writes it: three lines before the hexadecimal digits.
            exif = bytes.fromhex("".join(profile.split("\n")[3:]))
        return read_orientation(exif, xmp)
    # Metadata of a wrong type or form. A picture with intact pixels is not refused for it.
    except (TypeError, ValueError, AttributeError):
        return 1


def _centre_square(
    image: PillowImage.Image, orientation: int, resolution: int
) -> tuple[Image, tuple[int, int]]:
    full = image.size
    if image.format == "JPEG":
        # The decoder may halve the size as it goes; at four times the wanted size the result stays within
        # one level of 255.
        image.draft(None, (4 * resolution, 4 * resolution))
    transparent = _is_transparent(image)
    image.load()
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    # A centred square stays centred when it is turned: so turn the small picture, not the large one.
    box = (left, top, left + side, top + side)
    if transparent:
        square = _on_white(_resize_transparent(image, box, resolution))
    else:
        square = image if image.mode == "RGB" else _flattened(image, 1)
        if square.size != (resolution, resolution):
            square = square.resize(
                (resolution, resolution), PillowImage.Resampling.LANCZOS, box=box, reducing_gap=3.0
            )
    if orientation in _TURNS:
        square = square.transpose(_TURNS[orientation])
    return np.array(square, dtype=np.uint8), full[::-1] if _is_sideways(orientation) else full


def _resize_transparent(
    image: PillowImage.Image, box: tuple[int, int, int, int], resolution: int
) -> PillowImage.Image:
    """The square `box` of a picture with transparency, resized to RGBA [resolution, resolution].

    As Pillow resizes: pixels weigh as much as they cover. For a large picture this is done in bands, as Pillow would
    convert all of it first.
    """
    size, lanczos = (resolution, resolution), PillowImage.Resampling.LANCZOS
    if image.width * image.height <= _AT_ONCE:
        whole = _to_rgb_or_rgba(image)
        return whole if whole.size == size else whole.resize(size, lanczos, box=box, reducing_gap=3.0)
    scale = (box[2] - box[0]) / resolution
    by = max(1, int(scale / 3.0))
    # The filter reaches over three pixels of the result.
    reach = int(3 * max(1.0, scale)) + 1
    left, top = max(0, box[0] - reach), max(0, box[1] - reach)
    right, bottom = min(image.width, box[2] + reach), min(image.height, box[3] + reach)
    reduced = PillowImage.new("RGBa", (-(-(right - left) // by), -(-(bottom - top) // by)))
    for start, band in _bands(image, top, bottom, by):
        part = _to_rgb_or_rgba(band.crop((left, 0, right, band.height))).convert("RGBa")
        reduced.paste(part.reduce(by), (0, (start - top) // by))
    inside = (
        (box[0] - left) / by,
        (box[1] - top) / by,
        (box[2] - left) / by,
        (box[3] - top) / by,
    )
    return reduced.resize(size, lanczos, box=inside).convert("RGBA")


def _photograph(image: PillowImage.Image, orientation: int) -> Photograph:
    """The whole picture, upright. `image` cannot be used afterwards."""
    image.load()
    if image.mode == "RGB" and not _is_transparent(image):
        if orientation not in _TURNS:
            return Photograph(image)
        if image.width * image.height <= _AT_ONCE:
            return Photograph(image.transpose(_TURNS[orientation]))
    if image.mode == "RGBA" and orientation not in _TURNS:
        for start, band in _bands(image, 0, image.height):
            image.paste(_on_white(_to_rgb_or_rgba(band)), (0, start))
        # Pillow keeps RGB pixels as RGBA ones, with a fourth byte that it ignores.
        return Photograph(PillowImage.fromarrow(image, "RGB", image.size), written_by=image)
    return Photograph(_flattened(image, orientation))


def _flattened(image: PillowImage.Image, orientation: int) -> PillowImage.Image:
    """A picture in any mode as upright RGB, on white. `image` cannot be used afterwards: its memory is given back."""
    if image.mode.startswith("I"):
        image = _in_8_bits(image)
    size = image.size[::-1] if _is_sideways(orientation) else image.size
    # Pillow's RGB takes 4 bytes a pixel. Beside pixels of 4 bytes there is only room for an array, which takes 3.
    if image.mode in _ONE_BYTE_MODES:
        flat = PillowImage.new("RGB", size)
        for position, part in _upright_parts(image, orientation):
            flat.paste(part, position)
        image.close()
        return flat
    pixels = np.empty((size[1], size[0], 3), np.uint8)
    for (left, top), part in _upright_parts(image, orientation):
        pixels[top : top + part.height, left : left + part.width] = np.asarray(part)
    image.close()
    return PillowImage.fromarray(pixels)


def _upright_parts(
    image: PillowImage.Image, orientation: int
) -> Iterator[tuple[tuple[int, int], PillowImage.Image]]:
    """The picture in upright parts, RGB on white, each with its left and top on the upright picture."""
    for start, band in _bands(image, 0, image.height):
        part = _on_white(_to_rgb_or_rgba(band))
        if orientation in _TURNS:
            part = part.transpose(_TURNS[orientation])
        if orientation in _FROM_THE_END:
            start = image.height - start - band.height
        yield (start, 0) if _is_sideways(orientation) else (0, start), part


def _in_8_bits(image: PillowImage.Image) -> PillowImage.Image:
    """A 16-bit grey picture as 8-bit grey, which Pillow would clip. `image` cannot be used afterwards."""
    grey = PillowImage.new("L", image.size)
    for start, band in _bands(image, 0, image.height):
        values = (np.asarray(band) >> 8).clip(0, 255).astype(np.uint8)
        grey.paste(PillowImage.fromarray(values), (0, start))
    image.close()
    return grey


def _bands(
    image: PillowImage.Image, first: int, last: int, multiple: int = 1
) -> Iterator[tuple[int, PillowImage.Image]]:
    """The rows from `first` to before `last` in bands, each with the number of its own first row.

    The number of rows in a band is a multiple of `multiple`, but for the last one.
    """
    rows = max(1, _BAND_PIXELS // image.width // multiple) * multiple
    for start in range(first, last, rows):
        yield start, image.crop((0, start, image.width, min(last, start + rows)))


def _is_sideways(orientation: int) -> bool:
    return 5 <= orientation <= 8


def _is_transparent(image: PillowImage.Image) -> bool:
    # Pillow's 16-bit grey has no transparency.
    return not image.mode.startswith("I") and (
        "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "La", "RGBa")
    )


def _on_white(picture: PillowImage.Image) -> PillowImage.Image:
    if picture.mode != "RGBA":
        return picture
    white = PillowImage.new("RGBA", picture.size, (255, 255, 255, 255))
    return PillowImage.alpha_composite(white, picture).convert("RGB")


def _to_rgb_or_rgba(image: PillowImage.Image) -> PillowImage.Image:
    """A picture, or a band of one, in one of two modes."""
    if image.mode in ("RGB", "RGBA") and "transparency" not in image.info:
        return image
    return image.convert("RGBA" if _is_transparent(image) else "RGB")
