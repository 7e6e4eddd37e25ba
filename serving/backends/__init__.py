"""What runs the graphs, as one small protocol. The pipeline knows no more of a back end than this.

`embedded.py` runs them in this process, `triton.py` on NVIDIA Triton servers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy.typing as npt

from serving.bundle import Bundle, GraphSpec
from serving.deadline import Deadline
from serving.errors import BackendFailed

Tensors = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Inference:
    """Outputs by name, each [N, ...], and the longest time in seconds that a sample waited for its turn."""

    outputs: Tensors
    queued_s: float = 0.0


class Backend(Protocol):
    """Runs graphs of bundles. Batching across requests is its own affair."""

    async def load(self) -> None:
        """Makes every graph that it was made for ready. Raises BundleInvalid or BackendUnavailable."""

    async def add(self, bundles: Iterable[Bundle]) -> None:
        """Makes the graphs of other versions ready beside those that are, each checked on the sample that lies with
        it. Raises BundleInvalid or BackendUnavailable, and then nothing has changed."""

    async def keep(self, bundles: Iterable[Bundle]) -> None:
        """Lets go of all graphs but those of these bundles."""

    def check_room(self, graph: GraphSpec, count: int) -> None:
        """Raises QueueFull if `infer` would now refuse as many samples: to be asked before they are made ready with
        much work. Where only a server knows its queue, it never does."""

    async def infer(self, graph: GraphSpec, inputs: Tensors, deadline: Deadline) -> Inference:
        """Runs N samples. Raises QueueFull, DeadlineExceeded, ShuttingDown, BackendUnavailable, BackendFailed.

        Cancelling it gives up its place; work under way for others goes on.
        """

    async def healthy(self) -> bool:
        """Whether a request would find it working, whichever graph it needs."""

    async def close(self) -> None:
        """Finishes what is queued and lets go of everything."""


def count_samples(graph: GraphSpec, inputs: Tensors) -> int:
    """How many samples the inputs hold. Raises BackendFailed where they are not what the graph takes: a wrong shape
    is found here, before it could spoil the batch of others."""
    counts = set()
    for spec in graph.inputs:
        value = inputs[spec.name]
        if value.dtype.name != spec.dtype or value.shape[1:] != spec.shape[1:]:
            raise BackendFailed(
                f"{graph.model}.{spec.name} is {spec.dtype} {list(spec.shape)}, "
                f"not {value.dtype.name} {list(value.shape)}."
            )
        counts.add(len(value))
    if len(counts) != 1 or 0 in counts:
        raise BackendFailed(f"The inputs of {graph.model} differ in their number of samples, or have none.")
    return counts.pop()
