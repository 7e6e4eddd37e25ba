"""`python -m training mapping`: a run's mapping fitted to the codes of photographs, as a run folder of its own.

Samples become as varied as the photographs are. With --labels the generator becomes a conditional one, without being
trained: z and labels give codes as photographs with these labels have them. Synthesis network and encoder stay as they
are; directions, presets and alignment are carried over.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import tyro
from torch import Tensor

from training.data.labels import label_rows, with_labels
from training.data.pictures import DataError, load_pictures
from training.directions.directions import encode
from training.loops.coverage import fitted_mapping
from training.networks.generator import Generator, code_statistics, sample_codes
from training.networks.latent_discriminator import LatentDiscriminator, default_view
from training.optimisation.adversary import Adversary, Regularisation, discriminator_adam
from training.optimisation.step import Compute
from training.run_folders.checkpoint import CheckpointError, checkpoint_folder, save_checkpoint
from training.run_folders.compact import is_compact
from training.run_folders.publication import copy_beside
from training.run_folders.run_folder import RunFolder
from training.run_folders.trained_inversion import load_inversion

BATCH = 64
DRAWN = 32  # samples on the sheet of the run folder


@dataclass
class MappingConfig:
    """Fit a run's mapping to the codes of photographs; with --labels, one that follows these."""

    run: tyro.conf.Positional[Path]
    """Run folder of an encoder, or what `publish` made of it."""
    data: Path
    """Folder or zip of pictures."""
    runs: Path = Path("runs")
    """Parent of the run folders."""
    attributes: Path | None = None
    """Csv with labels of the pictures."""
    labels: tuple[str, ...] = ()
    """What the mapping takes beside z: columns of 0 and 1 in the csv, or NAME=COLUMN:LOW:HIGH of a column of numbers,
    which is 0 below LOW, 1 above HIGH and not known between. Cells may be empty: what is not known is read off the
    codes, as those with labels teach it."""
    steps: int = 2_000
    """Steps of the latent discriminator, which starts anew, on the new samples and the codes of the pictures."""
    rate: float = 0.002
    """Adam's rate for it."""
    r1_gamma: float = 10.0
    """Weight of its R1."""
    r1_interval: int = 16
    """Steps between these."""
    seed: int = 0
    """Seed of its weights and batches."""


def fit_run(config: MappingConfig) -> Path:
    """Write a run folder with the new mapping, and return it. Raises CheckpointError, DataError."""
    run = load_inversion(config.run)
    generator, shape = run.generator, run.generator.config
    if shape.mapping == "invertible" or not shape.per_layer_code:
        raise CheckpointError(
            f"{config.run} has one w for all layers, to which no mapping can be fitted; name a run whose "
            "generator has per_layer_code"
        )
    if config.labels and config.attributes is None:
        raise DataError(
            f"name the csv with the labels ({', '.join(config.labels)}) of the pictures: --attributes"
        )
    pictures = load_pictures(config.data, shape.resolution, config.attributes if config.labels else None)
    names = with_labels(pictures, config.labels)
    rows = label_rows(pictures, names) if names else None
    codes = encode(run.encoder, pictures)
    generator.config = replace(shape, mapping_depth=1, labels=names)
    generator.mapping = fitted_mapping(generator.config, codes, rows).requires_grad_(False)
    if generator.mapping.labels is not None and rows is not None:
        generator.mapping.labels.fit(rows)
    folder = RunFolder.create(config.runs, f"mapping-{run.meta['name']}", config)
    discriminator = fit_latent_discriminator(generator, codes, config, folder)
    with torch.no_grad():
        folder.save_grid("samples", generator.synthesis(sample_codes(generator, DRAWN)))
    meta = run.meta | {
        "generator": asdict(generator.config),
        "latent_discriminator_view": discriminator.view,
        "mapping_pictures": len(pictures),
    }
    networks = {"generator": generator, "encoder": run.encoder, "latent_discriminator": discriminator}
    save_checkpoint(folder.folder / "checkpoint", meta, networks, {})
    copy_beside(config.run if is_compact(config.run) else checkpoint_folder(config.run), folder.folder)
    return folder.folder


def fit_latent_discriminator(
    generator: Generator, codes: Tensor, config: MappingConfig, folder: RunFolder
) -> LatentDiscriminator:
    """Train one to tell sampled codes from those of pictures, float32 [M, L, 512]."""
    fabric = Compute(accelerator="cpu", precision="32-true").fabric()
    torch.manual_seed(config.seed)
    view = default_view(generator.config.per_layer_code)
    discriminator = LatentDiscriminator(
        *code_statistics(generator), view, inputs=generator.mapping.last_inputs
    )
    discriminator.native.fit(generator.mapping)
    lazy = Regularisation(config.r1_gamma, config.r1_interval)
    optimiser = discriminator_adam(discriminator, config.rate)
    adversary = Adversary(discriminator, optimiser, fabric, lazy, mixed_precision=False)
    for step in range(config.steps):
        with torch.no_grad():
            sampled = generator.mapping(*generator.mapping.draw(BATCH))
        chosen = codes[torch.randint(len(codes), (BATCH,))]
        done = adversary.step(sampled, chosen, regularise=adversary.regularises(step))
        if step % 50 == 0:
            folder.log(step, {name: float(value) for name, value in done.figures("latent", "code").items()})
    return discriminator.eval().requires_grad_(False)
