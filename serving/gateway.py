"""The gateway as a whole: puts bundles, back end, pipeline and both transports together; starts, drains, stops.

Both transports live in one event loop. Signals and the command line are __main__.py's.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import uvicorn
from fastapi import FastAPI
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from serving.access.intake import Intake
from serving.access.keys import Keys
from serving.access.lifecycle import Lifecycle
from serving.access.tls import Certificates
from serving.backends import Backend
from serving.backends.embedded import EmbeddedBackend
from serving.backends.triton import TritonBackend
from serving.errors import BackendUnavailable
from serving.grpc.interceptor import grpc_handlers
from serving.http.routes import create_app, create_operations_app
from serving.pipeline.pipeline import Pipeline
from serving.pipeline.repository import Repository
from serving.settings import Settings, is_loopback
from serving.telemetry.metrics import Metrics
from serving.wire.contract import SERVICE
from serving.wire.editing import Editing

if TYPE_CHECKING:
    from serving.telemetry.tracing import Tracing

_log = logging.getLogger(__name__)


def _is_news(record: logging.LogRecord) -> bool:
    """uvicorn takes every websocket that was refused with an answer for a fault; the gateway logs it as a request."""
    return "without completing handshake" not in record.getMessage()


logging.getLogger("uvicorn.error").addFilter(_is_news)


class _HttpServer(uvicorn.Server):
    """uvicorn without its own signal handlers: the gateway drains both transports together."""

    def __init__(self, app: FastAPI, settings: Settings, context: ssl.SSLContext | None = None) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                lifespan="off",
                server_header=False,
                proxy_headers=False,  # who calls is of no interest here
                timeout_graceful_shutdown=max(1, int(settings.drain_timeout_s)),
                ws_max_size=settings.max_request_bytes,
                ws_per_message_deflate=False,  # pictures are compressed already
                ssl_context_factory=None if context is None else (lambda config, default: context),
            )
        )
        self._task: asyncio.Task[None] | None = None

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def start(self, host: str, port: int) -> int:
        """Listens; gives the port. Raises OSError."""
        listening = _listening_socket(host, port)
        self._task = asyncio.create_task(self.serve(sockets=[listening]), name="http-server")
        while not self.started:
            if self._task.done():
                raise BackendUnavailable("The HTTP server did not start.")
            await asyncio.sleep(0.01)
        number = listening.getsockname()[1]
        assert isinstance(number, int)
        return number

    async def stop(self) -> None:
        """Finishes the requests under way."""
        self.should_exit = True
        if self._task is not None:
            await self._task


def _listening_socket(host: str, port: int) -> socket.socket:
    """A bound TCP socket. Raises OSError. It must name its protocol: only then does asyncio switch Nagle's algorithm
    off for its connections, which would cost 40 ms an answer."""
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


class Gateway:
    """`await start()`, then it serves; `await stop()` finishes what was accepted.

    With a `unix_socket` it listens there alone, over gRPC: for the program that it runs in (in_process.py).
    """

    def __init__(
        self, settings: Settings, backend: Backend | None = None, *, unix_socket: Path | None = None
    ) -> None:
        self.settings = settings
        self._unix_socket = unix_socket
        self.metrics = Metrics()
        self.grpc_port = 0
        self.http_port = 0
        self.operations_port = 0
        self.tracing: Tracing | None = None
        self._http_servers: list[_HttpServer] = []
        self._intake = Intake(settings.max_bytes_in_flight)
        self._given_backend = backend
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listens first (reported as not ready), then loads and warms up.

        Raises BundleInvalid, KeysInvalid, CertificateInvalid, OSError.
        """
        settings = self.settings
        self._keys = None if settings.keys_file is None else Keys(settings.keys_file)
        self._certificates = Certificates.of(settings)
        if self._keys is not None and self._certificates is None and not is_loopback(settings.host):
            _log.warning("keys come in unencrypted: set tls_certificate, unless something in front ends TLS")
        self._repository = Repository(settings, self.metrics)
        bundles = await self._repository.read()
        backends: dict[str, type[EmbeddedBackend | TritonBackend]]
        backends = {"embedded": EmbeddedBackend, "triton": TritonBackend}
        self._backend = self._given_backend or backends[settings.backend](
            bundles.values(), settings, self.metrics
        )
        self.pipeline = Pipeline(bundles, self._backend, settings, self.metrics)
        if settings.trace_endpoint:
            from serving.telemetry.tracing import Tracing

            self.tracing = Tracing(settings)
        self._lifecycle = Lifecycle(settings, self.metrics, self._intake, self._keys, self.tracing)
        try:
            await self._start_grpc()
            if self._unix_socket is None:
                await self._start_http()
            if self._certificates is not None:
                self._own(self._certificates.keep_renewing(), "certificates")
            await self._backend.load()
            await self.pipeline.warm_up()
        except BaseException:
            await self.stop()
            raise
        await self._report(serving=True)
        self._own(self._follow_health(), "health")
        self._own(self._repository.watch(self._backend, self.pipeline), "repository")
        if self._unix_socket is None:
            _log.info(
                "ready: gRPC on %s:%d, HTTP on %s:%d",
                settings.host,
                self.grpc_port,
                settings.host,
                self.http_port,
            )

    def reload(self) -> None:
        """Looks for new versions of bundles now; the log and a metric say what became of it."""
        if not hasattr(self, "pipeline") or not self.pipeline.ready:
            return  # what lies there is being loaded
        self._own(self._repository.reload(self._backend, self.pipeline), "reload")

    def _own(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Runs it until it ends or the gateway stops."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _follow_health(self) -> None:
        """Tells those who watch gRPC's health service when the back end goes and comes back."""
        serving = True
        while True:
            await asyncio.sleep(0.5)
            if serving != (serving := await self.pipeline.healthy()):
                await self._report(serving=serving)

    async def stop(self) -> None:
        """Not ready -> no new requests -> finish what was accepted -> let go of everything."""
        self.pipeline.draining = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._report(serving=False)
        if self.pipeline.ready:
            await asyncio.sleep(self.settings.drain_delay_s)
        # only a caller who does not read can keep a session open: it is cut below
        with suppress(TimeoutError):
            async with asyncio.timeout(self.settings.drain_timeout_s):
                await self.pipeline.end_sessions()
        await asyncio.gather(
            self._grpc.stop(self.settings.drain_timeout_s), *(server.stop() for server in self._http_servers)
        )
        await self._backend.close()
        await self.pipeline.close()
        if self.tracing is not None:
            await asyncio.to_thread(self.tracing.close)

    async def _start_grpc(self) -> None:
        self._grpc = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", self.settings.max_request_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),  # a second gateway on the same port must fail, not share
            ],
        )
        handlers = grpc_handlers(Editing(self.pipeline), self._lifecycle, self.metrics)
        self._grpc.add_generic_rpc_handlers((handlers,))
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        await self._report(serving=False)  # it would start as SERVING
        names = (SERVICE.full_name, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._grpc)
        address = f"{self.settings.host}:{self.settings.grpc_port}"
        if self._unix_socket is not None:
            address = f"unix:{self._unix_socket}"
        try:
            if self._certificates is None:
                self.grpc_port = self._grpc.add_insecure_port(address)
            else:
                self.grpc_port = self._grpc.add_secure_port(address, self._certificates.grpc_credentials())
        except RuntimeError as error:
            raise OSError(
                f"port {self.settings.grpc_port} of {self.settings.host} cannot be had for gRPC"
            ) from error
        await self._grpc.start()

    async def _start_http(self) -> None:
        settings = self.settings
        app = create_app(self.pipeline, Editing(self.pipeline), self._lifecycle, settings, self.metrics)
        context = None if self._certificates is None else self._certificates.http
        server = _HttpServer(app, settings, context)
        self._http_servers.append(server)
        self.http_port = await server.start(settings.host, settings.http_port)
        if settings.operations_port is not None:
            server = _HttpServer(create_operations_app(self.pipeline, self.metrics), settings)
            self._http_servers.append(server)
            self.operations_port = await server.start(settings.host, settings.operations_port)

    async def _report(self, *, serving: bool) -> None:
        answer = health_pb2.HealthCheckResponse
        status = answer.SERVING if serving else answer.NOT_SERVING
        for service in ("", SERVICE.full_name):
            await self._health.set(service, status)
