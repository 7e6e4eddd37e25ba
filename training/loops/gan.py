"""`python -m training gan`: trains generator and image critic from pictures.

Non-saturating loss with R1 for StyleGAN2's critic, hinge loss for the projected one; differentiable augmentation;
moving average of the generator's weights; any number of processes (gradients are averaged, weights start equal).
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from training.data.pictures import Pictures, load_pictures
from training.loops.augmentation import augment
from training.loops.coverage import Coverage, fitted_mapping
from training.loops.loop import Compute, draw_batch, progress_bar, update
from training.loops.runs import (
    CheckpointError,
    Run,
    load_meta,
    load_network,
    load_optimiser,
    read_config,
    save_checkpoint,
)
from training.losses.adversarial import (
    hinge_critic_loss,
    hinge_loss,
    non_saturating_critic_loss,
    non_saturating_loss,
    r1_penalty,
)
from training.networks.discriminators import ProjectedCritic, StyleGAN2Critic
from training.networks.encoder import EncoderConfig
from training.networks.generator import Generator, GeneratorConfig


@dataclass
class GanConfig:
    """Train a generator and its image critic."""

    data: Path
    """Folder or zip of pictures."""
    name: str = "faces64"
    """Name of the pipeline to be."""
    runs: Path = Path("runs")
    """Parent of the run folders."""
    resume: Path | None = None
    """Run folder to go on from, with its optimiser state; its network shapes are kept."""
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    critic: Literal["projected", "stylegan2"] = "projected"
    """Image critic: on pretrained features, or StyleGAN2's own."""
    images: int = 200_000
    """Pictures to show the critic in all, resumed ones counted in."""
    batch: int = 16
    """Pictures a step and process."""
    generator_rate: float = 2e-3
    """Adam's rate for the generator."""
    critic_rate: float = 2e-4
    """Adam's rate for the critic: 2e-4 for the projected one, 2e-3 for StyleGAN2's."""
    r1_gamma: float = 1.0
    """Weight of R1 (StyleGAN2's critic only)."""
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


def build_critic(kind: str, config: GeneratorConfig) -> nn.Module:
    """The image critic named, untrained."""
    return ProjectedCritic() if kind == "projected" else StyleGAN2Critic(config)


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Exponential moving average of parameters; buffers are copied."""
    for a, p in zip(average.parameters(), network.parameters(), strict=True):
        a.lerp_(p, 1 - decay)
    for kept, new in zip(average.buffers(), network.buffers(), strict=True):
        kept.copy_(new)


class GanTrainer:
    """State of a GAN training run and its two steps."""

    def __init__(self, config: GanConfig, fabric: Fabric) -> None:
        torch.manual_seed(config.compute.seed)
        self.config, self.fabric = config, fabric
        layout = torch.channels_last
        self.generator = Generator(config.generator).to(fabric.device, memory_format=layout)
        self.critic = build_critic(config.critic, config.generator).to(fabric.device, memory_format=layout)
        self.average = copy.deepcopy(self.generator).requires_grad_(False)
        self.critic_parameters = [p for p in self.critic.parameters() if p.requires_grad]
        # lazy R1 takes one step in r1_interval for itself: rates and moments shrink accordingly (StyleGAN2, appendix B)
        lazy = config.r1_interval / (config.r1_interval + 1) if config.critic == "stylegan2" else 1.0
        self._start_generator_optimiser()
        self.critic_optimiser = torch.optim.Adam(
            self.critic_parameters, config.critic_rate * lazy, betas=(0.0, 0.99**lazy)
        )
        self.step = 0
        self.seen = 0
        self.coverage: Coverage | None = None

    def _start_generator_optimiser(self) -> None:
        rate = self.config.generator_rate
        self.generator_optimiser = torch.optim.Adam(self.generator.parameters(), rate, betas=(0.0, 0.99))

    def start_coverage(self) -> None:
        """Add the encoder alongside; the codes' statistics are taken from the mapping as it is now."""
        if self.config.coverage_weight > 0:
            self.coverage = Coverage(
                self.generator, self.fabric, self.config.encoder_channels, self.config.encoder_rate
            )

    def resume(self, folder: Path) -> None:
        """Go on from a run folder's checkpoint."""
        meta = load_meta(folder)
        self.step, self.seen = meta["step"], meta["images_seen"]
        for name in ("generator_live", "generator", "image_critic"):
            load_network(folder, name, self.networks()[name])
        self.start_coverage()
        known = meta.get("encoder")
        if self.coverage and known and read_config(EncoderConfig, known) != self.coverage.encoder.config:
            raise CheckpointError(
                f"{folder} holds an encoder of another shape: {known}; start without --resume"
            )
        for name in ("encoder", "code_critic") if self.coverage and known else ():
            load_network(folder, name, self.networks()[name])
        for name, optimiser in self.optimisers().items():
            if name in ("generator", "image_critic") or "encoder" in meta:
                load_optimiser(folder, name, optimiser)

    @torch.no_grad()
    def fit_mapping(self, pictures: Pictures) -> None:
        """Replace the mapping by one fitted to the codes of real pictures: samples become as varied as they are."""
        assert self.coverage is not None
        encoder = self.coverage.encoder.eval()
        parts = torch.arange(len(pictures)).split(64)
        codes = torch.cat(
            [encoder(pictures.batch(part, mirror=True).to(self.fabric.device)) for part in parts]
        )
        self.config.generator = replace(self.config.generator, mapping_depth=1)
        self.generator.mapping = fitted_mapping(self.config.generator, codes)
        self.generator.config = self.average.config = self.config.generator
        self.average.mapping = copy.deepcopy(self.generator.mapping).requires_grad_(False)
        self._start_generator_optimiser()
        encoder.train()
        trained = self.coverage
        self.start_coverage()  # a code critic for the new codes; the encoder goes on
        assert self.coverage is not None
        self.coverage.encoder, self.coverage.encoder_optimiser = encoder, trained.encoder_optimiser

    def networks(self) -> dict[str, nn.Module]:
        """Everything a checkpoint holds: `generator` is the moving average, `generator_live` what is trained."""
        own = {"generator": self.average, "generator_live": self.generator, "image_critic": self.critic}
        return own | (
            {"encoder": self.coverage.encoder, "code_critic": self.coverage.code_critic}
            if self.coverage
            else {}
        )

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        """Optimisers, by their names in a checkpoint."""
        own: dict[str, torch.optim.Optimizer] = {
            "generator": self.generator_optimiser,
            "image_critic": self.critic_optimiser,
        }
        return own | (
            {"encoder": self.coverage.encoder_optimiser, "code_critic": self.coverage.code_optimiser}
            if self.coverage
            else {}
        )

    def save(self, folder: Path) -> None:
        """Write the checkpoint."""
        meta = {
            "kind": "gan",
            "name": self.config.name,
            "step": self.step,
            "images_seen": self.seen,
            "generator": asdict(self.config.generator),
            "critic": self.config.critic,
        }
        if self.coverage:
            meta |= {"encoder": asdict(self.coverage.encoder.config), "code_critic_view": "joint"}
        save_checkpoint(folder / "checkpoint", meta, self.networks(), self.optimisers())

    def train_step(self, pictures: Pictures) -> dict[str, float]:
        """One step of the critic and one of the generator on the same generated pictures."""
        config, fabric = self.config, self.fabric
        real, z = draw_batch(config, pictures, config.generator.z_size, self.step, fabric)
        covered = config.batch // 2 if self.coverage else 0  # generated pictures that are reconstructions
        with fabric.autocast():
            code = self.generator.mapping(z[covered:]).float()
            sampled = code.detach()
            if self.coverage:
                code = torch.cat([self.coverage.encoder(real[:covered]), code])
            fake = self.generator.synthesis(code, random_noise=True)
        figures = self._critic_step(real, fake.detach())
        loss, terms = self._generator_loss(fake)
        if self.coverage:
            extra, more = self.coverage.loss(real[:covered], fake[:covered], code[:covered])
            loss, terms = loss + config.coverage_weight * extra, terms | more
            update(fabric, loss, self.generator_optimiser, self.coverage.encoder_optimiser)
            terms |= self.coverage.critic_step(sampled, code[:covered].detach())
        else:
            update(fabric, loss, self.generator_optimiser)
        figures |= terms
        self.step += 1
        self.seen += config.batch * fabric.world_size
        half_life = min(config.ema_images, 0.05 * self.seen)
        update_average(
            self.average, self.generator, 0.5 ** (config.batch * fabric.world_size / max(half_life, 1e-8))
        )
        return figures

    def _critic_step(self, real: Tensor, fake: Tensor) -> dict[str, float]:
        config, fabric = self.config, self.fabric
        with fabric.autocast():
            real_logits = self.critic(augment(real, config.augmentation))
            fake_logits = self.critic(augment(fake, config.augmentation))
            loss_of = hinge_critic_loss if config.critic == "projected" else non_saturating_critic_loss
            loss = loss_of(real_logits.float(), fake_logits.float())
        update(fabric, loss, self.critic_optimiser)
        figures = {
            "critic_loss": loss.item(),
            "real_logit": real_logits.float().mean().item(),
            "fake_logit": fake_logits.float().mean().item(),
        }
        if config.critic == "stylegan2" and self.step % config.r1_interval == 0:
            penalty = r1_penalty(self.critic, augment(real, config.augmentation))
            update(fabric, penalty * (config.r1_gamma / 2 * config.r1_interval), self.critic_optimiser)
            figures["r1"] = penalty.item()
        return figures

    def _generator_loss(self, fake: Tensor) -> tuple[Tensor, dict[str, float]]:
        for p in self.critic_parameters:
            p.requires_grad_(False)
        with self.fabric.autocast():
            logits = self.critic(augment(fake, self.config.augmentation)).float()
            loss = hinge_loss(logits) if self.config.critic == "projected" else non_saturating_loss(logits)
        for p in self.critic_parameters:
            p.requires_grad_(True)
        return loss, {"generator_loss": loss.item()}

    @torch.no_grad()
    def samples(self, count: int = 64) -> Tensor:
        """Pictures of the averaged generator from fixed z: float [count, 3, H, W]."""
        z = torch.randn(count, self.config.generator.z_size, generator=torch.Generator().manual_seed(1))
        with self.fabric.autocast():
            return torch.cat([self.average(part.to(self.fabric.device)) for part in z.split(16)])


def train_gan(config: GanConfig) -> Path:
    """Run the training; returns the run folder."""
    fabric = config.compute.fabric()
    if config.resume:
        meta = load_meta(config.resume)
        config.generator = read_config(GeneratorConfig, meta["generator"])
        config.critic = meta["critic"]
    pictures = load_pictures(config.data, config.generator.resolution)
    trainer = GanTrainer(config, fabric)
    if config.resume:
        trainer.resume(config.resume)
        if config.fit_mapping:
            trainer.fit_mapping(pictures)
    else:
        trainer.start_coverage()
    run = None
    if fabric.is_global_zero:
        run = (
            Run.resume(config.resume, trainer.step)
            if config.resume
            else Run.create(config.runs, f"gan-{config.name}", config)
        )
        fabric.print(f"{len(pictures)} pictures; run folder {run.folder}")
    with progress_bar(fabric) as bar:
        task = bar.add_task("gan", total=config.images, completed=trainer.seen, figures="")
        while trainer.seen < config.images:
            figures = trainer.train_step(pictures)
            bar.update(
                task,
                completed=trainer.seen,
                figures=f"critic {figures['critic_loss']:.3f} generator {figures['generator_loss']:.3f}",
            )
            if run and (trainer.step % 50 == 0 or trainer.seen >= config.images):
                run.log(trainer.step, {"images": trainer.seen, **figures})
            if run and (trainer.step % config.snapshot_steps == 0 or trainer.seen >= config.images):
                trainer.save(run.folder)
                run.save_grid(f"{trainer.step:07d}", trainer.samples())
    fabric.barrier()
    return run.folder if run else config.runs
