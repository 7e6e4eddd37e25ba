"""PIL pictures and arrays as the files that they stand for: what the same picture means as a file, it means here.

What has no agreed meaning is refused by its mode or dtype: nothing is guessed.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, PngImagePlugin

from indomain.constants import MAX_RAW_PICTURE_BYTES
from indomain.v1 import editing_pb2

# Modes of Pillow -> those in which they are written, without a change of any value that can be seen.
_WRITTEN_AS: Final[Mapping[str, str]] = MappingProxyType(
    {
        **{mode: mode for mode in ("L", "LA", "RGB", "RGBA", "I;16", "CMYK")},
        **dict.fromkeys(("I;16L", "I;16B", "I;16N"), "I;16"),
        "1": "L",
        "P": "RGB",
        "PA": "RGBA",
        "La": "LA",
        "RGBa": "RGBA",
        "RGBX": "RGB",
        "YCbCr": "RGB",
        "HSV": "RGB",
    }
)
_WITH_ALPHA: Final[Mapping[str, str]] = MappingProxyType({"1": "LA", "L": "LA", "P": "RGBA", "RGB": "RGBA"})
_HOW_TO: Final[Mapping[str, str]] = MappingProxyType(
    {
        "I": "its numbers have no agreed white: convert it to 'L' (0..255) or 'I;16' (0..65535)",
        "F": "its numbers have no agreed white: convert it to 'L' (0..255)",
    }
)
# Modes -> the space of their colour profiles, as ICC names it; RGB for others.
_PROFILE_SPACES: Final[Mapping[str, bytes]] = MappingProxyType(
    {"L": b"GRAY", "LA": b"GRAY", "I;16": b"GRAY", "CMYK": b"CMYK"}
)
# Floating point may miss 0..1 by what rounding to 8 bits takes away.
_ROUNDED_AWAY: Final = 0.5 / 255.0
# Channels of an array -> PNG's type of colour.
_PNG_COLOURS: Final[Mapping[int, int]] = MappingProxyType({1: 0, 3: 2, 4: 6})
_ARRAYS: Final = (
    "a picture's array is uint8 (0..255), uint16 (0..65535), float (0..1) or bool, with axes [H, W], [H, W, 1], "
    "[H, W, 3] or [H, W, 4]"
)


def pil_to_wire(image: Image.Image) -> editing_pb2.Picture:
    """The message of a PIL picture, upright, with its transparency, colour profile and metadata.

    Raises ValueError for a mode whose numbers have no agreed meaning, with its name.
    """
    if image.mode not in _WRITTEN_AS:
        how = _HOW_TO.get(image.mode, "convert it to 'RGB'")
        raise ValueError(f"a PIL picture of mode {image.mode!r} is not taken: {how}")
    upright = ImageOps.exif_transpose(image)
    mode = _WRITTEN_AS[upright.mode]
    if upright.has_transparency_data:
        mode = _WITH_ALPHA.get(upright.mode, mode)
    written = _in_mode(upright, mode)
    about = _about(upright, mode)
    if (
        mode == "RGB"
        and not any(about.values())
        and written.width * written.height * 3 <= MAX_RAW_PICTURE_BYTES
    ):
        return _raw(np.asarray(written))
    # PNG has no CMYK. The file is read once and thrown away: coding it fast matters more than its size.
    if mode == "CMYK":
        about["compression"] = "tiff_adobe_deflate"
        return _encoded(written, "TIFF", editing_pb2.IMAGE_FORMAT_UNSPECIFIED, **about)
    if "xmp" in about:
        texts = PngImagePlugin.PngInfo()
        texts.add_itxt("XML:com.adobe.xmp", about.pop("xmp").decode("utf-8", "replace"))
        about["pnginfo"] = texts
    return _encoded(written, "PNG", editing_pb2.IMAGE_FORMAT_PNG, compress_level=1, **about)


def array_to_wire(array: npt.NDArray[Any]) -> editing_pb2.Picture:
    """The message of an array [H, W] or [H, W, 1], [H, W, 3] or [H, W, 4] (the fourth is alpha).

    uint8 is 0..255, uint16 0..65535 and keeps its 16 bits, floating point 0..1, bool black and white.

    Raises ValueError for any other shape or dtype, and for floating point outside of 0..1, with what it is.
    """
    shape = array.shape if array.ndim == 3 else (*array.shape, 1)
    if len(shape) != 3 or shape[2] not in _PNG_COLOURS or 0 in shape:
        hint = "; channels come last" if array.ndim == 3 and array.shape[0] in _PNG_COLOURS else ""
        raise ValueError(f"{_ARRAYS}, not {array.dtype} {list(array.shape)}{hint}")
    pixels = _whole_numbers(array).reshape(shape)
    if pixels.dtype == np.uint8 and shape[2] == 3 and pixels.nbytes <= MAX_RAW_PICTURE_BYTES:
        return _raw(pixels)
    return editing_pb2.Picture(data=_png_of(pixels), format=editing_pb2.IMAGE_FORMAT_PNG)


def is_picture_array(array: npt.NDArray[Any]) -> bool:
    """Whether an array is meant as a picture: one of floating point is a code unless its last axis has channels."""
    if np.issubdtype(array.dtype, np.floating):
        return array.ndim == 3 and array.shape[2] in _PNG_COLOURS
    return bool(array.dtype in (np.uint8, np.uint16, np.bool_))


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == mode:
        return image
    if mode == "I;16":
        # Pillow converts between byte orders of 16 bits by way of 8.
        return Image.fromarray(np.asarray(image).astype(np.uint16))
    return image.convert(mode)


def _about(image: Image.Image, mode: str) -> dict[str, Any]:
    """What of a picture's `info` goes along with its pixels in `mode`: colour profile, EXIF, XMP, resolution.

    A picture that was converted may have the profile of its former mode, which says nothing of its colours.
    """
    about = {name: image.info[name] for name in ("exif", "xmp", "dpi") if image.info.get(name)}
    profile = image.info.get("icc_profile")
    fits = profile and profile[16:20] == _PROFILE_SPACES.get(mode, b"RGB ")
    # Pillow would write the one of `info` where none is named.
    return about | {"icc_profile": profile if fits else None}


def _whole_numbers(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The pixels as uint8 or uint16. Raises ValueError."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:
        return array
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"{_ARRAYS}, not {array.dtype}; convert it with astype to what its values are")
    low, high = float(array.min()), float(array.max())
    if not (low > -_ROUNDED_AWAY and high < 1.0 + _ROUNDED_AWAY):
        raise ValueError(f"{_ARRAYS}, not {array.dtype} from {low:g} to {high:g}; bring it to 0..1")
    return np.rint(array * 255.0).astype(np.uint8)


def _raw(pixels: npt.NDArray[np.uint8]) -> editing_pb2.Picture:
    height, width, _ = pixels.shape
    return editing_pb2.Picture(
        data=np.ascontiguousarray(pixels).tobytes(),
        format=editing_pb2.IMAGE_FORMAT_RAW,
        width=width,
        height=height,
    )


def _encoded(
    image: Image.Image, file_format: str, wire_format: editing_pb2.ImageFormat, **options: Any
) -> editing_pb2.Picture:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return editing_pb2.Picture(data=buffer.getvalue(), format=wire_format)


def _png_of(pixels: npt.NDArray[Any]) -> bytes:
    """The PNG of an array uint8 or uint16 [H, W, C]. Pillow cannot write 16 bits in colours."""
    height, width, channels = pixels.shape
    bytes_of_rows = (
        np.ascontiguousarray(pixels, pixels.dtype.newbyteorder(">")).reshape(height, -1).view(np.uint8)
    )
    # Each row begins with the number of its filter: 0, none.
    rows = np.zeros((height, 1 + bytes_of_rows.shape[1]), np.uint8)
    rows[:, 1:] = bytes_of_rows
    bits = 8 * pixels.dtype.itemsize
    header = struct.pack(">IIBBBBB", width, height, bits, _PNG_COLOURS[channels], 0, 0, 0)
    chunks = [
        _chunk(b"IHDR", header),
        _chunk(b"IDAT", zlib.compress(rows.tobytes(), 1)),
        _chunk(b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
