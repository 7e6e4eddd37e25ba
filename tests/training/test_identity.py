"""The second descriptor of faces equals the graph it is ported from, knows people apart, and refuses what is no face;
how people are told from the order of files, and what is measured on them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file

from benchmarks.identity import IdentityConfig, calibration, fitted_logistic, measure, pairs, separation
from benchmarks.quality import Judge, mean_figures
from tests.shipped import CHECKPOINT, RESOLUTION
from training.data.pictures import DataError
from training.faces.alignment import find_landmarks
from training.faces.identity import MIDDLE, STEEPNESS, FaceDescriptor, face_chip, identity_score
from training.faces.mobile_face import (
    ALIGNED_SQUARE,
    SIDE,
    WEIGHTS,
    IdentityDescriptor,
    MobileFace,
    face_square,
    read_package,
)
from training.faces.squares import square_between
from training.loops.inversion import InversionTrainer
from training.loops.inversion_config import InversionConfig
from training.optimisation.step import Compute

EXAMPLES = Path(__file__).parents[2] / "clients/python/examples"
REFERENCE = Path(__file__).with_name("portrait_mobile_face.json")
EYES = np.array([[0.35, 0.46], [0.65, 0.46]])  # as shares of an aligned picture's side


def picture(path: Path) -> torch.Tensor:
    pixels = np.asarray(Image.open(path).convert("RGB"), np.float32)
    return torch.from_numpy(pixels).permute(2, 0, 1)[None] / 127.5 - 1


def aligned(path: Path) -> torch.Tensor:
    """A photograph's face, its eyes brought to where they lie on training pictures: [1, 3, 128, 128]."""
    photograph = Image.open(path).convert("RGB")
    square = Image.new("RGB", (max(photograph.size),) * 2)
    square.paste(photograph)
    left, right = find_landmarks(torch.from_numpy(np.array(square)).permute(2, 0, 1)[None])[0][:2]
    # As complex numbers, a similarity is one factor and one shift.
    scale = complex(*(right - left)) / complex(*(EYES[1] - EYES[0]))
    shift = complex(*left) - scale * complex(*EYES[0])
    side = square.width
    a, b = scale.real * side / 128, scale.imag * side / 128
    affine = (a, -b, shift.real * side, b, a, shift.imag * side)
    face = square.transform((128, 128), Image.Transform.AFFINE, affine, Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(face)).permute(2, 0, 1)[None].float() / 127.5 - 1


def test_it_equals_the_graph_it_is_ported_from() -> None:
    """The reference was computed by the package's own graph (tfjs, cpu) on the same 112 x 112 pixels."""
    with torch.no_grad():
        (descriptor,) = MobileFace()(picture(EXAMPLES / "portrait.png")[:, :, 72:184, 72:184])
    torch.testing.assert_close(descriptor, torch.tensor(json.loads(REFERENCE.read_text())), rtol=0, atol=5e-4)


def test_people_are_nearer_to_themselves_than_to_others() -> None:
    faces = torch.cat([aligned(path) for path in sorted((EXAMPLES / "people").glob("*.jpg"))])
    assert len(faces) == 8
    small = F.interpolate(faces, size=(48, 48), mode="bilinear", antialias=True)
    # The distances that a calibrated score gives 0.9 and 0.1: docs/results.md.
    networks = ((MobileFace(), face_square, 1.17, 1.31), (FaceDescriptor(), face_chip, 0.56, 0.64))
    for network, crop, near, far in networks:
        with torch.no_grad():
            own, mirrored, coarse = (network(crop(x)) for x in (faces, faces.flip(3), small))
        for other in (mirrored, coarse):
            distances = torch.cdist(own, other)
            assert (distances.argmin(1) == torch.arange(8)).all()
            assert (distances.diagonal() < near).all()
        different = torch.cdist(own, own)[~torch.eye(8, dtype=torch.bool)]
        assert different.median() > far


def test_the_refiners_descriptor_is_that_of_the_cut_square() -> None:
    faces = torch.rand(2, 3, 128, 128) * 2 - 1
    torch.testing.assert_close(IdentityDescriptor(128)(faces), MobileFace()(face_square(faces)))
    # Of pictures that show the same face half as large, in their upper left quarter.
    wide = torch.zeros(2, 3, 256, 256)
    wide[..., :128, :128] = faces
    eyes = [(0.1742, 0.23115), (0.3285, 0.23115)]
    found = IdentityDescriptor(256, square_between(ALIGNED_SQUARE, *eyes))(wide)
    assert (found - MobileFace()(face_square(faces))).norm(dim=1).max() < 0.1


def test_the_score_falls_with_the_distance() -> None:
    distance = torch.linspace(0, 2, 50)
    score = identity_score(distance)
    assert (score.diff() <= 0).all()
    assert score[0] > 0.999
    assert score[-1] < 0.001
    assert identity_score(torch.tensor(MIDDLE)) == pytest.approx(0.5)


@pytest.mark.parametrize("shape", [(1, 3, 112, 128), (1, 1, 128, 128), (3, 128, 128)])
def test_what_is_no_square_picture_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="square pictures"):
        face_square(torch.zeros(shape))
    with pytest.raises(ValueError, match=f"{SIDE}.*use face_square"):
        MobileFace()(torch.zeros(1, 3, 128, 128))


def test_an_encoder_that_answers_for_it_alone_draws_the_person_nearer() -> None:
    config = InversionConfig(
        CHECKPOINT, batch=4, rate=1e-3, identity_weight=1.0, pixel_weight=0.0, perceptual_weight=0.0, image_weight=0.0,
        code_weight=0.0, code_cycle_weight=0.0, compute=Compute(accelerator="cpu", precision="32-true"),
    )  # fmt: skip
    trainer = InversionTrainer(config, config.compute.fabric())
    pictures, descriptor = trainer.held_out[:8], IdentityDescriptor(RESOLUTION)

    @torch.no_grad()
    def distances() -> torch.Tensor:
        drawn = trainer.generator.synthesis(trainer.encoder(pictures))
        return (descriptor(drawn) - descriptor(pictures)).square().sum(1)

    trainer.encoder.eval()  # so that the term of a batch is that of its pictures
    before = distances()
    made = trainer.train_encoder(pictures, trainer.generator.mapping.draw(8)[0], torch.ones(()), key=None)
    assert made["identity"].item() == pytest.approx(before.mean().item(), rel=1e-4)
    for _ in range(5):
        trainer.train_encoder(pictures, trainer.generator.mapping.draw(8)[0], torch.ones(()), key=None)
    assert distances().mean() < 0.9 * before.mean()


def test_package_is_read_as_its_manifest_says(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    entries = [
        {"name": "a", "shape": [1], "dtype": "int32"},
        {"name": "b", "shape": [2, 1], "dtype": "float32"},
    ]
    graph = {"weightsManifest": [{"paths": ["x.bin"], "weights": entries}]}
    (tmp_path / "models/mobileface.json").write_text(json.dumps(graph))
    (tmp_path / "models/x.bin").write_bytes(
        np.array([7], "<i4").tobytes() + np.array([0.25, 4], "<f4").tobytes()
    )
    tensors = read_package(tmp_path)
    assert tensors["a"].tolist() == [7]
    assert tensors["b"].tolist() == [[0.25], [4]]


def test_stored_weights_stay_small() -> None:
    assert sum(x.numel() * x.element_size() for x in load_file(WEIGHTS).values()) < 1_200_000


# --- who is who on numbered files, and what is measured ------------------------------------------------------


def test_pictures_between_two_of_one_person_are_that_persons() -> None:
    """Two people with three pictures each, the middle one of the first unlike the others, and one with one picture."""
    numbers = np.array([3, 4, 6, 12, 13, 14, 50])
    place = np.array([0.0, 5.0, 0.1, 9.0, 9.1, 9.2, 20.0])[:, None]
    same, different = pairs(numbers, {"dlib": place, "MobileFace": place})
    assert {tuple(pair) for pair in same.tolist()} == {(0, 1), (1, 2), (3, 4), (4, 5)}
    assert {tuple(pair) for pair in different.tolist()} == {(a, b) for a in range(3) for b in range(3, 6)}
    # One descriptor alone is not enough.
    same, _ = pairs(numbers, {"dlib": place, "MobileFace": np.arange(7.0)[:, None] * 9})
    assert not len(same)


def test_separation_of_distances_that_can_be_counted() -> None:
    apart = separation(np.array([0.1, 0.2]), np.array([0.8, 0.9]))
    assert (apart["auc"], apart["equal_error_rate"], apart["found_at_0.1%"]) == (1, 0, 1)
    mixed = separation(np.array([0.1, 0.2, 0.3, 0.6]), np.array([0.4, 0.7, 0.8, 0.9]))
    assert mixed["auc"] == pytest.approx(15 / 16)
    assert mixed["equal_error_rate"] == pytest.approx(0.25)


def test_a_logistic_is_found_again_and_its_calibration_seen() -> None:
    random = np.random.default_rng(0)
    distance = random.uniform(MIDDLE - 0.3, MIDDLE + 0.3, 40_000)
    one = random.random(len(distance)) < identity_score(torch.from_numpy(distance)).numpy()
    same, different = distance[one], distance[~one]
    middle, steepness = fitted_logistic(same, different)
    assert middle == pytest.approx(MIDDLE, abs=0.005)
    assert steepness == pytest.approx(STEEPNESS, rel=0.05)
    for row in calibration(same, different, middle, steepness):
        assert row["same"] == pytest.approx(row["score"], abs=0.06)


def test_pictures_without_the_source_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "a_00001.png")
    (tmp_path / "a.csv").write_text("file,source\na_00001.png,other\n")
    with pytest.raises(DataError, match="no numbered pictures of the source 'lfw'"):
        measure(IdentityConfig(tmp_path, tmp_path / "a.csv"))
    with pytest.raises(DataError, match="no three pictures"):
        measure(IdentityConfig(tmp_path, tmp_path / "a.csv", source="other"))


def test_the_judge_of_inversions_asks_both_descriptors() -> None:
    face = np.asarray(Image.open(EXAMPLES / "portrait.png").convert("RGB").resize((128, 128)))[None]
    judge = Judge()
    same, blank = (mean_figures(judge.errors(made, face)) for made in (face, np.full_like(face, 128)))
    for name in ("identity_distance", "independent_distance"):
        assert same[name] == pytest.approx(0, abs=1e-5)
        assert blank[name] > 0.4
