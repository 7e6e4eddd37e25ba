"""What a refiner's graph may do beside the paper's: detail codes, the identity term, partial measurements."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from export.bundles.building import IDENTITY_WEIGHT, BundleConfig, build, fold, settle
from export.bundles.bundle import write_bundle
from export.bundles.checkpoint import load_pipeline
from export.bundles.manifest import IDENTITY_LICENCE
from export.bundles.verification import VerifyConfig, verify
from indomain import Client, InvalidCodeError, InvalidOptionError, Refine
from indomain.latents import CodeReader
from serving.jobs import EditStep
from serving.pipeline.edits import edit_distance, edit_vector
from serving.repository.reader import read_bundle
from tests.export.conftest import REFINE, Exported
from tests.export.run_folder import write_run
from training.faces.identity import CHIP, MIDDLE, SIDE, STEEPNESS, FaceDescriptor, identity_score
from training.faces.mobile_face import ALIGNED_SQUARE, IdentityDescriptor
from training.faces.squares import cut, square_between
from training.networks.extra_rows.detail import Detail, DetailConfig
from training.refinement.detail_basis import (
    BASIS_FILE,
    DETAIL_FILE,
    DetailBasisConfig,
    fit_detail,
    load_detail,
)
from training.refinement.refinement import refine
from training.run_folders.checkpoint import CheckpointError
from training.run_folders.json_files import write_json

LAYERS, ROWS = 8, 1
CONFIG = DetailConfig(side=8, maps=8, scale=0.5, weight=0.01, fade=2.0)


def write_detail(run: Path, config: DetailConfig = CONFIG, channels: int = 16) -> None:
    """Detail of a run, along made-up features."""
    torch.manual_seed(3)
    basis = torch.linalg.qr(torch.randn(channels, config.maps)).Q.contiguous()
    write_json(run / DETAIL_FILE, asdict(config))
    save_file({"basis": basis}, run / BASIS_FILE)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_run(tmp_path_factory.mktemp("detail") / "run", name="detailed")
    write_detail(folder)
    eyes = {"left_eye": [0.35, 0.46], "right_eye": [0.65, 0.46]}
    write_json(folder / "alignment.json", {"template": eyes})
    return folder


@pytest.fixture(scope="module")
def repository(run: Path) -> Path:
    """The bundle, which has passed all parity checks with detail in its codes, and with the identity term."""
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
def picture(client: Client) -> bytes:
    """A picture that no vectors make: one of the generator's, with a pattern on it."""
    image = np.asarray(client.sample([5])[0].image, dtype=np.int16)
    rows, columns = np.indices(image.shape[:2])
    image = image + 40 * (((rows // 4 + columns // 4) % 2) * 2 - 1)[..., None]
    return np.clip(image, 0, 255).astype(np.uint8)


def test_a_bundle_says_what_its_codes_have(client: Client, repository: Path) -> None:
    bundle = client.info().bundles[0]
    assert bundle.detail is not None
    assert (bundle.layers, bundle.detail.rows, bundle.detail.layer) == (LAYERS, ROWS, 2)
    assert bundle.refine.detail is True
    assert client.sample([1])[0].code.shape == (LAYERS + ROWS, 512)
    assert read_bundle(repository, "detailed").code_shape == (LAYERS + ROWS, 512)


def test_detail_brings_a_refinement_nearer(client: Client, picture: bytes) -> None:
    # The identity term of noise falls as well without detail as with it.
    with_it = client.invert(picture, refine=Refine(steps=20, identity_weight=0.0))
    without = client.invert(picture, refine=Refine(steps=20, identity_weight=0.0, detail=False))
    assert with_it.losses.refine_loss_after < 0.95 * without.losses.refine_loss_after
    assert with_it.losses.pixel_mse_after < without.losses.pixel_mse_after
    assert np.any(with_it.code[LAYERS:])
    assert not np.any(without.code[LAYERS:])
    assert not np.any(client.invert(picture, steps=0).code[LAYERS:])


def test_the_graph_does_what_the_plain_loop_does(run: Path, client: Client, picture: bytes) -> None:
    pipeline = load_pipeline(run)
    folded = fold(pipeline)
    target = torch.from_numpy(picture).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        start = torch.nn.functional.pad(folded.encoder(target), (0, 0, 0, ROWS))
    settings = settle(replace(REFINE, steps=20), groups=["detail"], has_identity=True)
    wanted = refine(folded.objective, start, target, settings)
    found = client.invert(picture, steps=20)
    assert found.losses.refine_loss_before == pytest.approx(float(wanted.losses[0, 0]), rel=1e-3)
    assert found.losses.refine_loss_after == pytest.approx(float(wanted.best_loss[0]), rel=0.1)


def test_the_identity_term_brings_the_faces_descriptors_together(client: Client, picture: bytes) -> None:
    describe = IdentityDescriptor(
        picture.shape[0], square_between(ALIGNED_SQUARE, (0.35, 0.46), (0.65, 0.46))
    )

    def distance(weight: float) -> float:
        found = client.invert(picture, refine=Refine(steps=20, identity_weight=weight)).image
        both = np.stack([np.asarray(found), picture])
        with torch.no_grad():
            a, b = describe(torch.from_numpy(both).permute(0, 3, 1, 2) / 127.5 - 1)
        return float((a - b).norm())

    assert distance(1.0) < 0.9 * distance(0.0)
    assert client.info().bundles[0].refine.identity_weight == pytest.approx(IDENTITY_WEIGHT)


def test_only_what_is_known_is_refined_towards(client: Client, picture: bytes) -> None:
    """Less is asked of a code than to draw the grey or coarse picture itself, so that its loss falls farther."""
    grey = np.asarray(Image.fromarray(picture).convert("L").convert("RGB"))
    means = np.asarray(Image.fromarray(picture).reduce(4).resize(picture.shape[:2], Image.Resampling.NEAREST))
    for known, options in ((grey, Refine(steps=20, grey=True)), (means, Refine(steps=20, downsampling=4))):
        measured = client.invert(known, refine=options)
        plain = client.invert(known, steps=20)
        assert measured.losses.refine_loss_after < measured.losses.refine_loss_before
        assert measured.losses.refine_loss_after < plain.losses.refine_loss_after
        assert not np.array_equal(measured.code, plain.code)
        assert np.any(measured.code[LAYERS:]) == (options.downsampling is None)


def test_the_identity_score_is_that_of_the_descriptors(client: Client, repository: Path) -> None:
    """By dlib's descriptor in training/, of the pictures as they were answered, though the graph has 8-bit weights."""
    lines = verify(VerifyConfig(repository)).splitlines()
    assert any("identity  inputs, outputs and sample as stored" in line for line in lines)
    manifest = json.loads((repository / "detailed.json").read_text())
    assert manifest["identity"] == {"middle": MIDDLE, "steepness": STEEPNESS}
    assert manifest["licence"].endswith(IDENTITY_LICENCE)
    assert manifest["parity"]["identity"]["relative_error_to_checkpoint"] < 1e-4
    assert (repository / manifest["graphs"]["identity"]["file"]).stat().st_size < 6_300_000
    portrait = Image.open("clients/python/examples/portrait.png").convert("RGB").resize((32, 32))
    inverted = client.invert(portrait, steps=0, include_identity_score=True)
    one, other = (torch.from_numpy(np.asarray(image)) for image in (portrait, inverted.image))
    square = square_between(CHIP, (0.35, 0.46), (0.65, 0.46))
    faces = torch.stack([one, other]).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        a, b = FaceDescriptor()(cut(faces, square, SIDE))
    wanted = float(identity_score((a - b).norm()))
    assert 0 < wanted < 0.99  # beyond, a float would not tell
    assert inverted.identity_score == pytest.approx(wanted, rel=0.01)


def test_a_bundle_can_be_exported_without_the_identity_score(run: Path) -> None:
    built = build(load_pipeline(run), BundleConfig(run, run, sampled_codes=64, identity_score=False))
    assert "identity" not in built.graphs


def test_detail_fades_as_far_as_an_edit_goes(client: Client, repository: Path, picture: bytes) -> None:
    code = client.invert(picture, steps=10).code
    bundle = read_bundle(repository, "detailed")
    for strength in (0.0, 1.0, -3.0):
        edited = client.edit(code, smile=strength).code
        distance = edit_distance(strength * edit_vector(EditStep("smile", 1.0), bundle), bundle)
        kept = np.exp(-distance / CONFIG.fade)
        np.testing.assert_allclose(edited[LAYERS:], kept * code[LAYERS:], rtol=1e-5)
    assert distance > 0.1


def test_codes_without_detail_are_taken_as_they_were(client: Client) -> None:
    sample = client.sample([3])[0]
    decoded = client.decode(sample.code[:LAYERS])
    assert np.array_equal(np.asarray(decoded[0]), np.asarray(sample.image))
    with pytest.raises(InvalidCodeError, match=r"takes \[9, 512\], or \[8, 512\] without detail"):
        client.decode(sample.code[:7])


def test_in_a_mix_detail_goes_with_its_layer(client: Client, picture: bytes) -> None:
    base, style = client.invert(picture, steps=10).code, client.sample([8])[0].code
    assert np.array_equal(client.mix(base, style, [6, 7]).code[LAYERS:], base[LAYERS:])
    assert not np.any(client.mix(base, style, [2, 3]).code[LAYERS:])


def test_an_area_refined_without_detail_has_none(client: Client, picture: bytes) -> None:
    code = client.invert(picture, steps=10).code
    options = {"region": (0.2, 0.2, 0.8, 0.8), "smile": 1.0}
    assert np.any(client.edit(code, **options, refine=Refine(steps=2)).code[LAYERS:])
    assert not np.any(client.edit(code, **options, refine=Refine(steps=2, detail=False)).code[LAYERS:])


def test_strokes_are_followed_without_detail_and_hide_what_they_lie_on(
    client: Client, picture: bytes
) -> None:
    code = client.invert(picture, steps=10).code
    side = len(picture)
    strokes = np.zeros((side, side, 4), np.uint8)
    strokes[: side // 2] = (90, 60, 200, 255)
    edited = client.edit(code, strokes=strokes, refine=Refine(steps=4)).code
    before, after = (rows[LAYERS:].reshape(CONFIG.maps, CONFIG.side, CONFIG.side) for rows in (code, edited))
    half = CONFIG.side // 2
    assert not np.any(after[:, :half])
    kept = after[:, half:].sum() / before[:, half:].sum()
    assert 0 < kept < 1
    np.testing.assert_allclose(after[:, half:], kept * before[:, half:], rtol=1e-3)
    assert not np.any(client.edit(code, strokes=strokes, refine=Refine(steps=4, detail=False)).code[LAYERS:])


def test_handles_and_files_carry_it(client: Client, picture: bytes, tmp_path: Path) -> None:
    inverted = client.invert(picture, steps=10)
    inverted.save(tmp_path / "me.npz")
    by_file = client.decode(np.load(tmp_path / "me.npz")["code"])[0]
    assert np.array_equal(np.asarray(by_file), np.asarray(inverted.image))


def test_files_of_other_programs_may_have_it_or_not(client: Client, picture: bytes, tmp_path: Path) -> None:
    code = client.invert(picture, steps=10).code
    for rows in (LAYERS, LAYERS + ROWS):
        np.save(tmp_path / "code.npy", code[:rows])
        read = CodeReader(client, "detailed").read(tmp_path / "code.npy").code
        assert read.shape == (rows, 512)
        assert np.array_equal(client.edit(read).code[:rows], code[:rows])


def test_bundles_without_it_refuse_to_look_for_it(exported: Exported) -> None:
    with Client(":embedded:", model_repository=exported.repository) as client:
        assert client.info().bundles[0].detail is None
        picture = client.sample([1])[0].image
        with pytest.raises(InvalidOptionError, match="the bundle's codes have none"):
            client.invert(picture, refine=Refine(detail=True))
        assert client.invert(picture, refine=Refine(steps=2, detail=False)).code.shape == (LAYERS, 512)


def test_a_basis_is_found_among_the_features_that_pictures_miss(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    config = DetailBasisConfig(
        folder, Path("clients/python/examples/people"), side=8, maps=8, pictures=4, batch=2, steps=2
    )
    assert "% of the gradients' energy" in fit_detail(config)
    pipeline = load_pipeline(folder)
    detail = pipeline.generator.synthesis.extra.groups["detail"]
    basis = detail.basis
    torch.testing.assert_close(basis.T @ basis, torch.eye(8), atol=1e-5, rtol=0)


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    write_detail(folder, channels=12)
    with pytest.raises(CheckpointError, match="is of another generator"):
        load_pipeline(folder)
    write_detail(folder, replace(CONFIG, side=64))
    with pytest.raises(CheckpointError, match="has no block"):
        load_pipeline(folder)
    (folder / DETAIL_FILE).write_text('{"side": 7}')
    with pytest.raises(CheckpointError, match="do not fit"):
        load_pipeline(folder)
    with pytest.raises(ValueError, match="do not fill rows"):
        Detail(replace(CONFIG, maps=7), torch.eye(7)).config.rows(512)
    (folder / DETAIL_FILE).unlink()
    assert load_detail(folder, load_pipeline(folder).generator) is None
