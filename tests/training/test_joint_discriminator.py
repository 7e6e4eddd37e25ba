"""The joint discriminator: what it sees of pairs, what the encoder learns from it, and runs that have it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.training.optional_discriminator import check_that_it_goes_on_exactly
from tests.training.pictures import write_pictures
from training.evaluation.report import method_name
from training.loops.gan import train_gan
from training.loops.gan_config import GanConfig
from training.loops.inversion import InversionTrainer, train_encoder
from training.loops.inversion_config import InversionConfig
from training.networks.bidirectional.joint_discriminator import JointDiscriminator
from training.networks.generator import GeneratorConfig
from training.optimisation.adversary import Adversary, Regularisation, discriminator_adam
from training.optimisation.step import Compute
from training.run_folders.checkpoint import load_meta, read_network
from training.run_folders.publication import PublicationConfig, publish

SHAPE = GeneratorConfig(32, (8, 8, 8, 8), z_size=16, code_size=16, mapping_depth=2)
EXACT = Compute(accelerator="cpu", precision="32-true")


def colours_and_their_codes(count: int) -> tuple[Tensor, Tensor]:
    """Pictures [N, 3, 8, 8] of one colour, and codes [N, 4, 3] whose first row is the colour."""
    code = torch.randn(count, 4, 3)
    return code[:, 0, :, None, None].expand(-1, -1, 8, 8), code


def test_it_tells_pairs_apart_that_neither_picture_nor_code_tells_apart() -> None:
    torch.manual_seed(0)
    discriminator = JointDiscriminator(
        GeneratorConfig(8, (8, 8), code_size=3), torch.zeros(4, 3), torch.ones(4, 3), width=32
    )
    lazy = Regularisation(gamma=0.1, interval=8)
    adversary = Adversary(discriminator, discriminator_adam(discriminator, 1e-2, lazy), EXACT.fabric(), lazy)
    for step in range(60):
        image, code = colours_and_their_codes(64)
        pairs, others = discriminator.pairs(image, code), discriminator.pairs(image, code.roll(1, 0))
        adversary.step(pairs, others, regularise=adversary.regularises(step))
    image, code = colours_and_their_codes(200)
    with torch.no_grad():
        right = discriminator(discriminator.pairs(image, code))
        wrong = discriminator(discriminator.pairs(image, code.roll(1, 0)))
    assert (right > wrong).float().mean() > 0.85

    # Whoever answers for the pair is led by both of its halves, and the discriminator's weights are not.
    image, code = image.clone().requires_grad_(), code.clone().requires_grad_()
    adversary.generator_loss(discriminator.pairs(image, code.roll(1, 0))).backward()
    assert image.grad is not None
    assert code.grad is not None
    assert image.grad.flatten(1).norm(dim=1).min() > 0
    assert code.grad.flatten(1).norm(dim=1).min() > 0
    # What tells is the row that the picture shows.
    assert code.grad[:, 0].abs().mean() > 2 * code.grad[:, 1:].abs().mean()
    before = discriminator.logit.weight.grad
    assert before is None or not before.isnan().any()


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> InversionConfig:
    folder = tmp_path_factory.mktemp("joint")
    data = write_pictures(folder, 16, 32)[0]
    gan = train_gan(GanConfig(
        data, "discs", folder, generator=SHAPE, discriminator="stylegan2", images=8, batch=4, compute=EXACT
    ))  # fmt: skip
    return InversionConfig(
        gan, data, runs=folder / "encoders", channels=(8, 8, 8, 8), images=16, batch=4, r1_interval=2, joint_weight=0.1,
        compute=EXACT,
    )  # fmt: skip


def test_a_run_with_it_goes_on_exactly(config: InversionConfig, tmp_path: Path) -> None:
    check_that_it_goes_on_exactly(config, "joint_discriminator", tmp_path / "checkpoint")


def test_a_run_says_that_it_was_there_and_is_published_without_it(
    config: InversionConfig, tmp_path: Path
) -> None:
    run = train_encoder(replace(config, images=4))
    assert (run / "checkpoint/joint_discriminator.optimiser.safetensors").is_file()
    meta = load_meta(run)
    assert meta["loss_weights"]["joint_weight"] == 0.1
    assert method_name(meta) == "force-in-domain, joint discriminator 0.1"
    figures = json.loads((run / "figures.jsonl").read_text().splitlines()[0])
    assert {"joint", "joint_discriminator", "pair_real", "pair_fake"} <= figures.keys()
    kept = publish(PublicationConfig(run, tmp_path / "kept"))
    assert (kept / "encoder.safetensors").is_file()
    assert not list(kept.glob("joint_discriminator*"))


def test_it_joins_a_run_that_was_without_it(config: InversionConfig) -> None:
    without = train_encoder(replace(config, joint_weight=0.0, images=4))
    assert not read_network(without, "joint_discriminator")
    goes_on = train_encoder(replace(config, images=8, resume=without))
    assert read_network(goes_on, "joint_discriminator")
    assert load_meta(goes_on)["moments_since"] == 4  # rates rise anew
    compact = train_encoder(replace(config, images=4, compact=True)) / "compact.safetensors"
    assert read_network(compact, "joint_discriminator")


def test_it_alone_trains_an_encoder(config: InversionConfig) -> None:
    """With no other term, from samples: the pictures of both sides are alike, so it cannot go by them."""
    alone = replace(
        config, data=None, pixel_weight=0.0, perceptual_weight=0.0, image_weight=0.0, code_weight=0.0,
        code_cycle_weight=0.0, joint_weight=1.0, joint_discriminator_rate=1e-2, images=1_000, batch=8,
    )  # fmt: skip
    trainer = InversionTrainer(alone, EXACT.fabric())
    start = {name: p.detach().clone() for name, p in trainer.encoder.named_parameters()}
    for _ in range(12):
        figures = trainer.train_step()
    assert figures["pair_real"] > figures["pair_fake"] + 0.1
    moved = [name for name, p in trainer.encoder.named_parameters() if not torch.equal(p, start[name])]
    assert len(moved) > 10
