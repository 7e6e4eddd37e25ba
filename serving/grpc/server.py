"""The gRPC server: its port and its limits. The methods come from interceptor.py, health and reflection
from open_services.py."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import grpc

from serving.access.tls import Certificates
from serving.grpc.connections import MAX_STREAMS
from serving.grpc.open_services import OpenServices
from serving.settings import Settings


class GrpcServer:
    """Serves one service at `settings.grpc_port`, or at a Unix socket. `port` is 0 until it is started.

    The health service reports it as not serving until `report` is called. `until_idle` returns when no call of the
    service is under way.
    """

    def __init__(
        self,
        service: str,
        handler: grpc.GenericRpcHandler,
        settings: Settings,
        certificates: Certificates | None,
        unix_socket: Path | None,
        until_idle: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        self.port = 0
        self._handler = handler
        self._settings = settings
        self._certificates = certificates
        self._unix_socket = unix_socket
        self._until_idle = until_idle
        self._open_services = OpenServices((service,))
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        """Listens. Raises OSError if the port cannot be had."""
        settings = self._settings
        # grpc.aio binds a server to the running event loop, so it cannot be made earlier.
        self._server = server = grpc.aio.server(
            options=[
                # Messages a little over the limit are received, and refused with the gateway's own error; larger ones
                # gRPC refuses by itself, without a detail.
                ("grpc.max_receive_message_length", settings.max_request_bytes * 3 // 2),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_concurrent_streams", MAX_STREAMS),
                # Connections that say nothing, or whose peer is gone.
                ("grpc.server_handshake_timeout_ms", 10_000),
                ("grpc.max_connection_idle_ms", 600_000),
                ("grpc.keepalive_time_ms", 60_000),
                ("grpc.keepalive_timeout_ms", 20_000),
                # A second gateway on the same port must fail, not share it.
                ("grpc.so_reuseport", 0),
            ],
        )
        server.add_generic_rpc_handlers((self._handler, *self._open_services.handlers()))
        address = f"{settings.host}:{settings.grpc_port}"
        if self._unix_socket is not None:
            address = f"unix:{self._unix_socket}"
        try:
            if self._certificates is None:
                self.port = server.add_insecure_port(address)
            else:
                self.port = server.add_secure_port(address, self._certificates.grpc_credentials())
        except RuntimeError as error:
            raise OSError(f"port {settings.grpc_port} of {settings.host} cannot be had for gRPC") from error
        await server.start()

    def report(self, *, serving: bool) -> None:
        """Tells the health service, and everyone who watches it, whether requests would be served."""
        self._open_services.report(serving=serving)

    async def stop(self) -> None:
        """Takes no new calls, and gives those that run `settings.drain_timeout_s` to finish.

        gRPC itself would also wait for callers to close their connections, which a stranger need not do.
        """
        if self._server is None:
            return
        stopping = asyncio.create_task(self._server.stop(self._settings.drain_timeout_s), name="grpc-stop")
        idle = asyncio.create_task(self._until_idle(), name="grpc-idle")
        await asyncio.wait({stopping, idle}, return_when=asyncio.FIRST_COMPLETED)
        idle.cancel()
        await self._server.stop(None)
        await stopping
