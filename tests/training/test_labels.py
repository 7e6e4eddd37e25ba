"""A conditional generator: labels in the mapping, the auxiliary classifier, its csv, and whether pictures follow."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.training.pictures import write_pictures
from training.__main__ import main
from training.data.labels import label_rows
from training.data.pictures import Pictures, load_pictures
from training.loops.coverage import fitted_mapping
from training.losses.adversarial import label_loss
from training.networks.bidirectional.invertible_mapping import InvertibleMapping
from training.networks.conditional.relabelling import Relabeller, fit_label_reader
from training.networks.generator import Generator, GeneratorConfig, Mapping, build_mapping, sample_codes
from training.networks.image_discriminators import build_image_discriminator
from training.networks.layers import before_activation, scaled_leaky_relu
from training.run_folders.checkpoint import load_meta, load_network, read_network, save_checkpoint
from training.run_folders.json_files import read_config
from training.run_folders.trained_inversion import load_inversion

NAMES = ("warm", "high")
DENSE = GeneratorConfig(8, (8, 8), z_size=32, code_size=32, mapping_depth=4, labels=NAMES)
INVERTIBLE = replace(DENSE, mapping="invertible", per_layer_code=False)
SHAPE = ["--generator.resolution", "8", "--generator.z-size", "32", "--generator.code-size", "32",
         "--generator.mapping-depth", "4", "--discriminator", "stylegan2"]  # fmt: skip
CPU = ["--compute.accelerator", "cpu", "--compute.precision", "32-true"]


def write_labelled(folder: Path, count: int) -> tuple[Path, Path]:
    """Pictures with their labels: a warm ground, and a disc in the upper half. Every tenth cell of `warm` is empty."""
    data, table = write_pictures(folder, count, 8)
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", *NAMES])
        for i, row in enumerate(rows):
            writer.writerow([row["file"], "" if i % 10 == 0 else row["warm"], int(float(row["tilt"]) < 0)])
    return data, folder / "labels.csv"


@torch.no_grad()
@pytest.mark.parametrize("shape", [DENSE, INVERTIBLE], ids=["dense", "invertible"])
def test_labels_change_codes_and_pictures(shape: GeneratorConfig) -> None:
    torch.manual_seed(0)
    generator = Generator(shape)
    z, label = generator.mapping.draw(6, torch.Generator().manual_seed(1))
    (alone,) = build_mapping(replace(shape, labels=())).draw(6, torch.Generator().manual_seed(1))
    assert torch.equal(z, alone)  # labels are drawn after z
    assert set(label.unique().tolist()) == {0.0, 1.0}
    assert not torch.allclose(generator(z, label), generator(z, 1 - label), atol=1e-2)
    with pytest.raises(ValueError, match="has labels"):
        generator(z)
    assert sample_codes(generator, 7).shape == (7, shape.layers, 32)


@torch.no_grad()
@pytest.mark.parametrize("shape", [DENSE, INVERTIBLE], ids=["dense", "invertible"])
def test_a_training_begins_where_labels_mean_nothing(shape: GeneratorConfig) -> None:
    torch.manual_seed(0)
    mapping = build_mapping(shape)
    mapping.begin_without_labels()
    z, label = mapping.draw(6)
    torch.testing.assert_close(mapping(z, label), mapping(z, 1 - label))
    weight = next(mapping.label_inputs().parameters())
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(mapping(z, label).square().sum(), weight)
    assert gradient.abs().max() > 0  # and they can be learned


@torch.no_grad()
def test_a_mapping_is_fitted_to_codes_with_labels() -> None:
    """Its samples have the means of codes with these labels, and their spread about them."""
    torch.manual_seed(0)
    shape = replace(DENSE, mapping_depth=1)
    labels = (torch.rand(4_000, 2) < 0.5).float()
    offsets, basis = torch.randn(2, shape.layers * 32), torch.randn(6, shape.layers * 32) / 4
    linear = 0.5 + (2 * labels - 1) @ offsets + torch.randn(4_000, 6) @ basis
    codes = scaled_leaky_relu(linear).unflatten(1, (shape.layers, 32))
    labels[::10, 0] = float("nan")
    mapping = fitted_mapping(shape, codes, labels)
    for label in torch.tensor([[0.0, 1.0], [1.0, 1.0]]):
        drawn = before_activation(mapping(torch.randn(4_000, 32), label.expand(4_000, 2)).flatten(1))
        torch.testing.assert_close(drawn.mean(0), 0.5 + (2 * label - 1) @ offsets, rtol=0, atol=0.06)
        assert (drawn.T.cov() - basis.T @ basis).norm() < 0.1 * (basis.T @ basis).norm()


@torch.no_grad()
def test_an_invertible_mapping_is_inverted_for_the_label_that_it_was_given() -> None:
    torch.manual_seed(0)
    mapping = InvertibleMapping(512, 8, 6, NAMES)
    for coupling in mapping.couplings:
        torch.nn.init.normal_(coupling.affine.weight, std=0.3)  # type: ignore[union-attr, arg-type]
    z, label = mapping.draw(100)
    code = mapping(z, label)
    torch.testing.assert_close(mapping.inverse(code[:, 0], label), z, rtol=0, atol=1e-4)
    rows = mapping.inverse(code, label[:, None])
    torch.testing.assert_close(rows, z[:, None].expand(-1, 6, -1), rtol=0, atol=1e-4)
    assert (mapping.inverse(code[:, 0], 1 - label) - z).abs().mean() > 0.1


def one_layer() -> Mapping:
    """A mapping of one layer with labels, as one that was fitted to codes."""
    codes = torch.randn(500, DENSE.layers, 32)
    labels = (torch.rand(500, 2) < 0.5).float()
    codes += torch.einsum("nk,kld->nld", 2 * labels - 1, torch.randn(2, DENSE.layers, 32) / 2)
    return fitted_mapping(replace(DENSE, mapping_depth=1), codes, labels)


@pytest.mark.parametrize("kind", ["dense", "invertible"])
def test_a_codes_label_is_read_and_changed(kind: str) -> None:
    torch.manual_seed(0)
    mapping = InvertibleMapping(32, 4, 4, NAMES) if kind == "invertible" else one_layer()
    reader, accuracy = fit_label_reader(mapping)
    assert accuracy.min() > 0.95
    with torch.no_grad():
        z, label = mapping.draw(200)
        code, detail = mapping(z, label), torch.randn(200, 2, 32)
        relabeller = Relabeller(mapping, reader)
        stays = torch.full_like(label, -1)
        edited = relabeller(torch.cat([code, detail], 1), torch.stack([1 - label[:, 0], stays[:, 1]], 1))
        torch.testing.assert_close(relabeller(code, stays), code, rtol=0, atol=1e-4)
        assert torch.equal(edited[:, 4:], detail)
        wanted = mapping(z, torch.stack([1 - label[:, 0], label[:, 1]], 1))
        assert (edited[:, :4] - wanted).norm() < 0.2 * (code - wanted).norm()


@pytest.mark.parametrize("name", ["stylegan2", "projected", "both"])
def test_a_discriminator_says_the_labels_beside_its_own_logits(name: str) -> None:
    torch.manual_seed(0)
    plain = build_image_discriminator(name, replace(DENSE, labels=())).eval()
    torch.manual_seed(0)
    classifying = build_image_discriminator(name, DENSE).eval()
    real, fake = torch.randn(2, 4, 3, 8, 8)
    with torch.no_grad():
        logits, said = classifying.split(classifying(real))
        assert said is not None
        assert said.shape == (4, 2)
        assert logits.shape == plain(real).shape
        (_, said_with), _ = (classifying.split(both) for both in classifying.compare(real, fake))
        assert said_with is not None
        torch.testing.assert_close(said_with, said, rtol=1e-4, atol=1e-4)
    assert plain.split(logits)[1] is None


def test_labels_that_are_not_known_teach_nothing() -> None:
    logits = torch.tensor([[3.0, -9.0], [-2.0, 1.0]])
    known = torch.tensor([[1.0, float("nan")], [0.0, 1.0]])
    losses = torch.nn.functional.softplus(torch.tensor([-3.0, -2.0, -1.0]))
    torch.testing.assert_close(label_loss(logits, known), losses[:2].mean() + losses[2])
    assert label_loss(logits, torch.full((2, 2), float("nan"))) == 0


def test_a_miniature_is_trained_and_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, table = write_labelled(tmp_path, 40)
    common = ["--data", str(data), "--runs", str(tmp_path / "runs"), "--batch", "4", *CPU]
    small = [*SHAPE, "--generator.channels", "8", "8", "--generator.mapping", "invertible",
             "--generator.no-per-layer-code"]  # fmt: skip
    labels = ["--labels", *NAMES]
    assert main(["gan", *common, *small, *labels, "--images", "8"]) == 2
    assert "--attributes" in capsys.readouterr().err
    for column in ("loud", "file"):
        assert (
            main(["gan", *common, *small, "--labels", column, "--attributes", str(table), "--images", "8"])
            == 2
        )
        assert f"no column of numbers '{column}'" in capsys.readouterr().err
    assert main(["gan", *common, *small, *labels, "--attributes", str(table), "--images", "8"]) == 0
    (run,) = (tmp_path / "runs").iterdir()
    meta = load_meta(run)
    assert meta["generator"]["labels"] == list(NAMES)
    rows = label_rows(load_pictures(data, 8, table), NAMES)
    torch.testing.assert_close(read_network(run, "generator")["mapping.labels.frequency"], rows.nanmean(0))
    assert "label_loss" in (run / "figures.jsonl").read_text()
    again = ["gan", *common, "--attributes", str(table), "--resume", str(run), "--images", "16"]
    assert main(again) == 0
    assert load_meta(run)["images_seen"] == 16
    assert main([*again, "--fit-mapping"]) == 2
    assert "leave --fit-mapping out" in capsys.readouterr().err


def test_an_encoder_is_trained_for_a_generator_with_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gan").mkdir()
    torch.manual_seed(0)
    shape = replace(INVERTIBLE, resolution=32, channels=(8, 8, 8, 8))
    networks = {
        "generator": Generator(shape),
        "image_discriminator": build_image_discriminator("stylegan2", shape),
    }
    meta = {"kind": "gan", "name": "m", "discriminator": "stylegan2", "generator": asdict(shape), "step": 0,
            "images_seen": 0}  # fmt: skip
    save_checkpoint(tmp_path / "gan/checkpoint", meta, networks, {})
    arguments = ["encoder", "--gan", str(tmp_path / "gan"), "--runs", str(tmp_path / "runs"), "--batch", "4",
                 "--images", "4", "--channels", "8", "8", "8", "8", *CPU]  # fmt: skip
    assert main([*arguments, "--latent-discriminator-view", "native"]) == 2
    assert "give --latent-discriminator-view layer" in capsys.readouterr().err
    assert main(arguments) == 0
    (run,) = (tmp_path / "runs").iterdir()
    found = load_inversion(run).generator
    assert found.config == shape
    assert found.mapping.labels is not None


def test_a_run_without_labels_is_as_before(tmp_path: Path) -> None:
    data, table = write_labelled(tmp_path, 8)
    common = [
        "gan",
        "--data",
        str(data),
        "--batch",
        "4",
        "--images",
        "4",
        *SHAPE,
        *CPU,
        "--generator.channels",
        "8",
        "8",
    ]
    assert main([*common, "--runs", str(tmp_path / "a")]) == 0
    assert main([*common, "--runs", str(tmp_path / "b"), "--attributes", str(table)]) == 0
    (one,), (other,) = (tmp_path / "a").iterdir(), (tmp_path / "b").iterdir()
    state = read_network(one, "generator")
    assert not [key for key in state if "label" in key or "embedding" in key]
    for key, value in read_network(other, "generator").items():
        assert torch.equal(value, state[key]), key
    # A checkpoint from before there were labels does not name them.
    checkpoint = one / "checkpoint/checkpoint.json"
    meta = json.loads(checkpoint.read_text())
    assert meta["generator"].pop("labels") == []
    checkpoint.write_text(json.dumps(meta))
    load_network(one, "generator", Generator(read_config(GeneratorConfig, load_meta(one)["generator"])))


# --- does it do what it is for? -----------------------------------------------------------------------------------


def seen(images: Tensor) -> Tensor:
    """What a classifier takes of pictures float [N, 3, 8, 8]: their pixels, and 1."""
    return torch.cat([images.flatten(1), torch.ones(len(images), 1)], 1)


def classifier(pictures: Pictures) -> Tensor:
    """A linear classifier of both labels, fitted to real pictures by least squares: float [193, 2]."""
    images = pictures.batch(torch.arange(len(pictures)), mirror=False)
    signs = 2 * torch.from_numpy(np.stack([pictures.attributes[name] for name in NAMES], 1)).float() - 1
    held = seen(images).T @ seen(images) + torch.eye(193)
    return torch.linalg.solve(held, seen(images).T @ signs.nan_to_num(0))


@pytest.mark.slow
@torch.no_grad()
def test_pictures_have_their_labels_and_follow_when_these_are_changed(tmp_path: Path) -> None:
    """The judge has only ever seen real pictures."""
    data, table = write_labelled(tmp_path, 512)
    arguments = ["gan", "--data", str(data), "--attributes", str(table), "--labels", *NAMES, "--runs",
                 str(tmp_path / "runs"), *SHAPE, *CPU, "--generator.channels", "32", "32", "--generator.mapping",
                 "invertible", "--generator.no-per-layer-code", "--generator-rate", "4e-3", "--discriminator-rate",
                 "2e-3", "--augmentation", "0", "--ema-images", "1000", "--no-mirror", "--batch", "32",
                 "--images", "10000", "--label-images", "1000"]  # fmt: skip
    with torch.enable_grad():
        assert main(arguments) == 0
    (run,) = (tmp_path / "runs").iterdir()
    generator = Generator(GeneratorConfig(**{**INVERTIBLE.__dict__, "channels": (32, 32)}))
    load_network(run, "generator", generator)
    pictures = load_pictures(data, 8, table)
    judge = classifier(pictures.first(400))

    def read(images: Tensor) -> Tensor:
        return (seen(images) @ judge > 0).float()

    held_out = read(pictures.batch(torch.arange(400, 512), mirror=False))
    truth = label_rows(pictures, NAMES)[400:]
    assert ((held_out == truth) | truth.isnan()).float().mean() > 0.95
    mapping = generator.mapping
    assert isinstance(mapping, InvertibleMapping)
    z, label = mapping.draw(400, torch.Generator().manual_seed(3))
    code = mapping(z, label)
    assert (read(generator.synthesis(code)) == label).float().mean(0).min() > 0.85
    with torch.enable_grad():
        reader, _ = fit_label_reader(mapping)
    relabeller, stays = Relabeller(mapping, reader), torch.full((400, 1), -1.0)
    for k in range(2):
        wanted = torch.cat([stays] * k + [1 - label[:, k : k + 1]] + [stays] * (1 - k), 1)
        found = read(generator.synthesis(relabeller(code, wanted)))
        assert (found[:, k] == wanted[:, k]).float().mean() > 0.85
        assert (found[:, 1 - k] == label[:, 1 - k]).float().mean() > 0.85
