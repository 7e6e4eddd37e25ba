"""`python -m training gan`: trains generator and image discriminator from pictures.

Differentiable augmentation; moving average of the generator's weights; any number of processes (gradients are averaged,
weights start equal). Each discriminator brings its own loss and regulariser.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from lightning.fabric import Fabric
from torch import Tensor, nn

from training.data.augmentation import augment
from training.data.pictures import PictureSource, load_pictures
from training.loops.adversary import Adversary, Regularisation, adam
from training.loops.coverage import Coverage, fitted_mapping
from training.loops.fit import Snapshot, fit
from training.loops.moving_average import MovingAverage
from training.loops.step import Compute, draw_batch, update
from training.networks.encoder import EncoderConfig
from training.networks.generator import Generator, GeneratorConfig
from training.networks.image_discriminators import IMAGE_DISCRIMINATORS, build_image_discriminator
from training.run_folders.checkpoint import CheckpointError, load_meta, load_network, load_optimiser
from training.run_folders.json_files import read_config

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
    """Run folder to go on from, with its optimiser state; its network shapes are kept."""
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    discriminator: DiscriminatorName = "projected"
    """Image discriminator: on pretrained features, or StyleGAN2's own."""
    images: int = 200_000
    """Pictures to show the discriminator in all, resumed ones counted in."""
    batch: int = 16
    """Pictures a step and process."""
    generator_rate: float = 2e-3
    """Adam's rate for the generator."""
    discriminator_rate: float = 2e-4
    """Adam's rate for the discriminator: 2e-4 for the projected one, 2e-3 for StyleGAN2's."""
    r1_gamma: float = 1.0
    """Weight of R1 (StyleGAN2's discriminator only)."""
    r1_interval: int = 16
    """Steps between R1 penalties (lazy regularisation)."""
    augmentation: float = 1.0
    """Probability of each differentiable augmentation; 0 for none."""
    ema_images: float = 5_000
    """Half-life of the moving average of weights, pictures."""
    coverage_weight: float = 0.0
    """Weight of reconstructing real pictures through an encoder trained alongside, which keeps the generator from
    dropping modes when pictures or hours are few (as in VAE-GAN, arXiv 1512.09300); 0 trains a plain GAN."""
    encoder_rate: float = 5e-4
    """Adam's rate for that encoder."""
    encoder_channels: tuple[int, ...] = (32, 64, 128, 192, 256)
    """Feature maps of that encoder at full, half, ... 4 pixels."""
    fit_mapping: bool = False
    """With --resume and coverage: replace the mapping by one layer fitted to the encoder's codes."""
    mirror: bool = True
    """Show mirrored pictures too."""
    snapshot_steps: int = 500
    """Steps between checkpoints and sample grids."""
    compute: Compute = field(default_factory=Compute)


class GanTrainer:
    """A generator and its image discriminator in training, with the encoder beside them where coverage is asked for."""

    kind = "gan"

    def __init__(self, config: GanConfig, fabric: Fabric, pictures: PictureSource) -> None:
        torch.manual_seed(config.compute.seed)
        self.config, self.fabric, self.pictures = config, fabric, pictures
        self.step = self.seen = 0
        layout = torch.channels_last
        self.generator = Generator(config.generator).to(fabric.device, memory_format=layout)
        discriminator = build_image_discriminator(config.discriminator, config.generator)
        discriminator.to(fabric.device, memory_format=layout)
        self.average = MovingAverage(self.generator, config.ema_images)
        self._start_generator_optimiser()
        lazy = Regularisation(config.r1_gamma, config.r1_interval)
        self.image = Adversary(
            discriminator,
            adam(discriminator, config.discriminator_rate, lazy),
            fabric,
            lazy,
            augment=lambda image: augment(image, config.augmentation),
        )
        self.coverage: Coverage | None = None

    @property
    def name(self) -> str:
        return self.config.name

    def _start_generator_optimiser(self) -> None:
        rate = self.config.generator_rate
        self.generator_optimiser = torch.optim.Adam(self.generator.parameters(), rate, betas=(0.0, 0.99))

    def start_coverage(self) -> None:
        """Add the encoder beside the generator; the codes' statistics are taken from the mapping as it is now."""
        if self.config.coverage_weight > 0:
            self.coverage = Coverage(
                self.generator, self.fabric, self.config.encoder_channels, self.config.encoder_rate
            )

    def resume(self, folder: Path) -> None:
        """Load a run folder's checkpoint. An encoder that it does not hold starts anew. Raises CheckpointError."""
        meta = load_meta(folder)
        self.step, self.seen = meta["step"], meta["images_seen"]
        own = ("generator", "generator_live", "image_discriminator")
        for name in own:
            load_network(folder, name, self.networks()[name])
        self.start_coverage()
        known = meta.get("encoder")
        if self.coverage and known and read_config(EncoderConfig, known) != self.coverage.encoder.config:
            raise CheckpointError(
                f"{folder} holds an encoder of another shape: {known}; start without --resume"
            )
        if self.coverage and known:
            for name in self.networks().keys() - set(own):
                load_network(folder, name, self.networks()[name])
        for name, optimiser in self.optimisers().items():
            if name in own or known:
                load_optimiser(folder, name, optimiser)

    @torch.no_grad()
    def fit_mapping(self) -> None:
        """Replace the mapping by one fitted to the codes of real pictures: samples become as varied as they are."""
        assert self.coverage is not None
        encoder = self.coverage.encoder.eval()
        parts = torch.arange(len(self.pictures)).split(64)
        codes = torch.cat(
            [encoder(self.pictures.batch(part, mirror=True).to(self.fabric.device)) for part in parts]
        )
        self.config.generator = replace(self.config.generator, mapping_depth=1)
        self.generator.mapping = fitted_mapping(self.config.generator, codes)
        average: Any = self.average.network
        self.generator.config = average.config = self.config.generator
        average.mapping = copy.deepcopy(self.generator.mapping).requires_grad_(False)
        self._start_generator_optimiser()
        encoder.train()
        # The encoder goes on; the latent discriminator starts anew, on the new codes.
        trained = self.coverage
        self.start_coverage()
        self.coverage.encoder, self.coverage.encoder_optimiser = encoder, trained.encoder_optimiser

    def networks(self) -> dict[str, nn.Module]:
        """Networks of a checkpoint: `generator` is the moving average, `generator_live` what is trained."""
        networks = {
            "generator": self.average.network,
            "generator_live": self.generator,
            "image_discriminator": self.image.discriminator,
        }
        if self.coverage:
            networks["encoder"] = self.coverage.encoder
            networks["latent_discriminator"] = self.coverage.latent.discriminator
        return networks

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        """Optimisers of a checkpoint."""
        optimisers = {"generator": self.generator_optimiser, "image_discriminator": self.image.optimiser}
        if self.coverage:
            optimisers["encoder"] = self.coverage.encoder_optimiser
            optimisers["latent_discriminator"] = self.coverage.latent.optimiser
        return optimisers

    def meta(self) -> dict[str, Any]:
        """The shapes that the checkpoint's networks have."""
        meta = {"generator": asdict(self.config.generator), "discriminator": self.config.discriminator}
        if self.coverage:
            meta |= {"encoder": asdict(self.coverage.encoder.config), "latent_discriminator_view": "joint"}
        return meta

    def train_step(self) -> dict[str, float]:
        """One step of the discriminator and one of the generator, on the same generated pictures."""
        config, fabric = self.config, self.fabric
        real, z = draw_batch(config, self.pictures, config.generator.z_size, self.step, fabric)
        # With coverage half of the generated pictures are reconstructions.
        covered = config.batch // 2 if self.coverage else 0
        with fabric.autocast():
            code = self.generator.mapping(z[covered:]).float()
            sampled = code.detach()
            if self.coverage:
                code = torch.cat([self.coverage.encoder(real[:covered]), code])
            fake = self.generator.synthesis(code, random_noise=True)
        figures = self._discriminator_step(real, fake.detach())
        loss = self.image.generator_loss(fake)
        figures["generator_loss"] = loss.item()
        if self.coverage:
            extra, terms = self.coverage.loss(real[:covered], fake[:covered], code[:covered])
            loss = loss + config.coverage_weight * extra
            update(fabric, loss, self.generator_optimiser, self.coverage.encoder_optimiser)
            figures |= terms
            figures |= self.coverage.discriminator_step(sampled, code[:covered].detach(), self.step)
        else:
            update(fabric, loss, self.generator_optimiser)
        shown = config.batch * fabric.world_size
        self.step += 1
        self.seen += shown
        self.average.update(self.generator, shown, self.seen)
        return figures

    def _discriminator_step(self, real: Tensor, fake: Tensor) -> dict[str, float]:
        done = self.image.step(real, fake, self.step)
        figures = {
            "discriminator_loss": done.loss.item(),
            "real_logit": done.real_logits.float().mean().item(),
            "fake_logit": done.fake_logits.float().mean().item(),
        }
        if done.penalty is not None:
            figures["r1"] = done.penalty.item()
        return figures

    def progress(self, figures: Mapping[str, float]) -> str:
        return f"discriminator {figures['discriminator_loss']:.3f} generator {figures['generator_loss']:.3f}"

    @torch.no_grad()
    def snapshot(self) -> Snapshot:
        """64 pictures of the averaged generator, always from the same z."""
        z = torch.randn(64, self.config.generator.z_size, generator=torch.Generator().manual_seed(1))
        average = self.average.network
        with self.fabric.autocast():
            return Snapshot(torch.cat([average(part.to(self.fabric.device)) for part in z.split(16)]))


def train_gan(config: GanConfig) -> Path:
    """Train, from the start or from a checkpoint; return the run folder.

    Raises DataError, CheckpointError, UnknownDiscriminator.
    """
    fabric = config.compute.fabric()
    if config.resume:
        meta = load_meta(config.resume)
        config.generator = read_config(GeneratorConfig, meta["generator"])
        config.discriminator = meta["discriminator"]
    pictures = load_pictures(config.data, config.generator.resolution)
    trainer = GanTrainer(config, fabric, pictures)
    if config.resume:
        trainer.resume(config.resume)
        if config.fit_mapping:
            trainer.fit_mapping()
    else:
        trainer.start_coverage()
    return fit(trainer, config, f"{len(pictures)} pictures")
