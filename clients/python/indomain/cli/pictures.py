"""Pictures and codes as files: which names they have, and how they are read and written."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from PIL import Image

from indomain import Diffused, Edited, InterpolationFrame, Inversion, Mixed
from indomain.cli.arguments import UsageError

PICTURE_SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg", ".webp"})
CODE_SUFFIX: Final = ".npy"


def source_of(path: Path) -> Any:
    """The code in a .npy file, otherwise the picture's path: what `Client.edit` takes."""
    return np.load(path, allow_pickle=False) if path.suffix.lower() == CODE_SUFFIX else path


def picture_of(result: Inversion | Edited | InterpolationFrame | Mixed | Diffused) -> Image.Image:
    """The photograph with the result in its place where that was asked for (--paste), otherwise the result."""
    return result.image if result.pasted is None else result.pasted


def save_picture(image: Image.Image, path: Path) -> None:
    """Writes a picture in the format of its file name. Raises OSError."""
    with whole_file(path) as file:
        # PNG ignores the quality.
        image.save(file, Image.registered_extensions()[path.suffix.lower()], quality=95)


def save_with_code(result: Mixed | Diffused, output: Path) -> None:
    """Writes the picture of a result, and its code (.npy) beside it.

    Raises UsageError where `output` is no picture's file name, OSError where a file cannot be written.
    """
    check_picture_name(output)
    save_picture(picture_of(result), output)
    np.save(output.with_suffix(CODE_SUFFIX), result.code)


def check_picture_name(output: Path) -> None:
    """Raises UsageError where pictures are not written in the format that the name stands for."""
    if output.suffix.lower() not in PICTURE_SUFFIXES:
        raise UsageError(f"{output}: the result is written as .png, .jpg or .webp")


def save_pictures(images: Sequence[Image.Image], output: Path, names: Sequence[str]) -> list[Path]:
    """Writes pictures on one sheet, where `output` is a picture's file name, otherwise into the folder `output`.

    Returns the file of each picture. Raises OSError.
    """
    if output.suffix.lower() in PICTURE_SUFFIXES:
        save_picture(_sheet(images), output)
        return [output] * len(images)
    paths = [output / name for name in names]
    for image, path in zip(images, paths, strict=True):
        save_picture(image, path)
    return paths


def _sheet(images: Sequence[Image.Image]) -> Image.Image:
    """All pictures on one, in a grid that is as close to a square as it can be."""
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    width, height = images[0].size
    sheet = Image.new("RGB", (columns * width, rows * height), "white")
    for index, image in enumerate(images):
        sheet.paste(image, (index % columns * width, index // columns * height))
    return sheet


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that gets its name only once it is complete and on the disk: if the program is killed, no
    incomplete file has that name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
