"""Faces found from what is known of them: `python -m benchmarks.restoration --data val.zip`.

Takes away colours, sharpness or places of photographs, has a gateway find the rest, and prints one table: how far
photograph and restoration are apart, beside what was known itself, made as good as it can be without a generator
(enlarged bicubically; unknown places grey). `--to docs/pictures/restoration.webp` also draws them, three rows a way:
known, found, photograph. After Ma, Ayaz and Karaman (NeurIPS 2018).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from PIL import Image
from rich.progress import track

import indomain
from benchmarks.graphs import Array, markdown_table
from benchmarks.quality import Judge, mean_figures
from training.data.pictures import load_pictures

TIMEOUT_S = 600.0
Known = Callable[[Array], tuple[Array, dict[str, Any]]]
"""A picture uint8 [H, W, 3] -> what is known of it, as such a picture, and the options of `Client.invert`."""


@dataclass
class RestorationConfig:
    """Restore pictures of which something was taken away."""

    data: Path
    """Zip of aligned pictures, or a folder of photographs, which the gateway aligns."""
    count: int = 8
    """Pictures to use: the first ones."""
    quality: str = "balanced"
    """Of the refinement: fast, balanced or best."""
    server: str = ":embedded:"
    """Gateway to ask."""
    to: Path | None = None
    """Also draw them there."""


def grey(picture: Array) -> tuple[Array, dict[str, Any]]:
    """Without colours."""
    values = np.asarray(Image.fromarray(picture).convert("L").convert("RGB"))
    return values, {"refine": indomain.Refine(grey=True)}


def smaller(times: int) -> Known:
    """So many times smaller, enlarged again."""

    def known(picture: Array) -> tuple[Array, dict[str, Any]]:
        image = Image.fromarray(picture)
        enlarged = image.reduce(times).resize(image.size, Image.Resampling.BICUBIC)
        return np.asarray(enlarged), {"refine": indomain.Refine(downsampling=times)}

    return known


def without(left: float, top: float, right: float, bottom: float) -> Known:
    """Without a rectangle, given in parts of the sides."""

    def known(picture: Array) -> tuple[Array, dict[str, Any]]:
        height, width = picture.shape[:2]
        hole = np.s_[round(top * height) : round(bottom * height), round(left * width) : round(right * width)]
        mask, rest = np.full_like(picture, 255), picture.copy()
        mask[hole], rest[hole] = 0, 128
        return rest, {"mask": mask}

    return known


WAYS: dict[str, Known] = {
    "grey (33 %)": grey,
    "2 times smaller (25 %)": smaller(2),
    "4 times smaller (6 %)": smaller(4),
    "8 times smaller (1.6 %)": smaller(8),
    "16 times smaller (0.4 %)": smaller(16),
    "without an eye (94 %)": without(0.22, 0.36, 0.5, 0.57),
    "without the mouth (85 %)": without(0.25, 0.65, 0.75, 0.95),
    "without a half (50 %)": without(0.5, 0.0, 1.0, 1.0),
}


def photographs(client: indomain.Client, config: RestorationConfig) -> Array:
    """Aligned pictures uint8 [N, H, W, 3]."""
    if not config.data.is_dir():
        pictures = load_pictures(config.data, client.info().bundles[0].resolution)
        return pictures.first(config.count).images.permute(0, 2, 3, 1).contiguous().numpy()
    files = sorted(path for path in config.data.iterdir() if path.suffix in (".jpg", ".png", ".webp"))
    answers = (client.invert(path, steps=0, include_aligned=True) for path in files[: config.count])
    return np.stack([np.asarray(answer.aligned) for answer in answers])


def restore(client: indomain.Client, pictures: Array, known: Known, quality: str) -> tuple[Array, Array]:
    """What is known of pictures uint8 [N, H, W, 3], and what is found."""
    given, found = [], []
    for picture in pictures:
        values, options = known(picture)
        answer = client.invert(values, quality=quality, align="centre-crop", timeout_s=TIMEOUT_S, **options)
        given.append(values)
        found.append(np.asarray(answer.image))
    return np.stack(given), np.stack(found)


def row(judge: Judge, made: Array, pictures: Array) -> list[str]:
    """MSE, LPIPS-sq and identity distance to the photographs."""
    means = mean_figures(judge.errors(made, pictures))
    return [f"{means['mse']:.4f}", f"{means['lpips_sq']:.3f}", f"{means['identity_distance']:.2f}"]


def main(config: RestorationConfig) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    with indomain.Client(config.server) as client:
        shown = photographs(client, config)
        judge, rows, drawn = Judge(), [], []
        for name, known in track(WAYS.items(), "restoring"):
            given, found = restore(client, shown, known, config.quality)
            rows.append([name, *row(judge, given, shown), *row(judge, found, shown)])
            drawn.append(np.concatenate([np.concatenate(list(part), 1) for part in (given, found, shown)]))
    of = ("MSE", "LPIPS-sq", "identity distance")
    print(f"{len(shown)} photographs, {config.quality}")
    print(
        markdown_table(
            ["known", *(f"{name}, as known" for name in of), *(f"{name}, found" for name in of)], rows
        )
    )
    if config.to:
        Image.fromarray(np.concatenate(drawn)).save(config.to, quality=60)
        print(f"drawn to {config.to}")


if __name__ == "__main__":
    main(tyro.cli(RestorationConfig))
