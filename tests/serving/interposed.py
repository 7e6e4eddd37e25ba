"""A back end with a hook in front, `before`: tests slow it down, make it fail, or hold it back with a Gate."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping

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

    @property
    def engines(self) -> Mapping[str, str]:
        return self._inner.engines

    async def healthy(self) -> bool:
        return await self._inner.healthy()

    async def close(self) -> None:
        await self._inner.close()


class Gate:
    """Holds every inference back until it is opened, and counts who waits."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.waiting = 0

    async def __call__(self, model: str) -> None:
        self.waiting += 1
        try:
            while not self.open.is_set():  # noqa: ASYNC110  (set from another thread)
                await asyncio.sleep(0.005)
        finally:
            self.waiting -= 1
