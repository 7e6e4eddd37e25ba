"""How the gateway does while it is attacked: measured from another process, in threads of their own.

A probe asks GET /healthz every 30 ms, each time over a new connection. An innocent caller sends a small edit of a code
over gRPC, one after another. Resident memory is read 20 times a second.
"""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from multiprocessing.connection import Connection

import grpc

from benchmarks.attack.gateway import HOST, Gateway, processes, resident_mb
from indomain.v1 import editing_pb2 as pb
from indomain.v1 import editing_pb2_grpc

_PROBE_EVERY_S = 0.03
_EDIT_EVERY_S = 0.02
_MEMORY_EVERY_S = 0.05
# longer than any good gateway takes; who has no answer by then is counted as failed
TIMEOUT_S = 15.0


@dataclass(frozen=True)
class Asked:
    """One request: when it was sent (time.monotonic), how long it took, and whether it was answered well."""

    sent_s: float
    seconds: float
    ok: bool


@dataclass
class Seen:
    """What was measured; memory is pairs of time.monotonic and MB."""

    probes: list[Asked] = field(default_factory=list)
    edits: list[Asked] = field(default_factory=list)
    memory: list[tuple[float, float]] = field(default_factory=list)

    def between(self, begin_s: float, end_s: float) -> Seen:
        """What was asked from one moment to another, also where the answer came later."""
        return Seen(
            [one for one in self.probes if begin_s <= one.sent_s < end_s],
            [one for one in self.edits if begin_s <= one.sent_s < end_s],
            [(when_s, mb) for when_s, mb in self.memory if begin_s <= when_s < end_s],
        )

    @property
    def health_max_s(self) -> float:
        return max((one.seconds for one in self.probes), default=TIMEOUT_S)

    @property
    def failed_probes(self) -> int:
        return sum(not one.ok for one in self.probes)

    @property
    def failed_edits(self) -> int:
        return sum(not one.ok for one in self.edits)

    @property
    def edit_p50_s(self) -> float:
        """The median over time: half of the time was spent in edits that took at least so long. The plain median would
        hide a standstill, in which a caller who waits asks only once."""
        half_s = sum(one.seconds for one in self.edits) / 2
        for one in sorted(self.edits, key=lambda edit: edit.seconds):
            half_s -= one.seconds
            if half_s <= 0:
                return one.seconds
        return TIMEOUT_S

    @property
    def memory_max_mb(self) -> float:
        return max((mb for _, mb in self.memory), default=0.0)


class Watch:
    """Watches a gateway from a process of its own, from `begin` to `end`."""

    def __init__(self, gateway: Gateway) -> None:
        context = multiprocessing.get_context("spawn")
        self._here, there = context.Pipe()
        key = gateway.bearer("innocent").get("authorization", "")
        ports = gateway.http_port, gateway.grpc_port
        self._process = context.Process(target=_watch, args=(there, gateway.process.pid, *ports, key))
        self._process.start()
        there.close()
        # the innocent has its first answer
        self._here.recv()

    def end(self) -> Seen:
        """Waits for what is still being answered."""
        self._here.send("end")
        seen: Seen = self._here.recv()
        self._process.join()
        return seen

    def kill(self) -> None:
        self._process.kill()
        self._process.join()


def _watch(told: Connection, pid: int, http_port: int, grpc_port: int, key: str) -> None:
    edit = _innocent(grpc_port, key)
    seen, stopped = Seen(), threading.Event()
    told.send("begun")
    threads = [
        threading.Thread(
            target=_ask_on, args=(lambda: _probe(http_port), seen.probes, _PROBE_EVERY_S, stopped)
        ),
        threading.Thread(target=_ask_on, args=(edit, seen.edits, _EDIT_EVERY_S, stopped)),
        threading.Thread(target=_read_memory, args=(pid, seen.memory, stopped)),
    ]
    for thread in threads:
        thread.start()
    told.recv()
    stopped.set()
    for thread in threads:
        thread.join()
    told.send(seen)


def _ask_on(ask: Callable[[], bool], asked: list[Asked], every_s: float, stopped: threading.Event) -> None:
    while not stopped.is_set():
        sent_s = time.monotonic()
        ok = ask()
        seconds = time.monotonic() - sent_s
        asked.append(Asked(sent_s, seconds, ok))
        stopped.wait(max(0.0, every_s - seconds))


def _probe(port: int) -> bool:
    connection = HTTPConnection(HOST, port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/healthz", headers={"connection": "close"})
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def _innocent(port: int, key: str) -> Callable[[], bool]:
    """What edits a code once. The first edits, which are slower, are done."""
    metadata = (("authorization", key),) if key else ()
    stub = editing_pb2_grpc.EditingStub(grpc.insecure_channel(f"{HOST}:{port}"))
    (bundle, *_) = stub.ListBundles(pb.ListBundlesRequest(), metadata=metadata).bundles
    (code,) = stub.Sample(pb.SampleRequest(seeds=[1]), metadata=metadata).codes
    request = pb.EditRequest(
        code=pb.Code(data=code.data, shape=code.shape),
        edits=[pb.EditStep(direction=bundle.directions[0].name, strength=1.0)],
    )

    def edit() -> bool:
        try:
            stub.Edit(request, timeout=TIMEOUT_S, metadata=metadata)
        except grpc.RpcError:
            return False
        return True

    for _ in range(5):
        edit()
    return edit


def _read_memory(pid: int, memory: list[tuple[float, float]], stopped: threading.Event) -> None:
    pids, looked_s = processes(pid), time.monotonic()
    while not stopped.is_set():
        now_s = time.monotonic()
        if now_s - looked_s > 1.0:
            pids, looked_s = processes(pid), now_s
        memory.append((now_s, resident_mb(pids)))
        stopped.wait(_MEMORY_EVERY_S)
