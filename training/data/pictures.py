"""Data sets of pictures: a folder or a zip, with an optional csv of attributes.

All pictures are decoded once and held in memory as uint8, on the device that trains on them.
"""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

EMPTY = ""
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}


class DataError(ValueError):
    """The named data cannot be trained on; the message says why."""


class PictureSource(Protocol):
    """Anything that a training step draws pictures from."""

    def __len__(self) -> int: ...

    def batch(self, index: Tensor, *, mirror: bool | Tensor) -> Tensor:
        """Pictures at `index` [N] as float32 [N, 3, H, W] in [-1, 1], mirrored where a bool [N] says so."""


@dataclass(frozen=True)
class Pictures:
    """A data set in memory."""

    images: Tensor
    """uint8 [M, 3, H, W]"""
    names: list[str]
    """File names, one a picture, sorted."""
    attributes: dict[str, np.ndarray]
    """float64 [M] for each column of numbers in the csv; empty without a csv."""
    labels: dict[str, list[str]] = field(default_factory=dict)
    """M words for each column of words in the csv, as the name of a source; a word is empty where it is not known."""

    def __len__(self) -> int:
        return len(self.names)

    def first(self, count: int) -> Pictures:
        """The first `count` pictures with their attributes."""
        return self.chosen(torch.arange(min(count, len(self))))

    def chosen(self, index: Tensor) -> Pictures:
        """The pictures of an index int [N] with their attributes."""
        places = index.tolist()
        return Pictures(
            self.images[index],
            [self.names[i] for i in places],
            {name: values[places] for name, values in self.attributes.items()},
            {name: [words[i] for i in places] for name, words in self.labels.items()},
        )

    def to(self, device: torch.device) -> Pictures:
        """The same data set with its pictures on `device`."""
        return replace(self, images=self.images.to(device))

    def batch(self, index: Tensor, *, mirror: bool | Tensor) -> Tensor:
        """Pictures at `index` [N] as float32 [N, 3, H, W] in [-1, 1], on the device of the pictures.

        `mirror`: a bool [N] says which are mirrored; True mirrors each with a probability of one half.
        """
        images = self.images[on_device(index, self.images.device)].float() / 127.5 - 1
        if mirror is not False:
            flip = mirror if isinstance(mirror, Tensor) else torch.rand(len(index)) < 0.5
            flip = on_device(flip, images.device)
            images = torch.where(flip[:, None, None, None], images.flip(3), images)
        return images.contiguous(memory_format=torch.channels_last)


def on_device(drawn: Tensor, device: torch.device) -> Tensor:
    """Bring what was drawn on the host to a device. A GPU fetches it from pinned memory, and nothing waits for it."""
    if device.type != "cuda" or drawn.device == device:
        return drawn.to(device)
    return drawn.pin_memory().to(device, non_blocking=True)


def load_pictures(
    source: Path, resolution: int, attributes: Path | None = None, *, crop: bool = True
) -> Pictures:
    """Read every picture under `source` (folder or zip), centre-cropped and resized to `resolution` pixels.

    Raises DataError where there is no picture, one cannot be decoded, the csv does not name each of them, or one has
    another size and `crop` is False.
    """
    names, rows = [], []
    for name, content in sorted(_files(source)):
        try:
            with Image.open(BytesIO(content)) as picture:
                upright = ImageOps.exif_transpose(picture).convert("RGB")
        except OSError as error:
            raise DataError(f"{name} in {source} is not a picture that can be read: {error}") from error
        if not crop and upright.size != (resolution, resolution):
            size = f"{upright.width} x {upright.height} pixels"
            raise DataError(f"{name} in {source} has {size}; align it to {resolution} x {resolution}")
        names.append(name)
        rows.append(np.asarray(resized(upright, resolution)).transpose(2, 0, 1))
    if not rows:
        raise DataError(f"no pictures ({', '.join(sorted(SUFFIXES))}) in {source}")
    numbers, labels = _read_attributes(attributes, names) if attributes else ({}, {})
    return Pictures(torch.from_numpy(np.stack(rows)), names, numbers, labels)


def resized(picture: Image.Image, resolution: int) -> Image.Image:
    """The picture, centre-cropped and resized to `resolution` x `resolution` pixels; itself where it has that size."""
    if picture.size == (resolution, resolution):
        return picture
    return ImageOps.fit(picture, (resolution, resolution), Image.Resampling.LANCZOS)


def _files(source: Path) -> Iterator[tuple[str, bytes]]:
    if source.is_dir():
        for path in source.rglob("*"):
            if path.suffix.lower() in SUFFIXES:
                yield path.name, path.read_bytes()
    elif zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as archive:
            for entry in archive.infolist():
                if Path(entry.filename).suffix.lower() in SUFFIXES:
                    yield Path(entry.filename).name, archive.read(entry)
    else:
        raise DataError(f"{source} is neither a folder nor a zip of pictures")


def _read_attributes(path: Path, names: list[str]) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
    with path.open(newline="") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    missing = [name for name in names if name not in rows]
    if missing:
        raise DataError(f"{path} has no row for {len(missing)} pictures, {missing[0]} the first")
    columns = [column for column in next(iter(rows.values())) if column != "file"]
    read = {column: [_number(rows[name][column]) for name in names] for column in columns}
    attributes, labels = {}, {}
    for column, values in read.items():
        if all(isinstance(value, str) for value in values if value != EMPTY):
            labels[column] = [str(value) for value in values]
            continue
        for name, value in zip(names, values, strict=True):
            if isinstance(value, str) and value != EMPTY:
                raise DataError(f"{path} holds a value that is no number: {value!r}, {column} of {name}")
        attributes[column] = np.array([np.nan if value == EMPTY else value for value in values], dtype=float)
    return attributes, labels


def _number(cell: str | None) -> float | str:
    """The number in a cell; its text where it holds none."""
    text = (cell or EMPTY).strip()
    try:
        return float(text)
    except ValueError:
        return text
