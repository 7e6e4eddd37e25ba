"""Load, made by callers who wait for their answers, in turn, or open-loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import grpc
import numpy as np


@dataclass
class Measured:
    """What became of some load."""

    seconds: float
    latencies_s: list[float] = field(default_factory=list)

    @property
    def a_second(self) -> float:
        return len(self.latencies_s) / self.seconds

    def milliseconds(self, percent: float) -> float:
        return 1000.0 * float(np.percentile(self.latencies_s, percent))


async def waiting_callers(ask: Callable[[], Awaitable[object]], callers: int, seconds: float) -> Measured:
    """Each sends its next request when it has the answer to the one before."""
    measured = Measured(0.0)
    begun_s = time.perf_counter()

    async def caller() -> None:
        while (sent_s := time.perf_counter()) < begun_s + seconds:
            await ask()
            measured.latencies_s.append(time.perf_counter() - sent_s)

    await asyncio.gather(*(caller() for _ in range(callers)))
    measured.seconds = time.perf_counter() - begun_s
    return measured


TURN_S = 0.25


async def in_turn(
    asks: Mapping[str, Callable[[], Awaitable[object]]], seconds: float, least: int = 1
) -> dict[str, Measured]:
    """Each target asked one request after another, for a short while, before it is the next one's turn: what a busy
    host takes from one it takes from all, and each has the processor's caches to itself as it would at work. Each has
    `least` requests or more."""
    measured = {name: Measured(seconds) for name in asks}
    end_s = time.perf_counter() + seconds * len(asks)
    while time.perf_counter() < end_s or min(len(one.latencies_s) for one in measured.values()) < least:
        for name, ask in asks.items():
            turn_ends_s = time.perf_counter() + TURN_S
            while (sent_s := time.perf_counter()) < turn_ends_s:
                await ask()
                measured[name].latencies_s.append(time.perf_counter() - sent_s)
    return measured


def arrivals_s(rate: float, seconds: float, seed: int = 0) -> list[float]:
    """Random moments of a Poisson process, `rate` a second, in about so many seconds; one or more."""
    gaps = np.random.default_rng(seed).exponential(1 / rate, max(1, round(rate * seconds)))
    return [float(moment) for moment in np.cumsum(gaps)]


async def open_loop(
    ask: Callable[[], Awaitable[object]],
    rate: float,
    seconds: float,
    on_error: Callable[[float, Exception], None],
    seed: int = 0,
) -> Measured:
    """Requests come at `arrivals_s`, whether or not others are done; latency counts from the moment that a request was
    due (that of an error from when it was sent)."""
    moments = arrivals_s(rate, seconds, seed)
    measured = Measured(seconds)
    begun_s = time.perf_counter()

    async def one(due_s: float) -> None:
        sent_s = time.perf_counter()
        try:
            await ask()
        except grpc.aio.AioRpcError as error:
            on_error(time.perf_counter() - sent_s, error)
        else:
            measured.latencies_s.append(time.perf_counter() - due_s)

    under_way = []
    for moment in moments:
        due_s = begun_s + moment
        await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
        under_way.append(asyncio.create_task(one(due_s)))
    await asyncio.gather(*under_way)
    measured.seconds = time.perf_counter() - begun_s
    return measured


def unexpected(after_s: float, error: Exception) -> None:
    raise error
