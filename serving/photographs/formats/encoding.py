"""Encodes answers: pictures of the generator, and photographs with their colours, transparency and metadata."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image as PillowImage
from PIL import PngImagePlugin

from serving.jobs import EncodedPicture, Image, ImageFormat, OutputOptions
from serving.photographs.formats.headers import Header
from serving.photographs.formats.loading import bands
from serving.photographs.formats.metadata import EXIF_NAME, Metadata

# libwebp's own pixels, and Pillow's, for each pixel that is encoded.
_WEBP_PIXEL_BYTES = 10
# The upper and the lower 8 bits as pictures of 4 bytes a pixel, and one of them while it is turned upright.
_16_BIT_PIXEL_BYTES = 12
# Level 6 takes three times as long and saves 2 %. The lower bytes of 16 bits are noise: there is less to save.
_PNG_LEVEL, _16_BIT_PNG_LEVEL = 3, 1
_PNG_COLOUR_TYPES = {"L": 0, "RGB": 2, "LA": 4, "RGBA": 6}
_PNG_FILTER_UP = 2
_METRES_AN_INCH = 0.0254
_PNG_XMP = "XML:com.adobe.xmp"


def answer_pixel_bytes(header: Header, output: OutputOptions) -> int:
    """Memory for each pixel of a photograph while it is pasted into and encoded; 0: no more than decoding takes."""
    if output.format is ImageFormat.WEBP:
        return _WEBP_PIXEL_BYTES
    return _16_BIT_PIXEL_BYTES if keeps_16_bits(header, output) else 0


def keeps_16_bits(header: Header, output: OutputOptions) -> bool:
    """Whether the answer of a photograph has 16 bits: PNG alone can, and conversions of colours have 8."""
    return header.bits == 16 and output.format is ImageFormat.PNG


def encode_picture(image: Image, output: OutputOptions) -> EncodedPicture:
    """Encodes uint8 [H, W, 3], in sRGB, in the requested format."""
    height, width = image.shape[:2]
    if output.format is ImageFormat.RAW:
        return EncodedPicture(np.ascontiguousarray(image).tobytes(), ImageFormat.RAW, width, height)
    return encode_photograph(PillowImage.fromarray(image), None, Metadata(), output)


def encode_photograph(
    picture: PillowImage.Image, lower: PillowImage.Image | None, metadata: Metadata, output: OutputOptions
) -> EncodedPicture:
    """Encodes a picture in a mode that the format has (RAW: RGB), with metadata.

    lower: the lower 8 bits of 16-bit samples; only for PNG.
    """
    target = io.BytesIO()
    if output.format is ImageFormat.RAW:
        for _, band in bands(picture, 0, picture.height):
            target.write(band.tobytes())
    elif output.format is ImageFormat.PNG and lower is not None:
        _write_16_bit_png(picture, lower, metadata, target)
    else:
        picture.info.clear()
        picture.save(target, output.format.name, **_parameters(metadata, output))
    return EncodedPicture(target.getvalue(), output.format, picture.width, picture.height)


def _parameters(metadata: Metadata, output: OutputOptions) -> dict[str, Any]:
    """What Pillow is told when it saves a picture."""
    parameters: dict[str, Any] = {}
    if metadata.profile:
        parameters["icc_profile"] = metadata.profile
    if metadata.exif:
        parameters["exif"] = EXIF_NAME + metadata.exif
    if output.format is ImageFormat.WEBP:
        parameters |= {"quality": output.quality, "lossless": output.quality == 100, "method": 2}
        # Lossless is to mean so below transparency, too.
        parameters["exact"] = output.quality == 100
    else:
        if metadata.resolution:
            parameters["dpi"] = metadata.resolution
        if output.format is ImageFormat.JPEG:
            parameters |= {"quality": output.quality, "subsampling": 0 if output.quality >= 90 else 2}
    if output.format is ImageFormat.PNG:
        parameters["compress_level"] = _PNG_LEVEL
        if metadata.xmp:
            texts = parameters["pnginfo"] = PngImagePlugin.PngInfo()
            texts.add_itxt(_PNG_XMP, metadata.xmp.decode("utf-8", "replace"))
    elif metadata.xmp:
        parameters["xmp"] = metadata.xmp
    return parameters


def _write_16_bit_png(
    upper: PillowImage.Image, lower: PillowImage.Image, metadata: Metadata, target: io.BytesIO
) -> None:
    """PNG of 16 bits, which Pillow does not write in colours. upper, lower: the two halves of each sample."""

    def chunk(kind: bytes, body: bytes) -> None:
        target.write(struct.pack(">I", len(body)) + kind + body)
        target.write(struct.pack(">I", zlib.crc32(body, zlib.crc32(kind))))

    target.write(b"\x89PNG\r\n\x1a\n")
    colour_type = _PNG_COLOUR_TYPES[upper.mode]
    chunk(b"IHDR", struct.pack(">IIBBBBB", upper.width, upper.height, 16, colour_type, 0, 0, 0))
    if metadata.profile:
        chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(metadata.profile))
    if metadata.resolution:
        chunk(b"pHYs", struct.pack(">IIB", *(round(n / _METRES_AN_INCH) for n in metadata.resolution), 1))
    if metadata.exif:
        chunk(b"eXIf", metadata.exif)
    if metadata.xmp:
        chunk(b"iTXt", _PNG_XMP.encode() + bytes(5) + metadata.xmp)
    packer = zlib.compressobj(_16_BIT_PNG_LEVEL)
    above = np.zeros(upper.width * len(upper.mode) * 2, np.uint8)
    for (_, high), (_, low) in zip(bands(upper, 0, upper.height), bands(lower, 0, lower.height), strict=True):
        samples = np.stack([np.asarray(high), np.asarray(low)], axis=-1).reshape(high.height, -1)
        # Each row begins with the number of its filter, and holds the differences from the row above.
        rows = np.empty((high.height, 1 + samples.shape[1]), np.uint8)
        rows[:, 0] = _PNG_FILTER_UP
        rows[0, 1:], rows[1:, 1:] = samples[0] - above, samples[1:] - samples[:-1]
        above = samples[-1]
        if packed := packer.compress(rows.tobytes()):
            chunk(b"IDAT", packed)
    chunk(b"IDAT", packer.flush())
    chunk(b"IEND", b"")
