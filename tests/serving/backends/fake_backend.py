"""A back end without a runtime: ONNX's own reference evaluator, one request after another, a bounded queue.

What other back ends answer is compared with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

import onnx
from onnx.reference import ReferenceEvaluator

from serving.backends.backend import Inference, Tensors, count_samples
from serving.bundle import Bundle, GraphKey, GraphSpec
from serving.deadline import Deadline
from serving.errors import BackendUnavailable, DeadlineExceeded, QueueFull, ShuttingDown


class FakeBackend:
    def __init__(self, bundles: Iterable[Bundle], max_queue_samples: int) -> None:
        self._bundles = tuple(bundles)
        self._max_queue_samples = max_queue_samples
        self._graphs: dict[GraphKey, ReferenceEvaluator] = {}
        self._turn = asyncio.Lock()
        self._waiting = 0

    async def load(self) -> None:
        await self.add(self._bundles)

    async def add(self, bundles: Iterable[Bundle]) -> None:
        for bundle in bundles:
            for role, graph in bundle.graphs.items():
                self._graphs[graph.key] = ReferenceEvaluator(onnx.load(bundle.graph_file(role)))

    async def keep(self, bundles: Iterable[Bundle]) -> None:
        kept = {graph.key for bundle in bundles for graph in bundle.graphs.values()}
        self._graphs = {key: graph for key, graph in self._graphs.items() if key in kept}

    def check_room(self, graph: GraphSpec, count: int) -> None:
        if self._waiting + count > self._max_queue_samples:
            raise QueueFull("The queue is full; try again a little later.")

    async def infer(self, graph: GraphSpec, inputs: Tensors, deadline: Deadline) -> Inference:
        if not self._graphs:
            raise ShuttingDown("The gateway is shutting down; ask another one, or later.")
        if graph.key not in self._graphs:
            raise BackendUnavailable("The bundle was replaced.")
        count = count_samples(graph, inputs)
        self.check_room(graph, count)
        self._waiting += count
        try:
            async with self._turn:
                await asyncio.sleep(0)
                if deadline.expired:
                    raise DeadlineExceeded("Time ran out; allow more.")
                names = [spec.name for spec in graph.outputs]
                return Inference(
                    dict(zip(names, self._graphs[graph.key].run(names, dict(inputs)), strict=True))
                )
        finally:
            self._waiting -= count

    @property
    def engines(self) -> Mapping[str, str]:
        return {}

    async def healthy(self) -> bool:
        return bool(self._graphs)

    async def close(self) -> None:
        self._graphs = {}
