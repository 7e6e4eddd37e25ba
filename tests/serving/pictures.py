"""Pictures that tests send: small smooth photographs, and headers that claim more than there is."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image


def photograph(seed: int = 0, width: int = 40, height: int = 30) -> np.ndarray:
    """A smooth picture of its own for each seed, uint8 [height, width, 3]."""
    random = np.random.Generator(np.random.PCG64(seed))
    small = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def encoded(image: np.ndarray, format: str = "PNG", **options: Any) -> bytes:
    target = io.BytesIO()
    Image.fromarray(image).save(target, format, **options)
    return target.getvalue()


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has hardly any data: what a bomb looks like."""
    return _png(width, height, 8, 2, zlib.compress(b"\0" * 1000))


def zero_png(width: int, height: int, bits: int = 8, colour_type: int = 0, *, extra: bytes = b"") -> bytes:
    """A PNG of zeros, which is a thousandth of its pixels.

    colour_type: 0 grey, 2 RGB, 6 RGBA. extra: chunks before the pixels.
    """
    row = bytes(1 + width * {0: 1, 2: 3, 6: 4}[colour_type] * bits // 8)
    packer = zlib.compressobj(1)
    data = b"".join([*(packer.compress(row) for _ in range(height)), packer.flush()])
    return _png(width, height, bits, colour_type, data, extra)


def _png(width: int, height: int, bits: int, colour_type: int, data: bytes, extra: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    chunks = png_chunk(b"IHDR", header) + extra + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def jpeg_of_scans(scans: int, side: int = 6000) -> bytes:
    """A progressive grey JPEG whose scans say over and over that there is nothing: each takes some 45 bytes, and a pass
    over all blocks of the picture (ITU-T T.81, annex G)."""
    blocks = (-(-side // 8)) ** 2
    runs = -(-blocks // 32767)
    frame = struct.pack(">BHHB", 8, side, side, 1) + bytes([1, 0x11, 0])
    # One symbol each, whose code is the bit 0: no difference (DC), and the end of a run of 16384 blocks or more (AC).
    tables = _huffman_table(0x00, 0x00) + _huffman_table(0x10, 0xE0)
    parts = [b"\xff\xd8", jpeg_segment(0xDB, bytes([0]) + bytes([1] * 64)), jpeg_segment(0xC2, frame), tables]
    parts += [_scan(0, 0), bytes(blocks // 8 + 1)]
    bits = f"0{blocks // runs - 16384:014b}" * runs
    bits += "1" * (-len(bits) % 8)
    nothing = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    return b"".join([*parts, (_scan(1, 63) + nothing) * scans, b"\xff\xd9"])


def jpeg_with_segments(count: int) -> bytes:
    """A small JPEG with many EXIF segments of 40 bytes each."""
    picture = encoded(photograph(4, 64, 64), "JPEG")
    return picture[:2] + jpeg_segment(0xE1, b"Exif\0\0" + bytes(30)) * count + picture[2:]


def jpeg_segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def _huffman_table(number: int, symbol: int) -> bytes:
    return jpeg_segment(0xC4, bytes([number, 1, *[0] * 15, symbol]))


def _scan(first: int, last: int) -> bytes:
    return jpeg_segment(0xDA, bytes([1, 1, 0x00, first, last, 0x00]))


def webp_header(width: int, height: int) -> bytes:
    extended = struct.pack("<I", 0) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBP" + b"VP8X" + struct.pack("<I", len(extended)) + extended
    return b"RIFF" + struct.pack("<I", len(body)) + body
