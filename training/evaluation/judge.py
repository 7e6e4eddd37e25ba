"""What an evaluation is asked for, and the judge that all methods have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from torch import Tensor

from training.data.pictures import Pictures, load_pictures
from training.directions.attributes import AttributeReader
from training.faces.identity import FaceDescriptor, face_chip, identity_similarity
from training.losses.perceptual import LPIPSSq
from training.measures.metrics import efflite0_features, inception_features, load_inception, mean_square, psnr
from training.networks.features import EfficientNetLite0
from training.run_folders.trained_inversion import TrainedInversion

Figures = dict[str, float]


@dataclass
class EvaluationConfig:
    """Compare encoders, and inversions by optimisation, on held-out pictures."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders of encoders for one generator; inversions by optimisation are measured on the first."""
    data: Path
    """Folder or zip of held-out pictures."""
    train: Path | None = None
    """Pictures that boundaries and the attribute reader are fitted on; without them nothing is edited."""
    train_attributes: Path | None = None
    """Their csv."""
    data_attributes: Path | None = None
    """The held-out pictures' csv, for the average precision of boundaries."""
    attributes: tuple[str, ...] = ("smile", "age", "male", "yaw")
    """Attributes to edit and to judge by."""
    output: Path = Path("evaluation")
    """Folder to write."""
    shown: Path | None = None
    """Folder of pictures that may be shown to others: every method's reconstructions of them are drawn too."""
    optimised: int = 32
    """Held-out pictures that inversions by optimisation are measured on; 0 for none."""
    steps: int = 100
    """Steps of the domain-regularised optimisation; the inversions without an encoder get four times as many."""
    refined: int = 0
    """Held-out pictures on which every encoder's codes are refined, too, by `steps` steps; 0 for none."""
    edited: int = 200
    """Held-out pictures to edit."""
    boundaries_from: int = 4_000
    """Training pictures that boundaries are fitted on, the first ones."""
    samples: int = 10_000
    """Samples whose FD-EffLite0 to the training pictures is measured, beside that of held-out pictures."""
    inception: Path | None = None
    """TorchScript file of the FID's own Inception-v3 (inception-2015-12-05.pt, published by NVIDIA): with it the FID is
    measured beside FD-EffLite0."""


class Judge:
    """Held-out pictures, their features, and independent networks: every method is judged by the same ones."""

    def __init__(self, config: EvaluationConfig, resolution: int) -> None:
        self.config = config
        self.pictures = load_pictures(config.data, resolution, config.data_attributes)
        self.images = self.pictures.batch(torch.arange(len(self.pictures)), mirror=False)
        self.perceptual, self.faces = LPIPSSq().eval(), FaceDescriptor()
        self.spaces: dict[str, Callable[[Tensor], np.ndarray]] = {
            "fd_efflite0": partial(efflite0_features, EfficientNetLite0())
        }
        if config.inception:
            self.spaces["fid"] = partial(inception_features, load_inception(config.inception))
        self.features = {name: space(self.images) for name, space in self.spaces.items()}
        self.descriptors = self.describe(self.images)
        self.train: Pictures | None = None
        if config.train and config.train_attributes:
            self.train = load_pictures(config.train, resolution, config.train_attributes)
            self.reader = AttributeReader.train(self.train, list(config.attributes))

    @torch.no_grad()
    def describe(self, images: Tensor) -> Tensor:
        """Face descriptors float [N, 128] of pictures float [N, 3, H, W]."""
        return torch.cat([self.faces(face_chip(part)) for part in images.split(32)])

    @torch.no_grad()
    def reconstructions(self, made: Tensor) -> Figures:
        """Mean errors of reconstructions float [N, 3, H, W] of the first N held-out pictures."""
        images = self.images[: len(made)]
        pairs = zip(made.split(64), images.split(64), strict=True)
        persons = identity_similarity(self.describe(made), self.descriptors[: len(made)])
        return {
            "mse": float(mean_square(made, images).mean()),
            "psnr": float(psnr(made, images).mean()),
            "lpips_sq": float(torch.cat([self.perceptual(a, b) for a, b in pairs]).mean()),
            "identity_distance": persons.distance,
            "identity_found": persons.found_share,
        }


@torch.no_grad()
def decode(run: TrainedInversion, codes: Tensor) -> Tensor:
    """Codes float [N, L, 512] -> pictures float [N, 3, H, W], clamped to [-1, 1] as they are shown."""
    return torch.cat([run.generator.synthesis(part).clamp(-1, 1) for part in codes.split(32)])
