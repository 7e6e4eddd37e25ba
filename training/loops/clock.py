"""Ends a run in time: on machines that are lent for minutes, and in queues that kill what runs for too long."""

from __future__ import annotations

import time
from collections.abc import Callable


class Clock:
    """Says when a run must stop, so that what it still has to write is written in time."""

    FIRST_WRITING = 0.1
    """Share of the time that is kept for writing, until it is known how long writing takes."""
    SLACK = 1.5
    """Writing may take that many times what it took before."""

    def __init__(self, seconds: float | None, now: Callable[[], float] = time.monotonic) -> None:
        """Start the clock. A run without a limit has `seconds` of None."""
        self.seconds, self.now = seconds, now
        self.began = self.last = now()
        self.longest_step = self.longest_writing = 0.0

    def stepped(self) -> None:
        """Note that a step has ended."""
        self.longest_step = max(self.longest_step, self._lap())

    def wrote(self) -> None:
        """Note that a checkpoint and its samples have been written."""
        self.longest_writing = max(self.longest_writing, self._lap())

    def _lap(self) -> float:
        before, self.last = self.last, self.now()
        return self.last - before

    def is_up(self) -> bool:
        """Whether another step and the writing after it would take too long."""
        if self.seconds is None:
            return False
        writing = self.SLACK * self.longest_writing or self.FIRST_WRITING * self.seconds
        return self.now() - self.began + self.longest_step + writing >= self.seconds
