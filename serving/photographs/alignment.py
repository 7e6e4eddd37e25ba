"""Where on a photograph the square is that a bundle's encoder sees: similarity transforms, and the fit to a face.

Arithmetic on points only; pixels are moved by photograph.py, faces are found by faces.py. A point (x, y) is the complex
number x + iy, so that turning and scaling is one multiplication; y points down, and angles are clockwise.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from serving.bundle import FaceTemplate

Points = npt.NDArray[np.float64]  # [N, 2], x and y
CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])  # of the unit square, clockwise
# Eyes and corners of the mouth. The tip of the nose goes sideways as the head turns, and would take the square along.
FITTED = (0, 1, 3, 4)
LEFT_EYE, RIGHT_EYE, NOSE = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Similarity:
    """Turns, scales, moves: p -> turn * p + shift. A crop's goes from the unit square to a photograph's pixels."""

    turn: complex
    shift: complex

    def __call__(self, points: Points) -> Points:
        moved = self.turn * _complex(points) + self.shift
        return np.stack([moved.real, moved.imag], axis=-1)

    def after(self, first: Similarity) -> Similarity:
        """This one after another."""
        return Similarity(self.turn * first.turn, self.turn * first.shift + self.shift)

    def inverse(self) -> Similarity:
        return Similarity(1 / self.turn, -self.shift / self.turn)

    @property
    def scale(self) -> float:
        """Of a crop: its side in pixels."""
        return abs(self.turn)

    @property
    def roll_degrees(self) -> float:
        """Clockwise, -180 to 180."""
        return math.degrees(cmath.phase(self.turn))

    @property
    def corners(self) -> tuple[tuple[float, float], ...]:
        """Of a crop's square, clockwise from its own top left."""
        return tuple((float(x), float(y)) for x, y in self(CORNERS))

    @classmethod
    def of_corners(cls, corners: Sequence[tuple[float, float]]) -> Similarity:
        """The crop's whose square has these corners."""
        first, second = complex(*corners[0]), complex(*corners[1])
        return cls(second - first, first)

    @classmethod
    def square(cls, centre: complex, side: float, roll_degrees: float = 0.0) -> Similarity:
        """The unit square around a point."""
        turn = cmath.rect(side, math.radians(roll_degrees))
        return cls(turn, centre - turn * (0.5 + 0.5j))

    @classmethod
    def fit(cls, source: Points, target: Points) -> Similarity:
        """The one that brings source points closest to target points, in the sum of squares (Umeyama 1991)."""
        a, b = _complex(source), _complex(target)
        from_mean = a - a.mean()
        turn = complex((np.conj(from_mean) * (b - b.mean())).sum() / (np.abs(from_mean) ** 2).sum())
        return cls(turn, complex(b.mean() - turn * a.mean()))


def centred_square(width: int, height: int) -> Similarity:
    """The largest one, whole pixels from the edges."""
    side = min(width, height)
    return Similarity(side, complex((width - side) // 2, (height - side) // 2))


def face_square(landmarks: Points, template: FaceTemplate) -> Similarity:
    """The square that has a face where the bundle's training pictures have it."""
    return Similarity.fit(template.points[FITTED, :], landmarks[FITTED, :])


def lies_as(one: Similarity, other: Similarity, tolerance: float) -> bool:
    """Whether no corner of a square is farther from the other's than `tolerance` parts of its side."""
    apart = np.linalg.norm(one(CORNERS) - other(CORNERS), axis=1)
    return bool(apart.max() <= tolerance * other.scale)


def eye_distance(landmarks: Points) -> float:
    """In pixels."""
    return float(np.linalg.norm(landmarks[RIGHT_EYE] - landmarks[LEFT_EYE]))


def turned_by(landmarks: Points) -> float:
    """How far the tip of the nose is beside the middle of the eyes, in distances between these; + is to the right.

    About 0 for a face that looks at the camera, 0.5 where the tip is in front of an eye.
    """
    left, right, nose = _complex(landmarks)[[LEFT_EYE, RIGHT_EYE, NOSE]]
    return float(((nose - (left + right) / 2) / (right - left)).real) if left != right else math.inf


def _complex(points: Points) -> npt.NDArray[np.complex128]:
    return points[..., 0] + 1j * points[..., 1]
