"""A decoded photograph in its own colours: cuts sRGB squares out of it, and resamples results back into it.

formats/ decodes and encodes its bytes, colours.py converts colours. Beyond its edges a photograph is continued by its
mirror image, as the training pictures are.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage

from serving.jobs import Image
from serving.photographs.alignment import CORNERS, Similarity, centred_square
from serving.photographs.colours import Colours
from serving.photographs.formats.loading import bands

Layers = npt.NDArray[np.float32]  # [H, W, C]
Box = tuple[int, int, int, int]  # left, top, right, bottom, whole pixels
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # weights of red, green and blue (ITU-R BT.601)
_MARGIN = 3  # pixels around a cut, for the resampling filter
_ALPHA_MODES = ("LA", "RGBA")


class Photograph:
    """A whole photograph, upright.

    picture: in mode L, LA, RGB, RGBA or CMYK. lower: the lower 8 bits of 16-bit samples, in the same mode; `picture`
    has the upper ones. colours: its own; None: sRGB, or CMYK without a profile.
    """

    def __init__(
        self,
        picture: PillowImage.Image,
        lower: PillowImage.Image | None = None,
        colours: Colours | None = None,
    ) -> None:
        self.picture = picture
        self.lower = lower
        self.colours = colours

    @property
    def pixels(self) -> Image:
        """A copy of all pixels, uint8 [H, W] or [H, W, C]."""
        return np.asarray(self.picture)

    @property
    def width(self) -> int:
        return self.picture.width

    @property
    def height(self) -> int:
        return self.picture.height

    @property
    def centred_square(self) -> Similarity:
        return centred_square(self.width, self.height)

    # --- as the networks see it -----------------------------------------------------------------------------------

    def cut(self, place: Similarity, side: int, *, mirrored: bool = True, ground: int = 255) -> Image:
        """The square at `place`, resampled, in sRGB and on white; uint8 [side, side, 3].

        A square that is shrunk is averaged first, against aliasing. mirrored False: black beyond the photograph's
        edges, and faster. ground: the grey, 0 to 255, that is seen where the photograph is transparent.
        """
        step = place.scale / side  # pixels of the photograph in one of the result
        finer = 2 if mirrored and step > 1.0 else 1
        reduced = max(1, math.floor(step / finer * 1.001))
        box = _box_around(place, _MARGIN * reduced + 1)
        part, corner = self._reduced_part(box, reduced, ground, mirrored=mirrored)
        to_part = Similarity(1 / reduced, -corner / reduced).after(place)
        turn, shift = to_part.turn / (side * finer), to_part.shift
        coefficients = (turn.real, -turn.imag, shift.real, turn.imag, turn.real, shift.imag)
        filter_ = PillowImage.Resampling.BICUBIC if mirrored else PillowImage.Resampling.BILINEAR
        size = (side * finer, side * finer)
        square = part.transform(size, PillowImage.Transform.AFFINE, coefficients, filter_)
        square = square.reduce(finer) if finer > 1 else square
        # Colours in RGB are converted last, as there are fewest pixels.
        if self.colours is not None and self.colours.mode == "RGB":
            square = self.colours.to_srgb(square)
        return np.asarray(square)

    def _reduced_part(
        self, box: Box, by: int, ground: int, *, mirrored: bool
    ) -> tuple[PillowImage.Image, complex]:
        """The pixels in a box, averaged over squares of `by` pixels, and the position of the part's top left corner."""
        left, top = (
            min(max(0, start), end - 1) // by * by
            for start, end in zip(box[:2], self.picture.size, strict=True)
        )
        inside = left, top, min(self.width, max(box[2], left + 1)), min(self.height, max(box[3], top + 1))
        part = self._rgb_part(inside, by, ground)
        if not mirrored:
            return part, complex(left, top)
        before = [max(0, -(-(inside[n] - box[n]) // by)) for n in (0, 1)]
        after = [max(0, -(-(box[n + 2] - inside[n + 2]) // by)) for n in (0, 1)]
        if not any((*before, *after)):
            return part, complex(left, top)
        margins = ((before[1], after[1]), (before[0], after[0]), (0, 0))
        padded = np.pad(np.asarray(part), margins, mode="symmetric")
        return PillowImage.fromarray(padded), complex(left - before[0] * by, top - before[1] * by)

    def _rgb_part(self, box: Box, by: int, ground: int) -> PillowImage.Image:
        """The pixels in a box as RGB on a grey, averaged over squares of `by` pixels."""
        if self.picture.mode == "RGB":
            return self.picture.reduce(by, box) if by > 1 else self.picture.crop(box)
        left, top, right, bottom = box
        part = PillowImage.new("RGB", (-(-(right - left) // by), -(-(bottom - top) // by)))
        for start, band in bands(self.picture, top, bottom, by):
            rgb = flattened(band.crop((left, 0, right, band.height)), self.colours, ground)
            part.paste(rgb.reduce(by) if by > 1 else rgb, (0, (start - top) // by))
        return part

    # --- where results go -----------------------------------------------------------------------------------------

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

    def seen(self, box: Box) -> Layers:
        """The colours in a box as sRGB, float32 [h, w, 3], 0 to 255. Transparency is left out."""
        if self.colours is not None:
            return np.asarray(self.colours.to_srgb(_colours_of(self.picture.crop(box)))).astype(np.float32)
        own = self._own(box)[:, :, : len(_colour_mode(self.picture))]
        return own if own.shape[2] == 3 else np.repeat(own, 3, axis=2)

    def change(self, box: Box, change: Layers, replaced: Layers | None = None) -> None:
        """Adds to the colours in a box a change of sRGB values, float32 [h, w, 3]. Where it is 0, nothing changes.

        replaced: float32 [h, w, 1], where the photograph's own colour is replaced (1) and not only changed (0): there,
        what sRGB cannot show of it goes, too.
        """
        own, channels = self._own(box), len(_colour_mode(self.picture))
        values = own[:, :, :channels]
        if self.colours is not None:
            seen = self.seen(box)
            old, new = self._from_srgb(seen), self._from_srgb(seen + change)
            rest = values - old
            values[:] = new + (rest if replaced is None else rest * (1 - replaced))
        elif channels == 1:
            values += (change @ LUMA)[:, :, None]
        else:
            values += change
        self._set_own(box, own)

    def _from_srgb(self, values: Layers) -> Layers:
        assert self.colours is not None, "asked for with colours only"
        own = np.asarray(self.colours.from_srgb(PillowImage.fromarray(_as_uint8(values))))
        return own.reshape(*own.shape[:2], -1).astype(np.float32)

    def _own(self, box: Box) -> Layers:
        """A copy of the pixels in a box, with alpha if there is one, float32 [h, w, C], 0 to 255."""
        upper = np.array(self.picture.crop(box), np.float32)
        if self.lower is not None:
            upper = (upper * 256 + np.asarray(self.lower.crop(box), np.float32)) / np.float32(257)
        return upper.reshape(*upper.shape[:2], -1)

    def _set_own(self, box: Box, values: Layers) -> None:
        """Replaces the pixels in a box."""
        if self.lower is None:
            self._paste(self.picture, box, _as_uint8(values))
            return
        numbers = np.round(np.clip(values, 0.0, 255.0) * np.float32(257)).astype(np.uint16)
        self._paste(self.picture, box, (numbers >> 8).astype(np.uint8))
        self._paste(self.lower, box, (numbers & 255).astype(np.uint8))

    @staticmethod
    def _paste(picture: PillowImage.Image, box: Box, pixels: Image) -> None:
        part = PillowImage.frombytes(picture.mode, (box[2] - box[0], box[3] - box[1]), pixels.tobytes())
        picture.paste(part, box[:2])

    # --- other forms ----------------------------------------------------------------------------------------------

    def in_srgb(self) -> Photograph:
        """The photograph in sRGB with 8 bits, with its transparency. This one cannot be used afterwards."""
        if self.colours is None and self.picture.mode != "CMYK":
            return Photograph(self.picture)
        mode = "RGBA" if self.picture.mode in _ALPHA_MODES else "RGB"
        converted = self.picture
        if converted.mode != mode:
            converted = PillowImage.new(mode, self.picture.size)
        for start, band in bands(self.picture, 0, self.height):
            converted.paste(_as_srgb(band, self.colours), (0, start))
        return Photograph(converted)


def flattened(picture: PillowImage.Image, colours: Colours | None, ground: int = 255) -> PillowImage.Image:
    """A picture, or a band of one, as RGB on white, or on another grey: in sRGB, or, if its own colours are of RGB,
    still in those."""
    if colours is not None and colours.mode == "RGB":
        colours = None
    rgb = _as_srgb(picture, colours)
    if rgb.mode != "RGBA":
        return rgb
    below = PillowImage.new("RGBA", rgb.size, (ground, ground, ground, 255))
    return PillowImage.alpha_composite(below, rgb).convert("RGB")


def _as_srgb(picture: PillowImage.Image, colours: Colours | None) -> PillowImage.Image:
    """A picture, or a band of one, as RGB, or as RGBA if it has alpha."""
    mode = "RGBA" if picture.mode in _ALPHA_MODES else "RGB"
    if colours is None:
        return picture if picture.mode == mode else picture.convert(mode)
    rgb = colours.to_srgb(_colours_of(picture))
    if mode == "RGBA":
        rgb.putalpha(picture.getchannel("A"))
    return rgb


def _colour_mode(picture: PillowImage.Image) -> str:
    """The mode of a picture without its alpha; it has a letter for each channel."""
    return picture.mode[:-1] if picture.mode in _ALPHA_MODES else picture.mode


def _colours_of(picture: PillowImage.Image) -> PillowImage.Image:
    """A picture without its alpha."""
    # For RGBA `convert` leaves the colours as they are.
    return picture.convert(_colour_mode(picture)) if picture.mode in _ALPHA_MODES else picture


def _as_uint8(values: Layers) -> Image:
    return np.round(np.clip(values, 0.0, 255.0)).astype(np.uint8)


def _box_around(place: Similarity, margin: int) -> Box:
    """The upright box around a square, with a margin in pixels on each side."""
    corners = place(CORNERS)
    low, high = np.floor(corners.min(0)).astype(int) - margin, np.ceil(corners.max(0)).astype(int) + margin
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])
