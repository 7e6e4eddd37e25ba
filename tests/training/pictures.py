"""Made pictures with attributes, so that the tests need no data set, and the mapping of analytic generators."""

from __future__ import annotations

import csv
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image


class Repeated:
    """A mapping that repeats z float [N, Z] in each of `layers` rows of a code, filled up with zeros: [N, L, 512]."""

    def __init__(self, size: int, layers: int) -> None:
        self.size, self.layers = size, layers

    def draw(self, count: int, random: torch.Generator) -> tuple[torch.Tensor, ...]:
        return (torch.randn(count, self.size, generator=random),)

    def __call__(self, z: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pad(z, (0, 512 - self.size))[:, None].repeat(1, self.layers, 1)


def write_pictures(folder: Path, count: int, side: int) -> tuple[Path, Path]:
    """A zip of `count` pictures of `side` pixels, a bright disc on a coloured ground, and its csv.

    The csv has `tilt` (continuous) and `warm` (0 or 1).
    """
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[0:side, 0:side] / side - 0.5
    table = []
    with zipfile.ZipFile(folder / "pictures.zip", "w") as archive:
        for i in range(count):
            tilt, warm = random.uniform(-0.25, 0.25), int(random.random() < 0.5)
            disc = (rows - tilt) ** 2 + (columns - random.normal(0, 0.02)) ** 2 < 0.06
            ground = np.array([200, 120, 40] if warm else [40, 120, 200]) + random.normal(0, 10, 3)
            picture = np.where(disc[..., None], 240, ground).clip(0, 255).astype(np.uint8)
            content = BytesIO()
            Image.fromarray(picture).save(content, "PNG")
            archive.writestr(f"pictures/{i:04d}.png", content.getvalue())
            table.append({"file": f"{i:04d}.png", "tilt": tilt, "warm": warm})
    with (folder / "pictures.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["file", "tilt", "warm"])
        writer.writeheader()
        writer.writerows(table)
    return folder / "pictures.zip", folder / "pictures.csv"
