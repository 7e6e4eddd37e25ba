"""Inputs for the graphs of a bundle."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from serving.bundle import Bundle, Role
from serving.jobs import RefineOptions
from serving.pipeline.refinement import RefineSettings, first_inputs
from tests.serving.pictures import photograph


def some_inputs(bundle: Bundle, role: Role, count: int, seed: int = 0) -> dict[str, npt.NDArray[Any]]:
    random = np.random.Generator(np.random.PCG64(seed))
    codes = random.standard_normal((count, bundle.layers, bundle.code_size), dtype=np.float32)
    images = np.stack([photograph(seed + n, bundle.resolution, bundle.resolution) for n in range(count)])
    if role == "encoder":
        return {"image": images}
    if role == "mapping":
        return {"z": random.standard_normal((count, bundle.code_size), dtype=np.float32)}
    if role == "refiner":
        settings = RefineSettings.resolve(RefineOptions(), bundle.refine, 100)
        return first_inputs(bundle, 0.3 * codes, images, settings)
    return {"code": codes}
