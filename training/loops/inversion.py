"""`python -m training encoder`: trains the encoder by force-in-domain inversion.

The generator is frozen. The encoder answers to the pixels, a perceptual distance, an image critic on G(E(x)) and a
**code critic** on E(x), which forces codes into the latent space (Leng, Zhu, Xu, arXiv 2107.06050, as we read it:
see docs/method.md). The baselines are settings: `code_weight = 0` and `code_cycle_weight = 0` give the in-domain
encoder (Zhu et al., ECCV 2020); where only `code_cycle_weight` is left it is the traditional one, trained on samples.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from training.data.pictures import DataError, PictureSource, load_pictures
from training.loops.gan import build_critic
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
from training.losses.perceptual import LPIPSSq, VGG16Conv43
from training.networks.discriminators import CodeCritic, CodeCriticView
from training.networks.encoder import Encoder, EncoderConfig, usual_channels
from training.networks.generator import Generator, GeneratorConfig, code_statistics, sample_codes
from training.networks.pyramid_encoder import PyramidEncoder


@dataclass
class InversionConfig:
    """Train an encoder for a generator, by force-in-domain inversion."""

    gan: Path
    """Run folder of the generator and image critic: a GAN's, or an encoder's, which holds them too."""
    data: Path | None = None
    """Folder or zip of pictures; without them the encoder learns from the generator's own samples."""
    validation: Path | None = None
    """Folder or zip of other pictures: their error is logged and their reconstructions drawn."""
    runs: Path = Path("runs")
    """Parent of the run folders."""
    resume: Path | None = None
    """Run folder to go on from, with its optimiser state."""
    fresh: bool = False
    """Start from random weights, even where the run folder holds an encoder that could be gone on with."""
    channels: tuple[int, ...] = ()
    """Encoder's feature maps at full, half, ... 4 pixels; left out, 32 64 128 192 256 256 ... as far as pictures go."""
    activation: bool = True
    """End the encoder in the mapping's own activation, so that native codes are within its reach."""
    images: int = 100_000
    """Pictures to show the encoder in all."""
    batch: int = 16
    """Pictures a step and process."""
    rate: float = 5e-4
    """Adam's rate for the encoder, falling to 2 % of it along a cosine."""
    pixel_weight: float = 1.0
    """Weight of the mean squared error on [-1, 1]."""
    perceptual_weight: float = 0.5
    """Weight of LPIPS-sq (or of VGG16's term, which has its factor 5e-5 built in)."""
    vgg: Path | None = None
    """Weights of VGG16 (safetensors or .pth), to use the in-domain paper's perceptual term instead of LPIPS-sq."""
    image_weight: float = 0.05
    """Weight of the image critic's judgement of G(E(x))."""
    image_critic_rate: float = 1e-4
    """Adam's rate for the image critic."""
    code_weight: float = 0.1
    """Weight of the code critic's judgement of E(x); 0 is the in-domain baseline."""
    code_critic_rate: float = 2e-3
    """Adam's rate for the code critic, whose weights are equalised; at 2e-4 it learns too slowly to force anything."""
    code_critic_view: CodeCriticView | None = None
    """Judge all layers' vectors at once, one at a time, or through the inverse of the mapping's last layer. By default
    the last, and one at a time for generators that repeat one w, whose codes W+ would otherwise be pressed into W."""
    code_cycle_weight: float = 0.5
    """Weight of the mean squared error of E(G(w)) against sampled w, standardised: the cycle's other half."""
    r1_gamma: float = 10.0
    """Weight of R1 on both critics (on the image critic only if it is StyleGAN2's)."""
    r1_interval: int = 16
    """Steps between R1 penalties."""
    code_pool: int = 50
    """Codes of earlier steps that the code critic is also shown (replay pool, as in e4e); 0 for none."""
    mirror: bool = True
    """Show mirrored pictures too."""
    snapshot_steps: int = 500
    """Steps between checkpoints and sample grids."""
    compute: Compute = field(default_factory=Compute)


class Samples:
    """The generator's own pictures as a data set without end: every index has its z."""

    def __init__(self, generator: Generator) -> None:
        self.generator = generator
        self.device = next(generator.parameters()).device

    def __len__(self) -> int:
        return 1 << 31

    @torch.no_grad()
    def batch(self, index: Tensor, *, mirror: bool | Tensor) -> Tensor:
        """Pictures float32 [N, 3, H, W] in [-1, 1] of the z at `index` [N], mirrored where a bool [N] says so."""
        size = self.generator.config.z_size
        z = [torch.randn(size, generator=torch.Generator().manual_seed(int(i))) for i in index]
        codes = self.generator.mapping(torch.stack(z).to(self.device))
        images = torch.cat([self.generator.synthesis(part).clamp(-1, 1) for part in codes.split(16)]).float()
        flip = mirror if isinstance(mirror, Tensor) else torch.full((len(index),), mirror)
        images[flip.to(self.device)] = images[flip.to(self.device)].flip(3)
        return images.contiguous(memory_format=torch.channels_last)


class ReplayPool:
    """Pool of earlier codes: half of those asked for are swapped for older ones (arXiv 1612.07828, section 2.3)."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.codes: list[Tensor] = []

    def swap(self, codes: Tensor) -> Tensor:
        """codes float [N, L, 512] in, as many out."""
        if self.size == 0:
            return codes
        shown = []
        for code in codes:
            if len(self.codes) < self.size:
                self.codes.append(code)
                shown.append(code)
            elif torch.rand(()) < 0.5:
                i = int(torch.randint(self.size, ()))
                shown.append(self.codes[i])
                self.codes[i] = code
            else:
                shown.append(code)
        return torch.stack(shown)


class InversionTrainer:
    """State of an encoder's training and its steps."""

    def __init__(self, config: InversionConfig, fabric: Fabric) -> None:
        torch.manual_seed(config.compute.seed)
        self.config, self.fabric, self.step, self.seen = config, fabric, 0, 0
        self.weights = {
            name: weight
            for name, weight in {
                "mse": config.pixel_weight,
                "perceptual": config.perceptual_weight,
                "image": config.image_weight,
                "code": config.code_weight,
                "code_cycle": config.code_cycle_weight,
            }.items()
            if weight > 0
        }
        if not self.weights:
            raise DataError("every weight of the loss is 0: name at least one term to train on")
        self.meta = load_meta(config.gan)
        shape = read_config(GeneratorConfig, self.meta["generator"])
        layout = torch.channels_last
        self.generator = Generator(shape).requires_grad_(False).to(fabric.device, memory_format=layout)
        load_network(config.gan, "generator", self.generator)
        imported = self.meta["critic"] == "none"  # a foreign generator brings no critic: a fresh one starts
        self.meta["critic"] = "projected" if imported else self.meta["critic"]
        self.image_critic = build_critic(self.meta["critic"], shape).to(fabric.device, memory_format=layout)
        if not imported:  # without this start reconstructions are blurred
            load_network(config.gan, "image_critic", self.image_critic)
        mean, deviation = code_statistics(self.generator)
        self.encoder = self._start_encoder().to(fabric.device, memory_format=layout)
        view = config.code_critic_view or usual_view(self.meta["generator"])
        if config.resume:
            view = load_meta(config.resume, "inversion")["code_critic_view"]
        self.code_critic = CodeCritic(mean, deviation, view, inputs=self.generator.mapping.last_inputs)
        self.code_critic.to(fabric.device)
        if view == "native":
            self.code_critic.native.fit(self.generator.mapping)
        self.perceptual = (VGG16Conv43(config.vgg) if config.vgg else LPIPSSq()).to(
            fabric.device, memory_format=layout
        )
        self.pool = ReplayPool(config.code_pool)
        self.trained_image_critic = [p for p in self.image_critic.parameters() if p.requires_grad]
        self.encoder_optimiser = torch.optim.Adam(self.encoder.parameters(), config.rate, betas=(0.9, 0.99))
        self.image_optimiser = torch.optim.Adam(
            self.trained_image_critic, config.image_critic_rate, betas=(0.0, 0.99)
        )
        self.code_optimiser = torch.optim.Adam(
            self.code_critic.parameters(), config.code_critic_rate, betas=(0.0, 0.99)
        )

    def _start_encoder(self) -> Encoder | PyramidEncoder:
        """The run folder's, trained alongside the generator or imported, if it can be gone on with; or a fresh one."""
        config, shape = self.config, self.generator.config
        channels = config.channels or usual_channels(shape.resolution)
        if "encoder" in self.meta and not config.fresh:
            known = read_config(EncoderConfig, self.meta["encoder"])
            wanted = (channels, config.activation)
            if known.architecture != "residual" or (known.channels, known.activation) == wanted:
                encoder = build_encoder(known)
                load_network(config.gan, "encoder", encoder)
                return encoder
        fresh = Encoder(
            EncoderConfig(
                shape.resolution, channels, layers=shape.layers, code_size=shape.code_size,
                activation=config.activation,
            )
        )  # fmt: skip
        fresh.start_from(sample_codes(self.generator, 10_000))
        return fresh

    def networks(self) -> dict[str, nn.Module]:
        """Everything a checkpoint holds, by its name there."""
        return {
            "generator": self.generator,
            "encoder": self.encoder,
            "image_critic": self.image_critic,
            "code_critic": self.code_critic,
        }

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        """Optimisers, by their names in a checkpoint."""
        return {
            "encoder": self.encoder_optimiser,
            "image_critic": self.image_optimiser,
            "code_critic": self.code_optimiser,
        }

    def resume(self, folder: Path) -> None:
        """Go on from a run folder's checkpoint."""
        meta = load_meta(folder)
        self.step, self.seen = meta["step"], meta["images_seen"]
        for name, network in self.networks().items():
            load_network(folder, name, network)
        for name, optimiser in self.optimisers().items():
            load_optimiser(folder, name, optimiser)

    def save(self, folder: Path) -> None:
        """Write the checkpoint, whole: it needs the GAN's run no more."""
        weights = {k: v for k, v in asdict(self.config).items() if k.endswith("_weight")}
        meta = {
            "kind": "inversion",
            "name": self.meta["name"],
            "step": self.step,
            "images_seen": self.seen,
            "gan_images_seen": self.meta.get("gan_images_seen", self.meta["images_seen"]),
            "critic": self.meta["critic"],
            "generator": self.meta["generator"],
            "encoder": asdict(self.encoder.config),
            "code_critic_view": self.code_critic.view,
            "code_critic": {
                "r1_gamma": self.config.r1_gamma,
                "code_pool": self.config.code_pool,
                "code_critic_rate": self.config.code_critic_rate,
            },
            "loss_weights": weights,
            "seed": self.config.compute.seed,
        }
        save_checkpoint(folder / "checkpoint", meta, self.networks(), self.optimisers())

    def train_step(self, pictures: PictureSource) -> dict[str, float]:
        """One step of the encoder, then one of each critic on what the encoder gave."""
        config, fabric = self.config, self.fabric
        real, z = draw_batch(config, pictures, self.generator.config.z_size, self.step, fabric)
        self._set_rate()
        with torch.no_grad():
            sampled = self.generator.mapping(z)
        code, reconstruction, figures = self._encoder_step(real, sampled)
        if "image" in self.weights:
            figures |= self._image_critic_step(real, reconstruction)
        figures |= self._code_critic_step(sampled, code)
        self.step += 1
        self.seen += config.batch * fabric.world_size
        return figures

    def _set_rate(self) -> None:
        done = min(self.seen / self.config.images, 1.0)
        for group in self.encoder_optimiser.param_groups:
            group["lr"] = self.config.rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))

    def _encoder_step(self, real: Tensor, sampled: Tensor) -> tuple[Tensor, Tensor, dict[str, float]]:
        """-> E(real), G(E(real)) and the terms. Terms of no weight are not computed."""
        weights = self.weights
        for p in [*self.trained_image_critic, *self.code_critic.parameters()]:
            p.requires_grad_(False)
        terms: dict[str, Tensor] = {}
        with self.fabric.autocast():
            # without any term on real pictures the codes are for the code critic alone
            with torch.set_grad_enabled(weights.keys() != {"code_cycle"}):
                code = self.encoder(real)
                reconstruction = self.generator.synthesis(code)
            if "mse" in weights:
                terms["mse"] = (reconstruction.float() - real).square().mean()
            if "perceptual" in weights:
                terms["perceptual"] = self.perceptual(reconstruction, real).float().mean()
            if "image" in weights:
                logits = self.image_critic(reconstruction).float()
                terms["image"] = (
                    hinge_loss(logits) if self.meta["critic"] == "projected" else non_saturating_loss(logits)
                )
        if "code" in weights:
            terms["code"] = non_saturating_loss(self.code_critic(code))
        if "code_cycle" in weights:
            with self.fabric.autocast():
                with torch.no_grad():
                    pictured = self.generator.synthesis(sampled)
                recovered = self.encoder(pictured)
            terms["code_cycle"] = ((recovered - sampled) / self.code_critic.deviation).square().mean()
        loss = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        update(self.fabric, loss, self.encoder_optimiser)
        for p in [*self.trained_image_critic, *self.code_critic.parameters()]:
            p.requires_grad_(True)
        return code.detach(), reconstruction.detach(), {name: term.item() for name, term in terms.items()}

    def _image_critic_step(self, real: Tensor, fake: Tensor) -> dict[str, float]:
        config, projected = self.config, self.meta["critic"] == "projected"
        with self.fabric.autocast():
            loss_of = hinge_critic_loss if projected else non_saturating_critic_loss
            loss = loss_of(self.image_critic(real).float(), self.image_critic(fake).float())
        update(self.fabric, loss, self.image_optimiser)
        if not projected and self.step % config.r1_interval == 0:
            update(
                self.fabric,
                r1_penalty(self.image_critic, real) * (config.r1_gamma / 2 * config.r1_interval),
                self.image_optimiser,
            )
        return {"image_critic": loss.item()}

    def _code_critic_step(self, real: Tensor, fake: Tensor) -> dict[str, float]:
        """The code critic is trained even where its weight is 0: the domain score is made of it."""
        config = self.config
        real_logits, fake_logits = self.code_critic(real), self.code_critic(self.pool.swap(fake))
        loss = non_saturating_critic_loss(real_logits, fake_logits)
        update(self.fabric, loss, self.code_optimiser)
        if self.step % config.r1_interval == 0:
            # on standardised coordinates, so that gamma means the same for every generator
            penalty = r1_penalty(self.code_critic.judge, self.code_critic.coordinates(real))
            update(self.fabric, penalty * (config.r1_gamma / 2 * config.r1_interval), self.code_optimiser)
        return {
            "code_critic": loss.item(),
            "code_real": real_logits.sigmoid().mean().item(),
            "code_fake": fake_logits.sigmoid().mean().item(),
        }

    @torch.no_grad()
    def reconstruct(self, images: Tensor) -> Tensor:
        """G(E(x)) with the encoder's running statistics: float [N, 3, H, W]."""
        self.encoder.eval()
        with self.fabric.autocast():
            pictures = torch.cat(
                [
                    self.generator.synthesis(self.encoder(part.to(self.fabric.device))).cpu()
                    for part in images.split(50)
                ]
            )
        self.encoder.train()
        return pictures


def build_encoder(config: EncoderConfig) -> Encoder | PyramidEncoder:
    """The encoder of a config's architecture, untrained."""
    return PyramidEncoder(config) if config.architecture in ("psp", "e4e") else Encoder(config)


def usual_view(generator: dict[str, Any]) -> CodeCriticView:
    """What the code critic sees of codes by default, for a generator of this shape."""
    return "native" if generator["per_layer_code"] else "layer"


class TrainedInversion(NamedTuple):
    """An encoder's run, networks in evaluation mode and frozen."""

    generator: Generator
    encoder: Encoder | PyramidEncoder
    code_critic: CodeCritic
    meta: dict[str, Any]
    """checkpoint.json"""


def load_inversion(run: Path) -> TrainedInversion:
    """Load an encoder's run folder, or its published copy. Raises CheckpointError."""
    meta = load_meta(run, "inversion")
    generator = Generator(read_config(GeneratorConfig, meta["generator"]))
    encoder = build_encoder(read_config(EncoderConfig, meta["encoder"]))
    shape = (generator.config.layers, generator.config.code_size)
    given = (encoder.config.layers, encoder.config.code_size)
    if given != shape:
        raise CheckpointError(f"{run}: the encoder gives codes {given}, and the generator takes {shape}")
    critic = CodeCritic(
        torch.zeros(shape), torch.ones(shape), meta["code_critic_view"], inputs=generator.mapping.last_inputs
    )
    networks = {"generator": generator, "encoder": encoder, "code_critic": critic}
    for name, network in networks.items():
        load_network(run, name, network)
        network.eval().requires_grad_(False)
    return TrainedInversion(generator, encoder, critic, meta)


def train_encoder(config: InversionConfig) -> Path:
    """Run the training; returns the run folder."""
    fabric = config.compute.fabric()
    trainer = InversionTrainer(config, fabric)
    resolution = trainer.generator.config.resolution
    pictures: PictureSource = (
        load_pictures(config.data, resolution) if config.data else Samples(trainer.generator)
    )
    held_out = load_pictures(config.validation, resolution) if config.validation else pictures
    count = min(len(held_out), 600 if config.validation else 64)
    shown = held_out.batch(torch.arange(count), mirror=False).cpu()
    if config.resume:
        trainer.resume(config.resume)
    run = None
    if fabric.is_global_zero:
        run = (
            Run.resume(config.resume, trainer.step)
            if config.resume
            else Run.create(config.runs, f"inversion-{trainer.meta['name']}", config)
        )
        what = f"{len(pictures)} pictures" if config.data else "the generator's own samples"
        fabric.print(f"{what}; run folder {run.folder}")
    with progress_bar(fabric) as bar:
        task = bar.add_task("encoder", total=config.images, completed=trainer.seen, figures="")
        while trainer.seen < config.images:
            figures = trainer.train_step(pictures)
            bar.update(
                task,
                completed=trainer.seen,
                figures=" ".join(f"{name} {figures[name]:.4f}" for name in trainer.weights),
            )
            if run and (trainer.step % 50 == 0 or trainer.seen >= config.images):
                run.log(trainer.step, {"images": trainer.seen, **figures})
            if run and (trainer.step % config.snapshot_steps == 0 or trainer.seen >= config.images):
                trainer.save(run.folder)
                pairs = trainer.reconstruct(shown)
                run.log(trainer.step, {"validation_mse": (pairs.float() - shown).square().mean().item()})
                run.save_grid(f"{trainer.step:07d}", torch.stack([shown[:32], pairs[:32]], 1).flatten(0, 1))
    fabric.barrier()
    return run.folder if run else config.runs
