"""Metadata of a photograph, and what of it goes into an answer: EXIF, XMP, resolution, ICC profile.

Previews of the picture are left out, as they show the face as it was: the thumbnail, the note of the camera's maker
(which often has one), and whatever XMP holds in base64. All else is copied as bytes; nothing of it is decoded.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from PIL import Image as PillowImage

from serving.photographs.formats.tiff import (
    ORIENTATION,
    Directory,
    Entry,
    first_directory,
    read_directory,
    resolution_of,
    write_directory,
)

# A JPEG has room for so much in one segment.
MAX_EXIF_BYTES, MAX_XMP_BYTES = 65_000, 65_000
# With its previews. Looking through a megabyte takes 0.1 s, in which nothing else runs in the gateway.
_MAX_READ_XMP_BYTES = 1024 * 1024
EXIF_NAME = b"Exif\0\0"

_EXIF_DIRECTORY, _GPS_DIRECTORY = 0x8769, 0x8825
_MAKER_NOTE, _INTEROPERABILITY, _WIDTH, _HEIGHT = 0x927C, 0xA005, 0xA002, 0xA003
# Of the first directory: what describes the photograph, not how its file stores pixels. 0x9C9B to 0x9C9F: Windows'
# title, comment, author, keywords, subject; 0x4746, 0x4749: rating.
_DESCRIPTIVE = frozenset(
    {*(270, 271, 272, 282, 283, 296, 305, 306, 315, 316, 531, 33432, 0x4746, 0x4749), *range(0x9C9B, 0x9CA0)}
)
_JPEG_START = b"\xff\xd8\xff"
_LONG = 4
# Long runs of base64, whose lines may be broken. A run is looked at from its first byte only: otherwise each byte of
# those that are too short would be looked at hundreds of times.
_BASE64 = re.compile(rb"(?<![A-Za-z0-9+/=\s&#;])[A-Za-z0-9+/=\s&#;]{600,}")
_UNBROKEN = re.compile(rb"(?<![A-Za-z0-9+/])[A-Za-z0-9+/]{50}")


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a file says of its photograph.

    exif: a TIFF structure. xmp: an XMP packet. profile: ICC. resolution: pixels an inch, across and down. What is
    missing is empty or None.
    """

    exif: bytes = b""
    xmp: bytes = b""
    profile: bytes = b""
    resolution: tuple[float, float] | None = None

    @property
    def orientation(self) -> int:
        """How the stored picture lies, 1 to 8 (EXIF's numbers)."""
        return read_orientation(self.exif, self.xmp)


def loaded_metadata(image: PillowImage.Image) -> Metadata:
    """The metadata of a PNG, WebP, GIF, BMP or AVIF that Pillow has loaded."""
    exif = _bytes(image.info.get("exif")).removeprefix(EXIF_NAME)
    profile = image.info.get("Raw profile type exif")
    if not exif and isinstance(profile, str):
        # As ImageMagick writes it: three lines before the hexadecimal digits.
        try:
            exif = bytes.fromhex("".join(profile.split("\n")[3:])).removeprefix(EXIF_NAME)
        except ValueError:
            exif = b""
    xmp = _bytes(image.info.get("xmp"))
    return Metadata(exif, xmp, _bytes(image.info.get("icc_profile")), loaded_resolution(image))


def loaded_resolution(image: PillowImage.Image) -> tuple[float, float] | None:
    """Pixels an inch, if Pillow has found them."""
    found = image.info.get("dpi")
    if not isinstance(found, tuple) or len(found) != 2:
        return None
    across, down = (float(value) for value in found)
    return (across, down) if 0 < across < 1e6 and 0 < down < 1e6 else None


def _bytes(value: object) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8", "replace")
    return value if isinstance(value, bytes) else b""


def read_orientation(exif: bytes, xmp: bytes) -> int:
    """How a picture lies, 1 to 8, from its EXIF block or else its XMP packet; 1, upright, if neither says."""
    try:
        found = first_directory(exif.removeprefix(EXIF_NAME)).number(ORIENTATION)
    # A picture with intact pixels is not refused for its EXIF block.
    except (ValueError, struct.error):
        found = 0
    if not found and (match := re.search(rb'tiff:Orientation(?:="|>)([0-9])', xmp)):
        found = int(match[1])
    return found or 1


# --- for the answer -----------------------------------------------------------------------------------------------


def answered_metadata(metadata: Metadata, width: int, height: int) -> Metadata:
    """The metadata of an upright photograph of that size, without previews."""
    exif, resolution = b"", metadata.resolution
    try:
        found = first_directory(metadata.exif)
        exif = _upright_exif(metadata.exif, found, width, height)
        resolution = resolution or resolution_of(found)
    except (ValueError, struct.error):
        pass
    xmp = _upright_xmp(metadata.xmp)
    if resolution and 5 <= metadata.orientation <= 8:
        resolution = resolution[::-1]
    return Metadata(exif, xmp if len(xmp) <= MAX_XMP_BYTES else b"", metadata.profile, resolution)


def _upright_exif(exif: bytes, found: Directory, width: int, height: int) -> bytes:
    """An EXIF block with what describes the photograph, of at most MAX_EXIF_BYTES."""
    order, left = found.order, MAX_EXIF_BYTES - 100

    def kept(entries: Iterable[Entry]) -> list[Entry]:
        nonlocal left
        chosen = []
        for entry in entries:
            size = 12 + len(entry.value) + 1
            if _JPEG_START not in entry.value and size <= left:
                left -= size
                chosen.append(entry)
        return chosen

    def directory_at(tag: int) -> dict[int, Entry]:
        try:
            return read_directory(exif, order, found.number(tag)).entries if tag in found.entries else {}
        except (ValueError, struct.error):
            return {}

    first = kept(entry for tag, entry in found.entries.items() if tag in _DESCRIPTIVE)
    if ORIENTATION in found.entries:
        first.append(_number(order, ORIENTATION, 1))
    camera = directory_at(_EXIF_DIRECTORY)
    details = kept(
        entry for tag, entry in camera.items() if tag not in (_MAKER_NOTE, _INTEROPERABILITY, _WIDTH, _HEIGHT)
    )
    details += [
        _number(order, tag, side) for tag, side in ((_WIDTH, width), (_HEIGHT, height)) if tag in camera
    ]
    place = kept(directory_at(_GPS_DIRECTORY).values())
    within = [(tag, rows) for tag, rows in ((_EXIF_DIRECTORY, details), (_GPS_DIRECTORY, place)) if rows]
    if not first and not within:
        return b""
    # The directories follow each other. The first one's length does not depend on where the others lie.
    start = 8
    pointers = [_number(order, tag, 0) for tag, _ in within]
    behind = start + len(write_directory(order, [*first, *pointers], start))
    parts, pointers = [], []
    for tag, rows in within:
        pointers.append(_number(order, tag, behind))
        parts.append(write_directory(order, rows, behind))
        behind += len(parts[-1])
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", start)
    return b"".join([head, write_directory(order, [*first, *pointers], start), *parts])


def _number(order: str, tag: int, value: int) -> Entry:
    return Entry(tag, _LONG, 1, struct.pack(order + "I", value))


def _upright_xmp(xmp: bytes) -> bytes:
    """An XMP packet that says that the picture is upright, and holds no pictures. Empty for a very long one."""
    if len(xmp) > _MAX_READ_XMP_BYTES:
        return b""
    xmp = re.sub(rb'(tiff:Orientation(?:="|>))[0-9]', rb"\g<1>1", xmp)
    return _BASE64.sub(lambda run: b"" if _UNBROKEN.search(run[0]) else run[0], xmp)
