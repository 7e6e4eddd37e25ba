"""The step of a direction against its definition, and against other steps that meet the same conditions."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import load_file, save_file

from export.bundles.checkpoint import load_pipeline
from tests.export.run_folder import write_run
from tests.training.pictures import Repeated, write_pictures
from training.__main__ import main
from training.data.pictures import DataError, load_pictures
from training.directions.banks.bank import Bank, BankConfig, learn_bank, tell_apart
from training.directions.directions import (
    Edits,
    encode,
    fit_boundary,
    identity_boundaries,
    native_step,
)
from training.directions.factors import ganspace, likest_attribute, sefa
from training.networks.generator import Generator, GeneratorConfig, sample_codes
from training.run_folders.trained_inversion import load_inversion


@given(st.integers(0, 10_000))
def test_a_native_step_moves_its_attribute_keeps_the_others_and_is_the_shortest(seed: int) -> None:
    random = np.random.default_rng(seed)
    codes = random.standard_normal((400, 6)) @ random.standard_normal((6, 6)) + random.standard_normal(6)
    normal, other = random.standard_normal((2, 6))
    step = native_step(codes, normal, [other])
    np.testing.assert_allclose([normal @ step, other @ step], [1, 0], atol=1e-6)
    precision = np.linalg.inv(np.cov(codes.T))
    boundaries = np.stack([normal, other], 1)
    for _ in range(5):  # any change that keeps both conditions makes it longer
        change = random.standard_normal(6)
        change -= boundaries @ np.linalg.lstsq(boundaries, change, rcond=None)[0]
        assert (step + change) @ precision @ (step + change) >= step @ precision @ step * (1 - 1e-6)


def test_pictures_without_a_label_are_left_out_and_columns_of_words_too(tmp_path: Path) -> None:
    pictures, _ = write_pictures(tmp_path, 3, 32)
    names = sorted(load_pictures(pictures, 32).names)
    rows = {"file": names, "age": ["30", "", "40"], "source": ["a", "b", ""], "glasses": ["1", "0", "1"]}
    table = tmp_path / "some.csv"
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows))
        writer.writeheader()
        writer.writerows({k: v[i] for k, v in rows.items()} for i in range(3))
    read = load_pictures(pictures, 32, table).attributes
    assert read.keys() == {"age", "glasses"}
    np.testing.assert_array_equal(read["age"], [30, np.nan, 40])
    table.write_text(table.read_text().replace("40", "forty"))
    with pytest.raises(DataError, match="'forty', age of"):
        load_pictures(pictures, 32, table)
    random = np.random.default_rng(0)
    codes, some = random.standard_normal((200, 4)), np.full(200, np.nan)
    some[:150] = codes[:150, 2] + random.standard_normal(150) / 10
    whole = fit_boundary(codes[:150], some[:150], 1.0, 0.1)
    assert whole[1] == fit_boundary(codes, some, 1.0, 0.1)[1]


def test_boundaries_point_the_way_their_labels_grow() -> None:
    random = np.random.default_rng(0)
    codes = random.standard_normal((600, 10))
    for labels in (codes[:, 3] * 2 + 5, (codes[:, 3] > 0).astype(float)):
        normal, figure = fit_boundary(codes, labels, penalty=1.0, held_out=0.2)
        assert np.argmax(np.abs(normal)) == 3
        assert normal[3] > 0
        assert isinstance(figure["value"], float)
        assert figure["value"] > 0.9


def test_a_direction_joins_a_run_and_keeps_what_the_runs_own_boundaries_say(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run")
    file = run / "directions.safetensors"
    # `smile` has a boundary, as if labels had made it; `age` has none.
    boundary = torch.randn(8, 512, generator=torch.Generator().manual_seed(0))
    before = load_file(file) | {"boundary/smile": (boundary / boundary.norm()).numpy()}
    save_file(before, file)
    data, table = write_pictures(tmp_path, 60, 32)
    options = ["--run", str(run), "--data", str(data), "--attributes", str(table), "--right-way", "0"]
    options += ["--domain-floor", "0", "--largest", "1.25"]
    assert main(["directions", *options, "--names", "tilt", "--keep", "smile"]) == 0
    after = load_file(file)
    for key, tensor in before.items():
        np.testing.assert_array_equal(after[key], tensor)
    entries = json.loads((run / "directions.json").read_text())
    assert [entry["name"] for entry in entries] == ["smile", "age", "tilt"]
    assert entries[2]["conditioned_on"] == ["smile"]
    assert entries[2]["range"] == [-1.25, 1.25]
    kept = before["boundary/smile"].flatten()
    assert abs(kept @ after["direction/tilt"].flatten()) < 1e-4
    assert abs(kept @ after["across/tilt"].flatten()) > 1e-3
    assert main(["directions", *options, "--names", "tilt", "--keep", "age"]) == 2
    assert "nor has" in capsys.readouterr().err


def test_a_direction_keeps_who_it_is(tmp_path: Path) -> None:
    """It moves along the boundaries of the descriptor's principal components, which the one that is free crosses."""
    run = write_run(tmp_path / "run")
    data, table = write_pictures(tmp_path, 60, 32)
    options = ["--run", str(run), "--data", str(data), "--attributes", str(table), "--right-way", "0"]
    options += ["--domain-floor", "0", "--names", "tilt", "--identity-components", "3"]
    crossed = []
    inversion, pictures = load_inversion(run), load_pictures(data, 32)
    codes = encode(inversion.encoder, pictures)
    standard = inversion.latent_discriminator.standardise(codes).flatten(1).numpy()
    boundaries = np.stack(identity_boundaries(pictures, standard, 3, 3e3))
    boundaries /= np.linalg.norm(boundaries, axis=1, keepdims=True)
    for keep in ([], ["--keep", "identity"]):
        assert main(["directions", *options, *keep]) == 0
        vector = load_file(run / "directions.safetensors")["direction/tilt"]
        step = (torch.from_numpy(vector) / inversion.latent_discriminator.deviation).flatten().numpy()
        crossed.append(np.abs(boundaries @ step).max() / np.linalg.norm(step))
    assert crossed[1] < 1e-4 < crossed[0]
    entries = {entry["name"]: entry for entry in json.loads((run / "directions.json").read_text())}
    assert entries["tilt"]["conditioned_on"] == ["identity"]
    assert main(["directions", *options[:-1], "0", "--keep", "identity"]) == 2


class Reader:
    """Reads a picture's mean, which has a ceiling."""

    def read(self, images: torch.Tensor) -> dict[str, np.ndarray]:
        return {"bright": images.mean((1, 2, 3)).numpy()}


class FlatPictures(torch.nn.Module):
    """Codes to grey pictures of their first entry's sine: brighter only up to a point."""

    def synthesis(self, codes: torch.Tensor) -> torch.Tensor:
        return codes[:, 0, 0].sin()[:, None, None, None].expand(-1, 3, 8, 8)


def test_a_range_ends_before_the_attribute_turns_back() -> None:
    codes, step = torch.zeros(50, 4, 16), torch.zeros(4, 16)
    codes[:, 0, 0] = torch.linspace(-0.3, 0.3, 50)
    step[0, 0] = torch.pi / 2
    edits = Edits(Reader(), FlatPictures(), codes)  # type: ignore[arg-type]
    assert edits.right_way("bright", step, 1.0) == 1
    assert edits.right_way("bright", step, 3.0) == 0
    assert edits.honest_end("bright", step, 3.0, 0.95) == 1.5
    assert edits.honest_end("bright", step, -2.0, 0.95) == -1.5
    assert edits.honest_end("bright", step, 1.0, 0.95) == 1
    # No strength reaches that share: the largest one is returned at which most change the right way.
    assert edits.honest_end("bright", step, 3.0, 1.01) == 1.5


def change_of_styles(generator: Generator, step: torch.Tensor, layers: list[int]) -> float:
    """How far a step moves the styles that layers make of their vectors, per length of the step at its origin."""
    styles = [
        affine(step[layer]) - affine.bias for layer in layers for affine in generator.synthesis.affines(layer)
    ]
    return float(torch.cat(styles).norm())


@torch.no_grad()
@pytest.mark.parametrize("per_layer", [True, False])
def test_sefa_finds_the_steps_that_change_styles_most(per_layer: bool) -> None:
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig(16, (8, 8, 8), mapping_depth=2, per_layer_code=per_layer))
    layers = [2, 3]
    first, second = (change_of_styles(generator, step, layers) for step in sefa(generator, layers, 2))
    assert first > second
    last = generator.mapping.layers[-1]
    for _ in range(20):
        step = torch.nn.functional.normalize(torch.randn(512), dim=0)
        if per_layer:  # it is what goes into the mapping's last layer that has length 1
            step = (last.weight * last.weight_scale @ step).unflatten(0, (6, 512))
        assert change_of_styles(generator, step.expand(6, 512), layers) < second


@torch.no_grad()
def test_every_layer_of_a_code_has_the_styles_that_move_with_it() -> None:
    torch.manual_seed(0)
    synthesis = Generator(GeneratorConfig(16, (8, 8, 8))).synthesis
    found = [affine for layer in range(6) for affine in synthesis.affines(layer)]
    assert {id(affine) for affine in found} == {
        id(user.conv.style) for user in [*synthesis.styled, *synthesis.to_rgb]
    }
    code = torch.randn(1, 6, 512)
    for layer in range(6):  # a step that none of the layer's styles sees changes no picture
        seen = torch.cat([affine.weight for affine in synthesis.affines(layer)])
        step = torch.randn(512)
        step -= torch.linalg.lstsq(seen.T, step).solution @ seen
        moved = code.clone()
        moved[:, layer] += step
        torch.testing.assert_close(synthesis(moved), synthesis(code), rtol=0, atol=1e-4)


def test_ganspace_finds_the_axes_along_which_codes_vary() -> None:
    torch.manual_seed(0)
    codes = 0.1 * torch.randn(500, 6, 512)
    codes[:, 1, 7] += 3 * torch.randn(500)
    codes[:, 2, 9] += 2 * torch.randn(500)
    first, second = ganspace(codes, [1, 2], 2)
    assert (first.abs().argmax(), second.abs().argmax()) == (512 + 7, 2 * 512 + 9)
    assert first[1, 7] > 0.99
    assert not first[[0, 3, 4, 5]].any()


class Lamps(torch.nn.Module):
    """Codes of 64 entries to eight lamps, as bright as the first eight of them say, behind grain that is ever new."""

    config = GeneratorConfig(16, (8, 8, 8), z_size=64)
    mapping = Repeated(config.z_size, config.layers)

    def synthesis(self, codes: torch.Tensor) -> torch.Tensor:
        lamps = (codes[:, 0, :8] / 2).tanh().reshape(-1, 1, 4, 2)
        pictures = torch.nn.functional.interpolate(lamps, (16, 16)).expand(-1, 3, -1, -1)
        return pictures + 0.3 * torch.randn(pictures.shape)

    def parameters(self, recurse: bool = True) -> Iterator[torch.nn.Parameter]:
        return iter([torch.nn.Parameter(torch.zeros(()))])


def test_a_learned_bank_is_told_apart_better_than_random_directions() -> None:
    generator: Any = Lamps()
    codes = sample_codes(generator, 1000)
    components, accuracy = ganspace(codes, list(range(6)), 64), {}
    for rate in (0.0, 0.1):
        config = BankConfig(steps=40, batch=8, rate=rate)
        bank = Bank(components, codes, 4)
        regressor = learn_bank(generator, bank, config)
        steps = bank.steps().detach()
        accuracy[rate] = tell_apart(generator, regressor, steps, fresh=64).accuracy
        # A strength of 1 is a standard deviation of sampled codes along the direction; directions are uncorrelated.
        vectors = torch.nn.functional.normalize(steps.flatten(1), dim=1)
        torch.testing.assert_close((codes.flatten(1) @ vectors.T).std(0), steps.flatten(1).norm(dim=1))
        torch.testing.assert_close(bank.rows @ bank.rows.T, torch.eye(4), rtol=0, atol=1e-5)
    lit = steps[:, :, :8].square().sum((1, 2)) / steps.square().sum((1, 2))
    assert accuracy[0.1] > 0.6
    assert accuracy[0.0] < 0.4
    assert (lit > 0.5).all()


def test_a_direction_has_the_attribute_that_it_goes_together_with() -> None:
    torch.manual_seed(0)
    codes = torch.randn(2_000, 2, 8)
    boundaries = {"smile": torch.zeros(2, 8), "mouth_open": torch.zeros(2, 8)}
    boundaries["smile"][0, 1], boundaries["mouth_open"][1, 2] = 1, 1
    vector = torch.zeros(2, 8)
    vector[0, 1], vector[1, 2] = 0.6, -0.8
    name, r = likest_attribute(vector, boundaries, codes) or ("", 0.0)
    assert (name, r) == ("mouth_open", pytest.approx(-0.8, abs=0.05))
    assert likest_attribute(vector, {}, codes) is None


@pytest.mark.parametrize("method", ["sefa", "ganspace", "bank"])
def test_factors_join_a_runs_directions(
    tmp_path: Path, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run, sheet = write_run(tmp_path / "run"), tmp_path / "sheet.png"
    options = f"--method {method} --count 2 --layers 0-1 2-5 --samples 200 --tell-apart".split()
    options += ["--bank.steps", "2", "--bank.batch", "1", "--bank.fresh", "2", "--bank.seed", "1"]
    options += ["--picture", str(sheet)]
    assert main(["factors", "--run", str(run), *options]) == 0
    pipeline = load_pipeline(run)  # checks length, layers and shape
    names = [entry["name"] for entry in pipeline.directions]
    assert names == ["smile", "age", *(f"{method}-{group}-{n}" for group in ("0-1", "2-5") for n in (1, 2))]
    entry = pipeline.directions[2]
    # The run has one boundary.
    assert entry["label"].startswith(f"{method}-0-1-1: smile (r ")
    out = capsys.readouterr().out
    assert all(f"{method}-{group}: a regressor names " in out for group in ("0-1", "2-5"))
    with Image.open(sheet) as picture:
        assert picture.size == (10 * 32, 4 * 32)
    along = (
        sample_codes(pipeline.generator, 4_000).flatten(1)
        @ torch.from_numpy(pipeline.vectors[names[2]]).flatten()
    )
    assert entry["scale"] == pytest.approx(float(along.std()), rel=0.01)
    assert entry["held_out"] is None
    assert main(["factors", "--run", str(run), *options]) == 0  # again: the same, once
    assert [e["name"] for e in json.loads((run / "directions.json").read_text())] == names


@pytest.mark.parametrize(
    "bad",
    [
        ["--layers", "4-9"],
        ["--layers", "x"],
        ["--layers", "3-1"],
        ["--count", "0"],
        ["--method", "bank", "--count", "65"],
        ["--bank.steps", "0"],
        ["--bank.rate", "-1"],
    ],
)
def test_factors_say_what_is_wrong(
    tmp_path: Path, bad: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run")
    assert main(["factors", "--run", str(run), *bad]) == 2
    assert capsys.readouterr().err.startswith("error: ")
