"""What the gateway measures beside a picture: where its faces are, where a code's crop was, how an inversion went."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

Points: TypeAlias = tuple[tuple[float, float], ...]
"""x and y of each point, in pixels of the upright picture (after its EXIF orientation)."""


@dataclass(frozen=True)
class Face:
    """A face on a picture.

    Attributes:
        box: left, top, right, bottom in pixels of the upright picture.
        score: the detector's confidence, 0..1.
        landmarks: eyes, tip of the nose, corners of the mouth; left before right, as on the picture.
        corners: of the square that would be edited, clockwise from the face's own top left.
        roll_degrees: clockwise.
        unusable: why the face cannot be edited and what to do; empty where it can be.
    """

    box: tuple[float, float, float, float]
    score: float
    landmarks: Points
    corners: Points
    roll_degrees: float
    unusable: str


@dataclass(frozen=True)
class FoundFaces:
    """The faces on a picture, the largest first; `width` and `height` are the upright picture's, in pixels."""

    bundle: str
    faces: tuple[Face, ...]
    width: int
    height: int


@dataclass(frozen=True)
class Placement:
    """The square of a photograph that was encoded.

    Attributes:
        alignment: what was done, `"face"` or `"centre-crop"`.
        face, faces: which face, of how many; 0 of 0 where no faces were looked for.
        box, landmarks: of the face; None and empty without one.
        corners, roll_degrees: of the square, as in `Face`.
        width, height: the upright picture's, in pixels.
    """

    alignment: str
    face: int
    faces: int
    box: tuple[float, float, float, float] | None
    landmarks: Points
    corners: Points
    roll_degrees: float
    width: int
    height: int


@dataclass(frozen=True)
class Losses:
    """How an inversion went.

    Attributes:
        pixel_mse_before, pixel_mse_after: mean squared error against the picture, on [-1, 1], of the encoder's code
            and of the code that was answered.
        refine_loss_before, refine_loss_after: the refinement's own objective; 0 where no step was done.
        steps_done: refinement steps.
        stop_reason: `"not_refined"`, `"steps_done"`, `"converged"`, `"deadline"`, `"diverged"`, or `"pressure"` where
            the gateway was busy and `allow_fewer_steps` was set.
    """

    pixel_mse_before: float
    pixel_mse_after: float
    refine_loss_before: float
    refine_loss_after: float
    steps_done: int
    stop_reason: str


@dataclass(frozen=True)
class AreaChange:
    """How well an edit was confined to its area: mean squared differences to the source's picture, on [-1, 1].

    Attributes:
        inside_mse_before, inside_mse_after: within the area; `before` for the unconfined edit, `after` for the answer.
        outside_mse_before, outside_mse_after: the same outside of the area.
        losses: of the refinement; its target is the unconfined edit within the area and the source outside.
    """

    inside_mse_before: float
    inside_mse_after: float
    outside_mse_before: float
    outside_mse_after: float
    losses: Losses
