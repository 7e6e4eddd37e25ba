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
from training.loops.coverage import fill_labels
from training.networks.generator import sample_codes
from training.networks.layers import before_activation
from training.run_folders.trained_inversion import load_inversion

COUNT = 120


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Pictures, and a csv that says of each how it is tilted and whether its ground is warm; of every tenth not."""
    folder = tmp_path_factory.mktemp("pictures")
    data, table = write_pictures(folder, COUNT, 32)
    with table.open(newline="") as file:
        rows = [(row["file"], row["warm"], row["tilt"]) for row in csv.DictReader(file)]
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "warm", "tilt"])
        writer.writerows(
            (name, "" if i % 10 == 0 else warm, tilt) for i, (name, warm, tilt) in enumerate(rows)
        )
    return data, folder / "labels.csv"


def fit(run: Path, data: Path, runs: Path, *settings: str) -> int:
    return main(["mapping", str(run), "--data", str(data), "--runs", str(runs), *settings])


def test_samples_become_as_varied_as_the_pictures(
    run: Path, pictures: tuple[Path, Path], tmp_path: Path
) -> None:
    assert fit(run, pictures[0], tmp_path) == 0
    fitted = tmp_path / "00000-mapping-tiny"
    before, after = load_inversion(run), load_inversion(fitted)
    codes = encode(before.encoder, load_pictures(pictures[0], 32))

    def apart(sampled: torch.Tensor) -> float:
        """How far mean and deviation of sampled codes are from those of the pictures' codes."""
        found, wanted = (before_activation(each.flatten(1)) for each in (sampled, codes))
        return float((found.mean(0) - wanted.mean(0)).norm() + (found.std(0) - wanted.std(0)).norm())

    assert apart(sample_codes(after.generator, 4_000)) < 0.3 * apart(sample_codes(before.generator, 4_000))
    assert after.generator.config.mapping_depth == 1
    code = codes[:2]
    assert torch.equal(after.generator.synthesis(code), before.generator.synthesis(code))
    assert (fitted / "directions.json").read_bytes() == (run / "directions.json").read_bytes()
    assert (fitted / "samples/samples.png").is_file()
    # The discriminator has learned how far a code is from native ones.
    sampled = sample_codes(after.generator, 200, 5)
    noise = torch.randn(sampled.shape, generator=torch.Generator().manual_seed(0)) * sampled.std(0)
    told = [float(after.latent_discriminator(sampled + share * noise).mean()) for share in (0, 0.3, 1)]
    assert told == sorted(told, reverse=True)


def test_with_labels_samples_are_as_pictures_with_these_are(
    run: Path, pictures: tuple[Path, Path], tmp_path: Path
) -> None:
    data, table = pictures
    wanted = ["warm", "high=tilt:-0.1:0.1"]
    assert fit(run, data, tmp_path, "--attributes", str(table), "--labels", *wanted) == 0
    after = load_inversion(tmp_path / "00000-mapping-tiny")
    mapping = after.generator.mapping
    assert mapping.labels is not None
    assert mapping.labels.names == ("warm", "high")
    assert after.generator.config.relabels
    loaded = load_pictures(data, 32, table)
    tilt = torch.from_numpy(loaded.attributes["tilt"]).float()
    high = torch.where(tilt > 0.1, 1.0, torch.where(tilt < -0.1, 0.0, torch.nan))
    rows = torch.stack([label_rows(loaded, ("warm",))[:, 0], high], 1)
    torch.testing.assert_close(mapping.labels.frequency, rows.nanmean(0))
    codes = before_activation(encode(after.encoder, loaded).flatten(1))
    rows = fill_labels(codes, rows).round()
    z, _ = mapping.draw(2_000)
    means = {y: codes[(rows == torch.tensor(y)).all(1)].mean(0) for y in ((0.0, 0.0), (0.0, 1.0), (1.0, 1.0))}
    for label, wanted_mean in means.items():
        found = before_activation(mapping(z, torch.tensor(label).expand(2_000, 2)).flatten(1)).mean(0)
        others = [mean for other, mean in means.items() if other != label]
        assert all((found - wanted_mean).norm() < 0.5 * (found - other).norm() for other in others)


def test_what_cannot_be_fitted_is_said(
    run: Path, pictures: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, table = pictures
    assert fit(run, data, tmp_path / "a", "--labels", "warm") == 2
    assert "--attributes" in capsys.readouterr().err
    assert fit(run, data, tmp_path / "a", "--labels", "cold", "--attributes", str(table)) == 2
    assert "no column of numbers 'cold'" in capsys.readouterr().err
    for wrong, told in (("high=tilt", "NAME=COLUMN:LOW:HIGH"), ("high=tilt:2:1", "the lower bound comes first"),
                        ("high=tall:0:1", "no column of numbers 'tall'")):  # fmt: skip
        assert fit(run, data, tmp_path / "a", "--labels", wrong, "--attributes", str(table)) == 2
        assert told in capsys.readouterr().err
    headless = write_run(tmp_path / "headless")
    (headless / "checkpoint/latent_discriminator.safetensors").unlink()
    assert fit(headless, data, tmp_path / "a") == 2
    assert "latent_discriminator" in capsys.readouterr().err
    repeats = write_run(tmp_path / "repeats", replace(SMALL_GENERATOR, per_layer_code=False))
    assert fit(repeats, data, tmp_path / "a") == 2
    assert "one w for all layers" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()
