"""Pictures that tests send: small smooth photographs, and headers that claim more than there is."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image, ImageCms


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


def zero_png(
    width: int, height: int, bits: int = 8, colour_type: int = 0, *, extra: bytes = b"", row_filter: int = 0
) -> bytes:
    """A PNG of zeros, which is a thousandth of its pixels.

    colour_type: 0 grey, 2 RGB, 6 RGBA. extra: chunks before the pixels. row_filter: 0 none, 4 Paeth, the slowest.
    """
    row = bytes([row_filter]) + bytes(width * {0: 1, 2: 3, 6: 4}[colour_type] * bits // 8)
    packer = zlib.compressobj(1)
    data = b"".join([*(packer.compress(row) for _ in range(height)), packer.flush()])
    return _png(width, height, bits, colour_type, data, extra)


def _png(width: int, height: int, bits: int, colour_type: int, data: bytes, extra: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    chunks = png_chunk(b"IHDR", header) + extra + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def zero_tiff(width: int, height: int, *, strip_bytes: int) -> bytes:
    """A grey TIFF with one strip, compressed by Deflate, that holds so many zeros."""
    packer = zlib.compressobj(1)
    data = packer.compress(bytes(strip_bytes)) + packer.flush()
    rows = {256: width, 257: height, 258: 8, 259: 8, 262: 1, 273: 8, 277: 1, 278: height, 279: len(data)}
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in rows.items())
    return (
        b"II*\0"
        + struct.pack("<I", 8 + len(data))
        + data
        + struct.pack("<H", len(rows))
        + directory
        + bytes(4)
    )


# Red, green and blue of colour spaces (XYZ, D50), and their gamma.
DISPLAY_P3 = ((0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189), (0.1571, 0.06657, 0.78407), 2.2)
ADOBE_RGB = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457), 2.2)
PROPHOTO = ((0.79767, 0.28804, 0.0), (0.13519, 0.71188, 0.0), (0.03134, 0.00009, 0.82491), 1.8)


def rgb_profile(*space: Any) -> bytes:
    """An ICC profile of three primaries and a gamma, as DISPLAY_P3."""
    *columns, gamma = space
    tags = {name: _xyz(column) for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns, strict=True)}
    return icc_profile(
        b"mntr", b"RGB ", b"XYZ ", tags | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), _gamma(gamma))
    )


def grey_profile(gamma: float) -> bytes:
    return icc_profile(b"mntr", b"GRAY", b"XYZ ", {b"kTRC": _gamma(gamma)})


def cmyk_profile() -> bytes:
    """An ICC profile of tables: a print that is a little darker and warmer than its numbers."""
    steps = np.linspace(0.0, 1.0, 5)
    ink = np.stack(np.meshgrid(*[steps] * 4, indexing="ij"), -1).reshape(-1, 4)
    seen = (1 - ink[:, :3] * 0.9) * (1 - ink[:, 3:] * 0.95) * [0.97, 0.95, 0.9]
    steps = np.linspace(0.0, 255.0, 17)
    lab = np.stack(np.meshgrid(*[steps] * 3, indexing="ij"), -1).reshape(-1, 3).round().astype(np.uint8)
    to_lab = ImageCms.buildTransform(
        ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
    )
    to_rgb = ImageCms.buildTransform(
        ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB"
    )
    labs = to_lab.apply(Image.fromarray((seen * 255).round().astype(np.uint8)[None])).tobytes()
    # Pillow stores a and b as signed bytes, the table has them from 128.
    labs = (np.frombuffer(labs, np.uint8).reshape(-1, 3) ^ [0, 128, 128]).astype(np.uint8)
    picture = Image.frombytes("LAB", (len(lab), 1), (lab ^ np.array([0, 128, 128], np.uint8)).tobytes())
    rgb = np.asarray(to_rgb.apply(picture))[0] / 255 / [0.97, 0.95, 0.9]
    key = 1 - rgb.max(1, keepdims=True).clip(0.05, 1)
    inks = np.concatenate([(1 - rgb / (1 - key)) / 0.9, key / 0.95], 1).clip(0, 1)
    tags = {
        b"A2B0": _table(4, 3, 5, labs),
        b"B2A0": _table(3, 4, 17, (inks * 255).round().astype(np.uint8)),
    }
    return icc_profile(b"prtr", b"CMYK", b"Lab ", tags)


def icc_profile(kind: bytes, space: bytes, between: bytes, tags: dict[bytes, bytes]) -> bytes:
    """An ICC profile (version 2) with these tags, and a name and a white point."""
    text = b"made for a test\0"
    name = b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + bytes(79)
    named = {b"desc": name, b"wtpt": _xyz((0.9642, 1.0, 0.8249))}
    tags = {name: body + bytes(-len(body) % 4) for name, body in (named | tags).items()}
    at, table = 132 + 12 * len(tags), b""
    for name, body in tags.items():
        table += struct.pack(">4sII", name, at, len(body))
        at += len(body)
    head = struct.pack(
        ">I4sI4s4s4s6H4s", at, b"lcms", 0x02400000, kind, space, between, 2024, 1, 1, 0, 0, 0, b"acsp"
    )
    head += bytes(28) + _fixed(0.9642, 1.0, 0.8249)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + b"".join(tags.values())


def _fixed(*values: float) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def _xyz(values: tuple[float, ...]) -> bytes:
    return b"XYZ \0\0\0\0" + _fixed(*values)


def _gamma(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))


def _table(inputs: int, outputs: int, steps: int, values: np.ndarray) -> bytes:
    """A table of 8-bit values [steps ** inputs, outputs] (lut8Type), with straight curves before and behind."""
    matrix = _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    curves = bytes(range(256))
    head = b"mft1\0\0\0\0" + bytes([inputs, outputs, steps, 0]) + matrix
    return head + curves * inputs + values.tobytes() + curves * outputs


def png_16_bit(samples: np.ndarray, **chunks: bytes) -> bytes:
    """A PNG of uint16 [H, W] or [H, W, C]; chunks: by their names."""
    height, width, channels = *samples.shape[:2], samples.shape[2] if samples.ndim == 3 else 1
    rows = samples.astype(">u2").reshape(height, -1)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows), 1)
    extra = b"".join(png_chunk(name.encode(), body) for name, body in chunks.items())
    return _png(width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], data, extra)


def samples_of_png(data: bytes) -> np.ndarray:
    """The samples of a PNG of 16 bits without interlacing, uint16 [H, W, C]; a slow decoder of our own."""
    width, height, bits, colour_type = struct.unpack_from(">IIBB", data, 16)
    assert bits == 16
    channels, at, packed = {0: 1, 2: 3, 4: 2, 6: 4}[colour_type], 8, b""
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        if data[at + 4 : at + 8] == b"IDAT":
            packed += data[at + 8 : at + 8 + length]
        at += 12 + length
    rows = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(height, -1)
    above = np.zeros(rows.shape[1] - 1, np.uint8)
    samples = np.empty((height, rows.shape[1] - 1), np.uint8)
    for number, row in enumerate(rows):
        assert row[0] in (0, 2)
        above = samples[number] = row[1:] + above if row[0] == 2 else row[1:]
    return samples.reshape(-1).view(">u2").reshape(height, width, channels).astype(np.uint16)


def jpeg_of_scans(scans: int, side: int = 6000) -> bytes:
    """A progressive grey JPEG whose scans say over and over that there is nothing: each takes some 45 bytes, and a pass
    over all blocks of the picture (ITU-T T.81, annex G)."""
    blocks = (-(-side // 8)) ** 2
    runs = -(-blocks // 32767)
    frame = struct.pack(">BHHB", 8, side, side, 1) + bytes([1, 0x11, 0])
    run = blocks // runs
    # A run of 2^n blocks or more is told by n, and n bits of what it has beyond that.
    n = run.bit_length() - 1
    # One symbol each, whose code is the bit 0: no difference (DC), and the end of a run (AC).
    tables = _huffman_table(0x00, 0x00) + _huffman_table(0x10, n << 4)
    parts = [b"\xff\xd8", jpeg_segment(0xDB, bytes([0]) + bytes([1] * 64)), jpeg_segment(0xC2, frame), tables]
    parts += [_scan(0, 0), bytes(blocks // 8 + 1)]
    bits = ("0" + f"{run:b}"[1:]) * runs
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
