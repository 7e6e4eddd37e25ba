"""Decodes and encodes pictures: bytes <-> uint8 [H, W, 3], or a whole photograph (photograph.py).

Input is PNG, JPEG, WebP or raw RGB. Limits are checked against the header, before anything is decoded. EXIF
orientation is applied; grey, palette, 16-bit and CMYK become RGB; transparent pixels become white; an animation gives
its first frame; colour profiles are ignored (values are taken as sRGB). A centred square is resized with Lanczos.
"""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from PIL import Image as PillowImage
from PIL import UnidentifiedImageError

from serving.errors import InvalidOption, InvalidPicture, PictureTooLarge
from serving.jobs import EncodedPicture, Image, ImageFormat, OutputOptions
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
# Pillow's own check for decompression bombs stays on after ours; its warning is of no use.
warnings.simplefilter("ignore", PillowImage.DecompressionBombWarning)


def centre_square(
    picture: EncodedPicture, resolution: int, *, max_bytes: int, max_pixels: int
) -> tuple[Image, tuple[int, int]]:
    """Decodes the centred square, uint8 [resolution, resolution, 3]; also the upright picture's width and height.

    Raises InvalidPicture and PictureTooLarge. It takes processor time: call it off the event loop.
    """
    return _read(picture, lambda image: _centre_square(image, resolution), max_bytes, max_pixels)


def open_photograph(picture: EncodedPicture, *, max_bytes: int, max_pixels: int) -> Photograph:
    """Decodes a whole picture, upright, with memory for all its pixels. Raises InvalidPicture and PictureTooLarge."""
    return _read(picture, lambda image: Photograph(_upright(image)), max_bytes, max_pixels)


def _read(
    picture: EncodedPicture, use: Callable[[PillowImage.Image], T], max_bytes: int, max_pixels: int
) -> T:
    """Checks the limits, opens a picture and passes it to `use`. Raises InvalidPicture and PictureTooLarge."""
    if not picture.data:
        raise InvalidPicture("The picture is empty; send PNG, JPEG or WebP bytes.")
    if len(picture.data) > max_bytes:
        raise PictureTooLarge(
            f"The picture has {len(picture.data)} bytes, the limit is {max_bytes}; send a smaller one."
        )
    if picture.format is ImageFormat.RAW:
        return use(_from_raw(picture, max_pixels))
    _check_pixels(_webp_size(picture.data), max_pixels)
    try:
        with PillowImage.open(io.BytesIO(picture.data), formats=_ACCEPTED) as image:
            _check_pixels(image.size, max_pixels)
            return use(image)
    except (InvalidPicture, PictureTooLarge):
        raise
    except UnidentifiedImageError:
        raise InvalidPicture(
            "The bytes are not a PNG, JPEG or WebP picture; convert it to one of these."
        ) from None
    except PillowImage.DecompressionBombError:
        raise PictureTooLarge(f"The picture has more than {max_pixels} pixels; send a smaller one.") from None
    # Decoders raise errors of many types on bytes that are made to break them.
    except Exception:
        raise InvalidPicture("The picture is damaged or cut short; send the whole file.") from None


def encode_picture(image: Image, output: OutputOptions) -> EncodedPicture:
    """Encodes uint8 [H, W, 3] in the requested format."""
    height, width = image.shape[:2]
    if output.format is ImageFormat.RAW:
        return EncodedPicture(np.ascontiguousarray(image).tobytes(), ImageFormat.RAW, width, height)
    target = io.BytesIO()
    picture = PillowImage.fromarray(image)
    if output.format is ImageFormat.PNG:
        # Level 6 takes three times as long and saves 2 %.
        picture.save(target, "PNG", compress_level=3)
    elif output.format is ImageFormat.JPEG:
        picture.save(target, "JPEG", quality=output.quality, subsampling=0 if output.quality >= 90 else 2)
    else:
        picture.save(target, "WEBP", quality=output.quality, lossless=output.quality == 100, method=2)
    return EncodedPicture(target.getvalue(), output.format, width, height)


def check_output(output: OutputOptions) -> None:
    """Raises InvalidOption if the quality is out of its range."""
    if not 1 <= output.quality <= 100:
        raise InvalidOption(f"output.quality is {output.quality}; it goes from 1 to 100.")


def _check_pixels(size: tuple[int, int] | None, max_pixels: int) -> None:
    if size is not None and size[0] * size[1] > max_pixels:
        raise PictureTooLarge(
            f"The picture has {size[0]} x {size[1]} pixels, the limit is {max_pixels}; send a smaller one."
        )


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """Width and height from a WebP header; None for other formats.

    Pillow cannot be asked: it reserves memory for the whole canvas as soon as it opens a WebP.
    """
    if len(data) < 30 or data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        return None
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return 1 + (bits & 0x3FFF), 1 + ((bits >> 14) & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


def _from_raw(picture: EncodedPicture, max_pixels: int) -> PillowImage.Image:
    width, height = picture.width, picture.height
    if width < 1 or height < 1:
        raise InvalidPicture("A raw picture needs its width and height in pixels.")
    _check_pixels((width, height), max_pixels)
    if len(picture.data) != width * height * 3:
        raise InvalidPicture(
            f"A raw picture of {width} x {height} pixels has {width * height * 3} bytes (RGB), not {len(picture.data)}."
        )
    return PillowImage.frombytes("RGB", (width, height), picture.data)


def _centre_square(image: PillowImage.Image, resolution: int) -> tuple[Image, tuple[int, int]]:
    full = image.size
    if image.format == "JPEG":
        # The decoder may halve the size as it goes; at four times the wanted size the result stays within
        # one level of 255.
        image.draft(None, (4 * resolution, 4 * resolution))
    transparent = "transparency" in image.info
    image.load()
    turn = _TURNS.get(_orientation(image))
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    # A centred square stays centred when it is turned: so turn the small picture, not the large one.
    box = (left, top, left + side, top + side)
    square = _to_rgb_or_rgba(image, transparent)
    if square.size != (resolution, resolution):
        square = square.resize(
            (resolution, resolution), PillowImage.Resampling.LANCZOS, box=box, reducing_gap=3.0
        )
    if turn is not None:
        square = square.transpose(turn)
    sideways = turn is not None and _orientation(image) >= 5
    return np.array(_on_white(square), dtype=np.uint8), full[::-1] if sideways else full


def _upright(image: PillowImage.Image) -> PillowImage.Image:
    transparent = "transparency" in image.info
    image.load()
    turn = _TURNS.get(_orientation(image))
    whole = _on_white(_to_rgb_or_rgba(image, transparent))
    return whole.copy() if turn is None else whole.transpose(turn)


def _on_white(picture: PillowImage.Image) -> PillowImage.Image:
    if picture.mode != "RGBA":
        return picture
    white = PillowImage.new("RGBA", picture.size, (255, 255, 255, 255))
    return PillowImage.alpha_composite(white, picture).convert("RGB")


def _orientation(image: PillowImage.Image) -> int:
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:
        return 1  # a picture with intact pixels is not refused for its EXIF block


def _to_rgb_or_rgba(image: PillowImage.Image, transparent: bool) -> PillowImage.Image:
    if image.mode in ("RGB", "RGBA") and not transparent:
        return image
    if image.mode.startswith("I"):
        # 16-bit grey: Pillow would clip it instead of scaling.
        grey = np.asarray(image).astype(np.int64) >> 8
        return PillowImage.fromarray(grey.clip(0, 255).astype(np.uint8)).convert("RGB")
    if transparent or image.mode in ("LA", "PA", "La", "RGBa"):
        return image.convert("RGBA")
    return image.convert("RGB")
