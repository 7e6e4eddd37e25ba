"""Reports of a refinement while it goes on. They never hold it up: while one is under way, the next are left out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

from serving.deadline import Clock
from serving.errors import EditingError
from serving.jobs import Code


class Progress:
    """`async with` it around the work. The first report goes out at once, others `interval_s` apart at least."""

    def __init__(
        self, tell: Callable[[int, float | None, Code], Awaitable[None]], interval_s: float, clock: Clock
    ) -> None:
        self._tell = tell
        self._interval_s = interval_s
        self._clock = clock
        self._next_s = clock.now()
        self._telling: asyncio.Task[None] | None = None

    def report(self, step: int, loss: float | None, code: Code) -> None:
        """Steps done, the best loss so far (None before the first step), and its code."""
        now_s = self._clock.now()
        if now_s < self._next_s or (self._telling is not None and not self._telling.done()):
            return
        self._next_s = now_s + self._interval_s
        self._telling = asyncio.create_task(self._try_to_tell(step, loss, code), name="progress")

    async def _try_to_tell(self, step: int, loss: float | None, code: Code) -> None:
        with suppress(EditingError):  # a preview for which there is no room or time costs nobody the result
            await self._tell(step, loss, code)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The result comes after the last report."""
        if self._telling is None:
            return
        if kind is not None:
            self._telling.cancel()
        await asyncio.gather(self._telling, return_exceptions=True)
