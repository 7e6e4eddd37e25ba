"""How many parts the bytes of a picture may have, and how large a colour profile may be.

Pillow parses metadata in Python, whatever its amount, and LittleCMS is a large parser.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TypeVar

from serving.errors import InvalidPicture

T = TypeVar("T")

# Segments of a JPEG before its pixels, chunks of a PNG or WebP, blocks of a GIF. A file of 20 MiB in pieces of 4 KiB
# has 5,000.
MAX_PARTS = 10_000
DAMAGED = "The picture is damaged or cut short; send the whole file."
# A larger profile is ignored. Those of printers have 0.5 to 3 MB.
MAX_PROFILE_BYTES = 4 * 1024 * 1024
# sRGB, Display P3, Adobe RGB, ProPhoto and their like have up to some kilobytes, and up to 20 tags.
MAX_PLAIN_BYTES, _MAX_PLAIN_TAGS = 16 * 1024, 64
_HEADER_BYTES = 128
_PLAIN_CURVES = (b"curv", b"para")
# Three primaries and a curve for each channel, or one curve for grey (ICC.1:2022, 8.4.3).
_COLUMNS, _CURVES = (b"rXYZ", b"gXYZ", b"bXYZ"), (b"rTRC", b"gTRC", b"bTRC", b"kTRC")
_TABLES = (b"A2B", b"B2A", b"D2B", b"B2D", b"pre", b"gam")


def limited(parts: Iterator[T], what: str) -> Iterator[T]:
    """The same parts. Raises InvalidPicture if there are more than MAX_PARTS of them."""
    for count, part in enumerate(parts):
        if count >= MAX_PARTS:
            raise too_many(what, MAX_PARTS)
        yield part


def too_many(what: str, most: int) -> InvalidPicture:
    return InvalidPicture(
        f"The picture has more than {most} {what}, which no camera writes; open it and save it again."
    )


def is_plain(profile: bytes) -> bool:
    """Whether a profile is small and made of primaries and curves only, as those of cameras and screens are.

    LittleCMS reads such a profile in a thread of the gateway. What has tables is read in a decoder process.
    """
    if not _HEADER_BYTES + 4 <= len(profile) <= MAX_PLAIN_BYTES or profile[16:20] not in (b"RGB ", b"GRAY"):
        return False
    (count,) = struct.unpack_from(">I", profile, _HEADER_BYTES)
    if count > _MAX_PLAIN_TAGS or len(profile) < _HEADER_BYTES + 4 + 12 * count:
        return False
    for number in range(count):
        tag, start, size = struct.unpack_from(">4sII", profile, _HEADER_BYTES + 4 + 12 * number)
        kind = profile[start : start + 4]
        if tag.startswith(_TABLES) or start + size > len(profile):
            return False
        if (tag in _CURVES and kind not in _PLAIN_CURVES) or (tag in _COLUMNS and kind != b"XYZ "):
            return False
    return True
