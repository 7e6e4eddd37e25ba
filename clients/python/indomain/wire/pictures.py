"""Pictures: what Python programs hold to messages and back. The gateway crops and resizes."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, TypeAlias, TypeGuard

import numpy as np
import numpy.typing as npt
from PIL import Image

from indomain.exceptions import InvalidPictureError
from indomain.v1 import editing_pb2
from indomain.wire.heif import heif_to_jpeg, is_heif
from indomain.wire.picture_objects import array_to_wire, is_picture_array, pil_to_wire

PictureLike: TypeAlias = (
    str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Image.Image | npt.NDArray[Any]
)
"""A path, the bytes of a file (PNG, JPEG, WebP, TIFF, BMP, GIF, AVIF; HEIC with the extra `heif`), such a file opened
for reading in binary, a PIL picture, or an array [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] of uint8 (0..255), uint16
(0..65535), float (0..1) or bool. In `edit` a float array [H, W] or [H, W, 1] is a code."""

PictureFormat: TypeAlias = Literal["png", "jpeg", "webp", "raw"]

# How files of arrays begin: .npy; .npz, .pt and other zips.
_CODES: Final = (b"\x93NUMPY", b"PK\x03\x04", b"PK\x05\x06")
_ADDRESS: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|data:[^/]*/")

WIRE_FORMATS: Final[dict[str, editing_pb2.ImageFormat]] = {
    "png": editing_pb2.IMAGE_FORMAT_PNG,
    "jpeg": editing_pb2.IMAGE_FORMAT_JPEG,
    "webp": editing_pb2.IMAGE_FORMAT_WEBP,
    "raw": editing_pb2.IMAGE_FORMAT_RAW,
}


def picture_to_wire(picture: PictureLike) -> editing_pb2.Picture:
    """The message of a picture.

    Files and bytes are sent as they are: the gateway reads their format and applies their EXIF orientation. HEIC is
    converted before.

    Raises:
        OSError: the file cannot be read.
        TypeError: a kind of value that is no picture.
        ValueError: an array of a wrong shape or dtype, a PIL picture of a mode without an agreed meaning, or a URL.
        NotInstalledError, InvalidPictureError: a HEIC file cannot be converted; the file is one of a code.
    """
    if isinstance(picture, str) and _ADDRESS.match(picture):
        raise ValueError(f"{picture[:60]!r} is an address, and a picture is a file: download it first")
    if isinstance(picture, (str, os.PathLike)):
        return _file_to_wire(Path(picture).read_bytes())
    if isinstance(picture, (bytes, bytearray, memoryview)):
        return _file_to_wire(bytes(picture))
    if isinstance(picture, Image.Image):
        return pil_to_wire(picture)
    if isinstance(picture, np.ndarray):
        return array_to_wire(picture)
    if hasattr(picture, "read"):
        data: object = picture.read()
        if not isinstance(data, bytes):
            raise TypeError("the picture's file is opened as text; open it in binary: open(path, 'rb')")
        return _file_to_wire(data)
    raise TypeError(
        "a picture is a path, bytes, a file opened in binary, a PIL picture or an array [H, W, 3], not "
        f"{type(picture).__name__}"
    )


@contextmanager
def about(what: str) -> Iterator[None]:
    """Makes an error of a value say which argument it is about: `mask: a picture's array is uint8 (0..255), ...`.

    Errors of files have their name already.
    """
    try:
        yield
    except InvalidPictureError as error:
        error.message = f"{what}: {error.message}"
        raise
    except (TypeError, ValueError) as error:
        error.args = (f"{what}: {error}",)
        raise


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
    """Whether `value` is meant as a picture; an array of floats is a code unless its last axis has channels."""
    if isinstance(value, np.ndarray):
        return is_picture_array(value)
    kinds = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image)
    return isinstance(value, kinds) or hasattr(value, "read")


def _file_to_wire(data: bytes) -> editing_pb2.Picture:
    if data.startswith(_CODES):
        raise InvalidPictureError(
            "the file has arrays, as a saved code or result has; indomain.load_code reads it: "
            "client.edit(indomain.load_code(file, client), ...)",
            reason="invalid_picture",
        )
    return editing_pb2.Picture(data=heif_to_jpeg(data) if is_heif(data) else data)
