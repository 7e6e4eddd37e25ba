"""The HTTP server: uvicorn, in the gateway's event loop, on a socket of our own. The routes are an ASGI application."""

from __future__ import annotations

import asyncio
import resource
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.access.memory import MemoryBudget
from serving.errors import BackendUnavailable
from serving.http.connections import BoundedH11Protocol, ConnectionConfig
from serving.http.middleware import PROBES
from serving.settings import Settings

# Each takes about half a millisecond until it waits for something.
_BEGUN_A_TURN = 16
# Taking a connection in costs a hundredth of a millisecond, and serving it begins with a third of one.
_ACCEPTED_A_TURN, _OPENED_A_TURN = 64, 8
# Where no connection can be taken in, because there are no descriptors, it is tried again after so long.
_ACCEPT_AGAIN_S = 0.1
# Connections that wait to be opened, at most, and as a share of the descriptors; of more, the oldest are closed.
_MAX_ACCEPTED, _ACCEPTED_SHARE = 1024, 1 / 8
_TLS_HANDSHAKE_TIMEOUT_S = 10.0
# Bytes of an answer that the system takes beyond those that are on their way to the caller.
_MAX_UNSENT_BYTES = 64 * 1024


class _InSlices:
    """An ASGI application of which few requests begin in each turn of the event loop.

    Of a burst the others wait in line, and one of them begins in each turn: probes, and what is under way, do not wait
    for all of them.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._begun = 0
        self._turn = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] not in PROBES:
            if not self._begun:
                asyncio.get_running_loop().call_soon(self._begin_turn)
            self._begun += 1
            if self._begun > _BEGUN_A_TURN or self._turn.locked():
                async with self._turn:
                    await asyncio.sleep(0)
        await self._app(scope, receive, send)

    def _begin_turn(self) -> None:
        self._begun = 0


class _Listener:
    """Takes in connections at a listening socket, and opens a few of them in each turn of the event loop.

    A burst of connections would otherwise hold up those that come after it: uvloop takes in one a turn, in their
    order. Here hosts take turns, and each host's newest connection comes first: who has waited for long has often gone.
    It has the methods of asyncio.Server that uvicorn calls.
    """

    def __init__(
        self,
        listening: socket.socket,
        make_protocol: Callable[[float], asyncio.Protocol],
        context: ssl.SSLContext | None,
    ) -> None:
        self._listening = listening
        self._make_protocol = make_protocol
        self._context = context
        self._loop = asyncio.get_running_loop()
        # of each host, with the loop's time when it was taken in: the oldest first
        self._accepted: dict[str, list[tuple[socket.socket, float]]] = {}
        self._count = 0
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._max_accepted = min(_MAX_ACCEPTED, max(1, int(descriptors * _ACCEPTED_SHARE)))
        self._opening: set[asyncio.Task[None]] = set()
        self._is_scheduled = False
        self._accept_later: asyncio.TimerHandle | None = None
        listening.setblocking(False)
        self._watch()

    def close(self) -> None:
        """Takes in no more connections, and closes those that have not been opened."""
        self._loop.remove_reader(self._listening)
        if self._accept_later is not None:
            self._accept_later.cancel()
        for connections in self._accepted.values():
            for connection, _ in connections:
                connection.close()
        self._accepted.clear()
        self._count = 0

    async def wait_closed(self) -> None:
        """Waits for connections that are just being opened."""
        for task in self._opening:
            task.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)

    def _watch(self) -> None:
        self._loop.add_reader(self._listening, self._accept)

    def _accept(self) -> None:
        for _ in range(_ACCEPTED_A_TURN):
            try:
                connection, address = self._listening.accept()
            except (BlockingIOError, ConnectionAbortedError, InterruptedError):
                break
            except OSError:
                self._loop.remove_reader(self._listening)
                self._accept_later = self._loop.call_later(_ACCEPT_AGAIN_S, self._watch)
                break
            connection.setblocking(False)
            self._accepted.setdefault(address[0], []).append((connection, self._loop.time()))
            self._count += 1
            if self._count > self._max_accepted:
                self._drop_oldest()
        if self._count and not self._is_scheduled:
            self._is_scheduled = True
            self._open_some()

    def _drop_oldest(self) -> None:
        """Closes the oldest connection of the host with the most of them."""
        host, connections = max(self._accepted.items(), key=lambda accepted: len(accepted[1]))
        oldest, _ = connections.pop(0)
        oldest.close()
        self._count -= 1
        if not connections:
            del self._accepted[host]

    def _open_some(self) -> None:
        for _ in range(min(_OPENED_A_TURN, self._count)):
            host, connections = next(iter(self._accepted.items()))
            del self._accepted[host]
            newest, accepted_s = connections.pop()
            self._count -= 1
            if connections:
                self._accepted[host] = connections
            task = self._loop.create_task(self._open(newest, accepted_s), name="http-connection")
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)
        self._is_scheduled = self._count > 0
        if self._is_scheduled:
            self._loop.call_soon(self._open_some)

    async def _open(self, connection: socket.socket, accepted_s: float) -> None:
        timeout_s = None if self._context is None else _TLS_HANDSHAKE_TIMEOUT_S
        # one that has gone already, or speaks no TLS
        with suppress(OSError):
            await self._loop.connect_accepted_socket(
                partial(self._make_protocol, accepted_s),
                connection,
                ssl=self._context,
                ssl_handshake_timeout=timeout_s,
            )


class HttpServer(uvicorn.Server):
    """Serves an ASGI application at a port of `settings.host`. `port` is 0 until it is started.

    It installs no signal handlers: the gateway drains all servers together.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        memory: MemoryBudget,
        port: int,
        context: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(
            ConnectionConfig(
                _InSlices(app),
                settings,
                memory,
                log_config=None,
                access_log=False,
                lifespan="off",
                server_header=False,
                proxy_headers=False,  # the caller's address is not used
                timeout_graceful_shutdown=max(1, int(settings.drain_timeout_s)),
                # a picture as it is, or in base64 within JSON
                ws_max_size=min(settings.max_request_bytes, settings.max_picture_bytes * 4 // 3 + 65536),
                ws_per_message_deflate=False,  # pictures are compressed already
            )
        )
        self.port = 0
        self._address = (settings.host, port)
        self._context = context
        self._task: asyncio.Task[None] | None = None

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: Sequence[socket.socket] | None = None) -> None:
        """Takes in connections at the sockets; uvicorn calls it."""
        assert sockets is not None

        def protocol(accepted_s: float) -> asyncio.Protocol:
            made = BoundedH11Protocol(self.config, self.server_state, {})
            made.waits_since_s = accepted_s
            return made

        self.servers = [_Listener(each, protocol, self._context) for each in sockets]  # type: ignore[misc]
        self.started = True

    async def start(self) -> None:
        """Listens. Raises OSError if the port cannot be had."""
        listening = _listening_socket(*self._address)
        self._task = asyncio.create_task(self.serve(sockets=[listening]), name="http-server")
        while not self.started:
            if self._task.done():
                raise BackendUnavailable("The HTTP server did not start.")
            await asyncio.sleep(0.01)
        self.port = int(listening.getsockname()[1])

    def hurry(self) -> None:
        """From now on answers that are not read are given up sooner."""
        connections: list[Any] = list(self.server_state.connections)
        for connection in connections:
            connection.hurry()

    async def stop(self) -> None:
        """Finishes the requests that run."""
        self.should_exit = True
        if self._task is not None:
            await self._task


def _listening_socket(host: str, port: int) -> socket.socket:
    """A listening TCP socket, without Nagle's algorithm, which would delay answers by 40 ms. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections inherit these. An answer that is not read then waits in the gateway, which pauses work on it,
        # and not in megabytes of the system's memory.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _MAX_UNSENT_BYTES)
        listening.bind((host, port))
    except OSError:
        listening.close()
        raise
    # as many as the system allows
    listening.listen(4096)
    return listening
