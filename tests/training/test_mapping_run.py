"""`python -m training mapping` as a user runs it, on a miniature run."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.export.run_folder import SMALL_GENERATOR, write_run
from tests.training.pictures import write_pictures
from training.__main__ import main
from training.data.labels import label_rows
from training.data.pictures import load_pictures
from training.directions.directions import encode
from training.networks.generator import sample_codes
from training.networks.layers import before_activation
from training.run_folders.trained_inversion import load_inversion

COUNT = 120


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Pictures, and a csv that says of each whether its ground is warm; every tenth does not."""
    folder = tmp_path_factory.mktemp("pictures")
    data, table = write_pictures(folder, COUNT, 32)
    with table.open(newline="") as file:
        rows = [(row["file"], row["warm"]) for row in csv.DictReader(file)]
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "warm"])
        writer.writerows((name, "" if i % 10 == 0 else warm) for i, (name, warm) in enumerate(rows))
    return data, folder / "labels.csv"


def fit(run: Path, data: Path, to: Path, *settings: str) -> int:
    return main(["mapping", str(run), "--data", str(data), "--to", str(to), "--steps", "60", *settings])


def test_samples_become_as_varied_as_the_pictures(
    run: Path, pictures: tuple[Path, Path], tmp_path: Path
) -> None:
    assert fit(run, pictures[0], tmp_path / "fitted") == 0
    before, after = load_inversion(run), load_inversion(tmp_path / "fitted")
    codes = encode(before.encoder, load_pictures(pictures[0], 32))

    def apart(sampled: torch.Tensor) -> float:
        """How far mean and deviation of sampled codes are from those of the pictures' codes."""
        found, wanted = (before_activation(each.flatten(1)) for each in (sampled, codes))
        return float((found.mean(0) - wanted.mean(0)).norm() + (found.std(0) - wanted.std(0)).norm())

    assert apart(sample_codes(after.generator, 4_000)) < 0.3 * apart(sample_codes(before.generator, 4_000))
    assert after.meta["name"] == "fitted"
    assert after.generator.config.mapping_depth == 1
    code = codes[:2]
    assert torch.equal(after.generator.synthesis(code), before.generator.synthesis(code))
    assert (tmp_path / "fitted/directions.json").read_bytes() == (run / "directions.json").read_bytes()
    assert (tmp_path / "fitted/samples/samples.png").is_file()
    # The discriminator has learned that some of what pictures give is not native.
    sampled, told = (
        after.latent_discriminator(sample_codes(after.generator, 200, 5)),
        after.latent_discriminator(codes),
    )
    assert sampled.median() > told.median()


def test_with_labels_samples_are_as_pictures_with_these_are(
    run: Path, pictures: tuple[Path, Path], tmp_path: Path
) -> None:
    data, table = pictures
    assert fit(run, data, tmp_path / "warm", "--attributes", str(table), "--labels", "warm") == 0
    after = load_inversion(tmp_path / "warm")
    mapping = after.generator.mapping
    assert mapping.labels is not None
    assert mapping.labels.names == ("warm",)
    assert after.generator.config.relabels
    loaded = load_pictures(data, 32, table)
    codes, rows = encode(after.encoder, loaded), label_rows(loaded, ("warm",))[:, 0]
    torch.testing.assert_close(mapping.labels.frequency, rows.nanmean()[None])
    z, _ = mapping.draw(4_000)
    means = [before_activation(codes[rows == y].flatten(1)).mean(0) for y in (0, 1)]
    for y in (0, 1):
        found = before_activation(mapping(z, torch.full((4_000, 1), float(y))).flatten(1)).mean(0)
        assert (found - means[y]).norm() < 0.2 * (means[0] - means[1]).norm()


def test_what_cannot_be_fitted_is_said(
    run: Path, pictures: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, table = pictures
    assert fit(run, data, tmp_path) == 2
    assert "is there already" in capsys.readouterr().err
    assert fit(run, data, tmp_path / "a", "--labels", "warm") == 2
    assert "--attributes" in capsys.readouterr().err
    assert fit(run, data, tmp_path / "a", "--labels", "cold", "--attributes", str(table)) == 2
    assert "no column of numbers 'cold'" in capsys.readouterr().err
    repeats = write_run(tmp_path / "repeats", replace(SMALL_GENERATOR, per_layer_code=False))
    assert fit(repeats, data, tmp_path / "a") == 2
    assert "one w for all layers" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()
