"""Style transfer within an area, of sampled faces: `python -m benchmarks.local_style`.

Mixes fine layers of one sampled face into another within each area of TRANSFERS, then everywhere, and prints one table:
how far the style of the area is from the other face's there, how far the picture moved outside, and the domain score.
The style is the mean and the deviation of colours, and of LPIPS-sq features, over the area (Huang and Belongie 2017).
`--to docs/pictures/local_style.webp` also draws them, a column a transfer: base, style, mixed everywhere, mixed in the
area, and that edited again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import tyro
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

import indomain
from benchmarks.graphs import markdown_table
from benchmarks.strokes import sheet
from training.losses.perceptual import LPIPSSq

TIMEOUT_S = 600.0
Region = tuple[float, float, float, float]  # left, top, right, bottom, in parts of the sides

# By name: the seeds of base and style, and the area.
TRANSFERS: dict[str, tuple[int, int, Region]] = {
    "hair": (6, 11, (0.0, 0.0, 1.0, 0.3)),
    "eyes": (14, 9, (0.15, 0.35, 0.85, 0.55)),
    "mouth": (11, 6, (0.28, 0.64, 0.72, 0.86)),
    "left half": (2, 8, (0.0, 0.0, 0.5, 1.0)),
    "skin below the eyes": (7, 0, (0.15, 0.5, 0.85, 1.0)),
}


@dataclass
class LocalStyleConfig:
    """Mix faces within areas."""

    layers: list[int] = field(default_factory=lambda: [6, 7, 8, 9, 10, 11])
    """Of the style."""
    edit: str = "smile"
    """A direction along which the answer is edited again, by 1."""
    truncation: float = 0.7
    """Of the codes."""
    server: str = ":embedded:"
    """Gateway to ask."""
    to: Path | None = None
    """Also draw them there."""


class Style:
    """Measures styles of areas of pictures."""

    def __init__(self) -> None:
        self._perceptual = LPIPSSq()

    def apart(self, one: Image.Image, other: Image.Image, region: Region) -> tuple[float, float]:
        """How far the styles of two pictures are apart in an area: by colours on [-1, 1], and by features.

        Root of the mean square over channels; of features the mean over all depths, in thousandths.
        """
        deep = [self._perceptual.features(_tensor(picture)) for picture in (one, other)]
        mask = torch.from_numpy(_inside(region, one.size))[None, None].float()
        colours = _distance(_tensor(one), _tensor(other), mask)
        features = [_distance(a, b, mask) for a, b in zip(*deep, strict=True)]
        return colours, 1000 * float(np.mean(features))


def _tensor(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 127.5 - 1


def _inside(region: Region, size: tuple[int, int]) -> np.ndarray:
    """bool [H, W]: the pixels of an area."""
    left, top, right, bottom = (round(side * size[n % 2]) for n, side in enumerate(region))
    inside = np.zeros(size[::-1], bool)
    inside[top:bottom, left:right] = True
    return inside


def _distance(one: Tensor, other: Tensor, mask: Tensor) -> float:
    """Between means and deviations of maps [1, C, H, W] under a mask [1, 1, H, W]."""
    weights = adaptive_avg_pool2d(mask, (one.shape[2], one.shape[3]))
    weights = weights / weights.sum()

    def statistics(maps: Tensor) -> Tensor:
        mean = (maps * weights).sum((2, 3), keepdim=True)
        variance = ((maps - mean).square() * weights).sum((2, 3))
        return torch.stack([mean[:, :, 0, 0], variance.sqrt()])

    return float((statistics(one) - statistics(other)).square().sum(0).mean().sqrt())


def moved_outside(before: Image.Image, after: Image.Image, region: Region) -> float:
    """Mean squared difference of two pictures on [-1, 1] outside an area."""
    change = (np.asarray(after, float) - np.asarray(before, float)) / 127.5
    return float(np.mean(change[~_inside(region, before.size)] ** 2))


def outlined(picture: Image.Image, region: Region) -> Image.Image:
    """A picture with a frame around an area."""
    drawn, side = picture.copy(), picture.width - 1
    ImageDraw.Draw(drawn).rectangle([side * part for part in region], outline="white")
    return drawn


def run(config: LocalStyleConfig) -> str:
    """The table, and the picture where one is asked for."""
    rows, columns, style_of = [], [], Style()
    with indomain.Client(config.server, timeout_s=TIMEOUT_S, picture_format="raw") as client:
        for name, (base_seed, style_seed, region) in TRANSFERS.items():
            base, style = client.sample([base_seed, style_seed], truncation=config.truncation)
            everywhere = client.mix(base, style, config.layers)
            held = client.mix(base, style, config.layers, region=region)
            again = client.edit(held, indomain.Edit(config.edit, 1.0))
            pictures = [base.image, everywhere.image, held.image, again.image]
            colours, features = zip(
                *(style_of.apart(each, style.image, region) for each in pictures), strict=True
            )
            outside = [moved_outside(base.image, each, region) for each in pictures[1:3]]
            rows.append(
                [
                    name,
                    ", ".join(f"{value:.2f}" for value in colours),
                    ", ".join(f"{value:.1f}" for value in features),
                    ", ".join(f"{value:.4f}" for value in outside),
                    f"{everywhere.domain_score:.2f}, {held.domain_score:.2f}",
                ]
            )
            columns.append([outlined(base.image, region), style.image, *pictures[1:]])
    if config.to is not None:
        sheet([list(row) for row in zip(*columns, strict=True)]).save(config.to, quality=80, method=6)
    headings = [
        "area",
        "colours from the style: base, everywhere, in the area, edited again",
        "features from the style",
        "moved outside: everywhere, in the area",
        "domain score: everywhere, in the area",
    ]
    return markdown_table(headings, rows)


if __name__ == "__main__":
    print(run(tyro.cli(LocalStyleConfig, prog="python -m benchmarks.local_style")))
