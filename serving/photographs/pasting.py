"""A result put back into the photograph that its code came of, in its place and without a seam.

Two ways. `change`: what an edit changed (edited - reconstruction) is added to the photograph, which keeps its own
detail however small the generator's pictures are; only where very much changed, that detail belongs to what is no
longer there and gives way. `replace`: the generator's face, its colours fitted to the photograph's where it fades out.
Either fades out, around a face or towards the border, and beyond that the photograph is untouched.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.jobs import Image
from serving.photographs.alignment import Similarity
from serving.photographs.photograph import Layers, Photograph

_FADE = 0.18  # of the side: from the border to where the result counts in full
_EDGE = 0.02  # of the side, along the border: not the result's at all
# A change of less than the first, in parts of 255, leaves the photograph its detail; of more than the second, none.
_DETAIL_STAYS, _DETAIL_GOES = 0.15, 0.40
# Of an aligned face, in parts of the side: middle and half axes of an oval from ear to ear, from the hair to the chin.
_OVAL_MIDDLE, _OVAL_AXES = (0.5, 0.58), (0.46, 0.5)
_OVAL_FULL = 0.6  # part of the oval's axes up to which the result counts in full
_RING_PLACES = 256  # at which colours are compared
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # of red, green and blue (ITU-R BT.601)
_COLOURLESS = 3.0  # parts of 255 that colours may differ from one tone's, root mean square: JPEG makes some
_TONE_PLACES = 20_000  # at which colours are looked at
_BLUR = 1.5  # pixels of the crop, over which a change is looked at


def paste_change(
    photograph: Photograph, place: Similarity, reconstruction: Image, edited: Image, *, face: bool
) -> Image:
    """uint8 [H, W, 3]: what lies between two pictures uint8 [S, S, 3] of the square at `place`, added there. `face`:
    only on the face that the square is aligned to."""
    before, after = reconstruction.astype(np.float32), edited.astype(np.float32)
    mask = soft_mask(len(before), face=face)
    changed = _blurred(np.abs(after - before).mean(2, keepdims=True)) / np.float32(255)
    gone = _smooth_step((changed - _DETAIL_STAYS) / (_DETAIL_GOES - _DETAIL_STAYS)) * mask
    box, spread = photograph.spread(place, np.concatenate([(after - before) * mask, before, gone], axis=2))
    own = photograph.part(box).astype(np.float32)
    change, rendered, gone_there = spread[:, :, :3], spread[:, :, 3:6], spread[:, :, 6:]
    change = change - gone_there * (own - rendered)
    tone = _tone(own)
    if tone is not None:  # the generator's colours have no place there
        change = (change @ _LUMA)[:, :, None] * tone
    return photograph.with_part(box, _as_pixels(own + change))


def paste_picture(
    photograph: Photograph, place: Similarity, aligned: Image, picture: Image, *, face: bool
) -> Image:
    """uint8 [H, W, 3]: a picture uint8 [S, S, 3] in the square at `place`, where the photograph has `aligned`."""
    fitted = _fitted_colours(aligned.astype(np.float32), picture.astype(np.float32), face=face)
    mask = soft_mask(len(picture), face=face)
    box, spread = photograph.spread(place, np.concatenate([fitted * mask, mask], axis=2))
    own = photograph.part(box).astype(np.float32)
    return photograph.with_part(box, _as_pixels(own * (1 - spread[:, :, 3:]) + spread[:, :, :3]))


def _tone(picture: Layers) -> npt.NDArray[np.float32] | None:
    """What each channel gains, float32 [3], when a photograph [H, W, 3] in black and white, or in one tone, grows
    lighter; None for one in colours. In one tone, channels are linear functions of the luma."""
    step = max(1, int((picture.size / 3 / _TONE_PLACES) ** 0.5))
    pixels = picture[::step, ::step].reshape(-1, 3)
    off = pixels - pixels.mean(0)
    luma = off @ _LUMA
    if luma.std() < _COLOURLESS:  # all alike: nothing to tell tones by
        return None
    slopes: npt.NDArray[np.float32] = luma @ off / (luma @ luma)
    colours = off - luma[:, None] * slopes
    return slopes if colours.std(0).max() < _COLOURLESS else None


@lru_cache(maxsize=8)
def soft_mask(side: int, *, face: bool) -> Layers:
    """How much of the result counts: float32 [S, S, 1], 1 in the middle (of the face), 0 at the border."""
    at = (np.arange(side, dtype=np.float32) + 0.5) / side
    inward = _smooth_step((np.minimum(at, 1 - at) - _EDGE) / _FADE)
    mask: Layers = inward[:, None] * inward[None, :]
    if face:
        x, y = ((at - middle) / axis for middle, axis in zip(_OVAL_MIDDLE, _OVAL_AXES, strict=True))
        mask = mask * _smooth_step((1 - np.hypot(x[None, :], y[:, None])) / (1 - _OVAL_FULL))
    return mask[:, :, None]


def _fitted_colours(aligned: Layers, picture: Layers, *, face: bool) -> Layers:
    """The picture [S, S, 3] plus a smooth surface that makes it the photograph's on the ring where it fades out; each
    place has the mean of the differences there, nearer ones counting more (cloning as of Farbman et al. 2009, with
    inverse squares of the distance for weights)."""
    rows, columns, weights = _ring_weights(len(picture), face=face)
    surface = weights @ (aligned - picture)[rows, columns]
    fitted: Layers = picture + surface.reshape(picture.shape)
    return fitted


@lru_cache(maxsize=4)
def _ring_weights(
    side: int, *, face: bool
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.float32]]:
    """Rows and columns of some of the places where the mask is neither 0 nor 1, and each pixel's weights of them."""
    mask = soft_mask(side, face=face)[:, :, 0]
    rows, columns = np.nonzero((mask > 0.05) & (mask < 0.8))
    chosen = np.linspace(0, len(rows) - 1, min(len(rows), _RING_PLACES)).astype(int)
    rows, columns = rows[chosen], columns[chosen]
    y, x = np.mgrid[:side, :side].reshape(2, -1, 1).astype(np.float32)
    weights = 1.0 / ((y - rows) ** 2 + (x - columns) ** 2 + (side / 16) ** 2)
    return rows, columns, (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def _blurred(values: Layers) -> Layers:
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
    x = np.clip(x, 0.0, 1.0)
    step: Layers = (x * x * (3 - 2 * x)).astype(np.float32)
    return step


def _as_pixels(values: Layers) -> Image:
    return np.round(np.clip(values, 0.0, 255.0)).astype(np.uint8)
