"""Faces on a photograph: finds them with the graph `B_detector`, and says which of them can be edited.

The detector takes squares of one size. It first gets the whole photograph, then smaller squares that tile it. The face
that is chosen is then detected again in upright squares close around it, as landmarks are most precise there.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from serving.bundle import Bundle, FaceTemplate
from serving.errors import FaceNotUsable, InvalidOption, NoFace, NoSuchFace
from serving.jobs import Alignment, AlignOptions, Face, Placement
from serving.photographs.alignment import (
    CORNERS,
    Points,
    Similarity,
    corners_agree,
    eye_distance,
    face_square,
    head_turn,
)

# [N, P, 15]: for each of N squares, P candidates with score, box and landmarks, in the square's pixels.
Candidates = npt.NDArray[np.float32]
Detect = Callable[[Sequence[Similarity]], Awaitable[Candidates]]
"""Runs the detector on squares of the photograph."""

MIN_SCORE = 0.6  # of a face
# If no face scores this much, the photograph may lie on its side or upside down. The detector finds turned faces, too,
# but less surely, and it mistakes eyes for mouths. A face of a turned square must score clearly higher.
CERTAIN_SCORE = 0.9
MIN_SCORE_TURNED = 0.8
TURNED_PENALTY = 0.02
SAME_FACE_IOU = 0.4  # intersection over union of two boxes, beyond which they are one face
# Tiles along the photograph's longer side, by level. The second level is tried only if no face was found before.
TILES = (1.75, 3.25)
TILE_OVERLAP = 0.25  # of a tile's side
MAX_FACES = 64
# The squares in which a chosen face is detected again: sizes and angles (degrees) relative to its own square.
CLOSE_UPS = ((0.92, -6.0), (1.0, 6.0), (1.12, -3.0), (1.22, 3.0))
MAX_CLOSE_UP_ROUNDS = 3
STEADY = 0.04  # of a square's side: if its corners move less between two rounds, the landmarks are precise


@dataclass(frozen=True, slots=True)
class Detection:
    """A detected face, in the photograph's pixels."""

    score: float
    box: npt.NDArray[np.float64]  # left, top, right, bottom
    landmarks: Points  # [5, 2]

    @property
    def area(self) -> float:
        return float((self.box[2] - self.box[0]) * (self.box[3] - self.box[1]))


async def find_faces(detect: Detect, width: int, height: int, input_side: int) -> list[Detection]:
    """All faces of a photograph, the largest first. `input_side`: of the detector's input, in pixels."""
    whole = Similarity.square(_middle(width, height), max(width, height))
    found = read_candidates(await detect([whole]), [whole], input_side, (width, height))
    for level, count in enumerate(TILES):
        if max(width, height) <= input_side * (TILES[level - 1] if level else 1.0) or (level and found):
            break
        squares = tiles(width, height, count)
        found += read_candidates(await detect(squares), squares, input_side, (width, height))
    if all(face.score < CERTAIN_SCORE for face in found):
        squares = [
            Similarity.square(_middle(width, height), max(width, height), roll) for roll in (90, -90, 180)
        ]
        turned = read_candidates(await detect(squares), squares, input_side, (width, height))
        found += [
            Detection(face.score - TURNED_PENALTY, face.box, face.landmarks)
            for face in turned
            if face.score >= MIN_SCORE_TURNED
        ]
    return distinct(found)[:MAX_FACES]


async def refine_landmarks(
    detect: Detect, face: Detection, template: FaceTemplate, input_side: int
) -> Points:
    """More precise landmarks of a face, [5, 2]: the mean over several upright squares close around it."""
    landmarks = face.landmarks
    for _ in range(MAX_CLOSE_UP_ROUNDS):
        square = face_square(landmarks, template)
        middle = complex(*square(np.array([0.5, 0.5])))
        squares = [
            Similarity.square(middle, square.scale * size, square.roll_degrees + roll)
            for size, roll in CLOSE_UPS
        ]
        candidates = await detect(squares)
        seen = [
            same
            for n, close_up in enumerate(squares)
            if (same := _same_face(read_candidates(candidates[n : n + 1], [close_up], input_side), face))
            is not None
        ]
        if not seen:
            break
        landmarks = np.mean(seen, axis=0)
        if corners_agree(face_square(landmarks, template), square, STEADY):
            break
    return landmarks


def tiles(width: int, height: int, count: float) -> list[Similarity]:
    """Overlapping squares that cover the photograph, with sides of its longer side / `count`."""
    side = max(width, height) / count
    return [Similarity(side, complex(x, y)) for y in _starts(height, side) for x in _starts(width, side)]


def _starts(length: int, side: float) -> list[float]:
    if length <= side:
        return [(length - side) / 2]
    count = math.ceil((length - side) / (side * (1 - TILE_OVERLAP))) + 1
    return [float(start) for start in np.linspace(0.0, length - side, count)]


def _middle(width: int, height: int) -> complex:
    return complex(width / 2, height / 2)


def read_candidates(
    candidates: Candidates,
    squares: Sequence[Similarity],
    input_side: int,
    size: tuple[int, int] | None = None,
) -> list[Detection]:
    """The faces on each square, in the photograph's pixels.

    size: the photograph's width and height. A face that a square cuts off inside the photograph is left out, since a
    larger square shows it whole.
    """
    found = []
    for rows, square in zip(candidates, squares, strict=True):
        to_photograph = Similarity(square.turn / input_side, square.shift)
        for score, box, landmarks in _clusters(rows[rows[:, 0] >= MIN_SCORE].astype(np.float64)):
            if size is None or not _is_cut_off(box, square, input_side, size):
                edges = to_photograph(CORNERS * (box[2:] - box[:2]) + box[:2])
                outline = np.concatenate([edges.min(0), edges.max(0)])
                found.append(Detection(score, outline, to_photograph(landmarks)))
    return found


def _clusters(rows: npt.NDArray[np.float64]) -> list[tuple[float, npt.NDArray[np.float64], Points]]:
    """Joins the candidates of one face: the highest score, and the mean of their boxes and landmarks."""
    found = []
    rows = rows[np.argsort(-rows[:, 0], kind="stable")]
    while len(rows):
        together = _overlap(rows[0, 1:5], rows[:, 1:5]) > SAME_FACE_IOU
        mean = np.average(rows[together, 1:], axis=0, weights=rows[together, 0])
        found.append((float(rows[0, 0]), mean[:4], mean[4:].reshape(-1, 2)))
        rows = rows[~together]
    return found


def _is_cut_off(box: npt.NDArray[np.float64], square: Similarity, side: int, size: tuple[int, int]) -> bool:
    """Whether a box touches an edge of its square that lies inside the photograph."""
    low, high = square(CORNERS).min(0), square(CORNERS).max(0)
    inner = (low[0] > 0, low[1] > 0, high[0] < size[0], high[1] < size[1])
    touching = (box[0] < 2, box[1] < 2, box[2] > side - 2, box[3] > side - 2)
    return any(i and t for i, t in zip(inner, touching, strict=True))


def distinct(found: Sequence[Detection]) -> list[Detection]:
    """Each face once, by its highest score; the largest face first."""
    kept: list[Detection] = []
    for face in sorted(found, key=lambda face: -face.score):
        if not kept or (_overlap(face.box, np.stack([other.box for other in kept])) <= SAME_FACE_IOU).all():
            kept.append(face)
    return sorted(kept, key=lambda face: -face.area)


def _overlap(box: npt.NDArray[np.float64], boxes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Intersection over union of a box [4] with each of the boxes [N, 4]; float64 [N]."""
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    common = np.prod(np.maximum(high - low, 0.0), axis=1)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    shares: npt.NDArray[np.float64] = common / np.maximum(np.prod(box[2:] - box[:2]) + areas - common, 1e-9)
    return shares


def _same_face(found: Sequence[Detection], face: Detection) -> Points | None:
    """The landmarks of the detection that is this face, if one is."""
    shares = [float(_overlap(face.box, other.box[None])[0]) for other in found]
    best = int(np.argmax(shares)) if shares else -1
    return found[best].landmarks if best >= 0 and shares[best] > SAME_FACE_IOU / 2 else None


# --- which can be edited ------------------------------------------------------------------------------------------


def choose(found: Sequence[Detection], wanted: int | None, template: FaceTemplate, resolution: int) -> int:
    """The number of the face to edit; `wanted` None: the largest. Raises NoFace, NoSuchFace, FaceNotUsable."""
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


def choose_several(
    found: Sequence[Detection],
    wanted: Sequence[int] | None,
    template: FaceTemplate,
    resolution: int,
    most: int,
) -> list[int]:
    """The numbers of the faces to edit, in order; `wanted` None: of all that can be edited, `most` at most.

    Raises NoFace, NoSuchFace, FaceNotUsable; InvalidOption for more than `most`.
    """
    if wanted is not None:
        numbers = sorted({choose(found, number, template, resolution) for number in wanted})
    else:
        usable = [n for n, face in enumerate(found) if not why_unusable(face, template, resolution)]
        # Without any, the largest says why.
        numbers = usable or [choose(found, None, template, resolution)]
    if len(numbers) > most:
        raise InvalidOption(f"{len(numbers)} faces; give at most {most} in one call, by their numbers.")
    return numbers


def why_unusable(face: Detection, template: FaceTemplate, resolution: int) -> str:
    """Why a face cannot be edited and what to do; empty if it can."""
    needed = eye_distance(template.points) * resolution / 2
    found = eye_distance(face.landmarks)
    if found < needed:
        return (
            f"its eyes are {found:.1f} pixels apart, and {needed:.1f} are needed; send a larger picture, or one taken "
            "from closer."
        )
    turned = head_turn(face.landmarks)
    if abs(turned) > template.max_turn:
        return (
            f"it is turned away too far: the tip of its nose is {abs(turned):.2f} eye distances beside the middle of "
            f"the eyes, at most {template.max_turn:.2f} can be edited; send a picture on which it looks at the camera."
        )
    return ""


def as_face(face: Detection, template: FaceTemplate, resolution: int) -> Face:
    """The face as callers see it."""
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


def chosen_alignment(bundle: Bundle, options: AlignOptions) -> Alignment:
    """The alignment that applies. Raises InvalidOption."""
    kind = options.alignment or (Alignment.CENTRE_CROP if bundle.face is None else Alignment.FACE)
    if kind is Alignment.FACE and bundle.face is None:
        raise not_by_faces(bundle)
    if kind is Alignment.CENTRE_CROP and options.face is not None:
        raise InvalidOption("align.face counts with the alignment by faces only; leave one of the two out.")
    return kind


def not_by_faces(bundle: Bundle) -> InvalidOption:
    """The error where a bundle without a detector is asked for faces."""
    return InvalidOption(
        f"Bundle {bundle.name} is not aligned by faces; send pictures that lie as its training pictures do."
    )


def placement_of(alignment: Alignment, place: Similarity, width: int, height: int) -> Placement:
    """Where a square lies on a picture of that size, without a word about faces."""
    return Placement(alignment, 0, 0, None, place.corners, place.roll_degrees, width, height)
