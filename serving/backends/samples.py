"""Whether a graph, wherever it runs, answers as it did when it was exported: asked before it serves anybody.

Checksums say that a file arrived whole. This says that what was loaded from it is that graph, and computes; it also is
its warm-up. Bundles of older exports have no samples: their graphs are only run, and must answer with numbers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import numpy as np
import numpy.typing as npt

from serving.backends import Tensors
from serving.bundle import Bundle, Role
from serving.errors import BundleInvalid

# Loose enough for 16 bits, which a runtime may compute in whatever the file says; another graph is far from it.
RELATIVE = 0.05  # of codes, scores and losses, to the largest value
LEVELS, SHARE = 8, 0.98  # of a picture's values, so many must be within so many levels of 255


async def check_sample(bundle: Bundle, role: Role, run: Callable[[Tensors], Awaitable[Tensors]]) -> None:
    """Runs a graph's sample by `run`. Raises BundleInvalid, and what `run` raises."""
    graph = bundle.graphs[role]
    sample = bundle.samples.get(role)
    inputs = sample.inputs if sample else {s.name: np.zeros((1, *s.shape[1:]), s.dtype) for s in graph.inputs}
    found = await run(inputs)
    for spec in graph.outputs:
        if spec.name not in found or found[spec.name].shape != (1, *spec.shape[1:]):
            raise BundleInvalid(
                f"Bundle {bundle.name}: {graph.model} does not give {spec.name!r} as it should."
            )
    # Of the refiner two losses, the second of which comes of the first gradient: rounding grows along its steps.
    compared = {"loss": 2} if role == "refiner" else {spec.name: None for spec in graph.outputs}
    for name, first in compared.items():
        value = found[name][:, :first]
        if not np.isfinite(value).all():
            raise BundleInvalid(f"Bundle {bundle.name}: {graph.model} gives {name!r} that is not finite.")
        if sample and name in sample.outputs and not _agree(value, sample.outputs[name][:, :first]):
            raise BundleInvalid(
                f"Bundle {bundle.name}: {graph.model} answers otherwise than when it was exported ({name!r}); what "
                "is loaded is not what the manifest describes, or cannot be computed right here."
            )


def _agree(found: npt.NDArray[np.generic], wanted: npt.NDArray[np.generic]) -> bool:
    apart = np.abs(found.astype(np.float64) - wanted.astype(np.float64))
    if wanted.dtype == np.uint8:
        return bool((apart <= LEVELS).mean() >= SHARE)
    return bool(apart.max() <= RELATIVE * max(np.abs(wanted.astype(np.float64)).max(), 1e-6))
