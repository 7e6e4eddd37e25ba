"""What callers draw on a picture: areas, as masks for semantic diffusion and local edits, and strokes. Where a drawing
lies; making masks and strokes of it, blending and comparing by them.

A mask is float32 [H, W, 1]: 1 inside the area, 0 outside, and values between on soft edges.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow
from PIL import ImageFilter

from serving.errors import InvalidOption, InvalidPicture
from serving.jobs import Image, Origin, Region
from serving.photographs.alignment import Similarity, centred_square
from serving.results import AreaChange, Losses

Mask = npt.NDArray[np.float32]  # [H, W, 1]

_EDGE_WIDTH = 1 / 16  # of a soft edge, in parts of the picture's side
_LEAST_COVER = 1 / 32  # below, nothing is seen of a stroke
# With more weight they are copied as they are, and codes leave the domain; with less, small ones are not followed.
_LEAST_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Strokes:
    """What is painted onto a picture: colours uint8 [H, W, 3], and a mask of how much they cover."""

    colours: Image
    cover: Mask

    def painted_on(self, picture: Image) -> Image:
        """A picture uint8 [H, W, 3] with the strokes on it."""
        return blend(self.colours, picture, self.cover)

    def weights(self) -> Mask:
        """The weight of each pixel in a refinement. Strokes have a tenth of the whole, however small they are."""
        covered = float(self.cover.mean())
        share = max(_LEAST_SHARE, covered)
        return (self.cover * share / covered + (1 - self.cover) * (1 - share) / (1 - covered)).astype(
            np.float32
        )


def drawing_place(size: tuple[int, int], origin: Origin | None) -> Similarity:
    """Where the encoder's square lies on a drawing of width and height `size`, in its pixels.

    A drawing of the photograph's size lies on the photograph, a square one of another size on the encoder's square.
    origin: the photograph, if there is one. Raises InvalidPicture for a drawing of neither kind: nobody can say where
    it lies.
    """
    placement = None if origin is None else origin.placement
    if placement is not None and size == (placement.width, placement.height):
        return Similarity.of_corners(placement.corners)
    if size[0] != size[1]:
        photograph = f" ({placement.width} x {placement.height})" if placement else ""
        raise InvalidPicture(
            f"It has {size[0]} x {size[1]} pixels; send one of the photograph's size{photograph}, or a square one, "
            "which lies on the square that is encoded."
        )
    return centred_square(*size)


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


def picture_strokes(on_black: Image, on_white: Image) -> Strokes:
    """The strokes of a picture with transparency, seen on black and on white; uint8 [H, W, 3] each.

    Raises InvalidOption if it is transparent everywhere, or nowhere.
    """
    shown = on_black.astype(np.float32)
    cover: Mask = 1 - (on_white - shown).mean(axis=2, keepdims=True) / np.float32(255)
    cover = np.where(cover < _LEAST_COVER, np.float32(0), np.minimum(cover, 1))
    if not cover.any():
        raise InvalidOption(
            "The strokes are transparent everywhere on the square that is encoded; paint something there."
        )
    if cover.all():
        raise InvalidOption(
            "The strokes cover all of the picture; send a PNG or WebP that is transparent where the picture stays."
        )
    colours = np.round(np.minimum(shown / np.maximum(cover, _LEAST_COVER), 255)).astype(np.uint8)
    return Strokes(colours, cover)


def soften(mask: Mask) -> Mask:
    """The mask with soft edges, half of their width inside. An area that reaches the picture's edge stays 1 there."""
    reach = round(len(mask) * _EDGE_WIDTH / 2)
    grey = Pillow.fromarray(np.round(mask[:, :, 0] * 255).astype(np.uint8))
    soft = np.asarray(grey.filter(ImageFilter.BoxBlur(reach)), dtype=np.float32)
    return soft[:, :, None] / np.float32(255)


def resized(mask: Mask, side: int) -> Mask:
    """The mask float32 [side, side, 1], averaged over what its pixels cover."""
    grey = Pillow.fromarray(np.ascontiguousarray(mask[:, :, 0]))
    return np.asarray(grey.resize((side, side), Pillow.Resampling.BOX), dtype=np.float32)[:, :, None]


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
