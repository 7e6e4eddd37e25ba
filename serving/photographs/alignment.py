"""The square of a photograph that the encoder sees: similarity transforms, and the fit to a face's landmarks.

Arithmetic on points only: photograph.py resamples pixels, faces.py finds faces. A point (x, y) is the complex number
x + iy, so that one multiplication turns and scales it. y points down, and angles are clockwise.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    # Not at run time: a decoder process has no use for bundles, and would take longer to start.
    from serving.bundle import FaceTemplate

Points = npt.NDArray[np.float64]  # [N, 2], x and y
CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])  # of the unit square, clockwise
# The square is fitted to the eyes and the corners of the mouth. The tip of the nose would shift it as the head turns.
FITTED = (0, 1, 3, 4)
LEFT_EYE, RIGHT_EYE, NOSE = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Similarity:
    """A similarity transform, p -> turn * p + shift: it turns, scales and moves.

    A square of a photograph is given by the transform from the unit square to the photograph's pixels.
    """

    turn: complex
    shift: complex

    def __call__(self, points: Points) -> Points:
        moved = self.turn * _complex(points) + self.shift
        return np.stack([moved.real, moved.imag], axis=-1)

    def after(self, first: Similarity) -> Similarity:
        """The transform that applies `first` and then this one."""
        return Similarity(self.turn * first.turn, self.turn * first.shift + self.shift)

    def inverse(self) -> Similarity:
        return Similarity(1 / self.turn, -self.shift / self.turn)

    @property
    def scale(self) -> float:
        """The side of the square, in pixels."""
        return abs(self.turn)

    @property
    def roll_degrees(self) -> float:
        """The square's rotation: degrees clockwise, -180 to 180."""
        return math.degrees(cmath.phase(self.turn))

    @property
    def corners(self) -> tuple[tuple[float, float], ...]:
        """The corners of the square, clockwise from its own top left."""
        return tuple((float(x), float(y)) for x, y in self(CORNERS))

    @classmethod
    def of_corners(cls, corners: Sequence[tuple[float, float]]) -> Similarity:
        """The square with these corners, given clockwise from its own top left."""
        first, second = complex(*corners[0]), complex(*corners[1])
        return cls(second - first, first)

    @classmethod
    def square(cls, centre: complex, side: float, roll_degrees: float = 0.0) -> Similarity:
        """The square around a point."""
        turn = cmath.rect(side, math.radians(roll_degrees))
        return cls(turn, centre - turn * (0.5 + 0.5j))

    @classmethod
    def fit(cls, source: Points, target: Points) -> Similarity:
        """The least-squares fit of source points to target points (Umeyama 1991)."""
        a, b = _complex(source), _complex(target)
        from_mean = a - a.mean()
        turn = complex((np.conj(from_mean) * (b - b.mean())).sum() / (np.abs(from_mean) ** 2).sum())
        return cls(turn, complex(b.mean() - turn * a.mean()))


def centred_square(width: int, height: int) -> Similarity:
    """The largest centred square of a picture, at whole pixels."""
    side = min(width, height)
    return Similarity(side, complex((width - side) // 2, (height - side) // 2))


def face_square(landmarks: Points, template: FaceTemplate) -> Similarity:
    """The square on which a face lies as on the bundle's training pictures. landmarks: [5, 2], in pixels."""
    return Similarity.fit(template.points[FITTED, :], landmarks[FITTED, :])


def corners_agree(one: Similarity, other: Similarity, tolerance: float) -> bool:
    """Whether each corner of one square is within `tolerance` times the other's side of the other's corner."""
    distances = np.linalg.norm(one(CORNERS) - other(CORNERS), axis=1)
    return bool(distances.max() <= tolerance * other.scale)


def eye_distance(landmarks: Points) -> float:
    """The distance between the eyes, in the landmarks' unit."""
    return float(np.linalg.norm(landmarks[RIGHT_EYE] - landmarks[LEFT_EYE]))


def head_turn(landmarks: Points) -> float:
    """How far a head is turned: the tip of the nose beside the middle of the eyes, in distances between the eyes.

    About 0 for a face that looks at the camera, 0.5 if the tip is in front of an eye; positive to the right.
    """
    left, right, nose = _complex(landmarks)[[LEFT_EYE, RIGHT_EYE, NOSE]]
    return float(((nose - (left + right) / 2) / (right - left)).real) if left != right else math.inf


def _complex(points: Points) -> npt.NDArray[np.complex128]:
    return points[..., 0] + 1j * points[..., 1]
