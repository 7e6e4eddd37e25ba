"""A decoded photograph: cuts squares out of it at any position, size and angle, and resamples them back into it.

pictures.py decodes and encodes its bytes. Beyond its edges a photograph is continued by its mirror image, as the
training pictures are.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage

from serving.jobs import Image
from serving.photographs.alignment import CORNERS, Similarity, centred_square

Layers = npt.NDArray[np.float32]  # [H, W, C]
Box = tuple[int, int, int, int]  # left, top, right, bottom, whole pixels
_MARGIN = 3  # pixels around a cut, for the resampling filter


class Photograph:
    """A whole photograph: upright RGB pixels, uint8 [H, W, 3].

    written_by: a picture of the same pixels, in the same memory, if `picture` is read-only.
    """

    def __init__(self, picture: PillowImage.Image, written_by: PillowImage.Image | None = None) -> None:
        self._picture = picture
        self._written_by = written_by or picture

    @property
    def picture(self) -> PillowImage.Image:
        """The photograph itself, not a copy."""
        return self._picture

    @property
    def pixels(self) -> Image:
        """A copy of all pixels."""
        return np.asarray(self._picture)

    @property
    def width(self) -> int:
        return self._picture.width

    @property
    def height(self) -> int:
        return self._picture.height

    @property
    def centred_square(self) -> Similarity:
        return centred_square(self.width, self.height)

    def cut(self, place: Similarity, side: int, *, mirrored: bool = True) -> Image:
        """The square at `place`, resampled to uint8 [side, side, 3].

        A square that is shrunk is averaged first, against aliasing. mirrored False: black beyond the photograph's
        edges, and faster.
        """
        step = place.scale / side  # pixels of the photograph in one of the result
        finer = 2 if mirrored and step > 1.0 else 1
        reduced = max(1, math.floor(step / finer * 1.001))
        box = _box_around(place, _MARGIN * reduced + 1)
        part, corner = self._reduced_part(box, reduced, mirrored=mirrored)
        to_part = Similarity(1 / reduced, -corner / reduced).after(place)
        turn, shift = to_part.turn / (side * finer), to_part.shift
        coefficients = (turn.real, -turn.imag, shift.real, turn.imag, turn.real, shift.imag)
        filter_ = PillowImage.Resampling.BICUBIC if mirrored else PillowImage.Resampling.BILINEAR
        size = (side * finer, side * finer)
        square = part.transform(size, PillowImage.Transform.AFFINE, coefficients, filter_)
        return np.asarray(square.reduce(finer) if finer > 1 else square)

    def _reduced_part(self, box: Box, by: int, *, mirrored: bool) -> tuple[PillowImage.Image, complex]:
        """The pixels in a box, averaged over squares of `by` pixels, and the position of the part's top left corner."""
        left, top = (
            min(max(0, start), end - 1) // by * by
            for start, end in zip(box[:2], self._picture.size, strict=True)
        )
        inside = left, top, min(self.width, max(box[2], left + 1)), min(self.height, max(box[3], top + 1))
        part = self._picture.reduce(by, inside) if by > 1 else self._picture.crop(inside)
        if not mirrored:
            return part, complex(left, top)
        before = [max(0, -(-(inside[n] - box[n]) // by)) for n in (0, 1)]
        after = [max(0, -(-(box[n + 2] - inside[n + 2]) // by)) for n in (0, 1)]
        if not any((*before, *after)):
            return part, complex(left, top)
        margins = ((before[1], after[1]), (before[0], after[0]), (0, 0))
        padded = np.pad(np.asarray(part), margins, mode="symmetric")
        return PillowImage.fromarray(padded), complex(left - before[0] * by, top - before[1] * by)

    def covered(self, place: Similarity) -> Box:
        """The box of the photograph's pixels that the square at `place` covers; empty if it lies beside them."""
        left, top, right, bottom = _box_around(place, 1)
        box = max(0, left), max(0, top), min(self.width, right), min(self.height, bottom)
        return box if box[0] < box[2] and box[1] < box[3] else (0, 0, 0, 0)

    def spread(self, place: Similarity, layers: Layers, box: Box) -> Layers:
        """Resamples layers float32 [S, S, C] of the square at `place` to the photograph's pixels in a box.

        float32 [h, w, C], 0 outside the square.
        """
        side = layers.shape[0]
        inverse = place.inverse()
        turn, shift = inverse.turn * side, (inverse.turn * complex(*box[:2]) + inverse.shift) * side
        coefficients = (turn.real, -turn.imag, shift.real, turn.imag, turn.real, shift.imag)
        found = [
            np.asarray(
                PillowImage.fromarray(np.ascontiguousarray(layers[:, :, n])).transform(
                    (box[2] - box[0], box[3] - box[1]),
                    PillowImage.Transform.AFFINE,
                    coefficients,
                    PillowImage.Resampling.BICUBIC,
                )
            )
            for n in range(layers.shape[2])
        ]
        return np.stack(found, axis=2)

    def part(self, box: Box) -> Image:
        """A copy of the pixels in a box."""
        return np.asarray(self._picture.crop(box))

    def set_part(self, box: Box, pixels: Image) -> None:
        """Replaces the pixels in a box."""
        self._written_by.paste(PillowImage.fromarray(pixels), box[:2])


def _box_around(place: Similarity, margin: int) -> Box:
    """The upright box around a square, with a margin in pixels on each side."""
    corners = place(CORNERS)
    low, high = np.floor(corners.min(0)).astype(int) - margin, np.ceil(corners.max(0)).astype(int) + margin
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])
