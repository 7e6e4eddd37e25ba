"""`python -m training gan`: trains generator and image discriminator from pictures.

Differentiable augmentation; moving average of the generator's weights; any number of processes (gradients are averaged,
weights start equal). Each discriminator brings its own loss and regulariser.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from training.data.adaptive import AdaptiveAugmentation
from training.data.augmentation import augment
from training.data.labels import label_rows
from training.data.pictures import DataError, PictureSource, load_pictures, on_device
from training.loops.coverage import Coverage, fitted_mapping
from training.loops.fit import Clock, Snapshot, fit
from training.loops.gan_config import GanConfig
from training.loops.growth import (
    Growth,
    load_smaller_discriminator,
    load_smaller_encoder,
    load_smaller_generator,
    refuse_unfit,
)
from training.networks.encoder import EncoderConfig
from training.networks.generator import Generator, GeneratorConfig
from training.networks.image_discriminators import (
    PairedDiscriminator,
    build_image_discriminator,
)
from training.optimisation.adam import ParameterGroup, adam, decay, set_rates, warm_up
from training.optimisation.adversary import Adversary, Regularisation, discriminator_adam
from training.optimisation.captured_step import CapturedStep
from training.optimisation.moving_average import MovingAverage
from training.optimisation.step import draw_batch, place, update
from training.run_folders.checkpoint import (
    CheckpointError,
    load_meta,
    load_network,
    load_optimiser,
    read_network,
)
from training.run_folders.json_files import read_config


class GanTrainer:
    """A generator and its image discriminator in training, with the encoder beside them where coverage is asked for."""

    kind = "gan"

    def __init__(
        self, config: GanConfig, fabric: Fabric, pictures: PictureSource, labels: Tensor | None = None
    ) -> None:
        """`labels`: those of the pictures, float32 [M, K], for a conditional generator."""
        torch.manual_seed(config.compute.seed)
        self.config, self.fabric, self.pictures, self.labels = config, fabric, pictures, labels
        self.step = self.seen = 0
        self.done = 0.0
        self.moments_since: int | None = None
        self.generator = place(Generator(config.generator), fabric)
        if labels is not None and self.generator.mapping.labels is not None:
            self.generator.mapping.labels.fit(labels)
            self.generator.mapping.begin_without_labels()
        discriminator = build_image_discriminator(config.discriminator, config.generator)
        if isinstance(discriminator, PairedDiscriminator):
            discriminator.weights = {
                "stylegan2": config.stylegan2_weight,
                "projected": config.projected_weight,
            }
        place(discriminator, fabric)
        self.average = MovingAverage(self.generator, config.ema_images, config.ema_ramp_up)
        self.adaptive: AdaptiveAugmentation | None = None
        if config.augmentation_target is not None:
            self.adaptive = AdaptiveAugmentation(
                config.augmentation, config.augmentation_target, config.augmentation_limit, fabric.device
            )
        probability = self.adaptive.probability if self.adaptive else config.augmentation
        self._start_generator_optimiser()
        lazy = Regularisation(config.r1_gamma, config.r1_interval)
        self.image = Adversary(
            discriminator,
            discriminator_adam(
                discriminator, config.discriminator_rate, lazy, {"stylegan2": config.stylegan2_rate}
            ),
            fabric,
            lazy,
            augment=lambda image: augment(image, probability),
            label_weight=config.label_weight,
        )
        self.coverage: Coverage | None = None
        self.growth: Growth | None = None
        self._start_step()

    @property
    def name(self) -> str:
        return self.config.name

    def _start_generator_optimiser(self) -> None:
        rate = self.config.generator_rate
        self.generator_optimiser = adam(
            [ParameterGroup(list(self.generator.parameters()), rate, (0.0, 0.99))]
        )

    def _start_step(self) -> None:
        self.optimise = CapturedStep(self._optimise, capture=self.config.compute.captures(self.fabric))

    def _begin_growth(self, since: int, images: int) -> None:
        self.growth = Growth(since, images, self.fabric.device)
        self.growth.begin([self.generator, self.average.network], self.image.discriminator)

    def grow(self, smaller: Path) -> None:
        """Begin from a run of half the resolution. Raises CheckpointError."""
        refuse_unfit(smaller, self.config.generator)
        self._begin_growth(0, self.config.grow_images)
        for generator in (self.generator, self.average.network):
            load_smaller_generator(smaller, generator)
        if load_meta(smaller)["discriminator"] == self.config.discriminator:
            load_smaller_discriminator(smaller, self.image.discriminator)
        self.start_coverage()
        if self.coverage:
            load_smaller_encoder(smaller, self.coverage, self.config.generator.code_size)
        self.moments_since = 0

    def _follow_growth(self) -> None:
        if self.growth and self.growth.advance(self.seen):
            self.growth.end([self.generator, self.average.network], self.image.discriminator)
            self.growth = None
            self._start_step()

    def start_coverage(self) -> None:
        """Add the encoder beside the generator; the codes' statistics are taken from the mapping as it is now."""
        if self.config.coverage_weight > 0:
            self.coverage = Coverage(
                self.generator,
                self.fabric,
                self.config.encoder_channels,
                self.config.encoder_bottleneck,
                self.config.encoder_rate,
            )

    def resume(self, folder: Path) -> None:
        """Load a checkpoint. A discriminator or an encoder that it does not hold starts anew.

        Raises CheckpointError.
        """
        meta = load_meta(folder)
        self.step, self.seen = meta["step"], meta["images_seen"]
        self.moments_since = meta.get("moments_since")
        if "growth" in meta:
            self._begin_growth(meta["growth"]["since"], meta["growth"]["images"])
        if self.adaptive and "augmentation" in meta:
            self.adaptive.load(meta["augmentation"])
        load_network(folder, "generator", self.average.network)
        # A compact checkpoint holds the moving average only.
        live = "generator_live" if read_network(folder, "generator_live") else "generator"
        load_network(folder, live, self.generator)
        discriminator = self.image.discriminator
        alone = meta["discriminator"] != self.config.discriminator
        loaded = discriminator.parts()[meta["discriminator"]] if alone else discriminator
        load_network(folder, "image_discriminator", loaded)
        self.start_coverage()
        if self.coverage and "encoder" in meta:
            self._load_coverage(folder, read_config(EncoderConfig, meta["encoder"]))
        self._load_optimisers(folder, fresh={"image_discriminator"} if alone else set())

    def _load_coverage(self, folder: Path, known: EncoderConfig) -> None:
        assert self.coverage is not None
        encoder = self.coverage.encoder
        if replace(known, bounded=True) != encoder.config:
            raise CheckpointError(
                f"{folder} holds an encoder of another shape: {known}; start without --resume"
            )
        if known.bounded:
            load_network(folder, "encoder", encoder)
        else:
            # It keeps the bound that it was made with, from the mapping as it is.
            bound, encoder.bound = encoder.bound, nn.Identity()
            load_network(folder, "encoder", encoder)
            encoder.bound = bound
        load_network(folder, "latent_discriminator", self.coverage.latent.discriminator)

    def _load_optimisers(self, folder: Path, fresh: set[str]) -> None:
        """Load all moments but those of `fresh`. Where some are missing, the rates are warmed up from here."""
        for name, optimiser in self.optimisers().items():
            if name in fresh or not load_optimiser(folder, name, optimiser):
                self.moments_since = self.seen

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
        self.generator.mapping = fitted_mapping(self.config.generator, codes, self.labels)
        if self.labels is not None:
            self.generator.mapping.labels.fit(self.labels)
        average = self.average.network
        self.generator.config = average.config = self.config.generator
        average.mapping = copy.deepcopy(self.generator.mapping).requires_grad_(False)
        self._start_generator_optimiser()
        encoder.train()
        # The encoder goes on; the latent discriminator starts anew, on the new codes.
        trained = self.coverage
        self.start_coverage()
        self.coverage.encoder, self.coverage.encoder_optimiser = encoder, trained.encoder_optimiser
        self.coverage.follow(self.generator)

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
        meta: dict[str, Any] = {
            "generator": asdict(self.config.generator),
            "discriminator": self.config.discriminator,
        }
        if self.moments_since is not None:
            meta["moments_since"] = self.moments_since
        if self.growth:
            meta["growth"] = self.growth.state()
        if self.adaptive:
            meta["augmentation"] = self.adaptive.state()
        if self.coverage:
            meta["encoder"] = asdict(self.coverage.encoder.config)
            meta["latent_discriminator_view"] = self.coverage.view
        return meta

    def _set_rates(self) -> None:
        config = self.config
        rising = warm_up(self.seen, self.moments_since, config.warm_up_images)
        falling = decay(self.done, config.decay_images / config.images)
        set_rates(self.optimisers().values(), rising * falling)

    def train_step(self) -> dict[str, Tensor]:
        """Draw a batch and do a step on it; then what follows a step, which is never part of a captured one."""
        config, fabric = self.config, self.fabric
        real, z, index = draw_batch(config, self.pictures, config.generator.z_size, self.step, fabric)
        self._set_rates()
        self._follow_growth()
        self.image.label_share.fill_(self._label_share())
        if self.coverage and self.step % self.coverage.BOUND_STEPS == 0:
            self.coverage.follow(self.generator)
        figures = self.optimise(real, z, *self._labels_of(index), key=self.image.regularises(self.step))
        shown = config.batch * fabric.world_size
        self.step += 1
        self.seen += shown
        if self.adaptive:
            self.adaptive.adjust(self.step, shown)
        self.average.update(self.generator, shown, self.seen)
        return figures

    def _label_share(self) -> float:
        """How much of the label term counts by now, 0..1."""
        begin = self.config.label_images
        return min(max(self.seen / begin - 1, 0.0), 1.0) if begin else 1.0

    def _labels_of(self, index: Tensor) -> tuple[Tensor, ...]:
        """Labels of pictures, float32 [N, K], with NaN for those not known, and with these drawn; () without labels.

        With the second the step's samples are made: together labels are as they are in the data.
        """
        if self.labels is None or self.generator.mapping.labels is None:
            return ()
        held = self.labels[index]
        drawn = held.where(~held.isnan(), self.generator.mapping.labels.draw(len(held)))
        return on_device(held, self.fabric.device), on_device(drawn, self.fabric.device)

    def _optimise(self, real: Tensor, z: Tensor, *labels: Tensor, key: bool) -> dict[str, Tensor]:
        """One step of the discriminator and one of the generator, on the same generated pictures.

        `labels`: of real pictures and of samples, as `_labels_of` gives them. `key` says whether the discriminator's
        regulariser is taken. Nothing here waits for the device.
        """
        config, fabric = self.config, self.fabric
        # With coverage half of the generated pictures are reconstructions.
        covered = config.batch // 2 if self.coverage else 0
        with fabric.autocast():
            code = self.generator.mapping(z[covered:], *(label[covered:] for label in labels[1:])).float()
            sampled = code.detach()
            if self.coverage:
                code = torch.cat([self.coverage.encoder(real[:covered]), code])
            fake = self.generator.synthesis(code, random_noise=True)
        # A reconstruction has the labels of its picture.
        made_with = torch.cat([labels[0][:covered], labels[1][covered:]]) if labels else None
        figures = self._discriminator_step(real, fake.detach(), *labels[:1], regularise=key)
        loss = self.image.generator_loss(fake, made_with)
        figures["generator_loss"] = loss.detach()
        if self.coverage:
            extra, terms = self.coverage.loss(real[:covered], fake[:covered], code[:covered])
            loss = loss + config.coverage_weight * extra
            update(fabric, loss, self.generator_optimiser, self.coverage.encoder_optimiser)
            figures |= terms
            figures |= self.coverage.discriminator_step(sampled, code[:covered].detach())
        else:
            update(fabric, loss, self.generator_optimiser)
        return figures

    def _discriminator_step(
        self, real: Tensor, fake: Tensor, labels: Tensor | None = None, *, regularise: bool
    ) -> dict[str, Tensor]:
        """`labels`: those of the real pictures."""
        done = self.image.step(real, fake, labels, regularise=regularise)
        figures = {
            "discriminator_loss": done.loss,
            "real_logit": done.real_logits.float().mean(),
            "fake_logit": done.fake_logits.float().mean(),
        }
        if self.adaptive:
            self.adaptive.watch(self.image.discriminator.certainty(done.real_logits))
            figures["augmentation"] = self.adaptive.probability.clone()
        if done.penalty is not None:
            figures["r1"] = done.penalty
        if done.label_loss is not None:
            figures["label_loss"] = done.label_loss
        return figures

    def progress(self, figures: Mapping[str, float]) -> str:
        return f"discriminator {figures['discriminator_loss']:.3f} generator {figures['generator_loss']:.3f}"

    @torch.no_grad()
    def snapshot(self) -> Snapshot:
        """64 pictures of the averaged generator, always from the same z and labels."""
        average, device = self.average.network, self.fabric.device
        drawn = average.mapping.draw(64, torch.Generator().manual_seed(1))
        parts = zip(*(latent.to(device).split(16) for latent in drawn), strict=True)
        with self.fabric.autocast():
            return Snapshot(torch.cat([average(*part) for part in parts]))


def train_gan(config: GanConfig) -> Path:
    """Train, from the start or from a checkpoint; return the run folder.

    Raises DataError, CheckpointError, UnknownDiscriminator.
    """
    clock = Clock(config.seconds)
    fabric = config.compute.fabric()
    if config.resume:
        meta = load_meta(config.resume)
        config.generator = read_config(GeneratorConfig, meta["generator"])
        if not adds_other_discriminator(meta["discriminator"], config.discriminator):
            config.discriminator = meta["discriminator"]
    shape = config.generator
    if config.fit_mapping and not shape.per_layer_code:
        raise CheckpointError(
            f"{config.resume or 'this run'} has one w for all layers, to which no mapping can be fitted; leave "
            "--fit-mapping out"
        )
    if shape.labels and config.attributes is None:
        raise DataError(
            f"name the csv with the labels ({', '.join(shape.labels)}) of the pictures: --attributes"
        )
    pictures = load_pictures(config.data, shape.resolution, config.attributes if shape.labels else None)
    labels = label_rows(pictures, shape.labels) if shape.labels else None
    pictures = pictures.to(fabric.device)
    trainer = GanTrainer(config, fabric, pictures, labels)
    if config.resume:
        trainer.resume(config.resume)
        if config.fit_mapping:
            trainer.fit_mapping()
    elif config.grow:
        trainer.grow(config.grow)
    else:
        trainer.start_coverage()
    return fit(trainer, config, f"{len(pictures)} pictures", clock)


def adds_other_discriminator(held: str, wanted: str) -> bool:
    """Whether a checkpoint holds one of the two discriminators and the run wants both."""
    return wanted == "both" and held in ("stylegan2", "projected")
