"""A run that grows from half its side, augmentation that adapts, and steps that are captured on a GPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.numpy import load_file

from tests.training.pictures import write_pictures
from tests.training.test_going_on import assert_equal_weights
from training.data.adaptive import AdaptiveAugmentation
from training.data.pictures import load_pictures
from training.loops.gan import GanTrainer, train_gan
from training.loops.gan_config import GanConfig
from training.loops.inversion import train_encoder
from training.loops.inversion_config import InversionConfig
from training.networks.generator import GeneratorConfig
from training.networks.image_discriminators import StyleGAN2Discriminator
from training.optimisation.captured_step import CapturedStep
from training.optimisation.moving_average import MovingAverage
from training.optimisation.step import Compute, mend_gradients
from training.run_folders.checkpoint import CheckpointError, load_meta

SMALLER = GeneratorConfig(resolution=32, channels=(8, 8, 8, 8), z_size=16, code_size=16, mapping_depth=2)
LARGER = replace(SMALLER, resolution=64, channels=(8, 8, 8, 8, 4))
EXACT = Compute(accelerator="cpu", precision="32-true")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("data"), 24, 64)[0]


def gan(data: Path, runs: Path, shape: GeneratorConfig) -> GanConfig:
    encoder = (8,) * len(shape.channels)
    return GanConfig(
        data, "discs", runs, generator=shape, discriminator="stylegan2", images=8, batch=4, coverage_weight=5.0,
        encoder_channels=encoder, compute=EXACT,
    )  # fmt: skip


def test_a_run_grows_from_half_its_side(data: Path, tmp_path: Path) -> None:
    smaller = train_gan(gan(data, tmp_path, SMALLER))
    config = replace(gan(data, tmp_path, LARGER), grow=smaller, grow_images=12)
    fabric = config.compute.fabric()
    trainer = GanTrainer(config, fabric, load_pictures(data, 64))
    trainer.grow(smaller)
    before = GanTrainer(gan(data, tmp_path, SMALLER), fabric, load_pictures(data, 32))
    before.resume(smaller)
    z = torch.randn(3, 16)
    with torch.no_grad():
        found, small = trainer.average.network(z), before.average.network(z)
        assert found.shape == (3, 3, 64, 64)
        torch.testing.assert_close(
            F.avg_pool2d(found, 2)[..., 4:-4, 4:-4], small[..., 4:-4, 4:-4], atol=0.2, rtol=0.1
        )
        picture = torch.rand(4, 3, 64, 64) * 2 - 1
        discriminators = [run.image.discriminator for run in (trainer, before)]
        torch.testing.assert_close(discriminators[0](picture), discriminators[1](F.avg_pool2d(picture, 2)))
    half = train_gan(config)
    assert load_meta(half)["growth"] == {"since": 0, "images": 12}
    with pytest.raises(CheckpointError, match="still faded in"):
        train_encoder(InversionConfig(half, data, runs=tmp_path, compute=EXACT))
    grown = train_gan(replace(config, images=20, grow=None, resume=half))
    whole = train_gan(replace(config, images=20))
    assert "growth" not in load_meta(whole)
    assert not [
        key for key in load_file(whole / "checkpoint/image_discriminator.safetensors") if "before" in key
    ]
    assert_equal_weights(whole, grown)
    with pytest.raises(CheckpointError, match="twice the resolution"):
        train_gan(replace(config, generator=replace(LARGER, channels=(8, 8, 8, 4, 4))))


def test_the_fade_of_a_discriminator_goes_from_the_smaller_picture_to_the_larger() -> None:
    torch.manual_seed(0)
    discriminator, picture = StyleGAN2Discriminator(LARGER), torch.randn(4, 3, 64, 64)
    whole = discriminator(picture)
    fade = torch.zeros(())
    discriminator.begin_fade(fade)
    assert not torch.allclose(discriminator(picture), whole)
    fade.fill_(1.0)
    torch.testing.assert_close(discriminator(picture), whole)
    discriminator.end_fade()
    assert torch.equal(discriminator(picture), whole)


def test_augmentation_follows_the_sign_of_the_logits() -> None:
    adaptive = AdaptiveAugmentation(0.0, 0.6, 0.1, torch.device("cpu"))
    for step in range(1, 2 * adaptive.STEPS + 1):
        adaptive.watch(torch.tensor(0.9))
        adaptive.adjust(step, 1_000)
    assert float(adaptive.probability) == pytest.approx(8_000 / adaptive.IMAGES)
    for step in range(1, 401):
        adaptive.watch(torch.tensor(0.9))
        adaptive.adjust(step, 1_000)
    assert float(adaptive.probability) == pytest.approx(0.1)
    for step in range(1, 5):
        adaptive.watch(torch.tensor(0.3))
        adaptive.adjust(step, 1_000)
    assert float(adaptive.probability) == pytest.approx(0.1 - 4_000 / adaptive.IMAGES)
    other = AdaptiveAugmentation(0.0, 0.6, 0.5, torch.device("cpu"))
    other.load(adaptive.state())
    assert other.state() == adaptive.state()


def test_a_resumed_run_adapts_as_an_undisturbed_one(data: Path, tmp_path: Path) -> None:
    config = replace(
        gan(data, tmp_path, SMALLER), coverage_weight=0.0, images=24, augmentation=0.3, augmentation_target=0.0,
        decay_images=12,
    )  # fmt: skip
    whole = train_gan(config)
    # The rates fall towards the end of the run as it is meant to be.
    half = train_gan(replace(config, images=12, decay_images=0))
    assert load_meta(half)["augmentation"] != load_meta(whole)["augmentation"]
    assert_equal_weights(whole, train_gan(replace(config, resume=half)))


def test_a_moving_average_fits_short_runs() -> None:
    network = torch.nn.Linear(1, 1, bias=False)
    averages = [MovingAverage(network, 10_000, ramp_up) for ramp_up in (0.05, 10.0)]
    with torch.no_grad():
        network.weight.add_(1.0)
    for average in averages:
        average.update(network, 100, 1_000)
    near, far = (float((average.network.weight - network.weight).detach().abs()) for average in averages)
    assert near == pytest.approx(0.25)
    assert far > 0.9


def test_gradients_that_are_not_finite_are_mended() -> None:
    gradients = [torch.tensor([1.0, float("nan")]), torch.tensor([[float("inf")], [-float("inf")]])]
    mend_gradients(gradients)
    assert gradients[0].tolist() == [1.0, 0.0]
    assert gradients[1].flatten().tolist() == [1e5, -1e5]


def test_a_step_without_a_gpu_is_an_ordinary_call() -> None:
    seen = []

    def step(x: torch.Tensor, *, key: bool) -> dict[str, torch.Tensor]:
        seen.append(key)
        return {"sum": x.sum()}

    captured = CapturedStep(step, capture=False)
    assert captured(torch.ones(3), key=True)["sum"] == 3
    assert captured(torch.ones(4), key=False)["sum"] == 4
    assert seen == [True, False]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("discriminator", ["stylegan2", "both"])
def test_captured_steps_equal_eager_ones_on_a_gpu(data: Path, tmp_path: Path, discriminator: str) -> None:
    config = replace(
        gan(data, tmp_path, SMALLER), discriminator=discriminator, images=64, r1_interval=4, augmentation=0.3,
        augmentation_target=0.6, coverage_weight=5.0, compute=Compute(accelerator="cuda", precision="32-true"),
    )  # fmt: skip
    captured = train_gan(config)
    eager = train_gan(replace(config, compute=replace(config.compute, graphs=False)))
    for name in ("generator", "image_discriminator", "encoder"):
        a, b = (load_file(run / "checkpoint" / f"{name}.safetensors") for run in (captured, eager))
        for key in a:
            np.testing.assert_allclose(a[key], b[key], rtol=1e-2, atol=1e-3, err_msg=f"{name}: {key}")
