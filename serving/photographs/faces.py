"""Faces on a photograph: where to look, what the detector's answers say, and which of the faces can be edited.

The detector sees squares of one size. It is shown the whole photograph first, then parts of it more closely, and once
more, straight, the face that was chosen: what it says of eyes and mouth is best where they are as in training pictures.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from serving.bundle import FaceTemplate
from serving.errors import FaceNotUsable, NoFace, NoSuchFace
from serving.jobs import Face
from serving.photographs.alignment import (
    CORNERS,
    Points,
    Similarity,
    eye_distance,
    face_square,
    lies_as,
    turned_by,
)

Rows = npt.NDArray[
    np.float32
]  # [N, P, 15]: score, box, landmarks of each place in each look, in the look's pixels
Look = Callable[[Sequence[Similarity]], Awaitable[Rows]]
"""Shows the detector squares of the photograph."""

SURE = 0.6  # score of what counts as a face
# Where no face scores this, the photograph may lie on its side or on its head: the detector finds faces that do, though
# less surely than upright ones, and takes eyes for mouths. A face of a turned look counts if it scores clearly more.
UNDOUBTED = 0.9
SURE_TURNED = 0.8
TURNED_HANDICAP = 0.02
SAME = 0.4  # of two boxes' union is common to them: one face
# The photograph's longer side, in looks, at each level; the next is tried where the ones before have found no face.
LEVELS = (1.75, 3.25)
OVERLAP = 0.25  # of a look is common to it and the next
MOST_FACES = 64
# Sizes and angles at which a chosen face is looked at once more, relative to how it would be cut.
SECOND_LOOKS = ((0.92, -6.0), (1.0, 6.0), (1.12, -3.0), (1.22, 3.0))

MOST_LOOKS_AGAIN = 3
STEADY = 0.04  # parts of its side by which a square's corners may move for it to have been straight enough


@dataclass(frozen=True, slots=True)
class Detection:
    """A face in the photograph's pixels."""

    score: float
    box: npt.NDArray[np.float64]  # left, top, right, bottom
    landmarks: Points  # [5, 2]

    @property
    def area(self) -> float:
        return float((self.box[2] - self.box[0]) * (self.box[3] - self.box[1]))


async def find_faces(look: Look, width: int, height: int, look_side: int) -> list[Detection]:
    """All faces of a photograph, the largest first."""
    whole = whole_look(width, height)
    found = read_looks(await look([whole]), [whole], look_side, (width, height))
    for level, closer in enumerate(LEVELS):
        if max(width, height) <= look_side * (LEVELS[level - 1] if level else 1.0) or (level and found):
            break
        looks = closer_looks(width, height, closer)
        found += read_looks(await look(looks), looks, look_side, (width, height))
    if all(face.score < UNDOUBTED for face in found):
        looks = [
            Similarity.square(_middle(width, height), max(width, height), roll) for roll in (90, -90, 180)
        ]
        turned = read_looks(await look(looks), looks, look_side, (width, height))
        found += [
            Detection(face.score - TURNED_HANDICAP, face.box, face.landmarks)
            for face in turned
            if face.score >= SURE_TURNED
        ]
    return distinct(found)[:MOST_FACES]


async def look_again(look: Look, face: Detection, template: FaceTemplate, look_side: int) -> Points:
    """Its landmarks more precisely: the mean of what several looks find that have it straight and large."""
    landmarks = face.landmarks
    for _ in range(MOST_LOOKS_AGAIN):
        square = face_square(landmarks, template)
        middle = complex(*square(np.array([0.5, 0.5])))
        looks = [
            Similarity.square(middle, square.scale * size, square.roll_degrees + roll)
            for size, roll in SECOND_LOOKS
        ]
        rows = await look(looks)
        seen = [
            nearest
            for n, place in enumerate(looks)
            if (nearest := _nearest(read_looks(rows[n : n + 1], [place], look_side), face)) is not None
        ]
        if not seen:
            break
        landmarks = np.mean(seen, axis=0)
        if lies_as(face_square(landmarks, template), square, STEADY):
            break
    return landmarks


def whole_look(width: int, height: int) -> Similarity:
    return Similarity.square(_middle(width, height), max(width, height))


def closer_looks(width: int, height: int, closer: float) -> list[Similarity]:
    """Overlapping squares that cover the photograph, each its longer side / `closer`."""
    side = max(width, height) / closer
    return [Similarity(side, complex(x, y)) for y in _starts(height, side) for x in _starts(width, side)]


def _starts(length: int, side: float) -> list[float]:
    if length <= side:
        return [(length - side) / 2]
    count = math.ceil((length - side) / (side * (1 - OVERLAP))) + 1
    return [float(start) for start in np.linspace(0.0, length - side, count)]


def _middle(width: int, height: int) -> complex:
    return complex(width / 2, height / 2)


def read_looks(
    rows: Rows, looks: Sequence[Similarity], side: int, size: tuple[int, int] | None = None
) -> list[Detection]:
    """The faces of each look, in the photograph's pixels. `size`: the photograph's width and height; what a look cuts
    off inside it is left out, since a larger look has it whole."""
    found = []
    for faces, place in zip(rows, looks, strict=True):
        to_photograph = Similarity(place.turn / side, place.shift)
        for score, box, landmarks in _clusters(faces[faces[:, 0] >= SURE].astype(np.float64)):
            if size is None or not _is_cut_off(box, place, side, size):
                edges = to_photograph(CORNERS * (box[2:] - box[:2]) + box[:2])
                outline = np.concatenate([edges.min(0), edges.max(0)])
                found.append(Detection(score, outline, to_photograph(landmarks)))
    return found


def _clusters(rows: npt.NDArray[np.float64]) -> list[tuple[float, npt.NDArray[np.float64], Points]]:
    """Several places tell of one face: the highest score, with the mean of what all of them say."""
    found = []
    rows = rows[np.argsort(-rows[:, 0], kind="stable")]
    while len(rows):
        together = _overlap(rows[0, 1:5], rows[:, 1:5]) > SAME
        mean = np.average(rows[together, 1:], axis=0, weights=rows[together, 0])
        found.append((float(rows[0, 0]), mean[:4], mean[4:].reshape(-1, 2)))
        rows = rows[~together]
    return found


def _is_cut_off(box: npt.NDArray[np.float64], place: Similarity, side: int, size: tuple[int, int]) -> bool:
    low, high = place(CORNERS).min(0), place(CORNERS).max(0)
    inner = (low[0] > 0, low[1] > 0, high[0] < size[0], high[1] < size[1])
    touching = (box[0] < 2, box[1] < 2, box[2] > side - 2, box[3] > side - 2)
    return any(i and t for i, t in zip(inner, touching, strict=True))


def distinct(found: Sequence[Detection]) -> list[Detection]:
    """Each face once, as the surest look has it; the largest first."""
    kept: list[Detection] = []
    for face in sorted(found, key=lambda face: -face.score):
        if not kept or (_overlap(face.box, np.stack([other.box for other in kept])) <= SAME).all():
            kept.append(face)
    return sorted(kept, key=lambda face: -face.area)


def _overlap(box: npt.NDArray[np.float64], boxes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Intersection over union of a box with each of [N, 4]."""
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    common = np.prod(np.maximum(high - low, 0.0), axis=1)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    shares: npt.NDArray[np.float64] = common / np.maximum(np.prod(box[2:] - box[:2]) + areas - common, 1e-9)
    return shares


def _nearest(found: Sequence[Detection], face: Detection) -> Points | None:
    """The landmarks of that detection which is the face itself, if any is."""
    shares = [float(_overlap(face.box, other.box[None])[0]) for other in found]
    best = int(np.argmax(shares)) if shares else -1
    return found[best].landmarks if best >= 0 and shares[best] > SAME / 2 else None


# --- which can be edited ------------------------------------------------------------------------------------------


def choose(found: Sequence[Detection], wanted: int | None, template: FaceTemplate, resolution: int) -> int:
    """Number of the face to edit. Raises NoFace, NoSuchFace, FaceNotUsable."""
    if not found:
        raise NoFace(
            "No face was found on the picture. Send a photograph on which a face looks at the camera and is not tiny; "
            "or, if it is aligned as the bundle's training pictures are, ask for the alignment centre-crop."
        )
    number = wanted or 0
    if not 0 <= number < len(found):
        raise NoSuchFace(
            f"face is {number}, and the picture has {len(found)}: 0 is the largest, {len(found) - 1} the last."
        )
    if reason := why_unusable(found[number], template, resolution):
        raise FaceNotUsable(f"Face {number} of {len(found)}: {reason}")
    return number


def why_unusable(face: Detection, template: FaceTemplate, resolution: int) -> str:
    """What keeps a face from being edited, and what to do; empty if nothing does."""
    needed = eye_distance(template.points) * resolution / 2
    apart = eye_distance(face.landmarks)
    if apart < needed:
        return (
            f"its eyes are {apart:.1f} pixels apart, and {needed:.1f} are needed; send a larger picture, or one taken "
            "from closer."
        )
    turned = turned_by(face.landmarks)
    if abs(turned) > template.max_turn:
        return (
            f"it is turned away too far: the tip of its nose is {abs(turned):.2f} eye distances beside the middle of "
            f"the eyes, at most {template.max_turn:.2f} can be edited; send a picture on which it looks at the camera."
        )
    return ""


def as_face(face: Detection, template: FaceTemplate, resolution: int) -> Face:
    """What is told of it."""
    square = face_square(face.landmarks, template)
    left, top, right, bottom = (float(edge) for edge in face.box)
    return Face(
        (left, top, right, bottom),
        face.score,
        tuple((float(x), float(y)) for x, y in face.landmarks),
        square.corners,
        square.roll_degrees,
        why_unusable(face, template, resolution),
    )
