"""`python -m training encoder`: trains the encoder by force-in-domain inversion.

The generator is frozen. The encoder answers for the pixels, a perceptual distance, an image discriminator's judgement
of G(E(x)) and a **latent discriminator**'s of E(x), which forces codes into the latent space (Leng, Zhu, Xu, arXiv
2107.06050, as we read it: see docs/method.md). With `identity_weight` it answers for the person, too, and with
`joint_weight` a joint discriminator judges (x, E(x)).

The baselines are settings: `code_weight = 0` and `code_cycle_weight = 0` give the in-domain encoder (Zhu et al., ECCV
2020); where only `code_cycle_weight` is left it is the traditional one, trained on samples.

A code is also the nearest native one, mapping(z), and a residual. With `prior_weight` a prior discriminator judges z by
itself, with `residual_weight` the residual is paid for, and over the first `residual_images` it is faded in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from training.data.pictures import DataError, PictureSource, load_pictures, on_device
from training.data.samples import Samples
from training.faces.mobile_face import IdentityDescriptor
from training.loops.fit import Clock, Snapshot, fit
from training.loops.inversion_config import InversionConfig
from training.losses.adversarial import Discriminator
from training.losses.perceptual import LPIPSSq, VGG16Conv43
from training.networks.bidirectional.joint_discriminator import JointDiscriminator
from training.networks.bidirectional.prior_discriminator import PriorDiscriminator
from training.networks.encoder import Encoder, EncoderConfig, usual_channels
from training.networks.generator import Generator, GeneratorConfig, code_statistics, sample_codes
from training.networks.image_discriminators import build_image_discriminator
from training.networks.latent_discriminator import LatentDiscriminator, NativeCoordinates, default_view
from training.networks.pyramid_encoder import PyramidEncoder
from training.optimisation.adam import ParameterGroup, adam, set_rates, warm_up
from training.optimisation.adversary import (
    Adversary,
    Regularisation,
    ReplayPool,
    discriminator_adam,
)
from training.optimisation.captured_step import CapturedStep
from training.optimisation.step import draw_batch, place, update
from training.run_folders.checkpoint import (
    CheckpointError,
    load_meta,
    load_network,
    load_optimiser,
    read_network,
)
from training.run_folders.json_files import read_config
from training.run_folders.trained_inversion import build_encoder, encoder_to_go_on_with

NO_DISCRIMINATOR = "none"  # in checkpoint.json of an imported generator, which has no image discriminator
FRESH_DISCRIMINATOR = "projected"  # trained for such a generator
OPTIONAL_DISCRIMINATORS = ("joint_discriminator", "prior_discriminator")


class InversionTrainer:
    """An encoder in training for a frozen generator, with an image discriminator, a latent one, maybe a joint one and
    one of the prior."""

    kind = "inversion"

    def __init__(self, config: InversionConfig, fabric: Fabric) -> None:
        torch.manual_seed(config.compute.seed)
        self.config, self.fabric = config, fabric
        self.step, self.seen, self.done = 0, 0, 0.0
        self.moments_since: int | None = None
        self.weights = config.weights
        self.terms = dict.fromkeys(self.weights, torch.tensor(math.nan))  # of the last step that had them
        if config.code_cycle_interval < 1:
            raise DataError(f"--code-cycle-interval is a number of steps, not {config.code_cycle_interval}")
        if not self.weights.keys() - ({"code_cycle"} if config.code_cycle_interval > 1 else set()):
            raise DataError("a step has no term to train on; give another weight of the loss than 0")
        self.start = load_meta(config.gan)
        if "growth" in self.start:
            raise CheckpointError(
                f"{config.gan}: a block of the generator is still faded in; go on with its run"
            )
        shape = read_config(GeneratorConfig, self.start["generator"])
        self.generator = place(Generator(shape).requires_grad_(False), fabric)
        load_network(config.gan, "generator", self.generator)
        self.image = self._start_image_adversary()
        mean, deviation = code_statistics(self.generator)
        self.encoder = self._start_encoder()
        self.latent = self._start_latent_adversary(mean, deviation)
        self.perceptual = place(VGG16Conv43(config.vgg) if config.vgg else LPIPSSq(), fabric)
        descriptor = IdentityDescriptor(shape.resolution) if "identity" in self.weights else None
        self.descriptor = place(descriptor, fabric) if descriptor else None
        self.pool = ReplayPool(config.code_pool)
        self.encoder_optimiser = adam(
            [ParameterGroup(list(self.encoder.parameters()), config.rate, (0.9, 0.99))]
        )
        self._open_pictures()
        # Last, so that runs without it draw the same numbers as before it was there.
        self.joint = self._start_joint_adversary(mean, deviation) if "joint" in self.weights else None
        self.native = self._native_coordinates()
        self.prior = self._start_prior_adversary() if "prior" in self.weights else None
        captures = config.compute.captures(fabric)
        self.train_encoder = CapturedStep(self._encoder_step, capture=captures)
        self.train_image_discriminator = CapturedStep(self._image_discriminator_step, capture=captures)
        self.train_latent_discriminator = CapturedStep(self._latent_discriminator_step, capture=captures)
        self.train_joint_discriminator = CapturedStep(self._joint_discriminator_step, capture=captures)
        self.train_prior_discriminator = CapturedStep(self._prior_discriminator_step, capture=captures)

    @property
    def name(self) -> str:
        return str(self.start["name"])

    def _start_image_adversary(self) -> Adversary:
        """The generator's own discriminator, or a fresh one where its checkpoint holds none (blurred at
        first)."""
        config, named = self.config, self.start["discriminator"]
        self.discriminator_name = FRESH_DISCRIMINATOR if named == NO_DISCRIMINATOR else named
        shape = self.generator.config
        discriminator = place(build_image_discriminator(self.discriminator_name, shape), self.fabric)
        # Published checkpoints leave it out.
        if read_network(config.gan, "image_discriminator"):
            load_network(config.gan, "image_discriminator", discriminator)
        return self._adversary(discriminator, config.image_discriminator_rate)

    def _adversary(
        self, discriminator: Discriminator, rate: float, *, mixed_precision: bool = True
    ) -> Adversary:
        """A discriminator that is trained at that rate, with lazy R1."""
        optimiser = discriminator_adam(discriminator, rate)
        lazy = Regularisation(self.config.r1_gamma, self.config.r1_interval)
        return Adversary(discriminator, optimiser, self.fabric, lazy, mixed_precision=mixed_precision)

    def _start_encoder(self) -> Encoder | PyramidEncoder:
        """The encoder of the generator's run folder, if there is one that can be gone on with; or a fresh one."""
        config, shape = self.config, self.generator.config
        channels = config.channels or usual_channels(shape.resolution)
        wanted = EncoderConfig(
            shape.resolution, channels, config.bottleneck, layers=shape.layers, code_size=shape.code_size,
            activation=config.activation, bounded=config.bounded,
        )  # fmt: skip
        known = None if config.fresh else encoder_to_go_on_with(self.start, wanted)
        encoder = place(build_encoder(known or wanted), self.fabric)
        codes = sample_codes(self.generator, 10_000)
        if known is None:
            assert isinstance(encoder, Encoder)
            encoder.start_from(codes)
            return encoder
        load_network(config.gan, "encoder", encoder)
        if isinstance(encoder, Encoder) and known.architecture == "residual" and config.bounded:
            encoder.bound_by(codes)
        return encoder

    def _start_latent_adversary(self, mean: Tensor, deviation: Tensor) -> Adversary:
        """A fresh latent discriminator, from the statistics of sampled codes float [L, 512]."""
        config, mapping = self.config, self.generator.mapping
        view = config.latent_discriminator_view or default_view(self.generator.config.per_layer_code)
        if config.resume:
            view = load_meta(config.resume, "inversion")["latent_discriminator_view"]
        self.latent_discriminator = LatentDiscriminator(mean, deviation, view, inputs=mapping.last_inputs)
        self.latent_discriminator.to(self.fabric.device)
        if view == "native":
            self._fit_native(self.latent_discriminator.native)
        return self._adversary(
            self.latent_discriminator, config.latent_discriminator_rate, mixed_precision=False
        )

    def _start_joint_adversary(self, mean: Tensor, deviation: Tensor) -> Adversary:
        """A fresh joint discriminator, from the statistics of sampled codes float [L, 512]."""
        discriminator = JointDiscriminator(self.generator.config, mean, deviation)
        self.joint_discriminator = place(discriminator, self.fabric)
        return self._adversary(self.joint_discriminator, self.config.joint_discriminator_rate)

    def _native_coordinates(self) -> NativeCoordinates | None:
        """What splits codes into z and residual; None where no setting asks for it."""
        config, shape, mapping = self.config, self.generator.config, self.generator.mapping
        if not (self.weights.keys() & {"prior", "residual"} or config.residual_images):
            return None
        native = NativeCoordinates(shape.layers, shape.code_size, mapping.last_inputs).to(self.fabric.device)
        return self._fit_native(native)

    def _fit_native(self, native: NativeCoordinates) -> NativeCoordinates:
        """Fit them to the mapping. Raises CheckpointError where no code alone leads back to its inputs."""
        try:
            return native.fit(self.generator.mapping)
        except ValueError as error:
            raise CheckpointError(f"{self.config.gan}: {error}") from None

    def _start_prior_adversary(self) -> Adversary:
        """A fresh prior discriminator."""
        self.prior_discriminator = place(PriorDiscriminator(self.generator.mapping.last_inputs), self.fabric)
        rate = self.config.prior_discriminator_rate
        return self._adversary(self.prior_discriminator, rate, mixed_precision=False)

    def _open_pictures(self) -> None:
        """What is trained on, and the held-out pictures that snapshots show: up to 600 of a validation set, or 64."""
        config, resolution = self.config, self.generator.config.resolution
        self.pictures: PictureSource = (
            load_pictures(config.data, resolution).to(self.fabric.device)
            if config.data
            else Samples(self.generator)
        )
        held_out = load_pictures(config.validation, resolution) if config.validation else self.pictures
        count = min(len(held_out), 600 if config.validation else 64)
        self.held_out = held_out.batch(torch.arange(count), mirror=False).cpu()

    def networks(self) -> dict[str, nn.Module]:
        """Networks of a checkpoint. It is whole: the GAN's run is needed no more."""
        adversaries = {name: adversary.discriminator for name, adversary in self._adversaries().items()}
        return {"generator": self.generator, "encoder": self.encoder} | adversaries

    def _adversaries(self) -> dict[str, Adversary]:
        """Those that this run has, by their discriminators' names in checkpoints."""
        optional = {"joint_discriminator": self.joint, "prior_discriminator": self.prior}
        present = {name: adversary for name, adversary in optional.items() if adversary}
        return {"image_discriminator": self.image, "latent_discriminator": self.latent} | present

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        """Optimisers of a checkpoint."""
        adversaries = {name: adversary.optimiser for name, adversary in self._adversaries().items()}
        return {"encoder": self.encoder_optimiser} | adversaries

    def resume(self, folder: Path) -> None:
        """Load a checkpoint. A joint or prior discriminator that it does not hold starts anew. Raises
        CheckpointError."""
        meta = load_meta(folder, self.kind)
        self.step, self.seen = meta["step"], meta["images_seen"]
        self.moments_since = meta.get("moments_since")
        if isinstance(self.encoder, Encoder) and not read_config(EncoderConfig, meta["encoder"]).bounded:
            self.encoder.unbound()
        for name, network in self.networks().items():
            if name not in OPTIONAL_DISCRIMINATORS or read_network(folder, name):
                load_network(folder, name, network)
        for name, optimiser in self.optimisers().items():
            if not load_optimiser(folder, name, optimiser):
                self.moments_since = self.seen

    def meta(self) -> dict[str, Any]:
        """Shapes of the checkpoint's networks, and the settings that tell one method from another."""
        config = self.config
        return {
            "gan_images_seen": self.start.get("gan_images_seen", self.start["images_seen"]),
            "discriminator": self.discriminator_name,
            "generator": self.start["generator"],
            "encoder": asdict(self.encoder.config),
            "latent_discriminator_view": self.latent_discriminator.view,
            "latent_discriminator": {
                "r1_gamma": config.r1_gamma,
                "code_pool": config.code_pool,
                "latent_discriminator_rate": config.latent_discriminator_rate,
            },
            "loss_weights": {k: v for k, v in asdict(config).items() if k.endswith("_weight")},
            "seed": config.compute.seed,
        } | ({"moments_since": self.moments_since} if self.moments_since is not None else {})

    def train_step(self) -> dict[str, Tensor]:
        """One step of the encoder, then one of each discriminator on what the encoder gave."""
        config, fabric = self.config, self.fabric
        real, z, _ = draw_batch(config, self.pictures, self.generator.config.z_size, self.step, fabric)
        self._set_rate()
        with torch.no_grad():
            sampled = self.generator.mapping(z, *self._draw_labels(len(z)))
        cycles = self.step % config.code_cycle_interval == 0
        made = self.train_encoder(real, sampled, self._residual_share(), key=cycles)
        code, reconstruction = made["codes"], made["reconstructions"]
        self.terms |= {name: made[name] for name in self.weights.keys() & made.keys()}
        figures = {name: self.terms[name] for name in self.weights}
        if "image" in self.weights:
            regularises = self.image.regularises(self.step)
            figures |= self.train_image_discriminator(real, reconstruction, key=regularises)
        shown = self.pool.swap(code)
        figures |= self.train_latent_discriminator(sampled, shown, key=self.latent.regularises(self.step))
        if self.joint:
            figures |= self.train_joint_discriminator(
                made["pictured"], sampled, real, code, key=self.joint.regularises(self.step)
            )
        if self.prior:
            figures |= self.train_prior_discriminator(sampled, code, key=self.prior.regularises(self.step))
        self.step += 1
        self.seen += config.batch * fabric.world_size
        return figures

    def _residual_share(self) -> Tensor:
        """How much of the residual codes have now: a scalar 0..1."""
        fading = self.config.residual_images
        return torch.tensor(min(self.seen / fading, 1.0) if fading else 1.0, device=self.fabric.device)

    def _draw_labels(self, count: int) -> tuple[Tensor, ...]:
        """A conditional generator's labels for as many samples; () for another's."""
        labels = self.generator.mapping.labels
        return () if labels is None else (on_device(labels.draw(count), self.fabric.device),)

    def _set_rate(self) -> None:
        rising = warm_up(self.seen, self.moments_since, self.config.warm_up_images)
        set_rates(
            [self.encoder_optimiser], rising * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * self.done)))
        )
        set_rates([o for name, o in self.optimisers().items() if name != "encoder"], rising)

    def _encoder_step(self, real: Tensor, sampled: Tensor, share: Tensor, *, key: bool) -> dict[str, Tensor]:
        """Real pictures, sampled codes w, the residual's share; `key`: with the code cycle -> terms of the loss that
        have a weight, "codes" E(real), "reconstructions" G(E(real)); with a joint discriminator "pictured", G(w)."""
        weights = {name: weight for name, weight in self.weights.items() if key or name != "code_cycle"}
        terms: dict[str, Tensor] = {}
        # Without any term on real pictures the codes are for the latent discriminator alone.
        with torch.set_grad_enabled(weights.keys() != {"code_cycle"}):
            with self.fabric.autocast():
                code = self.encoder(real)
            if "residual" in weights and self.native:
                terms["residual"] = self.native.split(code.float())[1].square().mean()
            if self.config.residual_images and self.native:
                code = self.native.with_residual(code.float(), share)
            with self.fabric.autocast():
                reconstruction = self.generator.synthesis(code)
        with self.fabric.autocast():
            if "mse" in weights:
                terms["mse"] = (reconstruction.float() - real).square().mean()
            if "perceptual" in weights:
                terms["perceptual"] = self.perceptual(reconstruction, real).float().mean()
            if self.descriptor:
                apart = self.descriptor(reconstruction).float() - self.descriptor(real).float()
                terms["identity"] = apart.square().sum(1).mean()
            if "image" in weights:
                terms["image"] = self.image.generator_loss(reconstruction)
            if weights.keys() & {"joint", "code_cycle"}:
                with torch.no_grad():
                    pictured = self.generator.synthesis(sampled)
        if "code" in weights:
            terms["code"] = self.latent.generator_loss(code)
        if self.prior and self.native:
            terms["prior"] = self.prior.generator_loss(self.native.split(code.float())[0])
        if self.joint:
            terms["joint"] = self.joint.generator_loss(self.joint_discriminator.pairs(real, code))
        if "code_cycle" in weights:
            with self.fabric.autocast():
                recovered = self.encoder(pictured)
            error = (recovered - sampled) / self.latent_discriminator.deviation
            terms["code_cycle"] = error.square().mean()
        loss = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        update(self.fabric, loss, self.encoder_optimiser)
        made = {name: term.detach() for name, term in terms.items()}
        made |= {"codes": code.detach(), "reconstructions": reconstruction.detach()}
        return made | ({"pictured": pictured} if self.joint else {})

    def _image_discriminator_step(self, real: Tensor, fake: Tensor, *, key: bool) -> dict[str, Tensor]:
        return {"image_discriminator": self.image.step(real, fake, regularise=key).loss}

    def _latent_discriminator_step(self, real: Tensor, fake: Tensor, *, key: bool) -> dict[str, Tensor]:
        """The latent discriminator is trained even where its weight is 0: the domain score is made of it."""
        done = self.latent.step(real, fake, regularise=key)
        return done.figures("latent", "code")

    def _joint_discriminator_step(
        self, pictured: Tensor, sampled: Tensor, real: Tensor, code: Tensor, *, key: bool
    ) -> dict[str, Tensor]:
        """The generator's pairs, G(w) and w, and the encoder's, x and E(x)."""
        assert self.joint is not None
        pairs = self.joint_discriminator.pairs
        done = self.joint.step(pairs(pictured, sampled), pairs(real, code), regularise=key)
        return done.figures("joint", "pair")

    def _prior_discriminator_step(self, sampled: Tensor, code: Tensor, *, key: bool) -> dict[str, Tensor]:
        """What sampled codes and the encoder's are as inputs of the mapping's last layer."""
        assert self.prior is not None
        assert self.native is not None
        real, fake = (self.native.split(codes.float())[0] for codes in (sampled, code))
        return self.prior.step(real, fake, regularise=key).figures("prior", "prior")

    def progress(self, figures: Mapping[str, float]) -> str:
        return " ".join(f"{name} {figures[name]:.4f}" for name in self.weights)

    @torch.no_grad()
    def snapshot(self) -> Snapshot:
        """Held-out pictures beside their reconstructions, by the encoder's running statistics, and their error."""
        self.encoder.eval()
        with self.fabric.autocast():
            made = torch.cat(
                [
                    self.generator.synthesis(self.encoder(part.to(self.fabric.device))).cpu()
                    for part in self.held_out.split(50)
                ]
            )
        self.encoder.train()
        error = (made.float() - self.held_out).square().mean().item()
        pairs = torch.stack([self.held_out[:32], made[:32]], 1).flatten(0, 1)
        return Snapshot(pairs, {"validation_mse": error})


def train_encoder(config: InversionConfig) -> Path:
    """Train, from the start or from a checkpoint; return the run folder. Raises DataError, CheckpointError."""
    clock = Clock(config.seconds)
    fabric = config.compute.fabric()
    trainer = InversionTrainer(config, fabric)
    if config.resume:
        trainer.resume(config.resume)
    what = f"{len(trainer.pictures)} pictures" if config.data else "the generator's own samples"
    return fit(trainer, config, what, clock)
