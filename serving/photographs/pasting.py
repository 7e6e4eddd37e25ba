"""Pastes a result into the photograph that its code was made from, in its place and without a seam.

Two ways. `change`: adds what the edit changed (edited - reconstruction) to the photograph, which keeps its own detail
however small the generator's pictures are. Where very much changed, the photograph's detail belongs to what is no
longer there, and is removed. `replace`: puts the generator's picture there, with its colours fitted to the
photograph's. Both fade out around the face, or towards the edge of the square; beyond, the photograph is untouched.
Where several results overlap, each counts as much as its own weight among theirs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.jobs import Image
from serving.photographs.alignment import Similarity
from serving.photographs.photograph import LUMA, Box, Layers, Photograph

_FADE = 0.18  # width over which the result fades out, in parts of the square's side
_EDGE = 0.02  # width along the square's edge without any of the result, in parts of its side
# A change below the first, as a fraction of 255, keeps the photograph's detail; above the second it removes it.
_DETAIL_STAYS, _DETAIL_GOES = 0.15, 0.40
# An oval around an aligned face, ear to ear and hair to chin: centre and half axes, in parts of the square's side.
_OVAL_MIDDLE, _OVAL_AXES = (0.5, 0.58), (0.46, 0.5)
_OVAL_FULL = 0.6  # up to this part of the oval's axes the result counts in full
_RING_PIXELS = 256  # at most so many pixels of the fade are used to fit colours
# Of 255, root mean square: a picture in one tone deviates by less; JPEG causes some of it.
_MAX_TONE_ERROR = 3.0
_TONE_PIXELS = 20_000  # about so many pixels are used to look for a tone
_BAND_PIXELS = 2**18
_BLUR = 1.5  # standard deviation, in pixels of the square


@dataclass(frozen=True, slots=True)
class Patch:
    """A result to paste into a photograph.

    place: the square that it was made from. before: the picture of the code before the edit, uint8 [S, S, 3]; None: no
    change is pasted but `after` itself. after: the picture of the result, the same shape. face: the square is aligned
    to a face, and only that face changes.
    """

    place: Similarity
    before: Image | None
    after: Image
    face: bool


def paste(photograph: Photograph, patches: Sequence[Patch]) -> None:
    """Pastes results into the photograph, in their order."""
    for number, patch in enumerate(patches):
        others = [other for n, other in enumerate(patches) if n != number]
        mask = _share(patch, others) if others else soft_mask(len(patch.after), face=patch.face)
        if patch.before is None:
            _paste_picture(photograph, patch.place, patch.after, mask, face=patch.face)
        else:
            _paste_change(photograph, patch.place, patch.before, patch.after, mask)


def _share(patch: Patch, others: Sequence[Patch]) -> Layers:
    """The weight of a patch beside others, float32 [S, S, 1]: where they overlap, its part of the sum of all weights
    times its own."""
    side = len(patch.after)
    own = soft_mask(side, face=patch.face)
    at = (np.arange(side) + 0.5) / side
    points = patch.place(np.stack(np.meshgrid(at, at), axis=-1))
    total = own.copy()
    for other in others:
        x, y = np.moveaxis(other.place.inverse()(points), -1, 0)
        total += _weight(x, y, face=other.face)[:, :, None]
    share: Layers = own * np.divide(own, total, out=np.zeros_like(own), where=total > 0)
    return share


def _paste_change(
    photograph: Photograph, place: Similarity, reconstruction: Image, edited: Image, mask: Layers
) -> None:
    """Adds the difference of two pictures, uint8 [S, S, 3], to the photograph's square at `place`."""
    before, after = reconstruction.astype(np.float32), edited.astype(np.float32)
    changed = _blurred(np.abs(after - before).mean(2, keepdims=True)) / np.float32(255)
    gone = _smooth_step((changed - _DETAIL_STAYS) / (_DETAIL_GOES - _DETAIL_STAYS)) * mask
    masked_change = (after - before) * mask
    covered = photograph.covered(place)
    tone = _tone(photograph, covered)
    for box in _bands(covered):
        change, gone_there = photograph.spread(place, masked_change, box), photograph.spread(place, gone, box)
        # Little changes in most places, and resampling takes most of the time.
        replaced = None
        if gone_there.any():
            replaced = np.clip(gone_there, 0.0, 1.0)
            change = change - gone_there * (photograph.seen(box) - photograph.spread(place, before, box))
        # A photograph in one tone stays in that tone: the generator's colours do not belong on it.
        if tone is not None:
            change = (change @ LUMA)[:, :, None] * tone
        photograph.change(box, change, replaced)


def _paste_picture(
    photograph: Photograph, place: Similarity, picture: Image, mask: Layers, *, face: bool
) -> None:
    """Puts `picture`, uint8 [S, S, 3], into the photograph's square at `place`."""
    aligned = photograph.cut(place, len(picture)).astype(np.float32)
    fitted = _fitted_colours(aligned, picture.astype(np.float32), face=face)
    layers = np.concatenate([fitted * mask, mask], axis=2)
    for box in _bands(photograph.covered(place)):
        spread = photograph.spread(place, layers, box)
        fitted_there, weight = spread[:, :, :3], spread[:, :, 3:]
        photograph.change(box, fitted_there - weight * photograph.seen(box), np.clip(weight, 0.0, 1.0))


def _bands(box: Box) -> Iterator[Box]:
    """A box in bands of whole rows: the layers of all of it could take 100 bytes for each pixel of the photograph."""
    left, top, right, bottom = box
    if left == right:
        return
    rows = max(1, _BAND_PIXELS // (right - left))
    for start in range(top, bottom, rows):
        yield left, start, right, min(bottom, start + rows)


def _tone(photograph: Photograph, box: Box) -> npt.NDArray[np.float32] | None:
    """For a photograph in black and white, or in one tone, in a box: the slope of each channel over the luma, [3].

    None for a photograph in colours. In one tone all channels are linear functions of the luma.
    """
    left, top, right, bottom = box
    step = max(1, int(((right - left) * (bottom - top) / _TONE_PIXELS) ** 0.5))
    rows = [photograph.seen((left, row, right, row + 1))[:, ::step] for row in range(top, bottom, step)]
    if not rows:
        return None
    pixels = np.concatenate(rows).reshape(-1, 3)
    off = pixels - pixels.mean(0)
    luma = off @ LUMA
    if luma.std() < _MAX_TONE_ERROR:
        return None  # all pixels are alike: no tone can be told
    slopes: npt.NDArray[np.float32] = luma @ off / (luma @ luma)
    colours = off - luma[:, None] * slopes
    return slopes if colours.std(0).max() < _MAX_TONE_ERROR else None


@lru_cache(maxsize=8)
def soft_mask(side: int, *, face: bool) -> Layers:
    """The weight of the result, float32 [S, S, 1]: 1 in the middle (of the face), 0 at the square's edge."""
    at = (np.arange(side, dtype=np.float32) + 0.5) / side
    return _weight(at[None, :], at[:, None], face=face)[:, :, None]


def _weight(x: npt.NDArray[Any], y: npt.NDArray[Any], *, face: bool) -> Layers:
    """The weight of the result at points of its square, in fractions of its side: arrays that broadcast."""
    inward_x, inward_y = (_smooth_step((np.minimum(at, 1 - at) - _EDGE) / _FADE) for at in (x, y))
    weight: Layers = inward_x * inward_y
    if face:
        (middle_x, middle_y), (axis_x, axis_y) = _OVAL_MIDDLE, _OVAL_AXES
        distance = np.hypot((x - middle_x) / axis_x, (y - middle_y) / axis_y)
        weight = weight * _smooth_step((1 - distance) / (1 - _OVAL_FULL))
    return weight


def _fitted_colours(aligned: Layers, picture: Layers, *, face: bool) -> Layers:
    """The picture [S, S, 3] with colours that meet the photograph's on the ring where it fades out.

    Adds a smooth surface: for each pixel the mean of the colour differences on the ring, weighted by the inverse
    square of the distance (as in mean-value cloning, Farbman et al. 2009).
    """
    rows, columns, weights = _ring_weights(len(picture), face=face)
    surface = weights @ (aligned - picture)[rows, columns]
    fitted: Layers = picture + surface.reshape(picture.shape)
    return fitted


@lru_cache(maxsize=4)
def _ring_weights(
    side: int, *, face: bool
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.float32]]:
    """Rows and columns of pixels on the ring where the mask fades out, and for each pixel of the square its weights."""
    mask = soft_mask(side, face=face)[:, :, 0]
    rows, columns = np.nonzero((mask > 0.05) & (mask < 0.8))
    chosen = np.linspace(0, len(rows) - 1, min(len(rows), _RING_PIXELS)).astype(int)
    rows, columns = rows[chosen], columns[chosen]
    y, x = np.mgrid[:side, :side].reshape(2, -1, 1).astype(np.float32)
    weights = 1.0 / ((y - rows) ** 2 + (x - columns) ** 2 + (side / 16) ** 2)
    return rows, columns, (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def _blurred(values: Layers) -> Layers:
    """[H, W, C] blurred with a Gaussian."""
    reach = int(3 * _BLUR)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / _BLUR) ** 2)
    kernel = (kernel / kernel.sum()).astype(np.float32)
    for axis in (0, 1):
        padding = [(reach, reach) if n == axis else (0, 0) for n in range(3)]
        padded = np.pad(values, padding, mode="edge")
        windows = np.lib.stride_tricks.sliding_window_view(padded, len(kernel), axis=axis)
        values = windows @ kernel
    return values


def _smooth_step(x: npt.NDArray[Any]) -> Layers:
    """Rises from 0 at x = 0 to 1 at x = 1, with slope 0 at both."""
    x = np.clip(x, 0.0, 1.0)
    step: Layers = (x * x * (3 - 2 * x)).astype(np.float32)
    return step
