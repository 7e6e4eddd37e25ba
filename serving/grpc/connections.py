"""How many connections gRPC may have: its core takes as many as there are file descriptors, and HTTP would get none.

The sockets are the core's own, so they are found among the process's descriptors. Linux only; elsewhere nothing is cut.
"""

from __future__ import annotations

import asyncio
import os
import platform
import resource
import socket
import struct
from collections.abc import Iterable
from contextlib import suppress

# Of all descriptors of the process. HTTP may have half of them.
_MOST_SHARE = 0.75
_INTERVAL_S = 0.25
# Where none is left, not even one to list them with, so many are tried.
_MOST_TRIED = 65_536
_DESCRIPTORS = "/proc/self/fd"
# `struct tcp_info` of Linux: milliseconds since data came.
_LAST_DATA_RECEIVED = struct.Struct("=52xI")


async def keep_descriptors_free(port: int) -> None:
    """Runs for as long as the server of that port does: when descriptors become few, it cuts the connections from which
    nothing has come for the longest."""
    if platform.system() != "Linux":
        return
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = int(limit * _MOST_SHARE)
    while True:
        await asyncio.sleep(_INTERVAL_S)
        try:
            names = os.listdir(_DESCRIPTORS)
            used: Iterable[int] = map(int, names)
            excess = len(names) - most
        except OSError:
            used, excess = range(min(limit, _MOST_TRIED)), limit - most
        if excess > 0:
            _cut_silent(used, port, excess)


def _cut_silent(descriptors: Iterable[int], port: int, count: int) -> None:
    silent_ms: dict[int, int] = {}
    for descriptor in descriptors:
        # ValueError: no socket of a kind that Python knows
        with suppress(OSError, ValueError):
            found = socket.socket(fileno=descriptor)
            try:
                if found.family in (socket.AF_INET, socket.AF_INET6) and found.getsockname()[1] == port:
                    # raises OSError for the one that listens
                    found.getpeername()
                    state = found.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_DATA_RECEIVED.size)
                    (silent_ms[descriptor],) = _LAST_DATA_RECEIVED.unpack(state)
            finally:
                found.detach()
    for descriptor in sorted(silent_ms, key=silent_ms.__getitem__, reverse=True)[:count]:
        with suppress(OSError, ValueError):
            found = socket.socket(fileno=descriptor)
            try:
                found.shutdown(socket.SHUT_RDWR)
            finally:
                found.detach()
