"""Strokes on a portrait: `python -m benchmarks.strokes`.

Paints each drawing of DRAWINGS onto the picture of a portrait's code, lets a code follow it, and prints one table: how
far the picture is from the strokes before and after, how far it moved elsewhere, and its domain score. `--to
docs/pictures/strokes.webp` also draws them: the code's picture, the strokes on it, and the answer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tyro
from PIL import Image, ImageDraw

import indomain
from benchmarks.graphs import markdown_table

TIMEOUT_S = 600.0
SIDE = 512
CELL = 160  # pixels of a picture on the sheet
Line = tuple[tuple[float, float], ...]  # x and y, in parts of the sides

# By name: colour, width in parts of the side, and lines.
DRAWINGS: dict[str, tuple[str, float, tuple[Line, ...]]] = {
    "fair hair": ("#ebc878", 0.12, (((0.1, 0.24), (0.27, 0.1), (0.5, 0.05), (0.73, 0.1), (0.9, 0.24)),)),
    "dark brows": ("#140f0a", 0.045, (((0.23, 0.36), (0.41, 0.34)), ((0.59, 0.34), (0.77, 0.36)))),
    "red lips": ("#be1428", 0.09, (((0.4, 0.75), (0.6, 0.75)),)),
    "a beard": ("#1e140f", 0.09, (((0.22, 0.72), (0.33, 0.87), (0.5, 0.93), (0.67, 0.87), (0.78, 0.72)),)),
    "a green cheek": ("#14dc28", 0.12, (((0.26, 0.6), (0.3, 0.6)),)),
}


@dataclass
class StrokesConfig:
    """Let codes follow strokes."""

    portrait: Path = Path("clients/python/examples/portrait.png")
    """What is painted on."""
    domain_weights: list[float] = field(default_factory=lambda: [0.5, 2.0])
    """How firmly the domain term holds the code: rows of the table for each; the first is drawn."""
    server: str = ":embedded:"
    """Gateway to ask."""
    to: Path | None = None
    """Also draw them there."""


def strokes(name: str) -> Image.Image:
    """A drawing as RGBA, transparent where nothing is painted."""
    colour, width, lines = DRAWINGS[name]
    drawn = Image.new("RGBA", (SIDE, SIDE))
    pen, reach = ImageDraw.Draw(drawn), width * SIDE / 2
    for line in lines:
        points = [(SIDE * x, SIDE * y) for x, y in line]
        pen.line(points, fill=colour, width=round(width * SIDE), joint="curve")
        for x, y in (points[0], points[-1]):
            pen.ellipse((x - reach, y - reach, x + reach, y + reach), fill=colour)
    return drawn


def painted(picture: Image.Image, name: str) -> Image.Image:
    """A picture with a drawing on it, as large as the drawing."""
    below = picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC).convert("RGBA")
    return Image.alpha_composite(below, strokes(name)).convert("RGB")


def moved_elsewhere(before: Image.Image, after: Image.Image, name: str) -> float:
    """Mean squared difference of two pictures on [-1, 1] where a drawing is transparent."""
    left = np.asarray(strokes(name).resize(before.size))[:, :, 3] == 0
    change = (np.asarray(after, float) - np.asarray(before, float)) / 127.5
    return float(np.mean(change[left] ** 2))


def sheet(rows: list[list[Image.Image]]) -> Image.Image:
    """Pictures in rows."""
    drawn = Image.new("RGB", (CELL * len(rows[0]), CELL * len(rows)))
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            drawn.paste(picture.resize((CELL, CELL), Image.Resampling.LANCZOS), (CELL * x, CELL * y))
    return drawn


def run(config: StrokesConfig) -> str:
    """The table, and the picture where one is asked for."""
    rows, columns = [], []
    with indomain.Client(config.server, timeout_s=TIMEOUT_S) as client:
        source = client.invert(config.portrait)
        for weight in config.domain_weights:
            for name in DRAWINGS:
                edited = client.edit(
                    source, strokes=strokes(name), refine=indomain.Refine(domain_weight=weight)
                )
                assert edited.strokes is not None
                if weight == config.domain_weights[0]:
                    columns.append([source.image, painted(source.image, name), edited.image])
                rows.append(
                    [
                        name,
                        f"{weight:g}",
                        f"{edited.strokes.pixel_mse_before:.3f}, {edited.strokes.pixel_mse_after:.3f}",
                        f"{moved_elsewhere(source.image, edited.image, name):.4f}",
                        f"{source.domain_score:.2f}, {edited.domain_score:.2f}",
                    ]
                )
    if config.to is not None:
        sheet([list(row) for row in zip(*columns, strict=True)]).save(config.to, quality=80, method=6)
    headings = [
        "strokes",
        "domain weight",
        "from the strokes: before, after",
        "moved elsewhere",
        "domain score: before, after",
    ]
    return markdown_table(headings, rows)


if __name__ == "__main__":
    print(run(tyro.cli(StrokesConfig, prog="python -m benchmarks.strokes")))
