"""The small protocol that the pipeline runs graphs through: Backend.

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
    """Outputs by name, each [N, ...]. `queued_s`: the longest time that one of the samples waited in a queue."""

    outputs: Tensors
    queued_s: float = 0.0


class Backend(Protocol):
    """Runs the graphs of bundles. How it batches the samples of different requests is its own affair."""

    @property
    def engines(self) -> Mapping[str, str]:
        """What runs each graph in this process, by the graph's model; empty where servers run them."""
        ...

    async def load(self) -> None:
        """Loads the graphs of the bundles that it was made with. Raises BundleInvalid, BackendUnavailable."""

    async def add(self, bundles: Iterable[Bundle]) -> None:
        """Loads the graphs of more bundles, beside those that run, and checks each against its reference run.

        Raises BundleInvalid, BackendUnavailable; then nothing has changed.
        """

    async def keep(self, bundles: Iterable[Bundle]) -> None:
        """Unloads all graphs but those of these bundles."""

    def check_room(self, graph: GraphSpec, count: int) -> None:
        """Raises QueueFull if `infer` would refuse `count` samples now.

        Called before expensive work on the samples. A back end whose queue is on a server never raises here.
        """

    async def infer(self, graph: GraphSpec, inputs: Tensors, deadline: Deadline) -> Inference:
        """Runs a graph on N samples, inputs by name, each [N, ...].

        Raises QueueFull, DeadlineExceeded, ShuttingDown, BackendUnavailable, BackendFailed. Cancelling it takes its
        samples out of the queue; a batch that already runs goes on for the others in it.
        """

    async def healthy(self) -> bool:
        """Whether every graph can be run now."""

    async def close(self) -> None:
        """Finishes what is queued and frees everything."""


def count_samples(graph: GraphSpec, inputs: Tensors) -> int:
    """The number N of samples in the inputs. Raises BackendFailed if they do not fit the graph.

    A wrong shape is found here, before it could make a batch with the samples of others fail.
    """
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
