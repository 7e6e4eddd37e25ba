"""The time a request has, as one object that is passed down; and the clock it is read from.

No time-outs per layer: whoever waits asks the deadline.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Protocol


class Clock(Protocol):
    """Seconds that only go forward. Tests have one that stands still until it is told to go on."""

    def now(self) -> float: ...

    async def sleep_until(self, moment_s: float) -> None: ...


class MonotonicClock:
    """The machine's own."""

    def now(self) -> float:
        return time.monotonic()

    async def sleep_until(self, moment_s: float) -> None:
        await asyncio.sleep(max(0.0, moment_s - time.monotonic()))


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment on a clock, in seconds, after which the answer is of no use."""

    moment_s: float
    clock: Clock = field(default_factory=MonotonicClock, repr=False)

    @classmethod
    def after(cls, seconds: float, clock: Clock | None = None) -> Deadline:
        clock = clock or MonotonicClock()
        return cls(clock.now() + seconds, clock)

    @property
    def remaining_s(self) -> float:
        """Seconds left; negative once it has passed."""
        return self.moment_s - self.clock.now()

    @property
    def expired(self) -> bool:
        return self.remaining_s <= 0.0
