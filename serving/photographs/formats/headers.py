"""What a picture's bytes say before anything is decoded: format, size, and what decoding it takes.

Pillow parses metadata in Python, whatever its amount, and libjpeg goes through a whole picture for each scan. So limits
are checked here, on the raw bytes. Reading a header takes some microseconds for each of its parts, of which there are
at most MAX_PARTS.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from PIL import features

from serving.errors import InvalidPicture, PictureTooLarge
from serving.jobs import EncodedPicture, ImageFormat
from serving.photographs.formats.chunks import png_profile, read_png, read_webp
from serving.photographs.formats.containers import is_avif, is_heic, read_avif, read_bmp, read_gif
from serving.photographs.formats.jpeg import read_jpeg
from serving.photographs.formats.limits import MAX_PLAIN_BYTES, is_plain
from serving.photographs.formats.tiff import is_tiff, read_tiff

Format = Literal["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "RAW"]

# Pillow may be built without libavif.
_AVIF = features.check("avif")
READ_FORMATS = f"PNG, JPEG, WebP, TIFF, BMP{', GIF or AVIF' if _AVIF else ' or GIF'}"

# What is decoded in the gateway's own process: a picture of this size takes some milliseconds.
QUICK_PIXELS, QUICK_BYTES, QUICK_PARTS = 1_100_000, 4 * 1024 * 1024, 500
QUICK_INFLATED = 4

# Bytes for each pixel at the peak, with what turning the picture upright takes: pixels in the file's own layout, at
# most 4, and RGB, 3; or RGB in both of Pillow's layouts, 3 and 4.
_PIXEL_BYTES = 7
# libwebp's two canvases, their copy and Pillow's pixels, 4 each.
_WEBP_PIXEL_BYTES = 16
# The planes of up to 12 bits, 6 at most, RGBA of libavif and its copy, and Pillow's pixels, 4 each.
_AVIF_PIXEL_BYTES = 18
# As in a JPEG. A band of a picture, for which memory is needed beside the picture itself, is at least one row.
_MAX_SIDE = 65_535


@dataclass(frozen=True, slots=True)
class Header:
    """What is known of a picture before it is decoded.

    width, height: pixels, as stored. bits: of a sample, 16 or at most 8. decoded_bytes: memory at the peak of decoding
    it whole. quick: whether that takes some milliseconds at most.
    """

    format: Format
    width: int
    height: int
    decoded_bytes: int
    quick: bool
    bits: int = 8


def read_header(picture: EncodedPicture, max_bytes: int, max_pixels: int) -> Header:
    """Reads a picture's header. Raises InvalidPicture and PictureTooLarge."""
    data = picture.data
    if not data:
        raise InvalidPicture(f"The picture is empty; send the bytes of a {READ_FORMATS} file.")
    if len(data) > max_bytes:
        raise PictureTooLarge(
            f"The picture has {len(data)} bytes, the limit is {max_bytes}; send a smaller one, or ask for a higher "
            "max_picture_bytes (INDOMAIN_MAX_PICTURE_BYTES) of the gateway."
        )
    bits, pixel_bytes = 8, _PIXEL_BYTES
    file_format: Format
    if picture.format is ImageFormat.RAW:
        file_format, quick, width, height = "RAW", True, picture.width, picture.height
        if width < 1 or height < 1:
            raise InvalidPicture("A raw picture needs its width and height in pixels.")
    elif data.startswith(b"\xff\xd8\xff"):
        jpeg = read_jpeg(data)
        file_format, width, height = "JPEG", jpeg.width, jpeg.height
        # Of several scans all coefficients are kept, 2 bytes each, until the last one is read.
        pixel_bytes = max(_PIXEL_BYTES, jpeg.coefficient_bytes + 4)
        quick = not jpeg.scans_follow or len(data) <= QUICK_BYTES // 4
        quick = quick and (not jpeg.profile or is_plain(jpeg.profile))
    elif data.startswith(b"\x89PNG\r\n\x1a\n"):
        png = read_png(data)
        file_format, width, height, bits = "PNG", png.width, png.height, png.bits
        quick = png.parts <= QUICK_PARTS and png.inflated <= QUICK_INFLATED
        quick = quick and (png.profile is None or is_plain(png_profile(data, png, MAX_PLAIN_BYTES)))
    elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        webp = read_webp(data)
        file_format, width, height, pixel_bytes = "WEBP", webp.width, webp.height, _WEBP_PIXEL_BYTES
        quick = webp.parts <= QUICK_PARTS and (not webp.profile or is_plain(webp.profile))
    elif is_tiff(data):
        tiff = read_tiff(data)
        file_format, quick, width, height, bits = "TIFF", False, tiff.width, tiff.height, tiff.bits
        # A strip may be the whole picture.
        pixel_bytes = max(_PIXEL_BYTES, 5 + tiff.pixel_bits // 8)
    elif data.startswith(b"BM"):
        file_format = "BMP"
        width, height, quick = read_bmp(data)
    elif data.startswith((b"GIF87a", b"GIF89a")):
        file_format = "GIF"
        width, height, parts = read_gif(data)
        quick = parts <= QUICK_PARTS
    elif _AVIF and is_avif(data):
        file_format, quick, pixel_bytes = "AVIF", False, _AVIF_PIXEL_BYTES
        width, height = read_avif(data)
    elif is_heic(data) and not is_avif(data):
        raise InvalidPicture(
            "HEIC is not read here; the SDK and the command line convert it. Or save the picture as JPEG."
        )
    else:
        raise InvalidPicture(f"The bytes are not a {READ_FORMATS} picture; convert it to one of these.")
    if width * height > max_pixels:
        raise PictureTooLarge(
            f"The picture has {width} x {height} pixels, the limit is {max_pixels}; send a smaller one, or ask for a "
            "higher max_picture_pixels (INDOMAIN_MAX_PICTURE_PIXELS) of the gateway."
        )
    if max(width, height) > _MAX_SIDE:
        raise PictureTooLarge(
            f"The picture has {width} x {height} pixels, the limit is {_MAX_SIDE} a side; send a smaller one."
        )
    if file_format == "RAW" and len(data) != width * height * 3:
        raise InvalidPicture(
            f"A raw picture of {width} x {height} pixels has {width * height * 3} bytes (RGB), not {len(data)}."
        )
    quick = quick and width * height <= QUICK_PIXELS and len(data) <= QUICK_BYTES
    # The encoded bytes are there twice: as they came, and as Pillow gets them.
    decoded_bytes = width * height * pixel_bytes + 2 * len(data)
    return Header(file_format, width, height, decoded_bytes, quick, bits)
