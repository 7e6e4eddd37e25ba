"""Codes as z and residual: what the prior discriminator learns, what the settings do, and runs that have it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch

from tests.training.optional_discriminator import check_that_it_goes_on_exactly
from tests.training.pictures import write_pictures
from training.evaluation.report import method_name
from training.loops.gan import train_gan
from training.loops.gan_config import GanConfig
from training.loops.inversion import InversionTrainer, train_encoder
from training.loops.inversion_config import InversionConfig
from training.networks.bidirectional.prior_discriminator import PriorDiscriminator
from training.networks.generator import GeneratorConfig, build_mapping
from training.networks.latent_discriminator import NativeCoordinates
from training.optimisation.adversary import Adversary, Regularisation, discriminator_adam
from training.optimisation.step import Compute
from training.run_folders.checkpoint import load_meta
from training.run_folders.publication import PublicationConfig, publish

SHAPE = GeneratorConfig(32, (8, 8, 8, 8), z_size=16, code_size=16, mapping_depth=2)
EXACT = Compute(accelerator="cpu", precision="32-true")


@pytest.mark.parametrize("kind", ["dense", "invertible"])
def test_a_code_is_a_native_one_and_a_residual(kind: Literal["dense", "invertible"]) -> None:
    torch.manual_seed(0)
    config = replace(SHAPE, mapping=kind, per_layer_code=kind == "dense")
    mapping = build_mapping(config).requires_grad_(False)
    native = NativeCoordinates(config.layers, 16, mapping.last_inputs).fit(mapping)
    sampled = mapping(torch.randn(200, 16))
    inputs, residual = native.split(sampled)
    assert residual.abs().max() < 1e-3
    torch.testing.assert_close(inputs.std(0).mean(), torch.tensor(1.0), atol=0.1, rtol=0)
    away = sampled + 0.3 * torch.randn_like(sampled)
    nearest = native.with_residual(away, 0.0)
    assert native.split(nearest)[1].abs().max() < 1e-3
    torch.testing.assert_close(native.split(nearest)[0], native.split(away)[0], atol=1e-2, rtol=1e-2)
    torch.testing.assert_close(native.with_residual(away, 1.0), away, atol=1e-4, rtol=1e-4)
    half = native.split(native.with_residual(away, 0.5))[1]
    torch.testing.assert_close(half, native.split(away)[1] / 2, atol=1e-3, rtol=1e-3)


def test_it_tells_inputs_apart_that_have_the_prior_s_mean_and_not_its_spread() -> None:
    torch.manual_seed(0)
    discriminator = PriorDiscriminator(8, width=32)
    lazy = Regularisation(gamma=0.1, interval=8)
    adversary = Adversary(discriminator, discriminator_adam(discriminator, 1e-2, lazy), EXACT.fabric(), lazy)
    spread = torch.tensor([1.5, 0.5] * 4)
    for step in range(60):
        fake = torch.randn(64, 8) * spread
        adversary.step(torch.randn(64, 8), fake, regularise=adversary.regularises(step))
    with torch.no_grad():
        real, fake = discriminator(torch.randn(400, 8)), discriminator(torch.randn(400, 8) * spread)
    assert (real > fake).float().mean() > 0.65

    # Whoever answers to it learns the prior's spread: less of the first, more of the second.
    wrong = torch.randn(400, 8)
    scale = spread.clone().requires_grad_()
    adversary.generator_loss(wrong * scale).backward()
    assert scale.grad is not None
    assert (scale.grad[::2] > 0).all()
    assert (scale.grad[1::2] < 0).all()


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> InversionConfig:
    folder = tmp_path_factory.mktemp("prior")
    data = write_pictures(folder, 16, 32)[0]
    gan = train_gan(GanConfig(
        data, "discs", folder, generator=SHAPE, discriminator="stylegan2", images=8, batch=4, compute=EXACT
    ))  # fmt: skip
    return InversionConfig(
        gan, data, runs=folder / "encoders", channels=(8, 8, 8, 8), images=16, batch=4, r1_interval=2, prior_weight=0.1,
        residual_weight=0.2, residual_images=8, compute=EXACT,
    )  # fmt: skip


def test_a_run_with_it_goes_on_exactly(config: InversionConfig, tmp_path: Path) -> None:
    check_that_it_goes_on_exactly(config, "prior_discriminator", tmp_path / "checkpoint")


def test_codes_are_native_at_first_and_the_residual_is_paid_for(config: InversionConfig) -> None:
    nothing_else = replace(
        config,
        pixel_weight=0,
        perceptual_weight=0,
        image_weight=0,
        code_weight=0,
        code_cycle_weight=0,
        prior_weight=0,
    )
    trainer = InversionTrainer(nothing_else, EXACT.fabric())
    assert trainer.native is not None
    real = trainer.held_out[:4]
    sampled = trainer.generator.mapping(torch.randn(4, 16))
    shares = [float(trainer._residual_share())]
    made = trainer.train_encoder(real, sampled, torch.tensor(0.0), key=None)
    assert trainer.native.split(made["codes"])[1].abs().max() < 1e-3
    before = float(made["residual"])
    assert before > 1e-3
    for _ in range(30):
        figures = trainer.train_step()
        shares.append(float(trainer._residual_share()))
    assert float(figures["residual"]) < before / 2
    assert shares[:4] == [0.0, 0.5, 1.0, 1.0]


def test_a_run_says_that_it_was_there_and_is_published_without_it(
    config: InversionConfig, tmp_path: Path
) -> None:
    run = train_encoder(replace(config, images=4))
    assert (run / "checkpoint/prior_discriminator.optimiser.safetensors").is_file()
    meta = load_meta(run)
    assert method_name(meta) == "force-in-domain, prior discriminator 0.1, residual weight 0.2"
    figures = json.loads((run / "figures.jsonl").read_text().splitlines()[0])
    assert {"prior", "residual", "prior_discriminator", "prior_real", "prior_fake"} <= figures.keys()
    kept = publish(PublicationConfig(run, tmp_path / "kept"))
    assert (kept / "encoder.safetensors").is_file()
    assert not list(kept.glob("prior_discriminator*"))
