"""Directories of TIFF (TIFF 6.0): of a TIFF picture, and of the EXIF block in any other picture."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from serving.errors import InvalidPicture
from serving.photographs.formats.limits import DAMAGED, MAX_PROFILE_BYTES

Order = Literal["<", ">"]

ORIENTATION = 0x0112
_MAX_ENTRIES = 2_000
# Of a pixel.
_MAX_SAMPLES = 8
_ORDERS: dict[bytes, Order] = {b"II*\0": "<", b"MM\0*": ">"}
# Bytes of a value of each type: BYTE, ASCII, SHORT, LONG, RATIONAL, the signed ones, FLOAT, DOUBLE, IFD.
_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_SHORT, _LONG, _RATIONAL = 3, 4, 5

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_PLANES, _TILE_WIDTH, _TILE_HEIGHT, _SAMPLE_FORMAT, _XMP, _PROFILE = 284, 322, 323, 339, 700, 34675
# How pixels are stored. Pillow gets these tags only: the others are of no use to a decoder.
_PIXEL_TAGS = frozenset(
    {*(256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325, 332, 336, 338)}
    | {*(339, 340, 341, 347, 512, 513, 514, 519, 520, 521, 529, 530, 531, 532)}
)
# None, LZW, JPEG, deflate (both numbers), PackBits. The others are for fax machines, or seldom read.
_COMPRESSIONS = (1, 5, 7, 8, 32946, 32773)
_WHITE_IS_ZERO, _UNSIGNED = 0, 1
# Files of cameras' sensors (DNG, NEF, ARW, CR2) are TIFFs whose first picture is a small preview, or of colour filters.
_KIND_OF_PICTURE, _DNG_VERSION, _CR2_MARK = 254, 50706, b"CR"


@dataclass(frozen=True, slots=True)
class Entry:
    """One value of a directory: its tag, its type, how many there are, and its bytes."""

    tag: int
    type: int
    count: int
    value: bytes


@dataclass(frozen=True, slots=True)
class Directory:
    """The entries of a directory in a TIFF structure, by their tags. order: of the bytes in a number."""

    order: Order
    entries: dict[int, Entry]

    def number(self, tag: int, default: int = 0) -> int:
        """A whole number; of several, the first."""
        return next(iter(self.numbers(tag, 1)), default)

    def numbers(self, tag: int, most: int) -> Sequence[int]:
        """Whole numbers, the first `most` of them: a file may hold millions. Empty if the tag is missing or of another
        type."""
        entry = self.entries.get(tag)
        code = {1: "B", _SHORT: "H", _LONG: "I", 13: "I"}.get(entry.type if entry else 0)
        return (
            struct.unpack_from(f"{self.order}{min(entry.count, most)}{code}", entry.value)
            if entry and code
            else ()
        )

    def fraction(self, tag: int) -> float:
        """A rational number; 0 if the tag is missing, of another type, or divides by 0."""
        entry = self.entries.get(tag)
        if entry is None or entry.type != _RATIONAL or entry.count != 1:
            return 0.0
        above, below = struct.unpack(self.order + "II", entry.value)
        return above / below if below else 0.0


def first_directory(tiff: bytes) -> Directory:
    """The first directory of a TIFF structure. Raises ValueError if it is none, or damaged."""
    order = _ORDERS.get(tiff[:4])
    if order is None or len(tiff) < 8:
        raise ValueError("not a TIFF structure")
    return read_directory(tiff, order, struct.unpack_from(order + "I", tiff, 4)[0])


def read_directory(tiff: bytes, order: Order, start: int) -> Directory:
    """The directory at a place. Raises ValueError if it does not lie in the bytes, or says that it has more of them."""
    if start + 2 > len(tiff):
        raise ValueError("a directory beyond the end")
    (count,) = struct.unpack_from(order + "H", tiff, start)
    if count > _MAX_ENTRIES or start + 2 + 12 * count > len(tiff):
        raise ValueError("a directory beyond the end")
    entries: dict[int, Entry] = {}
    left = len(tiff)
    for at in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, length = struct.unpack_from(order + "HHI", tiff, at)
        size = _TYPE_BYTES.get(kind, 0) * length
        place = at + 8 if size <= 4 else struct.unpack_from(order + "I", tiff, at + 8)[0]
        # Values may not lie upon each other: together they are no longer than the file.
        left -= size
        if left < 0:
            raise ValueError("values that lie upon each other")
        # Nothing that is read here is larger than a profile may be.
        if not size or size > MAX_PROFILE_BYTES or tag in entries:
            continue
        if place + size > len(tiff):
            raise ValueError("a value beyond the end")
        entries[tag] = Entry(tag, kind, length, tiff[place : place + size])
    return Directory(order, entries)


def write_directory(order: Order, entries: Sequence[Entry], start: int) -> bytes:
    """The bytes of a directory that lies at `start`, with its values behind it and no directory after it."""
    entries = sorted(entries, key=lambda entry: entry.tag)
    rows, values = [struct.pack(order + "H", len(entries))], b""
    behind = start + 2 + 12 * len(entries) + 4
    for entry in entries:
        place = entry.value.ljust(4, b"\0")
        if len(entry.value) > 4:
            place = struct.pack(order + "I", behind + len(values))
            values += entry.value + b"\0" * (len(entry.value) & 1)
        rows.append(struct.pack(order + "HHI", entry.tag, entry.type, entry.count) + place)
    return b"".join([*rows, bytes(4), values])


@dataclass(frozen=True, slots=True)
class TiffHeader:
    """What a TIFF says of its first picture.

    bits: of a sample. pixel_bits: of all samples of a pixel. resolution: pixels an inch; None if it is not known.
    """

    width: int
    height: int
    bits: int
    pixel_bits: int
    profile: bytes
    xmp: bytes
    resolution: tuple[float, float] | None
    orientation: int


def is_tiff(data: bytes) -> bool:
    return data[:4] in _ORDERS


def read_tiff(data: bytes) -> TiffHeader:
    """Reads the first directory. Raises InvalidPicture."""
    try:
        found = first_directory(data)
    except (ValueError, struct.error):
        raise InvalidPicture(DAMAGED) from None
    if found.number(_KIND_OF_PICTURE) & 1 or _DNG_VERSION in found.entries or data[8:10] == _CR2_MARK:
        raise InvalidPicture(
            "The file holds what a camera's sensor saw (a raw file), or begins with a small preview; develop it, and "
            "send the JPEG, PNG or TIFF."
        )
    width, height = found.number(_WIDTH), found.number(_HEIGHT)
    if not width or not height:
        raise InvalidPicture(DAMAGED)
    bits = found.numbers(_BITS, _MAX_SAMPLES + 1) or (1,)
    whole = all(kind == _UNSIGNED for kind in found.numbers(_SAMPLE_FORMAT, _MAX_SAMPLES))
    # Pillow mistakes deep samples that are stored in planes, of 12 bits, or with white as 0.
    odd = found.number(_PHOTOMETRIC) == _WHITE_IS_ZERO or found.number(_PLANES, 1) != 1
    deep = max(bits) > 8 and (odd or max(bits) != 16)
    if found.number(_COMPRESSION, 1) not in _COMPRESSIONS or not whole or deep:
        raise InvalidPicture(
            "The TIFF stores its pixels in a way that is not read here; save it with 8 or 16 bits, without compression "
            "or with LZW or Deflate."
        )
    # A tile may reach beyond the picture, but is not larger than it by much.
    tiles = zip((_TILE_WIDTH, _TILE_HEIGHT), (width, height), strict=True)
    if any(found.number(tag) > side + 1024 for tag, side in tiles) or len(bits) > _MAX_SAMPLES:
        raise InvalidPicture(DAMAGED)
    return TiffHeader(
        width,
        height,
        max(bits),
        sum(bits),
        _short_value(found, _PROFILE),
        _short_value(found, _XMP),
        resolution_of(found),
        found.number(ORIENTATION, 1),
    )


def _short_value(found: Directory, tag: int) -> bytes:
    entry = found.entries.get(tag)
    return entry.value if entry is not None and len(entry.value) <= MAX_PROFILE_BYTES else b""


def resolution_of(found: Directory) -> tuple[float, float] | None:
    """Pixels an inch, across and down, if a directory says so."""
    across, down, unit = found.fraction(282), found.fraction(283), found.number(296, 2)
    inches = {2: 1.0, 3: 2.54}.get(unit)
    return (across * inches, down * inches) if inches and across and down else None


def pixels_only(data: bytes) -> bytes:
    """A TIFF with its first picture only, and of its tags only those that say how pixels are stored."""
    order = _ORDERS[data[:4]]
    (start,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, start)
    rows = [data[at : at + 12] for at in range(start + 2, start + 2 + 12 * count, 12)]
    kept = [row for row in rows if struct.unpack_from(order + "H", row)[0] in _PIXEL_TAGS]
    directory = b"".join([struct.pack(order + "H", len(kept)), *kept, bytes(4)])
    # In the old directory's place, which is at least as long. The next one is not found any more.
    return b"".join([memoryview(data)[:start], directory, memoryview(data)[start + len(directory) :]])
