"""`python -m training gan`: trains generator and image critic from pictures.

Non-saturating loss with R1 for StyleGAN2's critic, hinge loss for the projected one; differentiable augmentation;
moving average of the generator's weights; any number of processes (gradients are averaged, weights start equal).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import torch
from lightning.fabric import Fabric
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn

from training.augmentation import augment
from training.critics import ProjectedCritic, StyleGAN2Critic
from training.data import Pictures, load_pictures
from training.generator import Generator, GeneratorConfig
from training.losses import hinge_critic_loss, hinge_loss, non_saturating_critic_loss, non_saturating_loss, r1_penalty
from training.runs import Run, load_meta, load_network, load_optimiser, save_checkpoint


@dataclass
class Compute:
    """Where and how to compute (Lightning Fabric)."""

    accelerator: str = "auto"
    """cpu, cuda or auto."""
    devices: int = 1
    """Processes on this host, one a device; `torchrun` sets its own number."""
    precision: Literal["bf16-mixed", "32-true"] = "bf16-mixed"
    """bf16-mixed or 32-true."""
    seed: int = 0
    """Seed of weights, order of pictures, noise and augmentation."""

    def fabric(self) -> Fabric:
        """Start the processes and return Fabric."""
        fabric = Fabric(accelerator=self.accelerator, devices=self.devices, precision=self.precision,
                        strategy="ddp" if self.devices > 1 else "auto")
        fabric.launch()
        return fabric


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
    mirror: bool = True
    """Show mirrored pictures too."""
    snapshot_steps: int = 500
    """Steps between checkpoints and sample grids."""
    compute: Compute = field(default_factory=Compute)


def build_critic(kind: str, config: GeneratorConfig) -> nn.Module:
    """The image critic named, untrained."""
    return ProjectedCritic() if kind == "projected" else StyleGAN2Critic(config)


def average_gradients(fabric: Fabric, parameters: Iterable[nn.Parameter]) -> None:
    """Average gradients over the processes: one all-reduce of all of them, laid end to end."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if fabric.world_size == 1 or not gradients:
        return
    flat = fabric.all_reduce(torch.cat([g.flatten() for g in gradients]), reduce_op="mean")
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Exponential moving average of parameters; buffers are copied."""
    for a, p in zip(average.parameters(), network.parameters(), strict=True):
        a.lerp_(p, 1 - decay)
    for a, b in zip(average.buffers(), network.buffers(), strict=True):
        a.copy_(b)


def seed_step(seed: int, step: int, rank: int) -> None:
    """All randomness of a step follows from (seed, step, process), so a resumed run equals an undisturbed one."""
    torch.manual_seed((seed * 1_000_003 + step) * 1_009 + rank)


def progress_bar(fabric: Fabric) -> Progress:
    """Progress in pictures, shown by the first process."""
    return Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
                    TextColumn("{task.fields[figures]}"), disable=not fabric.is_global_zero, refresh_per_second=1)


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
        # lazy R1 takes one step in r1_interval for itself: rates and moments shrink accordingly (arXiv 1912.04958, appendix B)
        lazy = config.r1_interval / (config.r1_interval + 1) if config.critic == "stylegan2" else 1.0
        self.generator_optimiser = torch.optim.Adam(self.generator.parameters(), config.generator_rate, betas=(0.0, 0.99))
        self.critic_optimiser = torch.optim.Adam(self.critic_parameters, config.critic_rate * lazy, betas=(0.0, 0.99**lazy))
        self.step = 0
        self.seen = 0

    def resume(self, folder: Path) -> None:
        """Go on from a run folder's checkpoint."""
        meta = load_meta(folder)
        self.step, self.seen = meta["step"], meta["images_seen"]
        load_network(folder, "generator_live", self.generator)
        load_network(folder, "generator", self.average)
        load_network(folder, "image_critic", self.critic)
        load_optimiser(folder, "generator", self.generator_optimiser)
        load_optimiser(folder, "image_critic", self.critic_optimiser)

    def save(self, folder: Path) -> None:
        """Write the checkpoint; `generator` is the moving average, `generator_live` what is trained."""
        meta = {"kind": "gan", "name": self.config.name, "step": self.step, "images_seen": self.seen,
                "generator": asdict(self.config.generator), "critic": self.config.critic}
        save_checkpoint(folder / "checkpoint", meta,
                        {"generator": self.average, "generator_live": self.generator, "image_critic": self.critic},
                        {"generator": self.generator_optimiser, "image_critic": self.critic_optimiser})

    def train_step(self, pictures: Pictures) -> dict[str, float]:
        """One step of the critic and one of the generator on the same generated pictures."""
        config, fabric = self.config, self.fabric
        seed_step(config.compute.seed, self.step, fabric.global_rank)
        index = torch.randint(len(pictures), (config.batch,))
        real = pictures.batch(index, mirror=config.mirror).to(fabric.device)
        with fabric.autocast():
            fake = self.generator(torch.randn(config.batch, config.generator.z_size, device=fabric.device), random_noise=True)
        figures = self._critic_step(real, fake.detach())
        figures |= self._generator_step(fake)
        self.step += 1
        self.seen += config.batch * fabric.world_size
        half_life = min(config.ema_images, 0.05 * self.seen)
        update_average(self.average, self.generator, 0.5 ** (config.batch * fabric.world_size / max(half_life, 1e-8)))
        return figures

    def _critic_step(self, real: Tensor, fake: Tensor) -> dict[str, float]:
        config, fabric = self.config, self.fabric
        with fabric.autocast():
            real_logits = self.critic(augment(real, config.augmentation))
            fake_logits = self.critic(augment(fake, config.augmentation))
            loss_of = hinge_critic_loss if config.critic == "projected" else non_saturating_critic_loss
            loss = loss_of(real_logits.float(), fake_logits.float())
        self._update(loss, self.critic_optimiser, self.critic_parameters)
        figures = {"critic_loss": loss.item(), "real_logit": real_logits.float().mean().item(), "fake_logit": fake_logits.float().mean().item()}
        if config.critic == "stylegan2" and self.step % config.r1_interval == 0:
            penalty = r1_penalty(self.critic, augment(real, config.augmentation))
            self._update(penalty * (config.r1_gamma / 2 * config.r1_interval), self.critic_optimiser, self.critic_parameters)
            figures["r1"] = penalty.item()
        return figures

    def _generator_step(self, fake: Tensor) -> dict[str, float]:
        for p in self.critic_parameters:
            p.requires_grad_(False)
        with self.fabric.autocast():
            logits = self.critic(augment(fake, self.config.augmentation)).float()
            loss = hinge_loss(logits) if self.config.critic == "projected" else non_saturating_loss(logits)
        self._update(loss, self.generator_optimiser, list(self.generator.parameters()))
        for p in self.critic_parameters:
            p.requires_grad_(True)
        return {"generator_loss": loss.item()}

    def _update(self, loss: Tensor, optimiser: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> None:
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        average_gradients(self.fabric, parameters)
        for p in parameters:
            if p.grad is not None:
                torch.nan_to_num(p.grad, nan=0.0, posinf=1e5, neginf=-1e5, out=p.grad)
        optimiser.step()

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
        config.generator = GeneratorConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in meta["generator"].items()})
        config.critic = meta["critic"]
    pictures = load_pictures(config.data, config.generator.resolution)
    trainer = GanTrainer(config, fabric)
    if config.resume:
        trainer.resume(config.resume)
    run = None
    if fabric.is_global_zero:
        run = Run(config.resume) if config.resume else Run.create(config.runs, f"gan-{config.name}", config)
        fabric.print(f"{len(pictures)} pictures; run folder {run.folder}")
    with progress_bar(fabric) as bar:
        task = bar.add_task("gan", total=config.images, completed=trainer.seen, figures="")
        while trainer.seen < config.images:
            figures = trainer.train_step(pictures)
            bar.update(task, completed=trainer.seen, figures=f"critic {figures['critic_loss']:.3f} generator {figures['generator_loss']:.3f}")
            if run and trainer.step % 50 == 0:
                run.log(trainer.step, {"images": trainer.seen, **figures})
            if run and (trainer.step % config.snapshot_steps == 0 or trainer.seen >= config.images):
                trainer.save(run.folder)
                run.save_grid(f"{trainer.step:07d}", trainer.samples())
    fabric.barrier()
    return run.folder if run else config.runs
