"""Run folders of the time when discriminators were called critics are still read, and gone on with."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests import shipped
from tests.export.run_folder import write_run
from tests.training.pictures import write_pictures
from training.loops.gan import train_gan
from training.loops.gan_config import GanConfig
from training.loops.inversion import train_encoder
from training.loops.inversion_config import InversionConfig
from training.networks.generator import GeneratorConfig
from training.optimisation.step import Compute
from training.run_folders.checkpoint import load_meta
from training.run_folders.former_names import CURRENT_KEYS, FORMER_NETWORKS
from training.run_folders.publication import PublicationConfig, publish
from training.run_folders.trained_inversion import load_inversion

SMALL = GeneratorConfig(resolution=32, channels=(16, 16, 8, 8), z_size=32, code_size=32, mapping_depth=2)
EXACT = Compute(accelerator="cpu", precision="32-true")


def with_former_names(run: Path, to: Path) -> Path:
    """A copy of a run folder as it was written before the names changed."""
    shutil.copytree(run, to)
    for current, former in FORMER_NETWORKS.items():
        for file in to.glob(f"checkpoint/{current}.*"):
            file.rename(file.with_name(file.name.replace(current, former)))
    for file in to.glob("checkpoint/image_critic.safetensors"):
        state = load_file(file)
        save_file({key.replace("discriminators.", "critics."): value for key, value in state.items()}, file)
    meta = to / "checkpoint/checkpoint.json"
    former_keys = {f'"{current}":': f'"{former}":' for former, current in CURRENT_KEYS.items()}
    text = meta.read_text()
    for current, former in former_keys.items():
        text = text.replace(current, former)
    assert "discriminator" not in text
    meta.write_text(text)
    return to


def test_the_shipped_checkpoint_is_read_by_todays_names() -> None:
    run = shipped.CHECKPOINT
    assert not list(run.glob("*critic*"))
    assert "critic" not in (run / "checkpoint.json").read_text()
    assert load_inversion(run).latent_discriminator.view == "joint"


@pytest.mark.parametrize("kind", ["projected", "stylegan2"])
def test_a_former_run_is_resumed_and_then_has_todays_names(tmp_path: Path, kind: str) -> None:
    data, _ = write_pictures(tmp_path, 24, 32)
    config = GanConfig(
        data, "discs", tmp_path / "gan", generator=SMALL, discriminator=kind, images=16, batch=8,
        encoder_channels=(8, 8, 8, 8), coverage_weight=5.0, compute=EXACT,
    )  # fmt: skip
    gan = train_gan(config)
    former_gan = with_former_names(gan, tmp_path / "former-gan")
    assert load_meta(former_gan)["discriminator"] == kind
    goes_on = [train_gan(replace(config, images=24, resume=run)) for run in (gan, former_gan)]
    assert_equal_checkpoints(*goes_on)

    encoder = InversionConfig(
        gan, data, runs=tmp_path / "encoder", channels=(8, 8, 8, 8), images=16, batch=8, compute=EXACT
    )
    run = train_encoder(encoder)
    former_run = with_former_names(run, tmp_path / "former-encoder")
    fresh = train_encoder(replace(encoder, gan=with_former_names(gan, tmp_path / "former-start")))
    assert_equal_checkpoints(run, fresh)
    resumed = [train_encoder(replace(encoder, images=24, resume=folder)) for folder in (run, former_run)]
    assert_equal_checkpoints(*resumed)


def test_a_former_run_is_published_under_todays_names(tmp_path: Path) -> None:
    former = with_former_names(write_run(tmp_path / "run"), tmp_path / "former")
    kept = publish(PublicationConfig(former, tmp_path / "kept"))
    assert sorted(file.name for file in kept.glob("*discriminator*")) == ["latent_discriminator.safetensors"]
    assert not list(kept.glob("*critic*"))
    assert json.loads((kept / "checkpoint.json").read_text())["latent_discriminator_view"] == "native"
    load_inversion(kept)


def assert_equal_checkpoints(a: Path, b: Path) -> None:
    files = sorted(file.name for file in (a / "checkpoint").glob("*.safetensors"))
    assert files == sorted(file.name for file in (b / "checkpoint").glob("*.safetensors"))
    assert not [name for name in files if "critic" in name]
    assert load_meta(a) == load_meta(b)
    for name in files:
        one, other = (load_file(run / "checkpoint" / name) for run in (a, b))
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], other[key], err_msg=f"{name}: {key}")
