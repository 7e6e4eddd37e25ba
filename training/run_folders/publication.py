"""`python -m training publish`: copies an encoder's run into a small folder: float16 weights, no optimiser state, no
image, joint or prior discriminator, which only training needs.

The copy can be exported, measured and trained on, but not resumed. As `--gan` of another encoder it begins with a fresh
image discriminator.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from training.run_folders.checkpoint import OPTIMISER_SUFFIX, checkpoint_folder, load_meta
from training.run_folders.former_names import current_file_name, current_tensors
from training.run_folders.json_files import write_json

LEFT_OUT = (
    "image_discriminator.safetensors",
    "joint_discriminator.safetensors",
    "prior_discriminator.safetensors",
)
CARD_FILE = "card.json"
BESIDE = (
    "directions.json",
    "directions.safetensors",
    "presets.json",
    "alignment.json",
    "detail.json",
    "detail.safetensors",
    "noise.json",
    CARD_FILE,
)


@dataclass
class PublicationConfig:
    """Write a run's weights to a folder to keep, as float16."""

    run: Path
    """Run folder of an encoder."""
    to: Path
    """Folder to write; what it held is replaced."""


def publish(config: PublicationConfig) -> Path:
    """Copy weights (rounded to float16), directions and model card; return the new folder. Raises CheckpointError."""
    meta = load_meta(config.run, "inversion")
    source = checkpoint_folder(config.run)
    shutil.rmtree(config.to, ignore_errors=True)
    config.to.mkdir(parents=True)
    for file in sorted(source.glob("*.safetensors")):
        kept = not file.name.endswith(OPTIMISER_SUFFIX) and file.name not in BESIDE
        if kept and current_file_name(file.name) not in LEFT_OUT:
            state = current_tensors(load_file(file))
            rounded = {k: v.half() if v.dtype == torch.float32 else v for k, v in state.items()}
            save_file(rounded, config.to / current_file_name(file.name))
    write_json(config.to / "checkpoint.json", meta)
    copy_beside(source, config.to)
    return config.to


def copy_beside(source: Path, to: Path) -> None:
    """Copy what lies beside the weights to the folder `to`, from a run folder or the checkpoint in it."""
    for name in BESIDE:
        for folder in (source.parent, source):
            if (folder / name).is_file():
                shutil.copyfile(folder / name, to / name)
                break
