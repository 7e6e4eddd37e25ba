"""What additional rows of a code are worth: `python -m benchmarks.extra_rows --data val.zip`.

Refines the encoder's codes of held-out pictures in PyTorch, with the vectors of W+ alone, with detail, with noise maps
(which `python -m training noise` would give the run, and which are only measured here), and with both. It prints one
table: how far picture and photograph are apart, how native the vectors are, and how large the rows have become.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import tyro
from rich.progress import track
from torch import Tensor

from benchmarks.graphs import Array, markdown_table, shipped_checkpoint
from benchmarks.quality import Judge, mean_figures
from export.bundles.building import settle
from export.bundles.checkpoint import load_pipeline
from training.data.pictures import load_pictures
from training.losses.perceptual import LPIPSSq
from training.refinement.noise_maps import NoiseMapsConfig, measured_noise
from training.refinement.objective import Objective, domain_regulariser
from training.refinement.refinement import RefinementConfig, refine
from training.run_folders.picture_grid import to_uint8

# By name: whether there is detail, and noise.
WAYS = {
    "W+ only": (False, False),
    "detail": (True, False),
    "noise": (False, True),
    "detail and noise": (True, True),
}
COLUMNS = {
    "mse": "MSE",
    "psnr": "PSNR dB",
    "lpips_sq": "LPIPS-sq",
    "identity_distance": "identity distance",
    "domain": "domain term",
    "detail": "detail",
    "noise": "noise",
}


@dataclass
class ExtraRowsConfig:
    """Compare refinements with and without additional rows."""

    data: Path
    """Zip or folder of held-out pictures, aligned."""
    run: Path = field(default_factory=shipped_checkpoint)
    """Run folder of an encoder, with detail."""
    count: int = 12
    """Pictures: the first ones."""
    batch: int = 4
    """Pictures at a time."""
    ways: list[str] = field(default_factory=lambda: list(WAYS))
    """Which ways to compare."""
    noise: NoiseMapsConfig = field(default_factory=lambda: NoiseMapsConfig(shipped_checkpoint()))
    """Of the noise maps."""
    refine: RefinementConfig = field(default_factory=RefinementConfig)
    """Of all ways."""


def run(config: ExtraRowsConfig) -> str:
    """The table."""
    pipeline = load_pipeline(config.run)
    generator, shape = pipeline.generator, pipeline.generator.config
    extra = generator.synthesis.extra
    extra.put(measured_noise(generator, config.noise))
    objective = pipeline.objective(generator.synthesis, pipeline.encoder, LPIPSSq()).requires_grad_(False)
    settings = settle(config.refine, groups=extra.names, has_identity=objective.descriptor is not None)
    pictures = load_pictures(config.data, shape.resolution).first(config.count)
    judge = Judge()
    found: dict[str, dict[str, list[Array]]] = {way: {} for way in config.ways}
    for part in track(torch.arange(len(pictures)).split(config.batch), "refining"):
        target = pictures.batch(part, mirror=False)
        with torch.no_grad():
            start = objective.encoder(target)
        start = torch.nn.functional.pad(start, (0, 0, 0, extra.rows(shape.code_size)))
        for way in config.ways:
            detail, noise = WAYS[way]
            code = refine(objective, start, target, replace(settings, detail=detail, noise=noise)).code
            for name, values in figures(objective, code, target, judge).items():
                found[way].setdefault(name, []).append(values)
    rows = []
    for way, parts in found.items():
        means = mean_figures({name: np.concatenate(values) for name, values in parts.items()})
        rows.append([way, *(f"{means[name]:.4f}" for name in COLUMNS)])
    return markdown_table(["", *COLUMNS.values()], rows)


@torch.no_grad()
def figures(objective: Objective, code: Tensor, target: Tensor, judge: Judge) -> dict[str, Array]:
    """Of each code float [N, L + R, 512]: errors of its picture, the domain term, the mean square of each group."""
    picture, vectors = objective.synthesis(code), code[:, : objective.layers]
    domain = domain_regulariser(vectors, objective.encoder(picture), objective.code_variance)
    sizes = {group.name: code[:, group.rows].square().mean((1, 2)).numpy() for group in objective.groups}
    made, wanted = (to_uint8(images).permute(0, 2, 3, 1).numpy() for images in (picture, target))
    return judge.errors(made, wanted) | {"domain": domain.numpy()} | sizes


if __name__ == "__main__":
    print(run(tyro.cli(ExtraRowsConfig, prog="python -m benchmarks.extra_rows")))
