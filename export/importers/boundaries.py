"""Boundaries of other projects: InterFaceGAN's arrays, and idinvert's dicts with the layers to move.

They are `.npy` files of [512], [1, 512], [L, 512] or [1, L, 512], or of {"boundary": such an array, "meta_data":
{"manipulate_layers": layers}}. They do not say which attribute they belong to, nor for which generator and space they
were found. Only boundaries among codes (W or W+) of the very same generator mean anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from indomain.unpickling.values import Array
from training.directions.directions import (
    DOMAIN_FLOOR,
    READ,
    CodeSpace,
    Direction,
    add_directions,
)
from training.run_folders.checkpoint import CheckpointError
from training.run_folders.trained_inversion import load_inversion


@dataclass(frozen=True)
class Boundary:
    """A boundary as its file has it."""

    normal: Tensor
    """Its normal, float32 [512] or [L, 512]."""
    layers: tuple[int, ...] = ()
    """Layers to move; none named means all."""


def find(content: Any) -> Boundary | None:
    """The boundary in a file's content, or None if it holds none. Raises CheckpointError for one that is no use."""
    # An array of one object.
    if isinstance(content, list) and len(content) == 1:
        content = content[0]
    layers: tuple[int, ...] = ()
    if isinstance(content, dict):
        if "boundary" not in content:
            return None
        about = content.get("meta_data")
        space = str(about.get("latent_space_type", about.get("space", ""))) if isinstance(about, dict) else ""
        if space.lower() == "z":
            raise CheckpointError("it is a boundary among z; only those among codes (W or W+) can be added")
        named = about.get("manipulate_layers", ()) if isinstance(about, dict) else ()
        named = getattr(named, "value", named)
        if isinstance(named, str):
            raise CheckpointError(f"its manipulate_layers are text, not numbers: {named[:80]!r}")
        try:
            layers = tuple(int(layer) for layer in named)
        except (TypeError, ValueError):
            raise CheckpointError(f"its manipulate_layers are no numbers: {named!r:.80}") from None
        content = content["boundary"]
    normal = content.value if isinstance(content, Array) else content
    if not isinstance(normal, np.ndarray) or normal.dtype.kind != "f":
        return None
    if normal.ndim > 1 and normal.shape[0] == 1:
        normal = normal[0]
    if normal.ndim not in (1, 2):
        return None
    if not np.isfinite(normal).all() or not normal.any():
        raise CheckpointError("its boundary is not finite, or zero")
    return Boundary(torch.from_numpy(normal.astype(np.float32)), layers)


def add_boundary(boundary: Boundary, run: Path, name: str) -> Direction:
    """Measure a boundary's scale and range, and add it to an encoder's run folder as a direction.

    Raises CheckpointError.
    """
    trained = load_inversion(run)
    shape = trained.generator.config
    given, wanted = tuple(boundary.normal.shape), (shape.layers, shape.code_size)
    if given not in (wanted, wanted[1:]):
        raise CheckpointError(f"its boundary has shape {given}, and codes of {run} have {wanted}")
    layers = sorted(set(boundary.layers)) or list(range(shape.layers))
    if layers[0] < 0 or layers[-1] >= shape.layers:
        raise CheckpointError(f"it moves layers {layers}, and codes of {run} have {shape.layers}")
    if not boundary.normal.expand(wanted)[layers].any():
        raise CheckpointError(f"its boundary is zero in the layers that it moves, {layers}")
    space = CodeSpace(trained)
    direction = space.direction(
        name, boundary.normal.expand(wanted), layers, space.inversions[:READ], DOMAIN_FLOOR
    )
    add_directions(run, [direction])
    return direction
