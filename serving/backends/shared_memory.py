"""Shared memory with Triton servers on the same machine: tensors pass through it instead of the connection.

One segment is divided into slots. A slot holds the inputs and outputs of one request. A request that does not fit, or
finds no free slot, goes over the connection.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from math import prod
from multiprocessing.shared_memory import SharedMemory

import numpy as np
import numpy.typing as npt
from tritonclient.grpc import InferInput, InferRequestedOutput

from serving.backends.backend import Tensors
from serving.bundle import GraphSpec, TensorSpec
from serving.deadline import Clock

SLOTS = 32
_ALIGNMENT = 64
# A server may still write into the slot of a run that nobody waits for; after this time it has ended.
_QUARANTINE_S = 60.0
DATATYPES = {"uint8": "UINT8", "float32": "FP32"}


def _aligned_bytes(spec: TensorSpec, count: int) -> int:
    """Bytes of a tensor with `count` samples, rounded up."""
    size = count * prod(spec.shape[1:]) * np.dtype(spec.dtype).itemsize
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def request_bytes(graph: GraphSpec, count: int) -> int:
    """Bytes of all inputs and outputs of `count` samples."""
    return sum(_aligned_bytes(spec, count) for spec in (*graph.inputs, *graph.outputs))


class Segment:
    """`SLOTS` slots, each large enough for a full batch of any of the graphs. Raises OSError if memory is short."""

    def __init__(self, graphs: Iterable[GraphSpec], clock: Clock) -> None:
        self.slot_bytes = max(request_bytes(graph, graph.max_batch_size) for graph in graphs)
        self._memory = SharedMemory(create=True, size=SLOTS * self.slot_bytes)
        self._clock = clock
        self._free = list(range(SLOTS))
        self._quarantined: deque[tuple[float, int]] = deque()  # free again at a time, slot number

    @property
    def name(self) -> str:
        return self._memory.name

    @property
    def size_bytes(self) -> int:
        return SLOTS * self.slot_bytes

    def take(self, graph: GraphSpec, count: int) -> Slot | None:
        """A slot for a request; None if no slot is free or large enough."""
        while self._quarantined and self._quarantined[0][0] <= self._clock.now():
            self._free.append(self._quarantined.popleft()[1])
        if not self._free or request_bytes(graph, count) > self.slot_bytes:
            return None
        return Slot(self, self._free.pop(), graph, count)

    def free(self, number: int) -> None:
        """Takes a slot back at once: the server is done with it."""
        self._free.append(number)

    def quarantine(self, number: int) -> None:
        """Takes a slot back after a while: the server may still write into it."""
        self._quarantined.append((self._clock.now() + _QUARANTINE_S, number))

    def view(self, spec: TensorSpec, count: int, offset: int) -> npt.NDArray[np.generic]:
        """The tensor at an offset, as an array over the shared memory."""
        return np.ndarray((count, *spec.shape[1:]), spec.dtype, self._memory.buf, offset)

    def close(self) -> None:
        self._memory.close()
        self._memory.unlink()


class Slot:
    """The place of one request's tensors in the segment, inputs first."""

    def __init__(self, segment: Segment, number: int, graph: GraphSpec, count: int) -> None:
        self._segment, self._number, self._graph, self._count = segment, number, graph, count
        self._offsets: dict[TensorSpec, int] = {}
        offset = number * segment.slot_bytes
        for spec in (*graph.inputs, *graph.outputs):
            self._offsets[spec] = offset
            offset += _aligned_bytes(spec, count)

    def write_inputs(self, inputs: Tensors) -> list[InferInput]:
        """Writes the inputs into the slot; returns their descriptions for the request."""
        described = []
        for spec in self._graph.inputs:
            value, offset = inputs[spec.name], self._offsets[spec]
            self._segment.view(spec, self._count, offset)[...] = value
            tensor = InferInput(spec.name, list(value.shape), DATATYPES[spec.dtype])
            tensor.set_shared_memory(self._segment.name, value.nbytes, offset)
            described.append(tensor)
        return described

    def requested_outputs(self) -> list[InferRequestedOutput]:
        """The descriptions of the outputs for the request."""
        described = []
        for spec in self._graph.outputs:
            tensor = InferRequestedOutput(spec.name)
            size = self._count * prod(spec.shape[1:]) * np.dtype(spec.dtype).itemsize
            tensor.set_shared_memory(self._segment.name, size, self._offsets[spec])
            described.append(tensor)
        return described

    def read_outputs(self) -> Tensors:
        """A copy of the outputs that the server wrote."""
        return {
            spec.name: self._segment.view(spec, self._count, self._offsets[spec]).copy()
            for spec in self._graph.outputs
        }

    def release(self, *, server_is_done: bool) -> None:
        """Gives the slot back."""
        if server_is_done:
            self._segment.free(self._number)
        else:
            self._segment.quarantine(self._number)
