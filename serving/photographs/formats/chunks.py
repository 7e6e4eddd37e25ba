"""The chunks of PNG (W3C PNG, third edition) and WebP (RFC 9649)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from serving.errors import InvalidPicture
from serving.photographs.formats.limits import DAMAGED, MAX_PROFILE_BYTES, limited, too_many

# Chunks that are inflated, up to 1 MB each. A PNG of 20 MiB could hold thousands.
MAX_INFLATED = 64
_INFLATED = (b"iCCP", b"zTXt", b"iTXt")


@dataclass(frozen=True, slots=True)
class PngHeader:
    """What a PNG says before its pixels.

    bits: of a sample. parts, inflated: how many chunks there are, and how many of them are inflated. profile: start
    and end of the chunk with the ICC profile; None without one.
    """

    width: int
    height: int
    bits: int
    parts: int
    inflated: int
    profile: tuple[int, int] | None


def read_png(data: bytes) -> PngHeader:
    """Reads the header and counts the chunks. Raises InvalidPicture."""
    if data[12:16] != b"IHDR" or len(data) < 33:
        raise InvalidPicture(DAMAGED)
    width, height, bits = struct.unpack_from(">IIB", data, 16)
    if not width or not height:
        raise InvalidPicture(DAMAGED)
    parts = inflated = 0
    profile = None
    for kind, start, end in limited(_png_chunks(data), "chunks"):
        parts += 1
        inflated += kind in _INFLATED
        if kind == b"iCCP" and profile is None:
            profile = start, end
    if inflated > MAX_INFLATED:
        raise too_many("compressed texts and colour profiles", MAX_INFLATED)
    return PngHeader(width, height, bits, parts, inflated, profile)


def png_profile(data: bytes, header: PngHeader, max_bytes: int = MAX_PROFILE_BYTES) -> bytes:
    """The ICC profile of a PNG; empty if there is none, if it is broken, or if it has more than `max_bytes`."""
    if header.profile is None:
        return b""
    start, end = header.profile
    name, separator, rest = data[start + 8 : end - 4].partition(b"\0")
    if not separator or len(name) > 79 or rest[:1] != b"\0":
        return b""
    inflater = zlib.decompressobj()
    try:
        profile = inflater.decompress(rest[1:], max_bytes)
    except zlib.error:
        return b""
    return profile if inflater.eof else b""


def without_profile(data: bytes, header: PngHeader) -> bytes:
    """A PNG without its ICC profile, which Pillow would refuse if it were large."""
    if header.profile is None:
        return data
    start, end = header.profile
    return b"".join([memoryview(data)[:start], memoryview(data)[end:]])


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of each chunk."""
    at = 8
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        yield data[at + 4 : at + 8], at, end
        at = end


@dataclass(frozen=True, slots=True)
class WebpHeader:
    """Size of the canvas, number of chunks, and the ICC profile (empty without one)."""

    width: int
    height: int
    parts: int
    profile: bytes


def read_webp(data: bytes) -> WebpHeader:
    """Reads the header and counts the chunks. Raises InvalidPicture."""
    width, height = _webp_size(data)
    parts, profile = 0, b""
    for kind, start, end in limited(_riff_chunks(data), "chunks"):
        parts += 1
        if kind == b"ICCP" and end - start <= MAX_PROFILE_BYTES:
            profile = data[start:end]
    return WebpHeader(width, height, parts, profile)


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
    raise InvalidPicture(DAMAGED)


def _riff_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind of each chunk, and where its content starts and ends."""
    at = 12
    while at + 8 <= len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        yield data[at : at + 4], at + 8, at + 8 + length
        at += 8 + length + (length & 1)
