"""The sizes of pictures in BMP, GIF and AVIF files, as their first bytes say."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from serving.errors import InvalidPicture
from serving.photographs.formats.limits import DAMAGED, limited

_AVIF_BRANDS = (b"avif", b"avis")
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_GIF_EXTENSION, _GIF_IMAGE = 0x21, 0x2C
_UNCOMPRESSED, _BITFIELDS = 0, 3


def read_bmp(data: bytes) -> tuple[int, int, bool]:
    """Width and height, and whether the pixels are stored as they are. Raises InvalidPicture."""
    if len(data) < 34:
        raise InvalidPicture(DAMAGED)
    (header_bytes,) = struct.unpack_from("<I", data, 14)
    if header_bytes == 12:
        width, height = struct.unpack_from("<HH", data, 18)
        return _checked(width, height), height, True
    width, height, _, _, compression = struct.unpack_from("<iiHHI", data, 18)
    # The height is negative if the first row is the uppermost one.
    return _checked(width, height), abs(height), compression in (_UNCOMPRESSED, _BITFIELDS)


def _checked(width: int, height: int) -> int:
    if width < 1 or not height:
        raise InvalidPicture(DAMAGED)
    return width


def read_gif(data: bytes) -> tuple[int, int, int]:
    """Width and height of the canvas, and the number of blocks before the first picture. Raises InvalidPicture."""
    if len(data) < 13:
        raise InvalidPicture(DAMAGED)
    width, height = struct.unpack_from("<HH", data, 6)
    if not width or not height:
        raise InvalidPicture(DAMAGED)
    return width, height, sum(1 for _ in limited(_gif_blocks(data), "blocks"))


def _gif_blocks(data: bytes) -> Iterator[int]:
    """Where the blocks of extensions before the first picture begin."""
    flags = data[10]
    at = 13 + (3 << ((flags & 7) + 1) if flags & 0x80 else 0)
    while at + 2 < len(data) and data[at] != _GIF_IMAGE:
        # What is neither a picture nor an extension is passed over.
        if data[at] != _GIF_EXTENSION:
            at += 1
            yield at
            continue
        at += 2
        while at < len(data) and data[at]:
            yield at
            at += 1 + data[at]
        at += 1


def is_avif(data: bytes) -> bool:
    return data[4:8] == b"ftyp" and any(brand in _AVIF_BRANDS for brand in _brands(data))


def is_heic(data: bytes) -> bool:
    """Whether a file is HEIC or HEIF, which are not read here."""
    return data[4:8] == b"ftyp" and any(brand in _HEIC_BRANDS for brand in _brands(data))


def _brands(data: bytes) -> list[bytes]:
    """The brands of an ISO base media file: the major one, and those that it is compatible with."""
    end = min(int.from_bytes(data[:4], "big"), 128)
    return [data[8:12], *(data[at : at + 4] for at in range(16, end, 4))]


def read_avif(data: bytes) -> tuple[int, int]:
    """The largest size that the file names (boxes `ispe` of ISO/IEC 23008-12). Raises InvalidPicture.

    A picture in tiles, or with a thumbnail, names several sizes. libavif checks which one counts.
    """
    meta = _box(data, 0, len(data), b"meta")
    # `meta` has a version and flags before its boxes.
    properties = meta and _box(data, meta[0] + 4, meta[1], b"iprp")
    container = properties and _box(data, *properties, b"ipco")
    if not container:
        raise InvalidPicture(DAMAGED)
    width = height = 0
    for kind, start, end in limited(_boxes(data, *container), "boxes"):
        if kind == b"ispe" and end - start >= 12:
            found = struct.unpack_from(">II", data, start + 4)
            if found[0] * found[1] > width * height:
                width, height = found
    if not width or not height:
        raise InvalidPicture(DAMAGED)
    return width, height


def _box(data: bytes, start: int, end: int, wanted: bytes) -> tuple[int, int] | None:
    """Where the content of the first box of a kind starts and ends."""
    for kind, first, last in limited(_boxes(data, start, end), "boxes"):
        if kind == wanted:
            return first, last
    return None


def _boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind of each box, and where its content starts and ends."""
    while start + 8 <= end:
        length, kind = struct.unpack_from(">I4s", data, start)
        content = start + 8
        if length == 1 and start + 16 <= end:
            (length,) = struct.unpack_from(">Q", data, content)
            content += 8
        last = start + length if length else end
        if last < content or last > end:
            return
        yield kind, content, last
        start = last
