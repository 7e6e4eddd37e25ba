"""Arithmetic on codes, without any graph: edits along directions, mixing, interpolation, seeds, labels, truncation;
checks.

edited code = code + sum over the edits of strength * scale * vector. An edit that keeps other directions uses only the
part of its vector that does not change their attributes.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from serving.bundle import Bundle, with_rows
from serving.errors import InvalidCode, InvalidOption, UnknownDirection
from serving.jobs import Code, EditStep
from serving.photographs.areas import Mask, resized

Vectors = npt.NDArray[np.float64]  # [L, 512]

MAX_STRENGTH = 100.0
MAX_TRUNCATION = 2.0
# If keeping other directions leaves less of a vector than this part of its length, nothing useful is left.
_MIN_REMAINDER = 0.01
_EPSILON = 1e-30  # against division by 0 for a kept direction that is zero in the layers that move
_MAX_CODE_VALUE = 1e4  # trained codes have values up to some tens; far beyond, activations overflow


def check_codes(
    codes: npt.NDArray[np.float32], bundle: Bundle, what: str = "code"
) -> npt.NDArray[np.float32]:
    """Checks shape and values: [L, 512] or [N, L, 512] -> float32 [N, L, 512]. Raises InvalidCode.

    Where the bundle's codes have additional rows, one without them gets rows of zeros.
    """
    stacked = codes[None] if codes.ndim == 2 else codes
    rows, size = bundle.code_shape
    if (
        stacked.ndim != 3
        or len(stacked) == 0
        or stacked.shape[1:] not in ((rows, size), (bundle.layers, size))
    ):
        names = " and ".join(group.name for group in bundle.groups)
        without = f", or [{bundle.layers}, {size}] without {names}" if names else ""
        raise InvalidCode(
            f"{what} has shape {list(codes.shape)}; bundle {bundle.name} takes [{rows}, {size}]{without}."
        )
    # The comparison is false for NaN and infinities, too.
    if not bool((np.abs(stacked) <= _MAX_CODE_VALUE).all()):
        raise InvalidCode(
            f"{what} has values that are not finite, or beyond {_MAX_CODE_VALUE:g}; send it as it came."
        )
    return np.ascontiguousarray(with_rows(stacked, rows), dtype=np.float32)


def check_edits(edits: tuple[EditStep, ...], bundle: Bundle, max_edits: int) -> None:
    """Raises UnknownDirection and InvalidOption. It is called before any graph runs."""
    if len(edits) > max_edits:
        raise InvalidOption(f"{len(edits)} edits, the limit is {max_edits}; add some of them up.")
    for edit in edits:
        direction, preset = bundle.directions.get(edit.direction), bundle.presets.get(edit.direction)
        if direction is None and preset is None:
            raise UnknownDirection(
                _unknown(edit.direction, bundle.name, (*bundle.directions, *bundle.presets))
            )
        if not abs(edit.strength) <= MAX_STRENGTH:
            ends = direction.range if direction else (0.0, 1.0)
            raise InvalidOption(
                f"The strength of {edit.direction} is {edit.strength}; it goes from {-MAX_STRENGTH:g} to "
                f"{MAX_STRENGTH:g} and means something from {ends[0]:g} to {ends[1]:g}."
            )
        moved = _layers_of(edit.direction, bundle)
        if edit.layers and not set(edit.layers) & moved:
            raise InvalidOption(
                f"{edit.direction} moves layers {_listed(moved)}, none of {_listed(edit.layers)}; "
                "name some of its own, or none for all."
            )
        _check_kept(edit, bundle)


def cut_to_range(edits: tuple[EditStep, ...], bundle: Bundle) -> tuple[EditStep, ...]:
    """The edits with each strength cut to the range of its direction, or of a preset to 0..1."""

    def cut(edit: EditStep) -> EditStep:
        least, most = (
            (0.0, 1.0) if edit.direction in bundle.presets else bundle.directions[edit.direction].range
        )
        return replace(edit, strength=min(max(edit.strength, least), most))

    return tuple(cut(edit) for edit in edits)


def apply_edits(
    code: Code, edits: tuple[EditStep, ...], bundle: Bundle, relabelled: Code | None = None
) -> Code:
    """The code after all edits, float32 [L, 512]. Edits that cancel out return the same code, bit for bit.

    relabelled: the code with other labels, from which the edits go on.

    Additional rows (detail, noise) fade with the distance: they were found for the picture as it was, and do not move
    with what an edit moves.
    """
    moved = np.zeros(code.shape, dtype=np.float64)
    if relabelled is not None:
        moved[: bundle.layers] = relabelled[: bundle.layers].astype(np.float64) - code[: bundle.layers]
    for edit in edits:
        moved += edit.strength * edit_vector(edit, bundle)
    return _moved(code.astype(np.float64), moved, bundle)


def follow_strokes(code: Code, followed: Code, cover: Mask, bundle: Bundle) -> Code:
    """The vectors of a code that was refined towards strokes, with the additional rows of the code before, float32
    [L, 512].

    cover: float32 [H, W, 1], how much the strokes cover. Detail and noise fade as in edits, and go where the strokes
    are: there they are of what was painted over.
    """
    moved = np.zeros(code.shape, dtype=np.float64)
    moved[: bundle.layers] = followed[: bundle.layers].astype(np.float64) - code[: bundle.layers]
    kept = code.astype(np.float64)
    for part in (part for group in bundle.groups for part in group.parts):
        maps = kept[part.rows].reshape(-1, part.side, part.side)
        maps = maps * (1 - resized(cover, part.side)[:, :, 0])
        kept[part.rows] = maps.reshape(-1, bundle.code_size)
    return _moved(kept, moved, bundle)


def _moved(code: Vectors, moved: Vectors, bundle: Bundle) -> Code:
    """The code plus a change of its vectors; its additional rows fade with how far that goes."""
    edited = code + moved
    for group in bundle.groups:
        edited[group.rows] *= math.exp(-edit_distance(moved, bundle) / group.fade)
    return edited.astype(np.float32)


def with_rows_of(code: Code, other: Code, bundle: Bundle) -> Code:
    """The code's vectors with another code's additional rows, float32 [L, 512]."""
    return np.concatenate([code[: bundle.layers], other[bundle.layers :]])


def edit_distance(moved: Vectors, bundle: Bundle) -> float:
    """How far a change of a code float64 [L, 512] goes: its root mean square, in standard deviations of sampled
    codes."""
    layers = slice(bundle.layers)
    return float(np.sqrt(np.mean((moved[layers] / (bundle.code_std[layers] + _EPSILON)) ** 2)))


def edit_vector(edit: EditStep, bundle: Bundle) -> Vectors:
    """What strength 1 of an edit adds to a code, float64 [L, 512], with its `layers` and `keep` applied.

    A preset's vector is the sum of its edits. Raises InvalidOption if nothing is left.
    """
    if edit.direction in bundle.presets:
        parts = bundle.presets[edit.direction].edits
        vector = sum(
            (part.strength * edit_vector(part, bundle) for part in parts),
            start=np.zeros(bundle.code_shape),
        )
    else:
        direction = bundle.directions[edit.direction]
        vector = direction.scale * direction.vector.astype(np.float64)
    if edit.layers:
        vector = _within(vector, edit.layers)
    return _without(vector, edit, bundle) if edit.keep else vector


def _without(vector: Vectors, edit: EditStep, bundle: Bundle) -> Vectors:
    """Removes from a vector [L, 512] what would change the attributes of the directions that an edit keeps.

    This is InterFaceGAN's conditional manipulation (Shen et al. 2020, section 3.3) on the layers that move. The result
    is orthogonal to the normals of the kept directions' boundaries. It would not do to make it orthogonal to the
    directions themselves: they are not the normals. A direction is the step across its boundary that is shortest in
    the Mahalanobis distance of codes. What is removed are such steps (`Direction.across`), so the result is the
    nearest vector in that distance.
    """
    kept, moving = [bundle.directions[name] for name in dict.fromkeys(edit.keep)], vector.any(axis=1)
    normals = np.stack([one.boundary[moving].ravel() for one in kept]).astype(np.float64)  # [K, D]
    steps = np.stack([one.across[moving].ravel() for one in kept]).astype(np.float64)
    steps /= np.linalg.norm(steps, axis=1, keepdims=True) + _EPSILON
    normals /= np.linalg.norm(normals, axis=1, keepdims=True) + _EPSILON
    whole = vector[moving].ravel()
    taken = np.linalg.lstsq(normals @ steps.T, normals @ whole)[0] @ steps
    left, crossing = whole - taken, np.abs(normals @ (whole - taken)).max()
    length = np.linalg.norm(whole)
    if np.linalg.norm(left) < _MIN_REMAINDER * length or crossing > 1e-6 * length:
        raise InvalidOption(
            f"Nothing is left of {edit.direction} beside {', '.join(edit.keep)}; keep less, or leave the edit out."
        )
    rest = np.zeros_like(vector)
    rest[moving] = left.reshape(-1, vector.shape[1])
    return rest


def _within(vector: Vectors, layers: tuple[int, ...]) -> Vectors:
    """The vector, zero outside the given layers."""
    narrowed = np.zeros_like(vector)
    # each once: indexing copies a layer as often as it is named
    chosen = [layer for layer in set(layers) if 0 <= layer < len(vector)]
    narrowed[chosen] = vector[chosen]
    return narrowed


def _layers_of(name: str, bundle: Bundle) -> set[int]:
    """The layers that a direction or a preset moves."""
    if name in bundle.directions:
        return set(bundle.directions[name].layers)
    parts = bundle.presets[name].edits
    return set().union(*(set(part.layers or _layers_of(part.direction, bundle)) for part in parts))


def _check_kept(edit: EditStep, bundle: Bundle) -> None:
    """Raises UnknownDirection and InvalidOption."""
    for name in edit.keep:
        if name in bundle.presets:
            made_of = ", ".join(part.direction for part in bundle.presets[name].edits)
            raise InvalidOption(
                f"keep takes directions, and {name} is a preset of {made_of}; name those to keep."
            )
        if name not in bundle.directions:
            raise UnknownDirection(_unknown(name, bundle.name, bundle.directions))
        if name == edit.direction:
            raise InvalidOption(
                f"{name} cannot change and be kept; take it out of its own keep, or leave it out."
            )
    if edit.keep:
        edit_vector(edit, bundle)  # raises InvalidOption if nothing is left


def _unknown(name: str, bundle: str, known: Iterable[str]) -> str:
    return f"Bundle {bundle} has no direction {name[:80]!r}; it has {', '.join(sorted(known)) or 'none'}."


def check_sampling(seeds: tuple[int, ...], truncation: float, max_codes: int) -> None:
    """Raises InvalidOption."""
    if not 1 <= len(seeds) <= max_codes:
        raise InvalidOption(f"{len(seeds)} seeds; give 1 to {max_codes}.")
    if any(not 0 <= seed < 2**64 for seed in seeds):
        raise InvalidOption("A seed is a whole number from 0 to 2^64 - 1.")
    if not (math.isfinite(truncation) and 0.0 <= truncation <= MAX_TRUNCATION):
        raise InvalidOption(f"truncation is {truncation}; it goes from 0 to {MAX_TRUNCATION:g}.")


def check_label(label: Mapping[str, float], bundle: Bundle, *, of_code: bool) -> None:
    """Raises InvalidOption. of_code: it is to change the label of a code; otherwise codes are made with it."""
    if label and not bundle.labels:
        raise InvalidOption(
            f"Bundle {bundle.name} has no labels, as its generator was trained without; leave label out."
        )
    names = [known.name for known in bundle.labels]
    for name, value in label.items():
        if name not in names:
            raise InvalidOption(
                f"Bundle {bundle.name} has no label {name[:80]!r}; it has {', '.join(names)}."
            )
        if not 0.0 <= value <= 1.0:
            raise InvalidOption(f"The label {name} is {value}; it goes from 0 to 1.")
    if label and of_code and "relabeller" not in bundle.graphs:
        raise InvalidOption(
            f"Bundle {bundle.name} takes labels in Sample only: its mapping cannot be undone, so that no code's "
            "labels can be changed; edit along a direction, or sample the seed again with another label."
        )


def drawn_labels(
    seeds: tuple[int, ...], label: Mapping[str, float], bundle: Bundle
) -> npt.NDArray[np.float32]:
    """The labels of each seed's sample, float32 [N, K]: those that are given, and the others drawn by their frequency.

    As z, they are the same on every machine, and z is the same whatever is given.
    """
    frequency = np.array([known.frequency for known in bundle.labels])
    rows = [
        np.random.Generator(np.random.PCG64([seed, 1])).random(len(frequency)) < frequency for seed in seeds
    ]
    drawn = np.stack(rows).astype(np.float32)
    for number, known in enumerate(bundle.labels):
        if known.name in label:
            drawn[:, number] = label[known.name]
    return drawn


def wanted_labels(label: Mapping[str, float], bundle: Bundle) -> npt.NDArray[np.float32]:
    """The relabeller's input float32 [1, K]: the labels that are given, and -1 for those that stay."""
    return np.array([[label.get(known.name, -1.0) for known in bundle.labels]], np.float32)


def gaussian_inputs(seeds: tuple[int, ...], size: int) -> npt.NDArray[np.float32]:
    """The Gaussian z of each seed, float32 [N, size].

    It is drawn by PCG64 in float64, so that a seed gives the same z on every machine.
    """
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


def rows_of_layers(layers: tuple[int, ...], bundle: Bundle) -> tuple[int, ...]:
    """The rows of a code that go with layers: their own, and those of the maps that are added at one of them."""
    parts = [part for group in bundle.groups for part in group.parts if part.layer in layers]
    return (*layers, *(row for part in parts for row in range(part.rows.start, part.rows.stop)))


def mix_codes(base: Code, style: Code, rows: tuple[int, ...], strength: float) -> Code:
    """`base` with `rows` moved towards those of `style`, all the way at strength 1; float32 [L, 512]."""
    # each once: indexing copies a row as often as it is named
    mixed, chosen = base.copy(), list(set(rows))
    if strength == 1.0:
        mixed[chosen] = style[chosen]
    else:
        mixed[chosen] += np.float32(strength) * (style[chosen] - base[chosen])
    return mixed


def interpolate_codes(
    start: Code, end: Code, count: int, part: slice = slice(None)
) -> npt.NDArray[np.float32]:
    """`count` evenly spaced codes on the straight line in W+, both ends exact; a part of them, float32 [N, L, 512]."""
    positions = np.linspace(0.0, 1.0, count, dtype=np.float32)[part, None, None]
    return (1 - positions) * start + positions * end


def _listed(layers: Collection[int]) -> str:
    """Layers for a message: at most 32, each at most 12 digits."""
    return ", ".join(str(layer)[:12] for layer in sorted(set(layers))[:32])
