"""`python -m training mapping`: a run's mapping fitted to the codes of photographs, as a run folder of its own.

Samples become as varied as the photographs are. With --labels the generator becomes a conditional one, without being
trained: z and labels give codes as photographs with these labels have them. Synthesis network and encoder stay as they
are; directions, presets and alignment are carried over.

The encoder's codes are native then: it ends in a linear layer and the mapping's activation, so that they fill no more
dimensions than that layer has inputs. No discriminator tells them from samples for long, so the latent discriminator,
of which the domain score is made, is one that tells samples from such with noise.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import tyro

from training.data.labels import label_rows, with_labels
from training.data.pictures import DataError, load_pictures
from training.directions.directions import encode
from training.loops.coverage import fitted_mapping
from training.loops.noise_contrastive import train_noise_contrastive
from training.networks.generator import sample_codes
from training.run_folders.checkpoint import CheckpointError, checkpoint_folder, save_checkpoint
from training.run_folders.compact import is_compact
from training.run_folders.publication import copy_beside
from training.run_folders.run_folder import RunFolder
from training.run_folders.trained_inversion import load_inversion

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
    discriminator = train_noise_contrastive(generator)
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
