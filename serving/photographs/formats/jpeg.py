"""The segments of a JPEG (ITU-T T.81, annex B)."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from serving.errors import InvalidPicture
from serving.photographs.formats.limits import DAMAGED, MAX_PARTS, MAX_PROFILE_BYTES, too_many

# Of a progressive JPEG. Encoders write about ten.
MAX_SCANS = 100

_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF markers
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})
_SOF0, _SOF1, _EOI, _SOS, _APP2 = 0xC0, 0xC1, 0xD9, 0xDA, 0xE2
# APP0 and APP14 say how colours are stored. The other APPn, comments and private segments are of no use to a decoder.
_METADATA = frozenset({*range(0xE1, 0xEE), 0xEF, *range(0xF0, 0xFF)})
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
# Between two segments before the pixels there should be nothing; Pillow passes over anything.
_MAX_GAP = 256
_EXIF, _XMP, _PROFILE = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"ICC_PROFILE\0"


@dataclass(slots=True)
class JpegHeader:
    """The segments of a JPEG before its first scan.

    kept: those that a decoder needs, as they stand in the file. exif, xmp: metadata without the names of their
    segments. profile: the ICC profile; empty if it is not whole or has more than MAX_PROFILE_BYTES. scan_start: where
    the first scan begins. scans_follow: whether more scans follow it. coefficient_bytes: memory for the coefficients
    of several scans, for each pixel.
    """

    width: int = 0
    height: int = 0
    components: int = 0
    coefficient_bytes: int = 0
    scan_start: int = 0
    scans_follow: bool = False
    exif: bytes = b""
    xmp: bytes = b""
    profile: bytes = b""
    kept: list[bytes] = field(default_factory=list)


def read_jpeg(data: bytes) -> JpegHeader:
    """Reads the segments before the first scan. Raises InvalidPicture."""
    header, progressive = JpegHeader(), False
    profile_parts: dict[int, memoryview] = {}
    for count, (marker, start, end) in enumerate(_segments(data, 2, _MAX_GAP)):
        body = memoryview(data)[start + 4 : end]
        if count >= MAX_PARTS:
            raise too_many("segments", MAX_PARTS)
        if marker == _SOS:
            header.scan_start = start
            header.scans_follow = len(body) > 0 and (progressive or body[0] < header.components)
            if not header.scans_follow:
                header.coefficient_bytes = 0
            break
        if marker in _SIZES:
            if header.components or len(body) < 6 or len(body) < 6 + 3 * body[5]:
                raise InvalidPicture(DAMAGED)
            header.height, header.width, header.components = struct.unpack_from(">HHB", body, 1)
            header.coefficient_bytes = _coefficient_bytes(body)
            progressive = marker not in (_SOF0, _SOF1)
        if marker not in _METADATA:
            header.kept.append(data[start:end])
        elif body[: len(_EXIF)] == _EXIF and not header.exif:
            header.exif = bytes(body[len(_EXIF) :])
        elif body[: len(_XMP)] == _XMP:
            header.xmp = bytes(body[len(_XMP) :])
        elif marker == _APP2 and body[: len(_PROFILE)] == _PROFILE and len(body) > len(_PROFILE) + 2:
            # A part says its number, from 1, and how many there are.
            profile_parts[body[len(_PROFILE)]] = body[len(_PROFILE) + 1 :]
    if not header.scan_start or not header.width or not header.height:
        raise InvalidPicture(DAMAGED)
    header.profile = _joined_profile(profile_parts)
    return header


def check_scans(data: bytes, header: JpegHeader) -> None:
    """Raises InvalidPicture for more than MAX_SCANS scans. It looks at every byte: about 1 ms a megabyte."""
    # A quick look first. It may count too many, as anything may follow the picture's end.
    if not header.scans_follow or data.count(b"\xff\xda", header.scan_start) <= MAX_SCANS:
        return
    scans = 0
    for count, (marker, _, _) in enumerate(_segments(data, header.scan_start, len(data))):
        scans += marker == _SOS
        if scans > MAX_SCANS:
            raise too_many("scans", MAX_SCANS)
        if count > MAX_PARTS:
            raise too_many("segments", MAX_PARTS)


def _segments(data: bytes, start: int, max_gap: int) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of each segment up to the picture's end. Up to `max_gap` bytes between two segments, such
    as the pixels of a scan, are passed over."""
    while (found := _MARKER.search(data, start, start + max_gap + 2)) is not None:
        marker, start = data[found.end() - 1], found.end() - 2
        if marker == _EOI:
            return
        end = start + 2
        if marker not in _WITHOUT_LENGTH:
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


def _joined_profile(parts: dict[int, memoryview]) -> bytes:
    """An ICC profile of its parts by number. Each part begins with the number of all parts (ICC.1:2022, B.4)."""
    if not parts:
        return b""
    count = next(iter(parts.values()))[0]
    if set(parts) != set(range(1, count + 1)) or sum(map(len, parts.values())) > MAX_PROFILE_BYTES:
        return b""
    return b"".join(parts[number][1:] for number in range(1, count + 1))
