"""Pictures: what Python programs hold to messages and back. The gateway crops and resizes."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import BinaryIO, Final, Literal, TypeAlias, TypeGuard

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from indomain.constants import MAX_RAW_PICTURE_BYTES
from indomain.v1 import editing_pb2

PictureLike: TypeAlias = (
    str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Image.Image | npt.NDArray[np.uint8]
)
"""A path, the bytes of a PNG, JPEG or WebP file, such a file opened for reading in binary, a PIL picture, or uint8
[H, W, 3] (also [H, W] and [H, W, 4])."""

PictureFormat: TypeAlias = Literal["png", "jpeg", "webp", "raw"]

WIRE_FORMATS: Final[dict[str, editing_pb2.ImageFormat]] = {
    "png": editing_pb2.IMAGE_FORMAT_PNG,
    "jpeg": editing_pb2.IMAGE_FORMAT_JPEG,
    "webp": editing_pb2.IMAGE_FORMAT_WEBP,
    "raw": editing_pb2.IMAGE_FORMAT_RAW,
}


def picture_to_wire(picture: PictureLike) -> editing_pb2.Picture:
    """The message of a picture.

    Files and bytes are sent as they are: the gateway reads their format and applies their EXIF orientation.

    Raises:
        OSError: the file cannot be read.
        TypeError: a kind of value that is no picture.
        ValueError: an array of a wrong shape.
    """
    if isinstance(picture, (str, os.PathLike)):
        return editing_pb2.Picture(data=Path(picture).read_bytes())
    if isinstance(picture, (bytes, bytearray, memoryview)):
        return editing_pb2.Picture(data=bytes(picture))
    if isinstance(picture, Image.Image):
        return _pil_to_wire(picture)
    if isinstance(picture, np.ndarray):
        return _array_to_wire(picture)
    if hasattr(picture, "read"):
        data: object = picture.read()
        if not isinstance(data, bytes):
            raise TypeError("the picture's file is opened as text; open it in binary: open(path, 'rb')")
        return editing_pb2.Picture(data=data)
    raise TypeError(
        "a picture is a path, bytes, a file opened in binary, a PIL image or a uint8 array [H, W, 3], not "
        f"{type(picture).__name__}"
    )


def picture_from_wire(picture: editing_pb2.Picture) -> Image.Image:
    """The PIL picture (mode RGB) of a message."""
    if picture.format == editing_pb2.IMAGE_FORMAT_RAW:
        return Image.frombytes("RGB", (picture.width, picture.height), picture.data)
    with Image.open(io.BytesIO(picture.data)) as image:
        return image.convert("RGB")


def photograph_from_wire(picture: editing_pb2.Picture) -> Image.Image:
    """The pasted photograph of a message as a PIL picture, in its own mode and with its metadata.

    Its `info` has `icc_profile`, `exif` and `dpi` as Pillow names them, and under `encoded` the file that was answered.
    """
    if picture.format == editing_pb2.IMAGE_FORMAT_RAW:
        return picture_from_wire(picture)
    with Image.open(io.BytesIO(picture.data)) as image:
        image.load()
        image.info["encoded"] = picture.data
        return image


def is_picture(value: object) -> TypeGuard[PictureLike]:
    """Whether `value` is meant as a picture; an array of floats is a code."""
    if isinstance(value, np.ndarray):
        return bool(value.dtype == np.uint8)
    kinds = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image)
    return isinstance(value, kinds) or hasattr(value, "read")


def _pil_to_wire(image: Image.Image) -> editing_pb2.Picture:
    upright = ImageOps.exif_transpose(image)
    # Transparency is kept: the gateway decides what lies behind it.
    if upright.has_transparency_data:
        return _png_to_wire(upright.convert("RGBA"))
    return _array_to_wire(np.asarray(upright.convert("RGB")))


def _array_to_wire(array: npt.NDArray[np.uint8]) -> editing_pb2.Picture:
    channels = array.shape[2:] if array.ndim in (2, 3) else None
    if array.dtype != np.uint8 or channels not in ((), (3,), (4,)):
        raise ValueError(
            f"a picture's array is uint8 [H, W, 3] (or [H, W], [H, W, 4]), not {array.dtype} {list(array.shape)}"
        )
    if channels != (3,) or array.nbytes > MAX_RAW_PICTURE_BYTES:
        return _png_to_wire(Image.fromarray(array))
    height, width, _ = array.shape
    return editing_pb2.Picture(
        data=np.ascontiguousarray(array).tobytes(),
        format=editing_pb2.IMAGE_FORMAT_RAW,
        width=width,
        height=height,
    )


def _png_to_wire(image: Image.Image) -> editing_pb2.Picture:
    buffer = io.BytesIO()
    # The file is read once and thrown away: coding it fast matters more than its size.
    image.save(buffer, "PNG", compress_level=1)
    return editing_pb2.Picture(data=buffer.getvalue(), format=editing_pb2.IMAGE_FORMAT_PNG)
