"""Who is let into the pipeline: counts requests in, refuses what it cannot hold, and holds each to its deadline."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from serving.call import OWNER, Call
from serving.errors import DeadlineExceeded, NotReady, QueueFull


class Admission:
    """`open` is False until warm-up is done. `on_count` is told of the requests in flight as they come and go."""

    def __init__(self, max_in_flight: int, on_count: Callable[[int], None]) -> None:
        self.open = False
        self.in_flight = 0
        self._max_in_flight = max_in_flight
        self._on_count = on_count
        self._request_s = 0.5  # smoothed time of a request

    def check_open(self) -> None:
        """Raises NotReady."""
        if not self.open:
            raise NotReady("The gateway is still loading its bundles; try again in a moment.")

    @asynccontextmanager
    async def admitted(self, call: Call) -> AsyncIterator[None]:
        """Raises NotReady, QueueFull, and DeadlineExceeded as soon as the deadline has passed."""
        self.check_open()
        if self.in_flight >= self._max_in_flight:
            raise QueueFull(
                f"{self.in_flight} requests are in the pipeline already; try again a little later.",
                # Half of what is in flight is done after half the time that requests take now.
                retry_after_s=min(30.0, max(0.1, self._request_s / 2)),
            )
        self._count(+1)
        owner = OWNER.set(call.owner)
        started_s = call.deadline.clock.now()
        try:
            async with asyncio.timeout(call.deadline.remaining_s):
                yield
            self._request_s += 0.1 * (call.deadline.clock.now() - started_s - self._request_s)
        except TimeoutError:
            raise DeadlineExceeded(
                f"Time ran out in the stage {call.stage or 'admission'}; allow more time, or ask for fewer steps.",
                stage=call.stage,
            ) from None
        finally:
            OWNER.reset(owner)
            self._count(-1)

    def _count(self, change: int) -> None:
        self.in_flight += change
        self._on_count(self.in_flight)
