"""Connections of the gRPC server, which its core does not let anybody limit or cut.

The sockets are the core's own. So they are found among the process's descriptors, and shut down there.
"""

from __future__ import annotations

import asyncio
import os
import platform
import resource
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from urllib.parse import unquote

# Of all descriptors of the process. HTTP may have half of them.
_MOST_SHARE = 0.75
_INTERVAL_S = 0.25
# Where there is none left to list them with, so many are tried.
_MOST_TRIED = 65_536
_DESCRIPTORS = "/proc/self/fd"
# Calls on one connection at once; further ones wait with the caller.
MAX_STREAMS = 256
# Calls that the connections of one host may break off at once, and how many more each second; for so many hosts.
_BROKEN_OFF_AT_ONCE, _BROKEN_OFF_PER_S, _MOST_HOSTS = 300.0, 100.0, 1024
# A connection with more calls than this may be about to break them off. The news of that takes some turns of the loop.
_MANY_OPEN, _TURNS_OF_NEWS = 32, 4
# What is thrown away at a time of what a connection has sent before it was cut.
_THROWN_AWAY_BYTES = 1 << 20
# Of Linux's `struct tcp_info`: milliseconds since data came; bytes that the peer has acknowledged.
_LAST_DATA_RECEIVED, _BYTES_ACKNOWLEDGED = struct.Struct("=52xI"), struct.Struct("=120xQ")


async def keep_descriptors_free(port: int) -> None:
    """Runs for as long as the server of that port does: when descriptors become few, it cuts the connections from which
    nothing has come for the longest. The core would take all descriptors, and HTTP would get none. On Linux only."""
    if platform.system() != "Linux":
        return
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    while True:
        await asyncio.sleep(_INTERVAL_S)
        descriptors = _descriptors()
        excess = len(descriptors) - int(limit * _MOST_SHARE)
        if excess > 0:
            _cut_silent(descriptors, port, excess)


def cut_connection(peer: str) -> None:
    """Cuts the connection of a peer, as gRPC names it (`ipv4:127.0.0.1:50000`), with all of its calls.

    For callers who do not read: until they do, the core keeps what was written for them, for ever.
    """
    for connection in _connections_of(peer):
        _cut(connection)


def read_bytes(peer: str) -> int | None:
    """How many bytes a peer has taken in since its connection began; None where the system does not tell."""
    if platform.system() == "Linux":
        for connection in _connections_of(peer):
            return _tcp_info(connection, _BYTES_ACKNOWLEDGED)
    return None


def _connections_of(peer: str) -> Iterator[socket.socket]:
    host, _, port = unquote(peer).partition(":")[2].rpartition(":")
    for connection in _connections(_descriptors()):
        found = connection.getpeername()
        if str(found[1]) == port and found[0].removeprefix("::ffff:") == host.strip("[]"):
            yield connection


def _tcp_info(connection: socket.socket, field: struct.Struct) -> int:
    state = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, field.size)
    return int(field.unpack(state)[0])


class OpenCalls:
    """Cuts connections with very many calls that are broken off: each costs the gateway far more than its caller
    (HTTP/2 rapid reset, CVE-2023-44487).

    What a host may break off is counted for all of its connections, so that another connection is no fresh start. A
    connection that has more calls than the core lets one have at once has broken off the others, and the news of that
    are still under way. They are not waited for.
    """

    def __init__(self) -> None:
        # Of each host: how many more it may break off, and when that was counted.
        self._left: dict[str, tuple[float, float]] = {}
        self._open: Counter[str] = Counter()
        self._cut: set[str] = set()

    @contextmanager
    def call(self, peer: str) -> Iterator[None]:
        """Counts a call of a peer for as long as it is handled, and if it is broken off."""
        self._open[peer] += 1
        if peer not in self._cut and self._open[peer] > MAX_STREAMS + _BROKEN_OFF_AT_ONCE:
            self._cut_off(peer)
        try:
            yield
        except asyncio.CancelledError:
            # those that end because their connection was cut are not counted
            if peer not in self._cut and not self._may_break_off(peer):
                self._cut_off(peer)
            raise
        finally:
            self._open[peer] -= 1
            if not self._open[peer]:
                del self._open[peer]
                self._cut.discard(peer)

    async def wait_for_news(self, peer: str) -> None:
        """Lets a call wait a moment for the news that it is broken off, where its connection has many open, before
        anything is done for it. Raises CancelledError where it is, or where the connection has been cut."""
        if peer in self._cut:
            raise asyncio.CancelledError
        if self._open[peer] > _MANY_OPEN:
            for _ in range(_TURNS_OF_NEWS):
                await asyncio.sleep(0)

    def _cut_off(self, peer: str) -> None:
        self._cut.add(peer)
        cut_connection(peer)

    def _may_break_off(self, peer: str) -> bool:
        """Counts one call that a peer has broken off; False where its host has broken off too many."""
        now_s = time.monotonic()
        # without the port
        host = peer.rpartition(":")[0]
        left, counted_s = self._left.pop(host, (_BROKEN_OFF_AT_ONCE, now_s))
        left = min(_BROKEN_OFF_AT_ONCE, left + _BROKEN_OFF_PER_S * (now_s - counted_s)) - 1.0
        self._left[host] = max(left, 0.0), now_s
        if len(self._left) > _MOST_HOSTS:
            # the one that has broken off none for the longest
            del self._left[next(iter(self._left))]
        return left >= 0.0


def _cut_silent(descriptors: Sequence[int], port: int, count: int) -> None:
    silent_ms: dict[int, int] = {}
    for connection in _connections(descriptors):
        if connection.getsockname()[1] == port:
            silent_ms[connection.fileno()] = _tcp_info(connection, _LAST_DATA_RECEIVED)
    longest = sorted(silent_ms, key=silent_ms.__getitem__, reverse=True)[:count]
    for connection in _connections(longest):
        _cut(connection)


def _cut(connection: socket.socket) -> None:
    # it may just have ended by itself
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
        # The core would still read what has come: thousands of calls, perhaps.
        while connection.recv(_THROWN_AWAY_BYTES, socket.MSG_DONTWAIT):
            pass


def _descriptors() -> Sequence[int]:
    """The descriptors of this process. Where there is none left to list them with: all that there may be."""
    try:
        return [int(name) for name in os.listdir(_DESCRIPTORS)]
    except OSError:
        return range(min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], _MOST_TRIED))


def _connections(descriptors: Iterable[int]) -> Iterator[socket.socket]:
    """Those that are connected over the internet protocols. Each belongs to another, and is let go of when the next one
    comes."""
    for descriptor in descriptors:
        # ValueError: no socket of a kind that Python knows
        with suppress(OSError, ValueError):
            found = socket.socket(fileno=descriptor)
            try:
                if found.family in (socket.AF_INET, socket.AF_INET6) and found.getpeername():
                    yield found
            finally:
                found.detach()
