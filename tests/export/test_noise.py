"""Noise maps in codes: that a refinement finds them, that graphs agree with the networks, that codes carry them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from export.bundles.building import BundleConfig, build, fold, settle
from export.bundles.bundle import write_bundle
from export.bundles.checkpoint import load_pipeline
from indomain import Client, InvalidCodeError, InvalidOptionError, Inversion, Refine
from indomain.latents import CodeReader
from serving.jobs import EditStep
from serving.pipeline.edits import edit_distance, edit_vector
from serving.repository.reader import read_bundle
from tests.export.conftest import REFINE, Exported
from tests.export.run_folder import write_run
from tests.export.test_detail import write_detail
from training.networks.extra_rows.noise import NoiseConfig
from training.refinement.noise_maps import NOISE_FILE, NoiseMapsConfig, fit_noise, load_noise
from training.refinement.refinement import refine
from training.run_folders.checkpoint import CheckpointError

LAYERS, SIDE = 8, 32
# After a row of detail; layers 5 and 6 make maps of 32 pixels: two rows of 512 each.
ROWS = slice(9, 13)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with detail and noise."""
    folder = write_run(tmp_path_factory.mktemp("noise") / "run", name="noisy")
    write_detail(folder)
    assert fit_noise(NoiseMapsConfig(folder, fade=3.0)) == "codes hold the noise of layers 5, 6"
    return folder


@pytest.fixture(scope="module")
def repository(run: Path) -> Path:
    """The bundle, which has passed all parity checks with noise in its codes: also that no sample's result depends on
    its batch."""
    config = BundleConfig(
        run, run.parent / "repository", refine=REFINE, sampled_codes=2000, alignment="centre-crop"
    )
    write_bundle(config)
    return config.to


@pytest.fixture(scope="module")
def client(repository: Path) -> Iterator[Client]:
    with Client(":embedded:", model_repository=repository) as opened:
        yield opened


@pytest.fixture(scope="module")
def picture(client: Client) -> np.ndarray:
    """A picture that no vectors make: one of the generator's, with a fine pattern on it."""
    image = np.asarray(client.sample([5])[0].image, dtype=np.int16)
    across, down = np.indices(image.shape[:2])
    image = image + 40 * (((across // 2 + down // 2) % 2) * 2 - 1)[..., None]
    return np.clip(image, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def inverted(client: Client, picture: np.ndarray) -> Inversion:
    return client.invert(picture, steps=20)


def test_a_bundle_says_what_its_codes_have(client: Client, repository: Path) -> None:
    bundle = client.info().bundles[0]
    assert bundle.noise is not None
    assert (bundle.noise.rows, bundle.noise.layers, bundle.noise.sides) == (4, (5, 6), (SIDE, SIDE))
    assert bundle.refine.noise is True
    assert bundle.code_rows == ROWS.stop
    assert read_bundle(repository, "noisy").code_shape == (ROWS.stop, 512)


def test_noise_brings_a_refinement_nearer(client: Client, picture: np.ndarray, inverted: Inversion) -> None:
    without = client.invert(picture, refine=Refine(steps=20, noise=False))
    assert inverted.losses.refine_loss_after < 0.98 * without.losses.refine_loss_after
    assert inverted.losses.pixel_mse_after < without.losses.pixel_mse_after
    assert np.any(inverted.code[ROWS])
    assert not np.any(without.code[ROWS])
    assert not np.any(client.invert(picture, steps=0).code[ROWS])
    # Only means of squares are known: nothing would hold what noise draws between them.
    assert not np.any(client.invert(picture, refine=Refine(steps=2, downsampling=4)).code[ROWS])


def test_the_graph_does_what_the_plain_loop_does(run: Path, client: Client, picture: np.ndarray) -> None:
    folded = fold(load_pipeline(run))
    target = torch.from_numpy(picture).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        start = torch.nn.functional.pad(folded.encoder(target), (0, 0, 0, ROWS.stop - LAYERS))
    groups = [group.name for group in folded.objective.groups]
    settings = settle(replace(REFINE, steps=6), groups=groups, has_identity=False)
    wanted = refine(folded.objective, start, target, settings)
    found = client.invert(picture, steps=6)
    assert found.losses.refine_loss_before == pytest.approx(float(wanted.losses[0, 0]), rel=1e-3)
    # The graph judges the code after a step in the step after it, so the last one not at all.
    assert found.losses.refine_loss_after == pytest.approx(float(wanted.losses[0, :-1].min()), rel=0.02)


def test_a_map_is_added_to_the_noise_of_its_layer(run: Path) -> None:
    """What 1 in a code adds is the same as if the layer's constant noise were larger by scale / strength."""
    pipeline = load_pipeline(run)
    synthesis, mapping = pipeline.generator.synthesis, pipeline.generator.mapping
    config: NoiseConfig = synthesis.extra.groups["noise"].config
    with torch.no_grad():
        native = mapping(torch.randn(1, 512, generator=torch.Generator().manual_seed(1)))
        code = torch.nn.functional.pad(native, (0, 0, 0, ROWS.stop - LAYERS))
        assert torch.equal(synthesis(code), synthesis(native))
        maps = torch.randn(2, SIDE, SIDE, generator=torch.Generator().manual_seed(2))
        code[0, ROWS] = maps.reshape(4, 512)
        found = synthesis(code)
        for layer, scale, one in zip(config.layers, config.scales, maps, strict=True):
            synthesis.styled[layer].noise += one * scale / synthesis.styled[layer].noise_strength
        torch.testing.assert_close(found, synthesis(native), rtol=1e-4, atol=1e-4)


def test_noise_may_be_alone(tmp_path: Path) -> None:
    """The graphs' modules, without an export; no sample's loss or gradient depends on its batch."""
    folder = write_run(tmp_path / "run")
    fit_noise(NoiseMapsConfig(folder))
    built = build(load_pipeline(folder), BundleConfig(folder, tmp_path, refine=REFINE, sampled_codes=2000))
    assert (built.refine.detail, built.refine.noise) == (None, True)
    graph = built.graphs["refiner"]
    assert graph.inputs[0].shape == (LAYERS + 4, 512)
    assert "noise" in [spec.name for spec in graph.inputs]
    with torch.no_grad():
        codes = built.graphs["mapping"].module(torch.randn(3, 512))
        pictures = built.graphs["generator"].module(codes).roll(1, 0)
    given = {"code": codes, "target": pictures, "mask": torch.ones(3, SIDE, SIDE, 1)}
    given |= {name: torch.full((3, 1), value) for name, value in built.refine.settings.items()}
    given["noise"] = torch.tensor([[1.0], [0.0], [1.0]])
    inputs = [given.get(spec.name, torch.zeros(3, *spec.shape)) for spec in graph.inputs]
    names = [spec.name for spec in graph.outputs]
    together = dict(zip(names, graph.module(*inputs), strict=True))
    alone = dict(zip(names, graph.module(*(value[2:] for value in inputs)), strict=True))
    for name in ("loss", "next_code"):
        torch.testing.assert_close(together[name][2:], alone[name], rtol=1e-3, atol=1e-4)
    moved = together["next_code"][:, LAYERS:].flatten(1).any(1)
    assert moved.tolist() == [True, False, True]


def test_codes_and_edits_carry_it(
    client: Client, repository: Path, picture: np.ndarray, inverted: Inversion, tmp_path: Path
) -> None:
    bundle, code = read_bundle(repository, "noisy"), inverted.code
    edited = client.edit(code, smile=-3.0).code
    distance = edit_distance(-3.0 * edit_vector(EditStep("smile", 1.0), bundle), bundle)
    np.testing.assert_allclose(edited[ROWS], np.exp(-distance / 3.0) * code[ROWS], rtol=1e-5)
    with client.session(picture, steps=20) as session:
        in_session = np.asarray(session.edit(smile=-3.0).image, dtype=int)
    by_handle = np.asarray(client.edit(inverted, smile=-3.0).image, dtype=int)
    assert np.abs(in_session - by_handle).max() <= 1
    inverted.save(tmp_path / "me.npz")
    read = CodeReader(client, "noisy").read(tmp_path / "me.npz").code
    assert np.array_equal(np.asarray(client.decode(read)[0]), np.asarray(inverted.image))


def test_in_a_mix_each_map_goes_with_its_layer(client: Client, inverted: Inversion) -> None:
    style = client.sample([8])[0].code
    mixed = client.mix(inverted.code, style, [5]).code
    assert not np.any(mixed[ROWS.start : ROWS.start + 2])
    assert np.array_equal(mixed[ROWS.start + 2 :], inverted.code[ROWS.start + 2 :])
    held = client.mix(inverted, style, [4], region=(0, 0, 1, 0.5), refine=Refine(steps=2, noise=False))
    assert not np.any(held.code[ROWS])


def test_strokes_hide_the_noise_that_they_lie_on(client: Client, inverted: Inversion) -> None:
    strokes = np.zeros((SIDE, SIDE, 4), np.uint8)
    strokes[: SIDE // 2] = (90, 60, 200, 255)
    edited = client.edit(inverted, strokes=strokes, refine=Refine(steps=4)).code
    before, after = (code[ROWS].reshape(2, SIDE, SIDE) for code in (inverted.code, edited))
    half = SIDE // 2
    assert not np.any(after[:, :half])
    kept = np.abs(after[:, half:]).sum() / np.abs(before[:, half:]).sum()
    assert 0 < kept < 1
    np.testing.assert_allclose(after[:, half:], kept * before[:, half:], rtol=1e-3, atol=1e-7)


def test_native_codes_may_leave_it_out(client: Client) -> None:
    sample = client.sample([3])[0]
    assert not np.any(sample.code[LAYERS:])
    assert np.array_equal(np.asarray(client.decode(sample.code[:LAYERS])[0]), np.asarray(sample.image))
    with pytest.raises(InvalidCodeError, match=r"takes \[13, 512\], or \[8, 512\] without detail and noise"):
        client.decode(sample.code[:7])


def test_bundles_without_it_refuse_to_look_for_it(exported: Exported) -> None:
    with Client(":embedded:", model_repository=exported.repository) as client:
        assert client.info().bundles[0].noise is None
        picture = client.sample([1])[0].image
        with pytest.raises(InvalidOptionError, match="the bundle's codes have no noise maps"):
            client.invert(picture, refine=Refine(noise=True))
        assert client.invert(picture, refine=Refine(steps=2, noise=False)).code.shape == (LAYERS, 512)


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    with pytest.raises(CheckpointError, match="does not fill rows of 512; choose another least side"):
        fit_noise(NoiseMapsConfig(folder, least_side=16))
    with pytest.raises(CheckpointError, match="noise needs layers"):
        fit_noise(NoiseMapsConfig(folder, least_side=64))
    for text, message in (
        ('{"layers": [7], "scales": [1.0], "weight": 0.0, "fade": 1.0}', "has no layer"),
        ('{"layers": [6, 5], "scales": [1.0, 1.0], "weight": 0.0, "fade": 1.0}', "rising"),
        ('{"layers": [5]}', "does not fit"),
    ):
        (folder / NOISE_FILE).write_text(text)
        with pytest.raises(CheckpointError, match=message):
            load_pipeline(folder)
    (folder / NOISE_FILE).unlink()
    assert load_noise(folder, load_pipeline(folder).generator) is None
