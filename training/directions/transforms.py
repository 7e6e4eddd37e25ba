"""Changes of a picture that walks in code space imitate, each with how far it went as it is read off the pictures.

Jahanian, Chai, Isola, "On the 'steerability' of generative adversarial networks" (ICLR 2020, arXiv 1907.07171). A
strength of 1 is the amount that a transform's label states.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from training.faces.alignment import SURE, Points, surest_faces
from training.faces.face_detector import LANDMARKS
from training.run_folders.picture_grid import to_uint8

Values = npt.NDArray[np.float64]  # [N]

ZOOM = 1.1  # factor of a strength of 1
SHIFT = 0.05  # share of a side
ROTATION = 5.0  # degrees
LIGHT = 0.05  # share of the range from black to white
SATURATION = 1.2  # factor
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601)


def luma(images: Tensor) -> Tensor:
    """The grey picture float [N, 1, H, W] of pictures float [N, 3, H, W], in the same range."""
    return (images * torch.tensor(LUMA).to(images)[:, None, None]).sum(1, keepdim=True)


# --- what is seen on pictures -------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """Pictures, and the landmarks of their faces."""

    images: Tensor
    """float [N, 3, H, W] in [-1, 1]"""
    faces: npt.NDArray[np.bool_]
    """Which have a face, [N]."""
    points: Points
    """float64 [N, 5, 2], shares of a side; NaN where there is no face."""


def see(images: Tensor, *, faces_expected: bool = True) -> Seen:
    """Look for the faces of pictures float [N, 3, H, W] in [-1, 1], if any are expected there."""
    if not faces_expected:
        return Seen(images, np.zeros(len(images), bool), np.full((len(images), len(LANDMARKS), 2), np.nan))
    scores, points = surest_faces(to_uint8(images))
    faces = scores > SURE
    return Seen(images, faces, np.where(faces[:, None, None], points, np.nan))


def _eyes(seen: Seen) -> npt.NDArray[np.complex128]:
    """From the eye on the picture's left to that on its right, complex [N]."""
    apart = seen.points[:, 1] - seen.points[:, 0]
    return apart[:, 0] + 1j * apart[:, 1]


def _eye_distance(before: Seen, after: Seen) -> Values:
    return np.log(abs(_eyes(after)) / abs(_eyes(before))) / math.log(ZOOM)


def _eye_angle(before: Seen, after: Seen) -> Values:
    return np.degrees(np.angle(_eyes(after) / _eyes(before))) / ROTATION


def _landmarks_moved(axis: int) -> Callable[[Seen, Seen], Values]:
    return lambda before, after: (after.points - before.points)[:, :, axis].mean(1) / SHIFT


def _channel_gained(channel: int) -> Callable[[Seen, Seen], Values]:
    # A unit of light is twice as large in [-1, 1].
    return lambda before, after: _mean((after.images - before.images)[:, channel]) / (2 * LIGHT)


def _luma_gained(before: Seen, after: Seen) -> Values:
    return _mean(luma(after.images - before.images)) / (2 * LIGHT)


def _colour_gained(before: Seen, after: Seen) -> Values:
    spread = [_mean((seen.images - luma(seen.images)).square()) ** 0.5 for seen in (before, after)]
    return np.log(spread[1] / spread[0]) / math.log(SATURATION)


def _mean(images: Tensor) -> Values:
    return images.flatten(1).mean(1).double().numpy()


# --- the transforms -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Transform:
    """A change of pictures that has a strength."""

    label: str
    """What a strength of 1 does."""
    apply: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    """Pictures float [N, 3, H, W] in [-1, 1] and strengths float [N] -> the changed pictures in [-1, 1], and a mask
    float [N, 1, H, W] that is 0 where the change does not say what is to be seen."""
    measure: Callable[[Seen, Seen], Values]
    """Strengths float64 [N] read off pictures before and after; NaN where they cannot be read."""


def _placed(to_source: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """A transform that moves pixels: strengths [N] -> maps float [N, 2, 3] from the result's places to the source's.

    Places are x, y from -1 to 1, y downwards.
    """

    def apply(images: Tensor, strengths: Tensor) -> tuple[Tensor, Tensor]:
        grid = F.affine_grid(to_source(strengths).to(images), list(images.shape), align_corners=False)
        # Cubic, as a linear one blurs, which a walk would learn too.
        moved = F.grid_sample(images, grid, mode="bicubic", padding_mode="border", align_corners=False)
        inside = (grid.abs() <= 1).all(3, keepdim=True).permute(0, 3, 1, 2)
        return moved.clamp(-1, 1), inside.to(images)

    return apply


def _rows(a: Tensor, b: Tensor, x: Tensor, c: Tensor, d: Tensor, y: Tensor) -> Tensor:
    return torch.stack([torch.stack([a, b, x], 1), torch.stack([c, d, y], 1)], 1)


def _zoomed(strength: Tensor) -> Tensor:
    inverse, none = ZOOM**-strength, torch.zeros_like(strength)
    return _rows(inverse, none, none, none, inverse, none)


def _shifted(strength: Tensor, axis: int) -> Tensor:
    one, none, move = torch.ones_like(strength), torch.zeros_like(strength), -2 * SHIFT * strength
    return _rows(one, none, move if axis == 0 else none, none, one, move if axis == 1 else none)


def _rotated(strength: Tensor) -> Tensor:
    angle, none = torch.deg2rad(ROTATION * strength), torch.zeros_like(strength)
    return _rows(angle.cos(), angle.sin(), none, -angle.sin(), angle.cos(), none)


def _recoloured(
    change: Callable[[Tensor, Tensor], Tensor],
) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """A transform that leaves pixels where they are."""

    def apply(images: Tensor, strengths: Tensor) -> tuple[Tensor, Tensor]:
        changed = change(images, strengths.to(images)[:, None, None, None])
        return changed.clamp(-1, 1), torch.ones_like(images[:, :1])

    return apply


def _lit(red: float, green: float, blue: float) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    def change(images: Tensor, strength: Tensor) -> Tensor:
        return images + 2 * LIGHT * strength * torch.tensor([red, green, blue]).to(images)[:, None, None]

    return _recoloured(change)


def _saturated(images: Tensor, strength: Tensor) -> Tensor:
    grey = luma(images)
    return grey + SATURATION**strength * (images - grey)


TransformName = Literal[
    "zoom", "shift-x", "shift-y", "rotate", "brightness", "saturation", "red", "green", "blue"
]
TRANSFORMS: dict[TransformName, Transform] = {
    "zoom": Transform("Zoom (10 % larger)", _placed(_zoomed), _eye_distance),
    "shift-x": Transform(
        "Shift right (5 % of the side)", _placed(lambda strength: _shifted(strength, 0)), _landmarks_moved(0)
    ),
    "shift-y": Transform(
        "Shift down (5 % of the side)", _placed(lambda strength: _shifted(strength, 1)), _landmarks_moved(1)
    ),
    "rotate": Transform("Rotate (5 degrees clockwise)", _placed(_rotated), _eye_angle),
    "brightness": Transform("Brightness (5 % of white)", _lit(1, 1, 1), _luma_gained),
    "saturation": Transform("Saturation (20 % more)", _recoloured(_saturated), _colour_gained),
    "red": Transform("Red (5 % of its range)", _lit(1, 0, 0), _channel_gained(0)),
    "green": Transform("Green (5 % of its range)", _lit(0, 1, 0), _channel_gained(1)),
    "blue": Transform("Blue (5 % of its range)", _lit(0, 0, 1), _channel_gained(2)),
}
