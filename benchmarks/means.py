"""Means of sampled faces, linear beside Fréchet: `python -m benchmarks.means`.

Asks for both means of the same codes, and prints one table: the sum of the squared distances to the sources in the
metric that is pulled back from pictures, the domain score, and the picture's contrast. The linear mean's distances are
those of its straight lines, and, for what bending alone would give, of geodesics from it to the sources.
`--to docs/pictures/means.jpg` also draws each group in a row: the sources, the linear mean, the Fréchet mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from PIL import Image

import indomain
from benchmarks.graphs import markdown_table

TIMEOUT_S = 600.0
PICTURES = 4  # of a way, as Mean's distances count them


@dataclass
class MeansConfig:
    """Compare means of codes of seeds."""

    groups: int = 3
    """Groups of codes: seeds 0 to 3, 4 to 7, ..."""
    of: int = 4
    """Codes in a group."""
    quality: str = "balanced"
    """Of the refinement that finds a mean: fast, balanced or best."""
    truncation: float = 0.7
    """Of the codes."""
    server: str = ":embedded:"
    """Gateway to ask."""
    to: Path | None = None
    """Also draw the groups there."""


def squares(lengths: Sequence[float]) -> float:
    """The sum of squared distances."""
    return sum(length**2 for length in lengths)


def contrast(picture: Image.Image) -> float:
    """The deviation of a picture's grey values, on [-1, 1]."""
    return float(np.std(np.asarray(picture.convert("L"), float) / 127.5))


def bent(client: indomain.Client, mean: indomain.Mean, sources: list[indomain.Sample], quality: str) -> float:
    """The sum of the squared lengths of geodesics from a mean to its sources."""
    ways = [
        list(client.interpolate(mean, source, PICTURES, path="geodesic", quality=quality))
        for source in sources
    ]
    return squares([way[-1].length for way in ways])


def main(config: MeansConfig) -> None:
    """Print the table, and draw."""
    rows, drawn = [], []
    with indomain.Client(config.server, timeout_s=TIMEOUT_S, picture_format="raw") as client:
        for group in range(config.groups):
            seeds = range(config.of * group, config.of * (group + 1))
            sources = client.sample(seeds, truncation=config.truncation)
            linear = client.mean(sources)
            frechet = client.mean(sources, path="geodesic", quality=config.quality)
            sums = [
                squares(linear.distances),
                bent(client, linear, sources, config.quality),
                squares(frechet.distances),
            ]
            own = np.mean([contrast(source.image) for source in sources])
            rows.append(
                [
                    f"{seeds[0]} to {seeds[-1]}",
                    ", ".join(f"{value:.3f}" for value in sums),
                    f"{linear.domain_score:.2f}, {frechet.domain_score:.2f}",
                    f"{own:.2f}, {contrast(linear.image):.2f}, {contrast(frechet.image):.2f}",
                ]
            )
            drawn.append([*(source.image for source in sources), linear.image, frechet.image])
            print(f"seeds {'; '.join(rows[-1])}", flush=True)
    headings = [
        "seeds",
        "sum of squared distances: linear, linear with geodesics, Fréchet",
        "domain score: linear, Fréchet",
        "contrast: sources, linear, Fréchet",
    ]
    print(f"\n{markdown_table(headings, rows)}")
    if config.to is not None:
        sheet(drawn).save(config.to, quality=85)
        print(f"\nwrote {config.to}")


def sheet(rows: list[list[Image.Image]]) -> Image.Image:
    """Groups in rows; the two means stand a little apart from the sources."""
    side, gap = rows[0][0].width, rows[0][0].width // 8
    drawn = Image.new("RGB", (len(rows[0]) * side + gap, len(rows) * side), "white")
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            drawn.paste(picture, (x * side + (gap if x >= len(row) - 2 else 0), y * side))
    return drawn


if __name__ == "__main__":
    main(tyro.cli(MeansConfig, prog="python -m benchmarks.means"))
