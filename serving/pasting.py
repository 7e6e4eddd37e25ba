"""A result put back into the photograph that its code came of, in its place and without a seam.

Two ways. `change`: what an edit changed (edited - reconstruction) is added to the photograph, which keeps its own detail
where nothing changed, however small the generator's pictures are; where much changed, that detail belongs to what is no
longer there and gives way. `replace`: the generator's face, its colours fitted to the photograph's along the border.
Either fades out towards the square's border. The result is the photograph itself where the mask is 0.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.alignment import Similarity
from serving.jobs import Image
from serving.photograph import Layers, Photograph

_FADE = 0.18  # of the side: from the border to where the result counts in full
_EDGE = 0.02  # of the side, along the border: not the result's at all
# A change of less than the first, in parts of 255, leaves the photograph its detail; of more than the second, none.
_DETAIL_STAYS, _DETAIL_GOES = 0.08, 0.30
_BLUR = 1.5  # pixels of the crop, over which a change is looked at


def paste_change(photograph: Photograph, place: Similarity, reconstruction: Image, edited: Image) -> Image:
    """uint8 [H, W, 3]: what lies between two pictures uint8 [S, S, 3] of the square at `place`, added there."""
    before, after = reconstruction.astype(np.float32), edited.astype(np.float32)
    mask = soft_mask(len(before))
    changed = _blurred(np.abs(after - before).mean(2, keepdims=True)) / np.float32(255)
    gone = _smooth_step((changed - _DETAIL_STAYS) / (_DETAIL_GOES - _DETAIL_STAYS)) * mask
    box, spread = photograph.spread(place, np.concatenate([(after - before) * mask, before, gone], axis=2))
    own = photograph.part(box).astype(np.float32)
    change, rendered, gone_there = spread[:, :, :3], spread[:, :, 3:6], spread[:, :, 6:]
    return photograph.with_part(box, _as_pixels(own + change - gone_there * (own - rendered)))


def paste_picture(photograph: Photograph, place: Similarity, aligned: Image, picture: Image) -> Image:
    """uint8 [H, W, 3]: a picture uint8 [S, S, 3] in the square at `place`; `aligned` is what the photograph has there."""
    fitted = picture.astype(np.float32) + _membrane(aligned.astype(np.float32) - picture.astype(np.float32))
    mask = soft_mask(len(picture))
    box, spread = photograph.spread(place, np.concatenate([fitted * mask, mask], axis=2))
    own = photograph.part(box).astype(np.float32)
    return photograph.with_part(box, _as_pixels(own * (1 - spread[:, :, 3:]) + spread[:, :, :3]))


@lru_cache(maxsize=8)
def soft_mask(side: int) -> Layers:
    """How much of the result counts: float32 [S, S, 1], 1 in the middle, 0 at the border, corners rounded."""
    at = (np.arange(side, dtype=np.float32) + 0.5) / side
    inward = _smooth_step((np.minimum(at, 1 - at) - _EDGE) / _FADE)
    mask: Layers = (inward[:, None] * inward[None, :])[:, :, None]
    return mask


def _membrane(difference: Layers) -> Layers:
    """A smooth surface that is `difference` [S, S, C] along the border: each place has the mean of the border's values,
    nearer ones counting more (a discrete form of Farbman et al. 2009's cloning without an equation to solve)."""
    side = len(difference)
    rows, columns, weights = _border_weights(side)
    surface: Layers = (weights @ difference[rows, columns]).reshape(difference.shape).astype(np.float32)
    return surface


@lru_cache(maxsize=4)
def _border_weights(
    side: int,
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.float32]]:
    """Rows and columns of the border's pixels, at most 256 of them, and each pixel's weights of them [S * S, B]."""
    last = side - 1
    edge = np.arange(last)
    rows = np.concatenate([np.zeros(last, int), edge, np.full(last, last), last - edge])
    columns = np.concatenate([edge, np.full(last, last), last - edge, np.zeros(last, int)])
    step = max(1, len(rows) // 256)
    rows, columns = rows[::step], columns[::step]
    y, x = np.mgrid[:side, :side].reshape(2, -1, 1).astype(np.float32)
    weights = 1.0 / ((y - rows) ** 2 + (x - columns) ** 2 + 1.0)
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
