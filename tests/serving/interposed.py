"""A back end with a hook in front: tests slow it down, make it fail, or hold it back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from serving.backends.backend import Backend, Inference, Tensors
from serving.bundle import Bundle, GraphSpec
from serving.deadline import Deadline


class Interposed:
    def __init__(self, inner: Backend) -> None:
        self._inner = inner
        self.before: Callable[[str], Awaitable[None]] | None = None

    async def load(self) -> None:
        await self._inner.load()

    async def add(self, bundles: Iterable[Bundle]) -> None:
        await self._inner.add(bundles)

    async def keep(self, bundles: Iterable[Bundle]) -> None:
        await self._inner.keep(bundles)

    def check_room(self, graph: GraphSpec, count: int) -> None:
        self._inner.check_room(graph, count)

    async def infer(self, graph: GraphSpec, inputs: Tensors, deadline: Deadline) -> Inference:
        if self.before is not None:
            await self.before(graph.model)
        return await self._inner.infer(graph, inputs, deadline)

    async def healthy(self) -> bool:
        return await self._inner.healthy()

    async def close(self) -> None:
        await self._inner.close()
