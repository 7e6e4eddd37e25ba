"""Pictures made to hurt whoever decodes them, and honest ones of noise, which no format makes small."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image


def small_picture() -> bytes:
    """A PNG of 64 x 64 pixels."""
    return noise(64, 64, "PNG")


def noise(width: int, height: int, file_format: str) -> bytes:
    """Random pixels, RGB."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, file_format)
    return target.getvalue()


def jpeg_of_scans(scans: int) -> bytes:
    """A progressive grey JPEG of 6000 x 6000 pixels, whose scans say over and over that there is nothing: each takes
    some 45 bytes, and a pass over all of its 562,500 blocks. ITU-T T.81, annex G."""
    blocks, runs = 750 * 750, 18
    frame = struct.pack(">BHHB", 8, 6000, 6000, 1) + bytes([1, 0x11, 0])
    # one symbol each, whose code is the bit 0: no difference (DC), and the end of a run of 16384 blocks or more (AC)
    tables = _huffman_table(0x00, 0x00) + _huffman_table(0x10, 0xE0)
    parts = [b"\xff\xd8", _segment(0xDB, bytes([0]) + bytes([1] * 64)), _segment(0xC2, frame), tables]
    parts += [_scan(0, 0), bytes(blocks // 8 + 1)]
    one_run = f"0{blocks // runs - 16384:014b}"
    nothing = _scan(1, 63) + _entropy_coded(one_run * runs)
    return b"".join([*parts, nothing * scans, b"\xff\xd9"])


def jpeg_of_segments(segments: int) -> bytes:
    """A small JPEG with many EXIF segments of 40 bytes each, which readers put together."""
    picture = noise(64, 64, "JPEG")
    return picture[:2] + _segment(0xE1, b"Exif\0\0" + bytes(30)) * segments + picture[2:]


def png(width: int, height: int, bits: int, channels: int) -> bytes:
    """A PNG all of zeros, which is a thousandth of its pixels: grey (1 channel) or RGBA (4)."""
    colour_type = {1: 0, 4: 6}[channels]
    row = bytes(1 + width * channels * bits // 8)
    packer = zlib.compressobj(9)
    data = b"".join([*(packer.compress(row) for _ in range(height)), packer.flush()])
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def _huffman_table(number: int, symbol: int) -> bytes:
    return _segment(0xC4, bytes([number, 1, *[0] * 15, symbol]))


def _scan(first: int, last: int) -> bytes:
    return _segment(0xDA, bytes([1, 1, 0x00, first, last, 0x00]))


def _entropy_coded(bits: str) -> bytes:
    bits += "1" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\x00")
