"""`python -m training alignment`: measures where eyes, nose and mouth lie on aligned training pictures.

Before a photograph is encoded, its face is brought to the same place: the gateway fits the landmarks that the face
detector finds to the mean ones measured here. They are written to `alignment.json` of a run folder, for the export.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from training.data.pictures import DataError, load_pictures
from training.faces.face_detector import LANDMARKS, FaceDetector
from training.run_folders.json_files import write_json

LOADED_SIDE = 128  # pictures are loaded at this side, so that a large set fits into memory, pixels
SIDE = 320  # and enlarged to this one for the face detector, pixels
SURE = 0.8  # least score of a detection that counts
FITTED = (0, 1, 3, 4)  # eyes and corners of the mouth; the nose's tip moves sideways as the head turns
ALIGNMENT_FILE = "alignment.json"
Points = npt.NDArray[np.float64]  # [N, 5, 2], as shares of a picture's side


@dataclass
class AlignmentConfig:
    """Measure where faces lie on a set of aligned pictures, so that photographs can be aligned likewise."""

    run: Path
    """Run folder of an encoder, or what `publish` made of it; alignment.json is written there."""
    data: Path
    """Folder or zip of the aligned pictures that it was trained on."""
    pictures: int = 2_000
    """Pictures to measure, at most."""


def measure_alignment(config: AlignmentConfig) -> str:
    """Write alignment.json; return a summary. Raises DataError."""
    pictures = load_pictures(config.data, LOADED_SIDE)
    found = find_landmarks(pictures.first(config.pictures).images)
    if len(found) < 100:
        raise DataError(
            f"{config.data}: faces on {len(found)} pictures only; 100 are needed to say where they lie"
        )
    mean = found.mean(0)
    apart, turned = corners_apart(found, mean), np.abs(sideways(found))
    alignment = {
        "template": dict(zip(LANDMARKS, mean.round(4).tolist(), strict=True)),
        "tolerance": round(float(np.quantile(apart, 0.99)), 4),
        "max_turn": round(1.5 * float(np.quantile(turned, 0.999)), 4),
        "pictures": len(found),
    }
    write_json(config.run / ALIGNMENT_FILE, alignment)
    return (
        f"{len(found)} faces of {min(len(pictures), config.pictures)} pictures; their corners are "
        f"{np.median(apart):.3f} of a side from the mean's (99 %: {alignment['tolerance']}); "
        f"written to {config.run / ALIGNMENT_FILE}"
    )


def find_landmarks(images: Tensor) -> Points:
    """The landmarks of the surest face of each picture uint8 [M, 3, H, W] that has one."""
    scores, points = surest_faces(images)
    return points[scores > SURE]


@torch.no_grad()
def surest_faces(images: Tensor) -> tuple[npt.NDArray[np.float64], Points]:
    """Score float64 [M] and landmarks float64 [M, 5, 2] of each picture's surest face; pictures uint8 [M, 3, H, W].

    A score of at most SURE is no face, and its landmarks mean nothing.
    """
    detector = FaceDetector()
    rows = []
    for part in images.split(32):
        faces = detector(
            F.interpolate(part.float() / 127.5 - 1, (SIDE, SIDE), mode="bilinear", antialias=True)
        )
        rows.append(faces[torch.arange(len(faces)), faces[:, :, 0].argmax(1)])
    best = torch.cat(rows).double().numpy()
    return best[:, 0], best[:, 5:].reshape(-1, len(LANDMARKS), 2) / SIDE


def corners_apart(found: Points, mean: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """For each face, fit the mean one to it: distance [N] of the fitted crop's farthest corner from the picture's."""
    source, points = (_complex(x[..., FITTED, :]) for x in (mean[None], found))
    a, b = source - source.mean(1, keepdims=True), points - points.mean(1, keepdims=True)
    scale = (b * a.conj()).sum(1) / (abs(a) ** 2).sum(1)
    corners = np.array([0, 1, 1j, 1 + 1j])
    placed = scale[:, None] * (corners - source.mean(1)) + points.mean(1, keepdims=True)
    apart: npt.NDArray[np.float64] = abs(placed - corners).max(1)
    return apart


def sideways(found: Points) -> npt.NDArray[np.float64]:
    """Distance [N] of the tip of the nose from the middle of the eyes, sideways, in units of the eyes' distance."""
    left, right, nose = (_complex(found[:, n]) for n in range(3))
    aside: npt.NDArray[np.float64] = ((nose - (left + right) / 2) / (right - left)).real
    return aside


def _complex(points: npt.NDArray[np.float64]) -> npt.NDArray[np.complex128]:
    return points[..., 0] + 1j * points[..., 1]
