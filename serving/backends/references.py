"""Checks that a loaded graph answers as it did when it was exported, before it serves any request.

A checksum only says that a file is whole. This check says that what was loaded from it is that graph and computes; it
also warms the graph up. Bundles of older exports have no reference runs: their graphs must answer with finite numbers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import numpy as np
import numpy.typing as npt

from serving.backends.backend import Tensors
from serving.bundle import Bundle, Role
from serving.errors import BundleInvalid

# Wide enough for 16-bit arithmetic, which a runtime may use whatever the file says; another graph is far outside.
_RELATIVE = 0.05  # of codes, scores and losses, relative to the largest value
_PICTURE_LEVELS = 8  # of 255
_PICTURE_SHARE = 0.98  # of a picture's values must be that close


async def check_reference(bundle: Bundle, role: Role, run: Callable[[Tensors], Awaitable[Tensors]]) -> None:
    """Runs a graph on its reference inputs by `run` and compares. Raises BundleInvalid, and what `run` raises."""
    graph = bundle.graphs[role]
    reference = bundle.references.get(role)
    if reference is None:
        inputs = {spec.name: np.zeros((1, *spec.shape[1:]), spec.dtype) for spec in graph.inputs}
    else:
        inputs = reference.inputs
    found = await run(inputs)
    for spec in graph.outputs:
        if spec.name not in found or found[spec.name].shape != (1, *spec.shape[1:]):
            raise BundleInvalid(
                f"Bundle {bundle.name}: {graph.model} does not give {spec.name!r} as it should."
            )
    # Of a refiner only the first two losses: rounding errors grow with each step, and the second loss already
    # depends on the first gradient.
    compared = {"loss": 2} if role == "refiner" else {spec.name: None for spec in graph.outputs}
    for name, first in compared.items():
        value = found[name][:, :first]
        if not np.isfinite(value).all():
            raise BundleInvalid(f"Bundle {bundle.name}: {graph.model} gives {name!r} that is not finite.")
        if reference and name in reference.outputs and not _agree(value, reference.outputs[name][:, :first]):
            raise BundleInvalid(
                f"Bundle {bundle.name}: {graph.model} answers otherwise than when it was exported ({name!r}); what "
                "is loaded is not what the manifest describes, or cannot be computed right here."
            )


def _agree(found: npt.NDArray[np.generic], wanted: npt.NDArray[np.generic]) -> bool:
    distance = np.abs(found.astype(np.float64) - wanted.astype(np.float64))
    if wanted.dtype == np.uint8:
        return bool((distance <= _PICTURE_LEVELS).mean() >= _PICTURE_SHARE)
    return bool(distance.max() <= _RELATIVE * max(np.abs(wanted.astype(np.float64)).max(), 1e-6))
