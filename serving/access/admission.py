"""Admission to the pipeline: counts the requests in it, refuses those beyond its limits, and enforces deadlines.

Answers in many parts have limits of their own (`Streams`): they last for long.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from serving.call import ANONYMOUS, CALL, Call
from serving.errors import DeadlineExceeded, NotReady, QueueFull
from serving.telemetry.average import ExponentialAverage


def fair_share(places: int, owner: str, owners: int) -> int:
    """How many of `places` one owner may hold while `owners` of them, this one included, hold or want some.

    A single owner may hold all but an eighth, which stays free for whoever comes next; all of them where callers have
    no names.
    """
    if owners > 1:
        return max(1, places // owners)
    return places if owner == ANONYMOUS else places - places // 8


class Admission:
    """`open` is False until warm-up is done. `on_count` is called with the number of requests in flight."""

    def __init__(self, max_in_flight: int, on_count: Callable[[int], None]) -> None:
        self.open = False
        self.in_flight = 0
        self._max_in_flight = max_in_flight
        self._on_count = on_count
        self._of_owner: Counter[str] = Counter()
        self._request_s = ExponentialAverage(0.1, initial=0.5)

    def check_open(self) -> None:
        """Raises NotReady."""
        if not self.open:
            raise NotReady("The gateway is still loading its bundles; try again in a moment.")

    @asynccontextmanager
    async def admitted(self, call: Call) -> AsyncIterator[None]:
        """Raises NotReady, QueueFull, and DeadlineExceeded as soon as the deadline has passed."""
        self.check_open()
        self._check_room(call.owner)
        self._count(call.owner, +1)
        outer = CALL.set(call)
        started_s = call.deadline.clock.now()
        try:
            async with asyncio.timeout(call.deadline.remaining_s):
                yield
            self._request_s.add(call.deadline.clock.now() - started_s)
        except TimeoutError:
            raise DeadlineExceeded(
                f"Time ran out in the stage {call.stage or 'admission'}; allow more time, or ask for fewer steps.",
                stage=call.stage,
            ) from None
        finally:
            CALL.reset(outer)
            self._count(call.owner, -1)

    def _check_room(self, owner: str) -> None:
        own, owners = self._of_owner.get(owner, 0), len(self._of_owner) + (owner not in self._of_owner)
        crowded = 2 * self.in_flight >= self._max_in_flight
        if self.in_flight >= self._max_in_flight:
            told = f"{self.in_flight} requests are in the pipeline already"
        elif crowded and own >= fair_share(self._max_in_flight, owner, owners):
            told = f"{own} of your requests are in the pipeline already, your share while others ask too"
        else:
            return
        # Half of what is in flight is done after half the time that requests take now.
        retry_after_s = min(30.0, max(0.1, self._request_s.value / 2))
        raise QueueFull(f"{told}; try again a little later.", retry_after_s=retry_after_s)

    def _count(self, owner: str, change: int) -> None:
        self.in_flight += change
        self._of_owner[owner] += change
        if not self._of_owner[owner]:
            del self._of_owner[owner]
        self._on_count(self.in_flight)


# Of the requests in the pipeline, one owner may have one in so many that stream their answers.
_STREAMS_SHARE = 4
# Of one owner's streams so many work on their next part at once.
_STREAMS_AT_WORK = 2


@dataclass(slots=True)
class _OwnStreams:
    count: int = 0
    working: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_STREAMS_AT_WORK))


class Streams:
    """Answers in many parts. Those of one owner leave most places in the pipeline and in its queues to short requests,
    also where nobody reads them."""

    def __init__(self, max_in_flight: int) -> None:
        self._most = max(1, max_in_flight // _STREAMS_SHARE)
        self._of_owner: dict[str, _OwnStreams] = {}

    @contextmanager
    def open(self, owner: str) -> Iterator[asyncio.Semaphore]:
        """For as long as a stream lasts. Gives what it enters to work on each part. Raises QueueFull."""
        own = self._of_owner.setdefault(owner, _OwnStreams())
        if own.count >= self._most:
            raise QueueFull(f"{own.count} of your streams are open already; read them, or try again later.")
        own.count += 1
        try:
            yield own.working
        finally:
            own.count -= 1
            if not own.count:
                del self._of_owner[owner]
