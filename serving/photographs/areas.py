"""Areas of a picture, for diffusion and local edits: which places count, what goes where, how far pictures differ.

An area is float32 [H, W, 1]: 1 where a place is in it, 0 where it is not, and between on soft borders.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow
from PIL import ImageFilter

from serving.errors import InvalidOption
from serving.jobs import Image, Region
from serving.results import AreaChange, Losses

Area = npt.NDArray[np.float32]

_BORDER_SHARE = 1 / 16  # width of a soft border, in parts of the picture's side


def region_area(region: Region, resolution: int) -> Area:
    """1 inside, 0 outside, float32 [resolution, resolution, 1]. Raises InvalidOption."""
    sides = (region.left, region.top, region.right, region.bottom)
    left, top, right, bottom = (round(side * resolution) if 0.0 <= side <= 1.0 else -1 for side in sides)
    if min(left, top, right, bottom) < 0 or left >= right or top >= bottom:
        raise InvalidOption(
            f"The region {', '.join(f'{side:g}' for side in sides)} holds nothing; give left < right and top < bottom, "
            "each from 0 to 1, parts of the picture's sides."
        )
    area = np.zeros((resolution, resolution, 1), dtype=np.float32)
    area[top:bottom, left:right] = 1.0
    return area


def mask_area(mask: Image) -> Area:
    """As white as a mask uint8 [H, W, 3] is. Raises InvalidOption."""
    area: Area = mask.mean(axis=2, keepdims=True, dtype=np.float32) / np.float32(255)
    if not area.any():
        raise InvalidOption("The mask is black everywhere; make white the places that are meant.")
    return area


def soften(area: Area) -> Area:
    """The area with soft borders, half of them within it; what reaches to the picture's edge stays as it is there."""
    reach = round(len(area) * _BORDER_SHARE / 2)
    grey = Pillow.fromarray(np.round(area[:, :, 0] * 255).astype(np.uint8))
    soft = np.asarray(grey.filter(ImageFilter.BoxBlur(reach)), dtype=np.float32)
    return soft[:, :, None] / np.float32(255)


def paste(target: Image, context: Image, area: Area) -> Image:
    """The target in the area, the context elsewhere; uint8 [H, W, 3]."""
    return np.round(area * target + (1.0 - area) * context).astype(np.uint8)


def pixel_mse(one: Image, other: Image, area: Area | None = None) -> float:
    """Mean squared error on [-1, 1]; with an area, places count as much as they are in it. 0 where none does."""
    squares = np.subtract(one, other, dtype=np.float32)
    squares *= squares
    if area is None:
        return float(np.mean(squares)) / 127.5**2
    if not area.any():
        return 0.0
    return float(np.average(np.mean(squares, axis=2, keepdims=True), weights=area)) / 127.5**2


def area_change(source: Image, everywhere: Image, answer: Image, area: Area, losses: Losses) -> AreaChange:
    """How far the edit everywhere and the answer are from the source, in the area and outside of it."""
    outside = 1 - area
    return AreaChange(
        inside_mse_before=pixel_mse(source, everywhere, area),
        inside_mse_after=pixel_mse(source, answer, area),
        outside_mse_before=pixel_mse(source, everywhere, outside),
        outside_mse_after=pixel_mse(source, answer, outside),
        losses=losses,
    )
