"""How much memory the bytes of requests take together, and how much of it one owner may hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from serving.access.admission import fair_share
from serving.call import ANONYMOUS
from serving.errors import QueueFull

# Requests of up to so many bytes find room where large ones have taken all; less where the whole is small.
_SMALL_BYTES = 256 * 1024

HoldBytes = Callable[[int], None]
"""Counts bytes that are held, or released if below 0. Raises QueueFull if there is no room for them."""


class MemoryBudget:
    """Counts the bytes that requests hold, over both transports, and bounds their sum.

    Above half of it, an owner may hold no more than a fair share (`fair_share`). For small requests there is an eighth
    on top of it: large ones, and those whose size is not known yet, cannot keep them out.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._small_bytes = min(_SMALL_BYTES, max_bytes // 64)
        self._of_owner: Counter[str] = Counter()
        self.held_bytes = 0

    @contextmanager
    def request(self, owner: str = ANONYMOUS) -> Iterator[HoldBytes]:
        """Gives a request what it counts its bytes with; releases all of them when the request ends."""
        own_bytes = 0

        def hold(count: int) -> None:
            nonlocal own_bytes
            if count > 0:
                self._check_room(owner, own_bytes, count)
            self._add(owner, count)
            own_bytes += count

        try:
            yield hold
        finally:
            self._add(owner, -own_bytes)

    def _check_room(self, owner: str, own_bytes: int, count: int) -> None:
        most_bytes = self._max_bytes
        if own_bytes + count <= self._small_bytes:
            most_bytes += most_bytes // 8
        if self.held_bytes + count > most_bytes:
            raise QueueFull(
                "The requests under way are as large as the gateway can hold; try again a little later."
            )
        owners = len(self._of_owner) + (owner not in self._of_owner)
        crowded = 2 * (self.held_bytes + count) > most_bytes
        if crowded and self._of_owner.get(owner, 0) + count > fair_share(most_bytes, owner, owners):
            raise QueueFull(
                "Your requests under way are as large as your share while others ask too; try again a little later."
            )

    def _add(self, owner: str, count: int) -> None:
        self.held_bytes += count
        self._of_owner[owner] += count
        if not self._of_owner[owner]:
            del self._of_owner[owner]
