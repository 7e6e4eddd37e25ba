"""The HTTP server: uvicorn, in the gateway's event loop, on a socket of our own. The routes are an ASGI application."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.access.memory import MemoryBudget
from serving.errors import BackendUnavailable
from serving.http.connections import ConnectionConfig
from serving.http.middleware import PROBES
from serving.settings import Settings

# Each takes about half a millisecond until it waits for something.
_BEGUN_A_TURN = 16


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
                ssl_context_factory=None if context is None else (lambda config, default: context),
            )
        )
        self.port = 0
        self._address = (settings.host, port)
        self._task: asyncio.Task[None] | None = None

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

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
    """A bound TCP socket. Raises OSError.

    It names its protocol: only then does asyncio switch off Nagle's algorithm, which would delay answers by 40 ms.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
    except OSError:
        listening.close()
        raise
    listening.listen(512)
    return listening
