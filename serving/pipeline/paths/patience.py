"""Patience with a full queue, in work that has cost much already."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from serving.call import Call
from serving.errors import QueueFull

T = TypeVar("T")


async def patiently(work: Callable[[], Awaitable[T]], call: Call, reserve_s: float = 0.0) -> T:
    """Does work again, after the pause that it is refused with, until there is room.

    Raises QueueFull where the pause would last until `reserve_s` before the deadline; and what else the work raises.
    """
    while True:
        try:
            return await work()
        except QueueFull as full:
            if call.deadline.remaining_s - full.retry_after_s <= reserve_s:
                raise
            pause_s = full.retry_after_s
        await asyncio.sleep(pause_s)
