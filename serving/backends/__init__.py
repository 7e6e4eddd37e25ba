"""What runs the graphs, as one small protocol. The pipeline knows no more of a back end than this.

`embedded.py` runs them in this process with ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy.typing as npt

from serving.deadline import Deadline

Tensors = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Inference:
    """Outputs by name, each [N, ...], and the longest time in seconds that a sample waited for its turn."""

    outputs: Tensors
    queued_s: float = 0.0


class Backend(Protocol):
    """Runs graphs by their model name (e.g. `faces64_encoder`). Batching across requests is its own affair."""

    async def load(self) -> None:
        """Makes every graph ready. Raises BundleInvalid or BackendUnavailable."""

    async def infer(self, model: str, inputs: Tensors, deadline: Deadline) -> Inference:
        """Runs N samples. Raises QueueFull, DeadlineExceeded, ShuttingDown, BackendUnavailable, BackendFailed.

        Cancelling it gives up its place; work under way for others goes on.
        """

    async def healthy(self) -> bool:
        """Whether a request would find it working."""

    async def close(self) -> None:
        """Finishes what is queued and lets go of everything."""
