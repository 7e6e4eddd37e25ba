"""The face detector is the original's: what that project's own graph gives for the portrait, decoded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from training.faces.alignment import (
    AlignmentConfig,
    corners_apart,
    find_landmarks,
    measure_alignment,
    sideways,
)
from training.faces.face_detector import FaceDetector

EXAMPLES = Path(__file__).parents[2] / "clients/python/examples"
REFERENCE = Path(__file__).with_name("portrait_faces.json")


def portrait(side: int) -> torch.Tensor:
    picture = (
        Image.open(EXAMPLES / "portrait.png").convert("RGB").resize((side, side), Image.Resampling.BILINEAR)
    )
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]


def test_it_finds_what_the_original_does() -> None:
    reference = json.loads(REFERENCE.read_text())
    with torch.no_grad():
        found = FaceDetector()(portrait(320).float() / 127.5 - 1)[0]
    assert found.shape == (2100, 15)
    wanted = torch.tensor(reference["values"])
    torch.testing.assert_close(found[reference["places"]], wanted, rtol=1e-4, atol=2e-3)
    assert int(found[:, 0].argmax()) in reference["places"]


def test_landmarks_follow_a_picture_that_is_mirrored() -> None:
    both = torch.cat([portrait(320), portrait(320).flip(3)])
    straight, mirrored = find_landmarks(both)
    swapped = mirrored[[1, 0, 2, 4, 3]] * np.array([-1, 1]) + np.array([1, 0])
    assert np.abs(straight - swapped).max() < 0.02
    assert np.allclose(sideways(np.stack([straight, mirrored])).sum(), 0, atol=0.05)


def test_a_data_set_is_measured(tmp_path: Path) -> None:
    data = tmp_path / "faces"
    data.mkdir()
    picture = Image.open(EXAMPLES / "portrait.png").convert("RGB")
    for n in range(100):  # shifted by up to 2 % of the side
        moved = picture.transform((256, 256), Image.Transform.AFFINE, (1, 0, n % 10 - 5, 0, 1, n // 10 - 5))
        moved.resize((64, 64)).save(data / f"{n}.png")
    assert "100 faces of 100" in measure_alignment(AlignmentConfig(tmp_path, data))
    measured = json.loads((tmp_path / "alignment.json").read_text())
    eyes = measured["template"]["left_eye"], measured["template"]["right_eye"]
    assert np.allclose(eyes, [[0.35, 0.46], [0.65, 0.46]], atol=0.03)
    assert 0.01 < measured["tolerance"] < 0.1


def test_corners_apart_is_the_farthest_corner_of_the_fitted_square() -> None:
    mean = np.array([[0.35, 0.46], [0.65, 0.46], [0.5, 0.64], [0.37, 0.76], [0.63, 0.76]])
    moved, larger = mean + np.array([0.1, 0.0]), (mean - 0.5) * 1.2 + 0.5
    assert np.allclose(corners_apart(np.stack([mean, moved, larger]), mean), [0, 0.1, 0.1 * 2**0.5])
