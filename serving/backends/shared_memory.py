"""Tensors that pass to a Triton server on the same machine through shared memory, not over the connection.

One segment with slots, each of which carries the inputs and the outputs of one request. What does not fit, or finds no
slot free, goes over the connection.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from math import prod
from multiprocessing.shared_memory import SharedMemory

import numpy as np
import numpy.typing as npt
from tritonclient.grpc import InferInput, InferRequestedOutput

from serving.backends import Tensors
from serving.bundle import GraphSpec, TensorSpec
from serving.deadline import Clock

SLOTS = 32
_ALIGNMENT = 64
_REST_S = 60.0  # a run that nobody waits for any more may still write; it has ended by then
DATATYPES = {"uint8": "UINT8", "float32": "FP32"}


def _bytes(spec: TensorSpec, count: int) -> int:
    size = count * prod(spec.shape[1:]) * np.dtype(spec.dtype).itemsize
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def request_bytes(graph: GraphSpec, count: int) -> int:
    """What the tensors of `count` samples take, inputs and outputs."""
    return sum(_bytes(spec, count) for spec in (*graph.inputs, *graph.outputs))


class Segment:
    """`SLOTS` slots, each large enough for a full batch of any of the graphs. Raises OSError where memory is short."""

    def __init__(self, graphs: Iterable[GraphSpec], clock: Clock) -> None:
        self.slot_bytes = max(request_bytes(graph, graph.max_batch_size) for graph in graphs)
        self._memory = SharedMemory(create=True, size=SLOTS * self.slot_bytes)
        self._clock = clock
        self._free = list(range(SLOTS))
        self._resting: deque[tuple[float, int]] = deque()

    @property
    def name(self) -> str:
        return self._memory.name

    @property
    def size_bytes(self) -> int:
        return SLOTS * self.slot_bytes

    def take(self, graph: GraphSpec, count: int) -> Slot | None:
        """A slot for a request, if one is free and large enough."""
        while self._resting and self._resting[0][0] <= self._clock.now():
            self._free.append(self._resting.popleft()[1])
        if not self._free or request_bytes(graph, count) > self.slot_bytes:
            return None
        return Slot(self, self._free.pop(), graph, count)

    def give_back(self, number: int) -> None:
        self._free.append(number)

    def let_rest(self, number: int) -> None:
        """Given back, but the server may still write into it for a while."""
        self._resting.append((self._clock.now() + _REST_S, number))

    def view(self, spec: TensorSpec, count: int, offset: int) -> npt.NDArray[np.generic]:
        return np.ndarray((count, *spec.shape[1:]), spec.dtype, self._memory.buf, offset)

    def close(self) -> None:
        self._memory.close()
        self._memory.unlink()


class Slot:
    """Where the tensors of one request lie, inputs first."""

    def __init__(self, segment: Segment, number: int, graph: GraphSpec, count: int) -> None:
        self._segment, self._number, self._graph, self._count = segment, number, graph, count
        self._offsets: dict[TensorSpec, int] = {}
        offset = number * segment.slot_bytes
        for spec in (*graph.inputs, *graph.outputs):
            self._offsets[spec] = offset
            offset += _bytes(spec, count)

    def inputs(self, inputs: Tensors) -> list[InferInput]:
        """Writes them; gives what names them in a request."""
        asked = []
        for spec in self._graph.inputs:
            value, offset = inputs[spec.name], self._offsets[spec]
            self._segment.view(spec, self._count, offset)[...] = value
            tensor = InferInput(spec.name, list(value.shape), DATATYPES[spec.dtype])
            tensor.set_shared_memory(self._segment.name, value.nbytes, offset)
            asked.append(tensor)
        return asked

    def outputs(self) -> list[InferRequestedOutput]:
        asked = []
        for spec in self._graph.outputs:
            tensor = InferRequestedOutput(spec.name)
            size = self._count * prod(spec.shape[1:]) * np.dtype(spec.dtype).itemsize
            tensor.set_shared_memory(self._segment.name, size, self._offsets[spec])
            asked.append(tensor)
        return asked

    def results(self) -> Tensors:
        """A copy of what the server wrote."""
        return {
            spec.name: self._segment.view(spec, self._count, self._offsets[spec]).copy()
            for spec in self._graph.outputs
        }

    def leave(self, *, at_rest: bool) -> None:
        """`at_rest`: the server is done with it."""
        if at_rest:
            self._segment.give_back(self._number)
        else:
            self._segment.let_rest(self._number)
