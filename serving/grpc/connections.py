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
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from urllib.parse import unquote

# Of all descriptors of the process. HTTP may have half of them.
_MOST_SHARE = 0.75
_INTERVAL_S = 0.25
# Where there is none left to list them with, so many are tried.
_MOST_TRIED = 65_536
_DESCRIPTORS = "/proc/self/fd"
# Calls of a connection that its peer may break off at once (it may have 256 open), and how many more each
# second; for so many peers.
_BROKEN_OFF_AT_ONCE, _BROKEN_OFF_PER_S, _MOST_PEERS = 300.0, 100.0, 1024
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


class BrokenOffCalls:
    """Cuts a connection with very many calls that are broken off: each costs the gateway far more than its caller."""

    def __init__(self) -> None:
        # Of each peer: how many more it may break off, and when that was counted.
        self._left: dict[str, tuple[float, float]] = {}

    def count(self, peer: str) -> None:
        """Counts one call that a peer has broken off."""
        now_s = time.monotonic()
        left, counted_s = self._left.pop(peer, (_BROKEN_OFF_AT_ONCE, now_s))
        left = min(_BROKEN_OFF_AT_ONCE, left + _BROKEN_OFF_PER_S * (now_s - counted_s)) - 1.0
        if left < 0.0:
            cut_connection(peer)
            return
        self._left[peer] = left, now_s
        if len(self._left) > _MOST_PEERS:
            # the one that has broken off none for the longest
            del self._left[next(iter(self._left))]


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
