"""The time that a request has left, as one object that is passed down, and the clock that it reads.

No layer has a time-out of its own: code that waits asks the deadline.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Protocol


class Clock(Protocol):
    """Seconds that never go back. Tests use a clock that they move by hand."""

    def now(self) -> float: ...

    async def sleep_until(self, moment_s: float) -> None: ...


class MonotonicClock:
    """The machine's monotonic clock."""

    def now(self) -> float:
        return time.monotonic()

    async def sleep_until(self, moment_s: float) -> None:
        await asyncio.sleep(max(0.0, moment_s - time.monotonic()))


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment on a clock, in seconds. An answer after it is of no use to the caller."""

    moment_s: float
    clock: Clock = field(default_factory=MonotonicClock, repr=False)

    @classmethod
    def after(cls, seconds: float, clock: Clock | None = None) -> Deadline:
        """The deadline `seconds` from now."""
        clock = clock or MonotonicClock()
        return cls(clock.now() + seconds, clock)

    @property
    def remaining_s(self) -> float:
        """Seconds left; negative once the deadline has passed."""
        return self.moment_s - self.clock.now()

    @property
    def expired(self) -> bool:
        return self.remaining_s <= 0.0
