"""Directions of other projects: InterFaceGAN's arrays, idinvert's dicts with layers, e4e's tensors (`age.pt`).

They are files (`.npy`, `.npz`, `.pt`) of [512], [1, 512], [L, 512] or [1, L, 512]; of {"boundary": such an array,
"meta_data": {"manipulate_layers": layers}}; or of several by their names. They do not say for which generator and space
they were found. Only directions among codes (W or W+) of the very same generator mean anything.
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

MOST_DIRECTIONS = 1000  # in one file
COMPONENTS = ({"comp", "mean", "std"}, {"X_comp", "X_mean", "X_stdev"})
# Names of an array in a file that has no other: they say nothing about the direction.
NAMELESS = {"arr_0", "boundary", "direction"}


@dataclass(frozen=True)
class ForeignDirection:
    """A direction as its file has it."""

    normal: Tensor
    """Float32 [512] or [L, 512], of any length."""
    layers: tuple[int, ...] = ()
    """Layers to move; none named means all."""


def find(content: Any) -> dict[str, ForeignDirection]:
    """The directions in a file's content by their names, "" for one that has none; empty if it holds none.

    Raises CheckpointError for one that is no use.
    """
    # An array of one object.
    if isinstance(content, list) and len(content) == 1:
        content = content[0]
    if isinstance(content, dict) and any(content.keys() >= keys for keys in COMPONENTS):
        raise CheckpointError(
            "it holds GANSpace's components, which are no directions yet; "
            "`python -m training factors --method ganspace` finds them for an imported generator"
        )
    if isinstance(content, dict) and "eigvec" in content:
        raise CheckpointError(
            "it holds SeFa's factors; `python -m training factors` finds them for an imported generator"
        )
    if isinstance(content, dict) and content.keys() == {"w"}:
        raise CheckpointError("it holds a picture's code w, as NVIDIA's projector saves it, and no direction")
    if not isinstance(content, dict) or "boundary" in content:
        found = {"": read(content)}
    elif 0 < len(content) <= MOST_DIRECTIONS and all(isinstance(name, str) for name in content):
        single = len(content) == 1 and content.keys() <= NAMELESS
        found = {"" if single else name: read(value) for name, value in content.items()}
    else:
        return {}
    # A file with anything else is not one of directions.
    return {name: direction for name, direction in found.items() if direction} if all(found.values()) else {}


def read(content: Any) -> ForeignDirection | None:
    """A direction from its array, tensor, or dict of these and its layers; None if it is none of these.

    Raises CheckpointError for one that is no use.
    """
    layers: tuple[int, ...] = ()
    if isinstance(content, dict):
        if "boundary" not in content:
            return None
        layers, content = layers_of(content.get("meta_data")), content["boundary"]
    normal = content.value if isinstance(content, Array) else content
    if isinstance(normal, Tensor) and normal.is_floating_point():
        normal = normal.detach().double().numpy()
    if not isinstance(normal, np.ndarray) or normal.dtype.kind != "f":
        return None
    if normal.ndim > 1 and normal.shape[0] == 1:
        normal = normal[0]
    if normal.ndim not in (1, 2):
        return None
    if not np.isfinite(normal).all() or not normal.any():
        raise CheckpointError("its boundary is not finite, or zero")
    return ForeignDirection(torch.from_numpy(normal.astype(np.float32)), layers)


def layers_of(about: Any) -> tuple[int, ...]:
    """The layers that idinvert's meta_data names; none named means all. Raises CheckpointError."""
    if not isinstance(about, dict):
        return ()
    if str(about.get("latent_space_type", about.get("space", ""))).lower() == "z":
        raise CheckpointError("it is a boundary among z; only those among codes (W or W+) can be added")
    named = about.get("manipulate_layers", ())
    named = getattr(named, "value", named)
    if isinstance(named, str):
        raise CheckpointError(f"its manipulate_layers are text, not numbers: {named[:80]!r}")
    try:
        return tuple(int(layer) for layer in named)
    except (TypeError, ValueError):
        raise CheckpointError(f"its manipulate_layers are no numbers: {named!r:.80}") from None


def add_foreign_directions(found: dict[str, ForeignDirection], run: Path, name: str) -> list[Direction]:
    """Measure the scales and ranges of directions, and add them to an encoder's run folder.

    `name` is that of a direction whose file has none. If one does not fit, none is added. Raises CheckpointError.
    """
    trained = load_inversion(run)
    shape = trained.generator.config
    wanted = (shape.layers, shape.code_size)
    moved = {}
    for key, direction in found.items():
        called, given = f"its direction {key!r}" if key else "its boundary", tuple(direction.normal.shape)
        if given not in (wanted, wanted[1:]):
            raise CheckpointError(f"{called} has shape {given}, and codes of {run} have {wanted}")
        layers = sorted(set(direction.layers)) or list(range(shape.layers))
        if layers[0] < 0 or layers[-1] >= shape.layers:
            raise CheckpointError(f"it moves layers {layers}, and codes of {run} have {shape.layers}")
        if not direction.normal.expand(wanted)[layers].any():
            raise CheckpointError(f"{called} is zero in the layers that it moves, {layers}")
        moved[key or name] = (direction.normal.expand(wanted), layers)
    space = CodeSpace(trained)
    directions = [
        space.direction(key, step, layers, space.inversions[:READ], DOMAIN_FLOOR)
        for key, (step, layers) in moved.items()
    ]
    add_directions(run, directions)
    return directions
