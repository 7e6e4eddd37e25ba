"""Differences of arrays, as checks and manifests have them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]
Figures = dict[str, float]


def relative_error(found: Array, wanted: Array) -> float:
    """Largest difference relative to the largest value; as it is where all of them are zero, as scores may be."""
    return float(np.abs(found - wanted).max() / (np.abs(wanted).max() or 1.0))


def relative_lengths(found: Array, wanted: Array) -> npt.NDArray[np.floating]:
    """Length of each sample's difference relative to the sample's length: [N]."""
    axes = tuple(range(1, wanted.ndim))
    return np.sqrt(np.square(found - wanted).sum(axes) / np.square(wanted).sum(axes))


def within_one_level(found: Array, wanted: Array) -> float:
    """Share of uint8 values that differ by one at most."""
    return float((np.abs(found.astype(int) - wanted.astype(int)) <= 1).mean())
