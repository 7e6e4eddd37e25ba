"""The connections of a client: one transport for each process, and of an `AsyncClient` one for each event loop.

A connection that two processes use gives each of them answers of the other. So no process uses one that it has
inherited by a fork, and none is copied.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import NoReturn
from weakref import WeakKeyDictionary

from indomain.exceptions import ForkedError, NotCopyableError
from indomain.transports.protocols import AsyncTransport, Transport


class Connection:
    """The transport of a `Client`. In the child of a fork it opens another one at the first call."""

    def __init__(self, connect: Callable[[], Transport]) -> None:
        """`connect` opens a transport; it is called at once, and raises what it raises."""
        self._connect = connect
        self._transport = connect()
        self._process = os.getpid()
        # A child keeps what it has inherited and does not close it: the parent still uses it.
        self._inherited: Transport | None = None

    def get(self) -> Transport:
        """The transport of this process."""
        if self._process != os.getpid():
            self._inherited = self._transport
            self.renew()
        return self._transport

    def renew(self) -> None:
        """Opens another transport, in place of one whose answers are not to be trusted."""
        self._transport = self._connect()
        # Last: another thread that comes in between opens one for itself.
        self._process = os.getpid()

    def close(self) -> None:
        if self._process == os.getpid():
            self._transport.close()


class LoopConnections:
    """The transports of an `AsyncClient`: one for each event loop of this process that makes calls."""

    def __init__(self, connect: Callable[[], AsyncTransport]) -> None:
        """`connect` makes a transport, which connects at its first call; what it raises is raised at once."""
        self._connect = connect
        # Made here, so that a wrong argument is found here; the first event loop takes it.
        self._spare = [connect()]
        self._of_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncTransport] = WeakKeyDictionary()
        self._process = os.getpid()
        self._inherited: object = None

    def get(self) -> AsyncTransport:
        """The transport of the running event loop."""
        if self._process != os.getpid():
            self._inherited = (self._of_loop, self._spare)
            self._of_loop, self._spare = WeakKeyDictionary(), []
            self._process = os.getpid()
        loop = asyncio.get_running_loop()
        transport = self._of_loop.get(loop)
        if transport is None:
            transport = self._of_loop[loop] = self._take_spare() or self._connect()
        return transport

    def renew(self) -> None:
        """Opens another transport, in place of one whose answers are not to be trusted."""
        self._of_loop[asyncio.get_running_loop()] = self._connect()

    async def close(self) -> None:
        """Closes the transport of the running event loop. Those of others end with their loops."""
        await self.get().close()

    def _take_spare(self) -> AsyncTransport | None:
        try:
            return self._spare.pop()
        except IndexError:
            return None


class NotCopyable:
    """Base of what is a connection, and therefore can be neither copied nor pickled."""

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise NotCopyableError(
            f"{_with_article(self)} is a connection and can be neither copied nor pickled. Pass on the address, and "
            "make a client where it is used; threads and children of a fork may use the client that they see",
            reason="not_copyable",
        )


def check_process(process: int, thing: object) -> None:
    """Raises ForkedError where this is not the process in which `thing` was opened."""
    if process != os.getpid():
        raise ForkedError(
            f"{_with_article(thing)} belongs to the process that opened it ({process}), and this is a child of it; "
            "open another one here",
            reason="forked",
        )


def _with_article(thing: object) -> str:
    name = type(thing).__name__
    return f"An {name}" if name[0] in "AEIOU" else f"A {name}"
