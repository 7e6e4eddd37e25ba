"""Runs that end by the clock, compact checkpoints, and both discriminators together."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file
from safetensors.torch import save_file

from tests.training.pictures import write_pictures
from training.__main__ import main
from training.data.pictures import load_pictures
from training.loops.fit import Clock, fit
from training.loops.gan import GanTrainer, train_gan
from training.loops.gan_config import GanConfig
from training.loops.inversion import train_encoder
from training.loops.inversion_config import InversionConfig
from training.networks.encoder import Encoder, EncoderConfig
from training.networks.generator import Generator, GeneratorConfig
from training.networks.image_discriminators import (
    PairedDiscriminator,
    ProjectedDiscriminator,
    build_image_discriminator,
)
from training.networks.latent_discriminator import LatentDiscriminator
from training.optimisation.adam import decay, warm_up
from training.optimisation.adversary import Regularisation, discriminator_adam
from training.optimisation.step import Compute
from training.run_folders.checkpoint import load_meta, load_optimiser, save_checkpoint, trained_state

SMALL = GeneratorConfig(resolution=32, channels=(8, 8, 8, 8), z_size=16, code_size=16, mapping_depth=2)
EXACT = Compute(accelerator="cpu", precision="32-true")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("data"), 24, 32)[0]


@pytest.fixture
def config(data: Path, tmp_path: Path) -> GanConfig:
    return GanConfig(
        data, "discs", tmp_path / "runs", generator=SMALL, discriminator="stylegan2", images=16, batch=4,
        r1_interval=2, encoder_channels=(8, 8, 8, 8), coverage_weight=5.0, compute=EXACT,
    )  # fmt: skip


def assert_equal_weights(a: Path, b: Path) -> None:
    names = sorted(file.name for file in (a / "checkpoint").glob("*.safetensors"))
    assert names == sorted(file.name for file in (b / "checkpoint").glob("*.safetensors"))
    for name in names:
        one, other = (load_file(run / "checkpoint" / name) for run in (a, b))
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], other[key], err_msg=f"{name}: {key}")


def test_both_discriminators_are_trained_kept_and_gone_on_with(config: GanConfig, tmp_path: Path) -> None:
    both = replace(config, discriminator="both", coverage_weight=0.0, images=12, augmentation_target=0.6)
    whole = train_gan(replace(both, images=16))
    half = train_gan(replace(both, images=8))
    state = load_file(half / "checkpoint/image_discriminator.safetensors")
    assert {key.split(".")[0] for key in state} == {"stylegan2", "projected"}
    assert not [key for key in state if ".features." in key]
    goes_on = train_gan(replace(both, images=16, resume=half))
    assert load_meta(goes_on)["discriminator"] == "both"
    assert_equal_weights(whole, goes_on)


@pytest.mark.parametrize("name", ["stylegan2", "projected", "both"])
def test_real_and_generated_pictures_are_judged_together_as_alone(name: str) -> None:
    torch.manual_seed(0)
    discriminator = build_image_discriminator(name, SMALL)
    real, fake = torch.randn(4, 3, 32, 32), torch.randn(8, 3, 32, 32)
    # Power iterations of spectral norms move a little with each call, until they have found the norm.
    for _ in range(30):
        discriminator(real)
    together, alone = discriminator.compare(real, fake), (discriminator(real), discriminator(fake))
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_each_of_both_has_its_loss_its_rate_and_its_weight() -> None:
    torch.manual_seed(0)
    both = PairedDiscriminator(SMALL)
    real, fake = torch.randn(4, 3, 32, 32), torch.randn(4, 3, 32, 32)
    real_logits, fake_logits = both(real), both(fake)
    parts = both.parts()
    assert real_logits.shape[1] == 1 + parts["projected"](real).shape[1]
    alone = [
        parts["stylegan2"].generator_loss(fake_logits[:, :1]),
        parts["projected"].generator_loss(fake_logits[:, 1:]),
    ]
    both.weights = {"stylegan2": 0.5, "projected": 2.0}
    torch.testing.assert_close(both.generator_loss(fake_logits), 0.5 * alone[0] + 2 * alone[1])
    both.regulariser(real).backward()
    assert all(p.grad is None for p in parts["projected"].parameters())
    assert parts["stylegan2"].from_rgb.weight.grad is not None  # type: ignore[union-attr]
    optimiser = discriminator_adam(both, 2e-4, Regularisation(1.0, 16), {"stylegan2": 2e-3})
    rates = [group["lr"] for group in optimiser.param_groups]
    assert rates == pytest.approx([2e-3 * 16 / 17, 2e-4])


def test_the_other_discriminator_joins_a_run_that_had_one(config: GanConfig) -> None:
    one = train_gan(replace(config, coverage_weight=0.0, images=8))
    before = load_file(one / "checkpoint/image_discriminator.safetensors")
    both = train_gan(replace(config, coverage_weight=0.0, images=12, discriminator="both", resume=one))
    meta = load_meta(both)
    assert meta["discriminator"] == "both"
    assert meta["moments_since"] == 8
    after = load_file(both / "checkpoint/image_discriminator.safetensors")
    # One step at a rate that is being warmed up leaves it close to what it was.
    np.testing.assert_allclose(after["stylegan2.logit.weight"], before["logit.weight"], atol=0.01)


def test_the_clock_keeps_time_for_the_longest_step_and_for_writing() -> None:
    now = 0.0
    clock = Clock(100.0, lambda: now)
    now = 80.0
    clock.stepped()
    assert clock.is_up()  # a step of 80 s would end after 100 s
    now = 0.0
    clock = Clock(100.0, lambda: now)
    now = 2.0
    clock.stepped()
    now = 12.0
    clock.wrote()
    now = 82.0
    assert not clock.is_up()  # 2 s for a step and 15 s for writing are left
    now = 84.0
    assert clock.is_up()
    assert not Clock(None, lambda: 1e9).is_up()


def test_a_run_ends_by_the_clock_and_goes_on_elsewhere(config: GanConfig, data: Path, tmp_path: Path) -> None:
    began = time.monotonic()
    run = train_gan(replace(config, images=1_000_000, seconds=3.0))
    assert time.monotonic() - began < 6.0
    step, seen = (load_meta(run)[key] for key in ("step", "images_seen"))
    assert 0 < seen < 1_000_000
    assert list((run / "samples").glob(f"{step:07d}.png"))
    elsewhere = run.rename(tmp_path / "elsewhere")
    assert train_gan(replace(config, images=seen + 4, resume=elsewhere)) == elsewhere
    assert load_meta(elsewhere)["images_seen"] == seen + 4

    inversion = InversionConfig(
        elsewhere, data, runs=tmp_path / "encoders", channels=(8, 8, 8, 8), batch=4, images=1_000_000, seconds=3.0,
        compact=True, compute=EXACT,
    )  # fmt: skip
    encoder = train_encoder(inversion)
    seen = load_meta(encoder)["images_seen"]
    compact = encoder / "compact.safetensors"
    goes_on = train_encoder(replace(inversion, gan=compact, resume=compact, images=seen + 8, seconds=None))
    assert goes_on != encoder
    assert load_meta(goes_on)["images_seen"] == seen + 8


def test_a_compact_checkpoint_holds_half_floats_without_moments(config: GanConfig) -> None:
    run = train_gan(replace(config, compact=True))
    with safe_open(run / "compact.safetensors", "np") as file:
        keys = set(file.keys())
        assert json.loads(file.metadata()["meta"])["images_seen"] == 16
        types = {str(file.get_tensor(key).dtype) for key in keys}
    assert types == {"float16", "int64"}
    assert {key.split("/")[0] for key in keys} == {
        "generator", "image_discriminator", "encoder", "latent_discriminator"
    }  # fmt: skip
    goes_on = train_gan(replace(config, images=24, resume=run / "compact.safetensors"))
    assert goes_on != run
    assert load_meta(goes_on)["images_seen"] == 24
    assert load_meta(goes_on)["moments_since"] == 16
    # What went on from it is an ordinary run, which resumes exactly.
    half = train_gan(replace(config, images=20, resume=run / "compact.safetensors"))
    assert_equal_weights(goes_on, train_gan(replace(config, images=24, resume=half)))


def test_a_file_of_weights_with_former_names_is_gone_on_from(config: GanConfig, tmp_path: Path) -> None:
    generator = Generator(SMALL)
    encoder = EncoderConfig(32, (8, 8, 8, 8), layers=8, code_size=16, activation=True)
    networks = {
        "generator": generator,
        "encoder": Encoder(encoder),
        "image_critic": ProjectedDiscriminator(),
        "code_critic": LatentDiscriminator(torch.zeros(8, 16), torch.ones(8, 16)),
    }
    meta = {
        "kind": "gan", "name": "faces128", "step": 0, "images_seen": 100, "generator": asdict(SMALL),
        "critic": "projected", "encoder": {k: v for k, v in asdict(encoder).items() if k != "bounded"},
        "code_critic_view": "joint",
    }  # fmt: skip
    tensors = {
        f"{name}/{key.replace('discriminators.', 'critics.')}": value.half()
        if value.is_floating_point()
        else value
        for name, network in networks.items()
        for key, value in trained_state(network).items()
    }
    file = tmp_path / "weights.safetensors"
    save_file({key: value.contiguous() for key, value in tensors.items()}, file, {"meta": json.dumps(meta)})
    run = train_gan(replace(config, discriminator="projected", images=104, resume=file))
    assert load_meta(run)["discriminator"] == "projected"
    assert load_meta(run)["images_seen"] == 104
    made = load_file(run / "checkpoint/generator.safetensors")
    wanted = generator.synthesis.state_dict()["constant"].half().float().numpy()
    np.testing.assert_allclose(made["synthesis.constant"], wanted, atol=0.01)
    assert train_gan(replace(config, images=104, discriminator="both", resume=file))


def test_a_file_that_is_no_checkpoint_is_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    assert main(["gan", "--data", str(data), "--resume", str(tmp_path / "other.safetensors")]) == 2
    assert "no compact checkpoint" in capsys.readouterr().err


def test_rates_rise_after_a_start_without_moments_and_fall_at_the_end() -> None:
    assert warm_up(500, None, 100) == 1.0
    assert [warm_up(seen, 500, 100) for seen in (500, 550, 600, 700)] == [0.01, 0.5, 1.0, 1.0]
    assert [decay(done, 0.2) for done in (0.0, 0.8, 0.9, 0.99)] == pytest.approx([1.0, 1.0, 0.5, 0.05])
    assert decay(0.999, 0.0) == 1.0


@pytest.mark.parametrize(("finish", "last"), [(True, 0.22), (False, 1.0)])
def test_in_a_last_part_rates_fall_along_the_clock(
    config: GanConfig, data: Path, finish: bool, last: float
) -> None:
    config = replace(config, images=100_000, decay_images=50_000, finish=finish, coverage_weight=0.0)
    trainer = GanTrainer(config, EXACT.fabric(), load_pictures(data, SMALL.resolution))
    now, rates, step = 0.0, [], trainer.train_step

    def train_step() -> dict[str, torch.Tensor]:
        nonlocal now
        figures = step()
        rates.append(trainer.generator_optimiser.param_groups[0]["lr"] / config.generator_rate)
        now += 5.0
        return figures

    trainer.train_step = train_step  # type: ignore[method-assign]
    fit(trainer, config, "", Clock(100.0, lambda: now))
    assert rates[0] == rates[5] == 1.0
    assert len(rates) == 17  # a tenth of the time is kept for writing, and as much as the longest step took
    assert rates[-1] == pytest.approx(last, abs=0.01)


def test_moments_lie_in_memory_as_their_parameters_do(tmp_path: Path) -> None:
    # On a GPU fused Adam refuses others, so that a run could not go on.
    def trained() -> tuple[torch.nn.Conv2d, torch.optim.Adam]:
        layer = torch.nn.Conv2d(4, 8, 3)
        layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return layer, torch.optim.Adam(layer.parameters())

    layer, optimiser = trained()
    layer(torch.randn(2, 4, 8, 8)).square().sum().backward()
    optimiser.step()
    save_checkpoint(tmp_path / "run/checkpoint", {}, {}, {"layer": optimiser})
    other, resumed = trained()
    assert load_optimiser(tmp_path / "run", "layer", resumed)
    assert other.weight.stride() != other.weight.contiguous().stride()
    for held, kept in zip(layer.parameters(), other.parameters(), strict=True):
        for name, value in resumed.state[kept].items():
            torch.testing.assert_close(value, optimiser.state[held][name], rtol=0, atol=0)
        assert resumed.state[kept]["exp_avg"].stride() == kept.stride()
