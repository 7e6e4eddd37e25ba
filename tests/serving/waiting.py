"""Time in tests: a clock that the test moves, and waiting until something has happened."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


class FakeClock:
    """Stands still until `advance`."""

    def __init__(self) -> None:
        self._now = 100.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def now(self) -> float:
        return self._now

    async def sleep_until(self, moment_s: float) -> None:
        if moment_s > self._now:
            waker = asyncio.get_running_loop().create_future()
            self._sleepers.append((moment_s, waker))
            await waker

    async def advance(self, seconds: float) -> None:
        self._now += seconds
        for moment_s, waker in self._sleepers:
            if moment_s <= self._now and not waker.done():
                waker.set_result(None)
        await settle()


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def wait_for(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, "waited in vain"
        time.sleep(0.01)
