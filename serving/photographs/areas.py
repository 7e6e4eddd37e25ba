"""Areas of a picture as masks, for semantic diffusion and local edits: making them, blending and comparing by them.

A mask is float32 [H, W, 1]: 1 inside the area, 0 outside, and values between on soft edges.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow
from PIL import ImageFilter

from serving.errors import InvalidOption
from serving.jobs import Image, Region
from serving.results import AreaChange, Losses

Mask = npt.NDArray[np.float32]  # [H, W, 1]

_EDGE_WIDTH = 1 / 16  # of a soft edge, in parts of the picture's side


def region_mask(region: Region, resolution: int) -> Mask:
    """The mask of a rectangle, float32 [resolution, resolution, 1]. Raises InvalidOption if it is empty."""
    sides = (region.left, region.top, region.right, region.bottom)
    left, top, right, bottom = (round(side * resolution) if 0.0 <= side <= 1.0 else -1 for side in sides)
    if min(left, top, right, bottom) < 0 or left >= right or top >= bottom:
        raise InvalidOption(
            f"The region {', '.join(f'{side:g}' for side in sides)} holds nothing; give left < right and top < bottom, "
            "each from 0 to 1, parts of the picture's sides."
        )
    mask = np.zeros((resolution, resolution, 1), dtype=np.float32)
    mask[top:bottom, left:right] = 1.0
    return mask


def picture_mask(picture: Image) -> Mask:
    """The mask of a picture uint8 [H, W, 3]: 1 where it is white. Raises InvalidOption if it is all black."""
    mask: Mask = picture.mean(axis=2, keepdims=True, dtype=np.float32) / np.float32(255)
    if not mask.any():
        raise InvalidOption("The mask is black everywhere; make white the places that are meant.")
    return mask


def soften(mask: Mask) -> Mask:
    """The mask with soft edges, half of their width inside. An area that reaches the picture's edge stays 1 there."""
    reach = round(len(mask) * _EDGE_WIDTH / 2)
    grey = Pillow.fromarray(np.round(mask[:, :, 0] * 255).astype(np.uint8))
    soft = np.asarray(grey.filter(ImageFilter.BoxBlur(reach)), dtype=np.float32)
    return soft[:, :, None] / np.float32(255)


def blend(inside: Image, outside: Image, mask: Mask) -> Image:
    """One picture inside the mask, another outside; uint8 [H, W, 3]."""
    return np.round(mask * inside + (1.0 - mask) * outside).astype(np.uint8)


def pixel_mse(one: Image, other: Image, mask: Mask | None = None) -> float:
    """Mean squared error on [-1, 1], weighted by the mask. 0 if the mask is 0 everywhere."""
    squares = np.subtract(one, other, dtype=np.float32)
    squares *= squares
    if mask is None:
        return float(np.mean(squares)) / 127.5**2
    if not mask.any():
        return 0.0
    return float(np.average(np.mean(squares, axis=2, keepdims=True), weights=mask)) / 127.5**2


def area_change(source: Image, unrestricted: Image, answer: Image, mask: Mask, losses: Losses) -> AreaChange:
    """Compares the source's picture with the unrestricted edit and with the answer, inside the mask and outside."""
    outside = 1 - mask
    return AreaChange(
        inside_mse_before=pixel_mse(source, unrestricted, mask),
        inside_mse_after=pixel_mse(source, answer, mask),
        outside_mse_before=pixel_mse(source, unrestricted, outside),
        outside_mse_after=pixel_mse(source, answer, outside),
        losses=losses,
    )
