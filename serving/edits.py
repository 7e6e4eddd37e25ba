"""Arithmetic on codes: moving along directions, seeds and truncation, and the checks of shapes and values.

Runs no graph. edited code = code + sum of strength * scale * vector.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from serving.bundle import Bundle, Direction
from serving.errors import InvalidCode, InvalidOption, UnknownDirection
from serving.jobs import Code, EditStep, Image, Region

MAX_STRENGTH = 100.0
MAX_TRUNCATION = 2.0
_MAX_CODE_VALUE = 1e4  # trained codes lie within some tens; far beyond, activations overflow


def check_codes(
    codes: npt.NDArray[np.float32], bundle: Bundle, what: str = "code"
) -> npt.NDArray[np.float32]:
    """[L, 512] or [N, L, 512] -> [N, L, 512]. Raises InvalidCode."""
    stacked = codes[None] if codes.ndim == 2 else codes
    if stacked.ndim != 3 or stacked.shape[1:] != (bundle.layers, bundle.code_size) or len(stacked) == 0:
        raise InvalidCode(
            f"{what} has shape {list(codes.shape)}; bundle {bundle.name} takes "
            f"[{bundle.layers}, {bundle.code_size}]."
        )
    # One pass: NaN and infinities fail this comparison, too.
    if not bool((np.abs(stacked) <= _MAX_CODE_VALUE).all()):
        raise InvalidCode(
            f"{what} has values that are not finite, or beyond {_MAX_CODE_VALUE:g}; send it as it came."
        )
    return np.ascontiguousarray(stacked, dtype=np.float32)


def check_edits(edits: tuple[EditStep, ...], bundle: Bundle, max_edits: int) -> None:
    """Raises UnknownDirection and InvalidOption. Done before any graph runs."""
    if len(edits) > max_edits:
        raise InvalidOption(f"{len(edits)} edits, the limit is {max_edits}; add some of them up.")
    for edit in edits:
        direction = bundle.directions.get(edit.direction)
        if direction is None:
            raise UnknownDirection(
                f"Bundle {bundle.name} has no direction {edit.direction[:80]!r}; it has "
                f"{', '.join(sorted(bundle.directions)) or 'none'}."
            )
        if not abs(edit.strength) <= MAX_STRENGTH:
            raise InvalidOption(
                f"The strength of {edit.direction} is {edit.strength}; it goes from {-MAX_STRENGTH:g} to "
                f"{MAX_STRENGTH:g} and means something from {direction.range[0]:g} to {direction.range[1]:g}."
            )
        if edit.layers and not set(edit.layers) & set(direction.layers):
            raise InvalidOption(
                f"{edit.direction} moves layers {_listed(direction.layers)}, none of {_listed(edit.layers)}; "
                "name some of its own, or none for all."
            )


def apply_edits(code: Code, edits: tuple[EditStep, ...], bundle: Bundle) -> Code:
    """The code after all edits, float32 [L, 512]. Edits that cancel out give the same code back, bit for bit."""
    moved = np.zeros(code.shape, dtype=np.float64)
    for edit in edits:
        direction = bundle.directions[edit.direction]
        moved += edit.strength * direction.scale * _within(direction, edit.layers)
    return (code.astype(np.float64) + moved).astype(np.float32)


def _within(direction: Direction, layers: tuple[int, ...]) -> npt.NDArray[np.float64]:
    vector = direction.vector.astype(np.float64)
    if layers:
        outside = [layer for layer in range(len(vector)) if layer not in layers]
        vector[outside] = 0.0
    return vector


def check_sampling(seeds: tuple[int, ...], truncation: float, max_codes: int) -> None:
    """Raises InvalidOption."""
    if not 1 <= len(seeds) <= max_codes:
        raise InvalidOption(f"{len(seeds)} seeds; give 1 to {max_codes}.")
    if any(not 0 <= seed < 2**64 for seed in seeds):
        raise InvalidOption("A seed is a whole number from 0 to 2^64 - 1.")
    if not (math.isfinite(truncation) and 0.0 <= truncation <= MAX_TRUNCATION):
        raise InvalidOption(f"truncation is {truncation}; it goes from 0 to {MAX_TRUNCATION:g}.")


def gaussian_inputs(seeds: tuple[int, ...], size: int) -> npt.NDArray[np.float32]:
    """z of each seed, float32 [N, size]: PCG64, drawn as float64, so that a seed means the same anywhere."""
    rows = [np.random.Generator(np.random.PCG64(seed)).standard_normal(size) for seed in seeds]
    return np.stack(rows).astype(np.float32)


def truncate(codes: npt.NDArray[np.float32], mean_code: Code, truncation: float) -> npt.NDArray[np.float32]:
    """mean + truncation * (code - mean), float32 [N, L, 512]."""
    return (mean_code + np.float32(truncation) * (codes - mean_code)).astype(np.float32)


def check_mixing(layers: tuple[int, ...], strength: float, bundle: Bundle) -> None:
    """Raises InvalidOption."""
    if not layers or not all(0 <= layer < bundle.layers for layer in layers):
        raise InvalidOption(
            f"Mixing takes layers 0 to {bundle.layers - 1} of the style, not {_listed(layers) or 'none'}."
        )
    if not 0.0 <= strength <= 1.0:
        raise InvalidOption(f"The strength of mixing is {strength}; it goes from 0 to 1.")


def mix_codes(base: Code, style: Code, layers: tuple[int, ...], strength: float) -> Code:
    """`base` with `layers` moved towards those of `style`, all the way at strength 1; float32 [L, 512]."""
    mixed, chosen = base.copy(), list(layers)
    if strength == 1.0:
        mixed[chosen] = style[chosen]
    else:
        mixed[chosen] += np.float32(strength) * (style[chosen] - base[chosen])
    return mixed


def codes_between(start: Code, end: Code, count: int) -> npt.NDArray[np.float32]:
    """`count` codes on the straight way in W+, evenly spaced, both ends exact; float32 [count, L, 512]."""
    positions = np.linspace(0.0, 1.0, count, dtype=np.float32)[:, None, None]
    return (1 - positions) * start + positions * end


def region_mask(region: Region, resolution: int) -> npt.NDArray[np.float32]:
    """1 inside, 0 outside, float32 [resolution, resolution, 1]. Raises InvalidOption."""
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


def paste(target: Image, context: Image, mask: npt.NDArray[np.float32]) -> Image:
    """The target where the mask is 1, the context where it is 0; uint8 [H, W, 3]."""
    return np.round(mask * target + (1.0 - mask) * context).astype(np.uint8)


def _listed(layers: tuple[int, ...]) -> str:
    return ", ".join(str(layer)[:12] for layer in sorted(set(layers))[:32])
