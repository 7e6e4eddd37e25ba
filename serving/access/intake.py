"""How many bytes of requests are held at once, over both transports: the largest times their number is too much."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from serving.errors import QueueFull

Take = Callable[[int], None]


class Intake:
    """Counts bytes as they come in, and forgets those of a request when it ends."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.held_bytes = 0

    @contextmanager
    def request(self) -> Iterator[Take]:
        """For as long as a request lasts. What it gives is told of each piece that comes in, in bytes (below 0: that
        went), and raises QueueFull."""
        own_bytes = 0

        def take(count: int) -> None:
            nonlocal own_bytes
            if count > 0 and self.held_bytes + count > self._max_bytes:
                raise QueueFull(
                    "The requests under way are as large as the gateway can hold; try again a little later."
                )
            self.held_bytes += count
            own_bytes += count

        try:
            yield take
        finally:
            self.held_bytes -= own_bytes
