"""The training commands as a user runs them: gan, encoder and directions on made pictures, resumed and refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn

from tests.training.pictures import write_pictures
from training.__main__ import main
from training.data.pictures import DataError, load_pictures
from training.loops.gan import train_gan
from training.loops.gan_config import GanConfig
from training.loops.inversion import InversionTrainer, train_encoder
from training.loops.inversion_config import InversionConfig
from training.losses.adversarial import Discriminator
from training.networks.generator import Generator, GeneratorConfig
from training.networks.image_discriminators import IMAGE_DISCRIMINATORS
from training.optimisation.step import Compute
from training.run_folders.checkpoint import CheckpointError, load_meta, load_network, save_checkpoint

SMALL = GeneratorConfig(resolution=32, channels=(16, 16, 8, 8), z_size=32, code_size=32, mapping_depth=2)
EXACT = Compute(accelerator="cpu", precision="32-true")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_pictures(tmp_path_factory.mktemp("data"), 96, 32)


@pytest.fixture(scope="module")
def gan_run(data: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    config = GanConfig(
        data[0], "discs", runs, generator=SMALL, discriminator="stylegan2", images=512, batch=16,
        discriminator_rate=2e-3,
        encoder_channels=(8, 8, 16, 16), coverage_weight=10.0, compute=EXACT,
    )  # fmt: skip
    return train_gan(config)


def test_a_run_folder_holds_what_is_needed_to_judge_and_to_go_on(gan_run: Path) -> None:
    assert gan_run.name == "00000-gan-discs"
    assert json.loads((gan_run / "config.json").read_text())["images"] == 512
    assert "revision" in json.loads((gan_run / "environment.json").read_text())
    assert list((gan_run / "samples").glob("*.png"))
    assert list((gan_run / "tensorboard").iterdir())
    meta = load_meta(gan_run)
    assert (meta["kind"], meta["step"], meta["images_seen"]) == ("gan", 32, 512)
    assert not [p for p in gan_run.rglob("*") if p.suffix in {".pt", ".pth", ".pkl", ".ckpt"}]


@pytest.mark.parametrize("coverage", [0.0, 5.0])
def test_a_resumed_run_equals_an_undisturbed_one(
    data: tuple[Path, Path], tmp_path: Path, coverage: float
) -> None:
    config = GanConfig(
        data[0], "discs", tmp_path, generator=SMALL, discriminator="stylegan2", images=64, batch=8, r1_interval=2,
        encoder_channels=(8, 8, 8, 8), coverage_weight=coverage, compute=EXACT,
    )  # fmt: skip
    whole = train_gan(config)
    half = train_gan(replace(config, images=32))
    resumed = train_gan(replace(config, resume=half))
    assert resumed == half
    for name in ("generator", "generator_live", "image_discriminator"):
        a, b = (load_file(run / "checkpoint" / f"{name}.safetensors") for run in (whole, resumed))
        for key in a:
            np.testing.assert_allclose(a[key], b[key], rtol=1e-5, atol=1e-6, err_msg=f"{name}.{key}")


def test_encoder_and_directions_end_to_end(data: tuple[Path, Path], gan_run: Path, tmp_path: Path) -> None:
    pictures, attributes = data
    arguments = ["--gan", str(gan_run), "--data", str(pictures), "--runs", str(tmp_path),
                 "--channels", "8", "8", "16", "16", "--batch", "16", "--images", "640", "--rate", "3e-3",
                 "--snapshot-steps", "20", "--code-cycle-weight", "0.05",  # which has its say later, at this length
                 "--compute.precision", "32-true"]  # fmt: skip
    assert main(["encoder", *arguments]) == 0
    (run,) = tmp_path.glob("*-inversion-discs")
    figures = [json.loads(line) for line in (run / "figures.jsonl").read_text().splitlines()]
    errors = [f["validation_mse"] for f in figures if "validation_mse" in f]
    assert errors[-1] < errors[0]
    assert main(["directions", "--run", str(run), "--data", str(pictures), "--attributes", str(attributes),
                 "--condition", "tilt:warm", "--layers", "warm:2-5", "--penalty", "10"]) == 0  # fmt: skip
    entries = {entry["name"]: entry for entry in json.loads((run / "directions.json").read_text())}
    vectors = load_file(run / "directions.safetensors")
    assert entries["warm"]["held_out"]["metric"] == "accuracy"
    assert entries["warm"]["held_out"]["value"] > 0.8
    assert entries["tilt"]["held_out"]["metric"] == "r"
    assert entries["tilt"]["conditioned_on"] == ["warm"]
    for name, entry in entries.items():
        vector = vectors[f"direction/{name}"]
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-4)
        assert {i for i in range(8) if vector[i].any()} == set(entry["layers"])
        assert entry["range"][0] < 0 < entry["range"][1]
    assert entries["warm"]["layers"] == [2, 3, 4, 5]
    crossings = {
        kind: np.vdot(vectors["boundary/warm"], vectors[kind]) for kind in ("direction/tilt", "across/warm")
    }
    assert abs(crossings["direction/tilt"]) < 1e-3 < crossings["across/warm"]
    assert main(["publish", "--run", str(run), "--to", str(tmp_path / "kept")]) == 0
    assert not list((tmp_path / "kept").glob("*optimiser*"))
    assert (tmp_path / "kept" / "directions.json").read_text() == (run / "directions.json").read_text()
    # Another encoder for it begins with an image discriminator of its own.
    assert not list((tmp_path / "kept").glob("image_discriminator*"))
    assert main(["encoder", "--gan", str(tmp_path / "kept"), "--data", str(pictures), "--runs", str(tmp_path),
                 "--images", "4", "--batch", "2", "--compute.precision", "32-true"]) == 0  # fmt: skip
    kept, whole = Generator(SMALL), Generator(SMALL)
    load_network(tmp_path / "kept", "generator", kept)
    load_network(run, "generator", whole)
    for a, b in zip(kept.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_commands_refuse_bad_input_in_one_line(
    data: tuple[Path, Path], gan_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["gan", "--data", str(tmp_path / "empty"), "--runs", str(tmp_path)]) == 2
    assert "no pictures" in capsys.readouterr().err
    assert main(["encoder", "--gan", str(tmp_path), "--data", str(data[0]), "--runs", str(tmp_path)]) == 2
    assert "holds no checkpoint" in capsys.readouterr().err
    assert (
        main(["directions", "--run", str(gan_run), "--data", str(data[0]), "--attributes", str(data[1])]) == 2
    )
    assert "is a gan's" in capsys.readouterr().err


def test_pictures_are_read_from_folder_and_zip_alike(data: tuple[Path, Path], tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(data[0]) as archive:
        archive.extractall(tmp_path)
    a, b = load_pictures(data[0], 16, data[1]), load_pictures(tmp_path, 16)
    assert torch.equal(a.images, b.images)
    assert a.names == b.names
    assert a.attributes["tilt"].shape == (96,)
    assert b.attributes == {}
    assert load_pictures(data[0], 8).images.shape == (96, 3, 8, 8)
    batch = a.batch(torch.tensor([3, 5]), mirror=False)
    torch.testing.assert_close(batch[0], a.images[3].float() / 127.5 - 1)


def test_a_csv_that_lacks_a_picture_is_refused(data: tuple[Path, Path], tmp_path: Path) -> None:
    lines = data[1].read_text().splitlines()
    (tmp_path / "short.csv").write_text("\n".join(lines[:-1]))
    with pytest.raises(DataError, match=r"no row for 1 pictures, 0095\.png"):
        load_pictures(data[0], 16, tmp_path / "short.csv")


def test_a_checkpoint_that_does_not_fit_is_refused_with_the_names(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "checkpoint", {"kind": "gan"}, {"generator": Generator(SMALL)}, {})
    with pytest.raises(CheckpointError, match=r"other shape \[.*styled\.0\.conv\.weight"):
        load_network(tmp_path, "generator", Generator(replace(SMALL, channels=(8, 16, 8, 8))))


class MeanDiscriminator(Discriminator):
    """As little as a discriminator needs: a weight for each channel's mean, and a least-squares loss."""

    def __init__(self, _: GeneratorConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.mean((2, 3)) @ self.weight

    def discriminator_loss(self, real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
        return (real_logits - 1).square().mean() + fake_logits.square().mean()

    def generator_loss(self, fake_logits: torch.Tensor) -> torch.Tensor:
        return (fake_logits - 1).square().mean()


def test_another_discriminator_is_a_class_and_an_entry(
    data: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(IMAGE_DISCRIMINATORS, "mean", MeanDiscriminator)
    config = GanConfig(data[0], "discs", tmp_path, generator=SMALL, discriminator="mean", images=8, batch=4,
                       compute=EXACT)  # fmt: skip
    gan = train_gan(config)
    inversion = InversionConfig(
        gan, data[0], runs=tmp_path, channels=(8, 8, 8, 8), images=8, batch=4, compute=EXACT
    )
    run = train_encoder(inversion)
    for folder in (gan, run):
        assert load_meta(folder)["discriminator"] == "mean"
        weight = load_file(folder / "checkpoint/image_discriminator.safetensors")["weight"]
        assert not np.array_equal(weight, np.ones(3))
    lines = [json.loads(line) for line in (gan / "figures.jsonl").read_text().splitlines()]
    assert all("r1" not in line for line in lines)


def test_the_code_cycle_may_come_in_some_steps_only(data: tuple[Path, Path], tmp_path: Path) -> None:
    config = GanConfig(data[0], "discs", tmp_path, generator=SMALL, images=4, batch=4, compute=EXACT)
    inversion = InversionConfig(
        train_gan(config), data[0], channels=(8, 8, 8, 8), batch=4, code_cycle_interval=3, compute=EXACT
    )
    trainer = InversionTrainer(inversion, EXACT.fabric())
    encoded: list[int] = []
    trainer.encoder.register_forward_hook(lambda *_: encoded.append(trainer.step))
    terms = [trainer.train_step()["code_cycle"].item() for _ in range(4)]
    assert encoded == [0, 0, 1, 2, 3, 3]
    assert terms[0] == terms[1] == terms[2] != terms[3]
    alone = replace(inversion, pixel_weight=0, perceptual_weight=0, image_weight=0, code_weight=0)
    with pytest.raises(DataError, match="no term to train on"):
        InversionTrainer(alone, EXACT.fabric())
    with pytest.raises(DataError, match="--code-cycle-interval is a number of steps, not 0"):
        InversionTrainer(replace(inversion, code_cycle_interval=0), EXACT.fabric())


def test_a_wrong_number_of_an_encoders_channels_is_told(
    data: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shape = ["--generator.resolution", "32", "--generator.channels", "8", "8", "8", "8"]
    encoder = ["--coverage-weight", "1", "--encoder-channels", "8", "8", "--compute.accelerator", "cpu"]
    assert main(["gan", "--data", str(data[0]), "--runs", str(tmp_path), *shape, *encoder]) == 2
    assert "32 px needs 4 entries in channels, at 32, 16, ... 4 pixels, got 2" in capsys.readouterr().err


def test_an_unknown_discriminator_is_refused_with_the_names(
    data: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["gan", "--data", str(data[0]), "--runs", str(tmp_path), "--discriminator", "patch"]) == 2
    assert "'patch'; there are projected, stylegan2" in capsys.readouterr().err
