"""`python -m benchmarks.capacity`: how many machines a load takes, by a simulation that is checked against a gateway.

The simulation is a queue of one server, as a gateway's graphs share one machine's processors:

- Requests come at random (a Poisson process): edits of codes, and inversions of pictures.
- Edits are served one after another. Inversions take turns, one run of the refiner each.
- Where both have work, each kind advances at a share of its speed: a refiner's threads give way to edits
  (serving/backends).
- A request takes the machine for its service time, and some time besides in which others may be served (transport).

All this is measured on a running gateway. Of n callers who each wait for their answer, n requests are always there, so
that the time between two answers is the service time. One caller's latency less that is the time besides. Shares are
the speeds while callers of both kinds wait. Utilisation is processor time, so each request's is measured, too.

The same loads then go to the gateway, open-loop, at the moments that were simulated, and utilisation and the 95th
percentile of latency stand side by side.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import grpc
import numpy as np
import tyro

from benchmarks.gateway import running_gateway
from benchmarks.graphs import Graphs, markdown_table
from benchmarks.load import Measured, arrivals_s, open_loop, unexpected, waiting_callers
from benchmarks.targets import CHANNEL, GatewayTarget, Kind, Work
from serving.backends.embedded import REFINER_NICENESS
from serving.jobs import EditStep


@dataclass(frozen=True)
class Service:
    """What a request takes: seconds of the machine, in so many turns, and seconds besides; of its processors' time as
    much as `processors` of them would give meanwhile, from 0 to 1."""

    machine_s: float
    besides_s: float
    turns: int = 1
    processors: float = 1.0


@dataclass(frozen=True)
class Shares:
    """Of its own speed, how fast each kind advances while both have work. By default as Linux shares a processor: a
    step of niceness is a factor of 1.25."""

    edits: float = 1 / (1 + 1.25**-REFINER_NICENESS)
    inversions: float = 1 - 1 / (1 + 1.25**-REFINER_NICENESS)


@dataclass(frozen=True)
class Load:
    """Requests a second of each kind."""

    edits: float
    inversions: float


@dataclass
class CapacityConfig:
    """Measure service times, check the simulation at two loads, and say how many machines larger loads take."""

    repository: Path = Path("model_repository")
    """Model repository."""
    picture: Path = Path("clients/python/examples/portrait.png")
    """What is inverted."""
    seconds: float = 20.0
    """Of each measurement and of each load."""
    loads: tuple[float, ...] = (0.4, 0.7)
    """What is checked: loads that should take this share of the machine, two thirds of it by edits."""
    wanted: tuple[float, float] = (1000.0, 100.0)
    """Edits and inversions a second that machines are counted for."""
    slower: float = 3.0
    """Machines are enough where the 95th percentile is at most so many times the latency of a lone request."""
    price: float = 0.10
    """Of a machine an hour, in whatever money."""
    service_ms: tuple[float, float] | None = None
    """Of another machine or engine: milliseconds of it that an edit and an inversion take. Nothing is measured then."""


# --- the simulation --------------------------------------------------------------------------------------


@dataclass
class Simulated:
    """What became of a simulated load."""

    utilisation: float
    edits_s: list[float] = field(default_factory=list)
    inversions_s: list[float] = field(default_factory=list)


@dataclass
class _Job:
    begun_s: float
    left_s: float
    turn_s: float


def simulate(
    load: Load,
    edit: Service,
    inversion: Service,
    seconds: float,
    seed: int = 0,
    both: Shares | None = None,
) -> Simulated:
    """One machine under a load, from empty, for so long. both: the shares where both kinds have work."""
    both = both or Shares()
    arrivals = []
    for is_edit, rate in ((True, load.edits), (False, load.inversions)):
        if rate > 0:
            arrivals += [(moment, is_edit) for moment in arrivals_s(rate, seconds, _seed(seed, is_edit))]
    waiting = deque(sorted(arrivals))
    edits: deque[_Job] = deque()
    inversions: deque[_Job] = deque()
    done = Simulated(0.0)
    now_s, busy_s = 0.0, 0.0
    while waiting or edits or inversions:
        next_s = waiting[0][0] if waiting else math.inf
        if not edits and not inversions:
            now_s = next_s
        else:
            shares = [both.edits, both.inversions] if edits and inversions else [1.0, 1.0]
            # until the first of: an edit is done, a turn of an inversion is over, somebody comes
            heads = [
                (queue[0], share) for queue, share in zip((edits, inversions), shares, strict=True) if queue
            ]
            step_s = min([next_s - now_s] + [min(job.left_s, job.turn_s) / share for job, share in heads])
            for job, share in heads:
                job.left_s -= step_s * share
                job.turn_s -= step_s * share
            now_s += step_s
            busy_s += step_s * max(
                service.processors for service, jobs in ((edit, edits), (inversion, inversions)) if jobs
            )
            _leave(edits, edit, now_s, done.edits_s)
            _leave(inversions, inversion, now_s, done.inversions_s)
        while waiting and waiting[0][0] <= now_s:
            moment, is_edit = waiting.popleft()
            service = edit if is_edit else inversion
            job = _Job(moment, service.machine_s, service.machine_s / service.turns)
            (edits if is_edit else inversions).append(job)
    done.utilisation = busy_s / max(now_s, seconds)
    return done


def _seed(seed: int, is_edit: bool) -> int:
    return 2 * seed + is_edit


def _leave(queue: deque[_Job], service: Service, now_s: float, latencies_s: list[float]) -> None:
    """Takes the first job out where it is done; where only its turn is over it goes to the end."""
    if not queue or min(queue[0].left_s, queue[0].turn_s) > 1e-12:
        return
    job = queue.popleft()
    if job.left_s > 1e-12:
        job.turn_s = service.machine_s / service.turns
        queue.append(job)
    else:
        latencies_s.append(now_s - job.begun_s + service.besides_s)


def machines(
    load: Load,
    edit: Service,
    inversion: Service,
    slower: float,
    seconds: float = 2000.0,
    both: Shares | None = None,
) -> int:
    """The fewest that serve the load, shared evenly, so that the 95th percentile of each kind is bearable."""
    count = max(1, math.ceil(load.edits * edit.machine_s + load.inversions * inversion.machine_s))
    while True:
        part = Load(load.edits / count, load.inversions / count)
        found = simulate(part, edit, inversion, seconds, both=both)
        kinds = ((found.edits_s, edit), (found.inversions_s, inversion))
        if all(
            not latencies or _p95(latencies) <= slower * (service.machine_s + service.besides_s)
            for latencies, service in kinds
        ):
            return count
        count = max(count + 1, math.ceil(1.05 * count))


def _p95(latencies_s: Sequence[float]) -> float:
    return float(np.percentile(latencies_s, 95)) if latencies_s else 0.0


# --- the gateway -----------------------------------------------------------------------------------------


async def measured_service(gateway: GatewayTarget, kind: Kind, seconds: float, turns: int) -> Service:
    """The service time of a kind, by four callers, and what one caller waits besides."""
    ask = partial(gateway.ask, kind)
    await waiting_callers(ask, 1, seconds / 10)
    alone = (await waiting_callers(ask, 1, seconds)).milliseconds(50) / 1e3
    before_s = gateway.processor_s()
    busy = await waiting_callers(ask, 4, seconds)
    machine_s = 1 / busy.a_second
    processors = (gateway.processor_s() - before_s) / busy.seconds / _processors()
    return Service(min(machine_s, alone), max(0.0, alone - machine_s), turns, processors)


async def measured_shares(
    gateway: GatewayTarget, edit: Service, inversion: Service, seconds: float
) -> Shares:
    """How fast each kind advances beside the other: four callers who edit, two who invert."""
    edits, inversions = await asyncio.gather(
        waiting_callers(partial(gateway.ask, "edit of a code"), 4, seconds),
        waiting_callers(partial(gateway.ask, "inversion"), 2, seconds),
    )
    return Shares(edits.a_second * edit.machine_s, inversions.a_second * inversion.machine_s)


def _processors() -> int:
    return len(os.sched_getaffinity(0))


async def loaded(gateway: GatewayTarget, load: Load, seconds: float) -> tuple[float, Measured, Measured]:
    """The gateway under a load: the share of the processors that it took, and what became of edits and inversions."""

    async def of_kind(kind: Kind, rate: float) -> Measured:
        ask: Callable[[], Awaitable[object]] = partial(gateway.ask, kind)
        seed = _seed(0, kind == "edit of a code")
        return await open_loop(ask, rate, seconds, unexpected, seed) if rate > 0 else Measured(seconds)

    before_s = gateway.processor_s()
    edits, inversions = await asyncio.gather(
        of_kind("edit of a code", load.edits), of_kind("inversion", load.inversions)
    )
    took_s = gateway.processor_s() - before_s
    return took_s / max(edits.seconds, inversions.seconds) / _processors(), edits, inversions


async def check(config: CapacityConfig) -> tuple[Service, Service, Shares]:
    """Measures service times and shares, prints the simulation beside the gateway, and gives what was measured."""
    graphs = Graphs(config.repository, "", threads=1)
    bundle = graphs.bundle
    code = graphs.sample(1)[0]
    edits = (EditStep(next(iter(bundle.directions)), 1.0),)
    work = Work(bundle, code, config.picture.read_bytes(), edits, bundle.refine.steps)
    with running_gateway(config.repository, "--refine-min-improvement-ratio", "0") as (address, url):
        async with grpc.aio.insecure_channel(address, CHANNEL) as channel:
            gateway = GatewayTarget(work, channel, url)
            turns = -(-work.steps // bundle.refine.chunk_steps)
            edit = await measured_service(gateway, "edit of a code", config.seconds / 2, 1)
            inversion = await measured_service(gateway, "inversion", config.seconds, turns)
            both = await measured_shares(gateway, edit, inversion, config.seconds)
            print(
                markdown_table(
                    [
                        "service time",
                        "of the machine",
                        "besides",
                        "of its processors",
                        "speed beside the other",
                    ],
                    [
                        [
                            name,
                            f"{1e3 * service.machine_s:.1f} ms",
                            f"{1e3 * service.besides_s:.1f} ms",
                            f"{service.processors:.0%}",
                            f"{share:.0%}",
                        ]
                        for name, service, share in (
                            ("edit of a code", edit, both.edits),
                            ("inversion", inversion, both.inversions),
                        )
                    ],
                )
            )
            rows = []
            for share in config.loads:
                load = Load(share * 2 / 3 / edit.machine_s, share / 3 / inversion.machine_s)
                utilisation, some_edits, some_inversions = await loaded(gateway, load, config.seconds * 3)
                run = simulate(load, edit, inversion, config.seconds * 3, both=both)
                pairs = [
                    ("utilisation", run.utilisation, utilisation, ""),
                    *(
                        (f"p95 of {name}", 1e3 * _p95(simulated_s), found.milliseconds(95), " ms")
                        for name, simulated_s, found in (
                            ("edits", run.edits_s, some_edits),
                            ("inversions", run.inversions_s, some_inversions),
                        )
                        if found.latencies_s
                    ),
                ]
                for name, ours, theirs, unit in pairs:
                    digits = 0 if unit else 2
                    rows.append(
                        [
                            f"{load.edits:.1f} edits and {load.inversions:.2f} inversions a second",
                            name,
                            f"{ours:.{digits}f}{unit}",
                            f"{theirs:.{digits}f}{unit}",
                            f"{ours / theirs:.2f}",
                            "0.85 .. 1.15",
                        ]
                    )
    print("\n" + markdown_table(["load", "what", "simulated", "gateway", "ratio", "bar"], rows))
    return edit, inversion, both


def main(config: CapacityConfig) -> None:
    if config.service_ms is not None:
        edit, inversion = (Service(milliseconds / 1e3, 0.0) for milliseconds in config.service_ms)
        both = Shares()
    else:
        edit, inversion, both = asyncio.run(check(config))
    edits, inversions = config.wanted
    rows = []
    for load in (Load(edits, 0.0), Load(0.0, inversions), Load(edits, inversions)):
        count = machines(load, edit, inversion, config.slower, both=both)
        least = load.edits * edit.machine_s + load.inversions * inversion.machine_s
        rows.append(
            [
                f"{load.edits:g}",
                f"{load.inversions:g}",
                str(count),
                f"{least / count:.2f}",
                f"{count * config.price:,.2f}",
            ]
        )
    header = ["edits/s", "inversions/s", "machines", "utilisation", f"an hour, at {config.price:g} a machine"]
    print("\n" + markdown_table(header, rows))


if __name__ == "__main__":
    main(tyro.cli(CapacityConfig, description=CapacityConfig.__doc__))
