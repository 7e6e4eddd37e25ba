"""What a picture's bytes say before anything is decoded: format, size, and what decoding it takes.

Pillow parses metadata in Python, whatever its amount, and libjpeg goes through a whole picture for each scan. So limits
are checked here, on the raw bytes. Reading a header takes some microseconds for each of its parts, of which there are
at most MAX_PARTS.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from serving.errors import InvalidPicture, PictureTooLarge
from serving.jobs import EncodedPicture, ImageFormat

Format = Literal["JPEG", "PNG", "WEBP", "RAW"]

# Segments of a JPEG before its pixels, chunks of a PNG or WebP. A file of 20 MiB in pieces of 4 KiB has 5,000.
MAX_PARTS = 10_000
# Of a progressive JPEG. Encoders write about ten.
MAX_SCANS = 100
# What is decoded in the gateway's own process: a picture of this size takes some milliseconds.
QUICK_PIXELS, QUICK_BYTES, QUICK_PARTS = 1_100_000, 4 * 1024 * 1024, 500
# Chunks that are inflated, up to 1 MB each. A PNG of 20 MiB could hold thousands.
QUICK_INFLATED, MAX_INFLATED = 4, 64
_INFLATED = (b"iCCP", b"zTXt", b"iTXt")

# Bytes for each pixel at the peak, with what turning the picture upright takes: pixels in the file's own layout, at
# most 4, and RGB, 3; or RGB in both of Pillow's layouts, 3 and 4.
_PIXEL_BYTES = 7
# libwebp's two canvases, their copy and Pillow's pixels, 4 each.
_WEBP_PIXEL_BYTES = 16
# As in a JPEG. A band of a picture, for which memory is needed beside the picture itself, is at least one row.
_MAX_SIDE = 65_535
_DAMAGED = "The picture is damaged or cut short; send the whole file."

_JPEG_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF markers
_JPEG_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})
_JPEG_SOF0, _JPEG_SOF1, _JPEG_EOI, _JPEG_SOS = 0xC0, 0xC1, 0xD9, 0xDA
# APP0 and APP14 say how colours are stored. The other APPn, comments and private segments are of no use to a decoder.
_JPEG_METADATA = frozenset({*range(0xE1, 0xEE), 0xEF, *range(0xF0, 0xFF)})
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
# Between two segments before the pixels there should be nothing; Pillow passes over anything.
_JPEG_MAX_GAP = 256
_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"


@dataclass(frozen=True, slots=True)
class Header:
    """What is known of a picture before it is decoded.

    width, height: pixels, as stored. decoded_bytes: memory at the peak of decoding it whole. quick: whether that takes
    some milliseconds at most.
    """

    format: Format
    width: int
    height: int
    decoded_bytes: int
    quick: bool


def read_header(picture: EncodedPicture, max_bytes: int, max_pixels: int) -> Header:
    """Reads a picture's header. Raises InvalidPicture and PictureTooLarge."""
    data = picture.data
    if not data:
        raise InvalidPicture("The picture is empty; send PNG, JPEG or WebP bytes.")
    if len(data) > max_bytes:
        raise PictureTooLarge(
            f"The picture has {len(data)} bytes, the limit is {max_bytes}; send a smaller one."
        )
    quick, pixel_bytes = True, _PIXEL_BYTES
    file_format: Format
    if picture.format is ImageFormat.RAW:
        file_format, (width, height) = "RAW", (picture.width, picture.height)
        if width < 1 or height < 1:
            raise InvalidPicture("A raw picture needs its width and height in pixels.")
    elif data.startswith(b"\xff\xd8\xff"):
        jpeg = read_jpeg(data)
        file_format, width, height = "JPEG", jpeg.width, jpeg.height
        # Of several scans all coefficients are kept, 2 bytes each, until the last one is read.
        pixel_bytes = max(_PIXEL_BYTES, jpeg.coefficient_bytes + 4)
        quick = not jpeg.scans_follow or len(data) <= QUICK_BYTES // 4
    elif data.startswith(b"\x89PNG\r\n\x1a\n"):
        file_format, (width, height) = "PNG", _png_size(data)
        quick = _check_png_chunks(data)
    elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        file_format, (width, height) = "WEBP", _webp_size(data)
        pixel_bytes = _WEBP_PIXEL_BYTES
        quick = _count_parts(_riff_chunks(data), "chunks") <= QUICK_PARTS
    else:
        raise InvalidPicture("The bytes are not a PNG, JPEG or WebP picture; convert it to one of these.")
    if width * height > max_pixels:
        raise PictureTooLarge(
            f"The picture has {width} x {height} pixels, the limit is {max_pixels}; send a smaller one."
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
    return Header(file_format, width, height, width * height * pixel_bytes + 2 * len(data), quick)


# --- JPEG (ITU-T T.81, annex B) -----------------------------------------------------------------------------------


@dataclass(slots=True)
class JpegHeader:
    """The segments of a JPEG before its first scan.

    kept: those that a decoder needs, as they stand in the file. exif, xmp: the metadata with the picture's orientation.
    scan_start: where the first scan begins. scans_follow: whether more scans follow it. coefficient_bytes: memory for
    the coefficients of several scans, for each pixel.
    """

    width: int = 0
    height: int = 0
    components: int = 0
    coefficient_bytes: int = 0
    scan_start: int = 0
    scans_follow: bool = False
    exif: bytes = b""
    xmp: bytes = b""
    kept: list[bytes] = field(default_factory=list)


def read_jpeg(data: bytes) -> JpegHeader:
    """Reads the segments before the first scan. Raises InvalidPicture."""
    header, progressive = JpegHeader(), False
    for count, (marker, start, end) in enumerate(_jpeg_segments(data, 2, _JPEG_MAX_GAP)):
        body = memoryview(data)[start + 4 : end]
        if count >= MAX_PARTS:
            raise _too_many("segments", MAX_PARTS)
        if marker == _JPEG_SOS:
            header.scan_start = start
            header.scans_follow = len(body) > 0 and (progressive or body[0] < header.components)
            if not header.scans_follow:
                header.coefficient_bytes = 0
            break
        if marker in _JPEG_SIZES:
            if header.components or len(body) < 6 or len(body) < 6 + 3 * body[5]:
                raise InvalidPicture(_DAMAGED)
            header.height, header.width, header.components = struct.unpack_from(">HHB", body, 1)
            header.coefficient_bytes = _coefficient_bytes(body)
            progressive = marker not in (_JPEG_SOF0, _JPEG_SOF1)
        if marker not in _JPEG_METADATA:
            header.kept.append(data[start:end])
        elif body[:6] == _EXIF and not header.exif:
            header.exif = bytes(body)
        elif body[: len(_XMP)] == _XMP:
            header.xmp = bytes(body)
    if not header.scan_start or not header.width or not header.height:
        raise InvalidPicture(_DAMAGED)
    return header


def check_scans(data: bytes, header: JpegHeader) -> None:
    """Raises InvalidPicture for more than MAX_SCANS scans. It looks at every byte: about 1 ms a megabyte."""
    # A quick look first. It may count too many, as anything may follow the picture's end.
    if not header.scans_follow or data.count(b"\xff\xda", header.scan_start) <= MAX_SCANS:
        return
    scans = 0
    for count, (marker, _, _) in enumerate(_jpeg_segments(data, header.scan_start, len(data))):
        scans += marker == _JPEG_SOS
        if scans > MAX_SCANS:
            raise _too_many("scans", MAX_SCANS)
        if count > MAX_PARTS:
            raise _too_many("segments", MAX_PARTS)


def _jpeg_segments(data: bytes, start: int, max_gap: int) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of each segment up to the picture's end. Up to `max_gap` bytes between two segments, such
    as the pixels of a scan, are passed over."""
    while (found := _JPEG_MARKER.search(data, start, start + max_gap + 2)) is not None:
        marker, start = data[found.end() - 1], found.end() - 2
        if marker == _JPEG_EOI:
            return
        end = start + 2
        if marker not in _JPEG_WITHOUT_LENGTH:
            end += int.from_bytes(data[end : end + 2], "big")
            if end < start + 4 or end > len(data):
                return
            yield marker, start, end
        start = end


def _coefficient_bytes(frame: memoryview) -> int:
    """Memory for the coefficients, 2 bytes each, for each pixel. frame: the body of a SOF segment."""
    factors = [(frame[at] >> 4, frame[at] & 15) for at in range(7, 7 + 3 * frame[5], 3)]
    most_samples = max((across for across, _ in factors), default=0) * max(
        (down for _, down in factors), default=0
    )
    samples = sum(across * down for across, down in factors)
    return -(-2 * samples // max(1, most_samples))


# --- PNG and WebP -------------------------------------------------------------------------------------------------


def _png_size(data: bytes) -> tuple[int, int]:
    if data[12:16] != b"IHDR" or len(data) < 33:
        raise InvalidPicture(_DAMAGED)
    width, height = struct.unpack_from(">II", data, 16)
    if not width or not height:
        raise InvalidPicture(_DAMAGED)
    return width, height


def _check_png_chunks(data: bytes) -> bool:
    """Whether a PNG has few enough chunks to be read quickly. Raises InvalidPicture for too many."""
    kinds = list(_limited(_png_chunks(data), "chunks"))
    inflated = sum(kind in _INFLATED for kind in kinds)
    if inflated > MAX_INFLATED:
        raise _too_many("compressed texts and colour profiles", MAX_INFLATED)
    return len(kinds) <= QUICK_PARTS and inflated <= QUICK_INFLATED


def _png_chunks(data: bytes) -> Iterator[bytes]:
    at = 8
    while at + 12 <= len(data):
        yield data[at + 4 : at + 8]
        at += 12 + int.from_bytes(data[at : at + 4], "big")


def _webp_size(data: bytes) -> tuple[int, int]:
    """The size of the canvas. Pillow reserves memory for all of it as soon as it opens a WebP."""
    kind = data[12:16]
    if len(data) >= 30 and kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if len(data) >= 30 and kind == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return 1 + (bits & 0x3FFF), 1 + ((bits >> 14) & 0x3FFF)
    if len(data) >= 30 and kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    raise InvalidPicture(_DAMAGED)


def _riff_chunks(data: bytes) -> Iterator[bytes]:
    at = 12
    while at + 8 <= len(data):
        yield data[at : at + 4]
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8 + length + (length & 1)


def _limited(parts: Iterator[bytes], what: str) -> Iterator[bytes]:
    for count, part in enumerate(parts):
        if count >= MAX_PARTS:
            raise _too_many(what, MAX_PARTS)
        yield part


def _count_parts(parts: Iterator[bytes], what: str) -> int:
    return sum(1 for _ in _limited(parts, what))


def _too_many(what: str, most: int) -> InvalidPicture:
    return InvalidPicture(
        f"The picture has more than {most} {what}, which no camera writes; open it and save it again."
    )


# --- orientation --------------------------------------------------------------------------------------------------


def read_orientation(exif: bytes, xmp: bytes) -> int:
    """How a picture lies, 1 to 8, from its EXIF block or else its XMP packet; 1, upright, if neither tells.

    Pillow would decode all tags of the block.
    """
    try:
        found = _exif_orientation(exif.removeprefix(_EXIF))
    except struct.error:
        # A picture with intact pixels is not refused for its EXIF block.
        return 1
    if found is None and (match := re.search(rb'tiff:Orientation(="|>)([0-9])', xmp)):
        found = int(match[2])
    return found or 1


def _exif_orientation(tiff: bytes) -> int | None:
    """The tag 0x0112 of the first directory of a TIFF structure."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return None
    (at,) = struct.unpack_from(order + "I", tiff, 4)
    (entries,) = struct.unpack_from(order + "H", tiff, at)
    for entry in range(at + 2, at + 2 + 12 * entries, 12):
        tag, kind, count = struct.unpack_from(order + "HHI", tiff, entry)
        if tag == 0x0112 and count == 1 and kind in (3, 4):
            value: int = struct.unpack_from(order + ("H" if kind == 3 else "I"), tiff, entry + 8)[0]
            return value
    return None
