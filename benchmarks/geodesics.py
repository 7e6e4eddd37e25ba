"""Geodesics beside straight lines, between sampled faces: `python -m benchmarks.geodesics`.

Asks for both ways between the same codes, and prints one table: energy, length and evenness in pictures, the domain
scores on the way, and the time. `--to` also draws one pair, the line above the geodesic.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tyro
from PIL import Image
from rich.progress import track

import indomain
from benchmarks.graphs import Array, markdown_table

TIMEOUT_S = 600.0


@dataclass
class GeodesicsConfig:
    """Compare ways between codes of seeds."""

    pairs: int = 16
    """Pairs of codes: seeds 0 and 1, 2 and 3, ..."""
    count: int = 8
    """Pictures of a way, with both ends."""
    quality: str = "balanced"
    """Of the refinement that finds a geodesic: fast, balanced or best."""
    truncation: float = 0.7
    """Of the codes."""
    server: str = ":embedded:"
    """Gateway to ask."""
    to: Path | None = None
    """Draw a pair there, in place of the table: docs/pictures/geodesic.jpg."""
    shown: int = 0
    """Which pair to draw."""


@dataclass(frozen=True)
class Way:
    """An interpolation and what it took."""

    frames: list[indomain.InterpolationFrame]
    seconds: float

    def figures(self) -> dict[str, float]:
        """By what the table calls them."""
        pictures = np.stack([frame.pixels for frame in self.frames]).astype(np.float32) / 127.5 - 1
        steps = np.sqrt(np.mean(np.diff(pictures, axis=0) ** 2, axis=(1, 2, 3)))
        scores = [frame.domain_score for frame in self.frames[1:-1]]
        return {
            "energy": self.frames[-1].energy,
            "energy beyond the cross-fade's": self.frames[-1].energy
            - mean_square(pictures[-1] - pictures[0]),
            "length": self.frames[-1].length,
            "longest step / mean step": float(steps.max() / steps.mean()),
            "domain score between the ends, mean": float(np.mean(scores)),
            "domain score between the ends, lowest": min(scores),
            "seconds": self.seconds,
        }


def mean_square(values: Array) -> float:
    return float(np.mean(values**2))


def ways(client: indomain.Client, config: GeodesicsConfig, pair: int) -> tuple[Way, Way]:
    """The straight line and the geodesic between two seeds' codes."""
    start, end = client.sample([2 * pair, 2 * pair + 1], truncation=config.truncation)

    def timed(path: Literal["linear", "geodesic"]) -> Way:
        begun_s = time.perf_counter()
        found = client.interpolate(
            start, end, config.count, path=path, quality=config.quality, timeout_s=TIMEOUT_S
        )
        return Way(list(found), time.perf_counter() - begun_s)

    return timed("linear"), timed("geodesic")


def table(found: list[tuple[Way, Way]]) -> str:
    """Medians over the pairs, and of the ratios of both ways with the lowest and the highest ratio."""
    lines, geodesics = ([way.figures() for way in column] for column in zip(*found, strict=True))
    rows = []
    for name in lines[0]:
        one, other = (np.array([figures[name] for figures in column]) for column in (lines, geodesics))
        ratios = other / one
        middle, low, high = np.median(ratios), ratios.min(), ratios.max()
        rows.append(
            [
                name,
                f"{np.median(one):.3g}",
                f"{np.median(other):.3g}",
                f"{middle:.2f}",
                f"{low:.2f} to {high:.2f}",
            ]
        )
    return markdown_table(["", "straight line", "geodesic", "ratio", "ratios from, to"], rows)


def sheet(rows: tuple[Way, Way]) -> Image.Image:
    """The pictures of two ways, one above the other."""
    pictures = [[frame.image for frame in way.frames] for way in rows]
    side = pictures[0][0].width
    drawn = Image.new("RGB", (len(pictures[0]) * side, len(rows) * side + side // 16), "white")
    for row, images in enumerate(pictures):
        for column, image in enumerate(images):
            drawn.paste(image, (column * side, row * (side + side // 16)))
    return drawn


def main(config: GeodesicsConfig) -> None:
    """Print the table, or draw a pair."""
    with indomain.Client(config.server, timeout_s=TIMEOUT_S, picture_format="raw") as client:
        if config.to is not None:
            sheet(ways(client, config, config.shown)).save(config.to, quality=90)
            print(f"wrote {config.to}")
            return
        found = [ways(client, config, pair) for pair in track(range(config.pairs), "pairs")]
    print(f"{config.pairs} pairs, {config.count} pictures, {config.quality}; medians:\n")
    print(table(found))


if __name__ == "__main__":
    main(tyro.cli(GeodesicsConfig))
