"""Settings of the GAN's training."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from training.networks.generator import GeneratorConfig
from training.networks.image_discriminators import IMAGE_DISCRIMINATORS
from training.optimisation.step import Compute

DiscriminatorName = Annotated[str, tyro.conf.arg(metavar="{" + ",".join(IMAGE_DISCRIMINATORS) + "}")]


@dataclass
class GanConfig:
    """Train a generator and its image discriminator."""

    data: Path
    """Folder or zip of pictures."""
    name: str = "faces64"
    """Name of the pipeline to be."""
    runs: Path = Path("runs")
    """Parent of the run folders."""
    resume: Path | None = None
    """Run folder to go on from, with its optimiser state, or a compact checkpoint, without; network shapes are kept."""
    grow: Path | None = None
    """Run folder or compact checkpoint of half the resolution to begin from; the new blocks are faded in."""
    grow_images: int = 50_000
    """Pictures over which they are."""
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    discriminator: DiscriminatorName = "projected"
    """Image discriminator: on pretrained features, StyleGAN2's own, or both. A run that goes on keeps its own; it may
    add the other one (both), which then starts anew."""
    images: int = 200_000
    """Pictures to show the discriminator in all, resumed ones counted in."""
    seconds: float | None = None
    """End in this time, counted from the start of the command, with all written; --resume goes on later."""
    finish: bool = False
    """With --seconds: this is the run's last part. Rates fall until the time is up or --images are shown, whichever
    comes first."""
    compact: bool = False
    """Write a compact checkpoint beside each checkpoint: one file of float16 weights without optimiser state."""
    warm_up_images: int = 2_000
    """Pictures within which the rates rise where the optimisers start without moments in mid-run."""
    decay_images: int = 0
    """Pictures at the end of `images` over which the rates fall to 0; with --finish, as large a share of the time."""
    batch: int = 16
    """Pictures a step and process."""
    generator_rate: float = 2e-3
    """Adam's rate for the generator."""
    discriminator_rate: float = 2e-4
    """Adam's rate for the discriminator: 2e-4 for the projected one, 2e-3 for StyleGAN2's."""
    stylegan2_rate: float = 2e-3
    """With both: Adam's rate for StyleGAN2's, while discriminator_rate is the projected one's."""
    stylegan2_weight: float = 1.0
    """With both: weight of what StyleGAN2's says in the generator's loss."""
    projected_weight: float = 1.0
    """With both: weight of what the projected one says."""
    r1_gamma: float = 1.0
    """Weight of R1 (StyleGAN2's discriminator only)."""
    r1_interval: int = 16
    """Steps between R1 penalties (lazy regularisation)."""
    attributes: Path | None = None
    """Csv of the pictures' attributes, for a generator with --labels. A cell may be empty: the picture's label is drawn
    then, and no classifier learns from it."""
    label_weight: float = 1.0
    """Weight of the auxiliary classifier's loss, for discriminator and generator."""
    label_images: int = 20_000
    """Pictures before the generator answers for labels. Over as many more its term is faded in: it first learns to
    draw, or it draws one picture for each label."""
    augmentation: float = 1.0
    """Probability of each differentiable augmentation; 0 for none. With a target, what it begins at."""
    augmentation_target: float | None = None
    """Adapt that probability, so that the mean sign of the discriminator's logits of real pictures comes to this (ADA,
    arXiv 2006.06676, which has 0.6)."""
    augmentation_limit: float = 0.8
    """The most that adapting may raise the probability to."""
    ema_images: float = 5_000
    """Half-life of the moving average of weights, pictures."""
    ema_ramp_up: float = 0.05
    """Early in a run that half-life is this share of the pictures seen, so that it fits short runs too."""
    coverage_weight: float = 0.0
    """Weight of reconstructing real pictures through an encoder trained alongside, which keeps the generator from
    dropping modes when pictures or hours are few (as in VAE-GAN, arXiv 1512.09300); 0 trains a plain GAN."""
    encoder_rate: float = 5e-4
    """Adam's rate for that encoder."""
    encoder_channels: tuple[int, ...] = (32, 64, 128, 192, 256)
    """Feature maps of that encoder at full, half, ... 4 pixels."""
    encoder_bottleneck: int = 64
    """Its feature maps at 4 pixels before the fully connected layer, whose size they bound."""
    fit_mapping: bool = False
    """With --resume and coverage: replace the mapping by one layer fitted to the encoder's codes."""
    mirror: bool = True
    """Show mirrored pictures too."""
    snapshot_steps: int = 500
    """Steps between checkpoints and sample grids."""
    compute: Compute = field(default_factory=Compute)
