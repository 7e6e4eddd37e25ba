"""Geodesics beside straight lines, between sampled faces: `python -m benchmarks.geodesics`.

Asks for both ways between the same codes, and prints one table: energy, length and evenness in pictures, and the domain
scores on the way. `--to docs/pictures/geodesic.jpg` also draws some pairs, each line above its geodesic.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from PIL import Image

import indomain
from benchmarks.graphs import markdown_table

TIMEOUT_S = 600.0
Way = list[indomain.InterpolationFrame]


@dataclass
class GeodesicsConfig:
    """Compare ways between codes of seeds."""

    pairs: int = 6
    """Pairs of codes: seeds 0 and 1, 2 and 3, ..."""
    count: int = 6
    """Pictures of a way, with both ends."""
    quality: str = "balanced"
    """Of the refinement that finds a geodesic: fast, balanced or best."""
    truncation: float = 0.7
    """Of the codes."""
    server: str = ":embedded:"
    """Gateway to ask."""
    to: Path | None = None
    """Also draw pairs there."""
    shown: int = 2
    """How many pairs to draw: the first ones."""


def ways(client: indomain.Client, config: GeodesicsConfig, pair: int) -> tuple[Way, Way]:
    """The straight line and the geodesic between two seeds' codes."""
    start, end = client.sample([2 * pair, 2 * pair + 1], truncation=config.truncation)
    line = client.interpolate(start, end, config.count)
    geodesic = client.interpolate(start, end, config.count, path="geodesic", quality=config.quality)
    return list(line), list(geodesic)


def figures(way: Way) -> dict[str, float]:
    """By what the table calls them."""
    pictures = np.stack([frame.pixels for frame in way]).astype(np.float32) / 127.5 - 1
    steps = np.sqrt(np.mean(np.diff(pictures, axis=0) ** 2, axis=(1, 2, 3)))
    scores = [frame.domain_score for frame in way[1:-1]]
    return {
        "energy": way[-1].energy,
        "energy beyond the cross-fade's": way[-1].energy - float(np.mean((pictures[-1] - pictures[0]) ** 2)),
        "length": way[-1].length,
        "longest step / mean step": float(steps.max() / steps.mean()),
        "domain score between the ends, mean": float(np.mean(scores)),
        "domain score between the ends, lowest": min(scores),
    }


def table(pairs: list[tuple[Way, Way]]) -> str:
    """Medians over the pairs, and of the ratios of both ways, with the lowest and the highest ratio."""
    lines, geodesics = ([figures(way) for way in column] for column in zip(*pairs, strict=True))
    rows = []
    for name in lines[0]:
        one, other = (np.array([found[name] for found in column]) for column in (lines, geodesics))
        ratios = other / one
        spread = f"{ratios.min():.2f} to {ratios.max():.2f}"
        rows.append(
            [name, f"{np.median(one):.3f}", f"{np.median(other):.3f}", f"{np.median(ratios):.2f}", spread]
        )
    return markdown_table(["", "straight line", "geodesic", "ratio", "ratios from, to"], rows)


def sheet(pairs: list[tuple[Way, Way]]) -> Image.Image:
    """The pictures of pairs, each line above its geodesic."""
    side, count = pairs[0][0][0].image.width, len(pairs[0][0])
    height = 2 * side + side // 8
    drawn = Image.new("RGB", (count * side, len(pairs) * height - side // 8), "white")
    for n, pair in enumerate(pairs):
        for row, way in enumerate(pair):
            for column, frame in enumerate(way):
                drawn.paste(frame.image, (column * side, n * height + row * side))
    return drawn


def main(config: GeodesicsConfig) -> None:
    """Print the table, and draw."""
    with indomain.Client(config.server, timeout_s=TIMEOUT_S, picture_format="raw") as client:
        pairs = []
        for pair in range(config.pairs):
            pairs.append(ways(client, config, pair))
            told = [", ".join(f"{value:.4f}" for value in figures(way).values()) for way in pairs[-1]]
            print(f"pair {pair}: {told[0]}; geodesic {told[1]}", flush=True)
    print(f"\n{config.pairs} pairs, {config.count} pictures, {config.quality}; medians:\n")
    print(table(pairs))
    if config.to is not None:
        sheet(pairs[: config.shown]).save(config.to, quality=85)
        print(f"\nwrote {config.to}")


if __name__ == "__main__":
    main(tyro.cli(GeodesicsConfig))
