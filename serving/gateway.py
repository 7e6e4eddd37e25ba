"""The gateway as a whole: makes bundles, back end, pipeline and servers, starts them, drains them, stops them.

Both transports run in one event loop. __main__.py handles signals and the command line.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving.access.keys import Keys
from serving.access.lifecycle import Lifecycle
from serving.access.memory import MemoryBudget
from serving.access.tls import Certificates
from serving.backends.backend import Backend
from serving.backends.embedded import EmbeddedBackend
from serving.backends.triton import TritonBackend
from serving.grpc.connections import keep_descriptors_free
from serving.grpc.interceptor import grpc_handlers
from serving.grpc.server import GrpcServer
from serving.http.routes import create_app, create_operations_app
from serving.http.server import HttpServer
from serving.pipeline.bundles import ServedBundles
from serving.pipeline.pipeline import Pipeline
from serving.repository.watcher import RepositoryWatcher, read_repository
from serving.settings import Settings, is_loopback
from serving.telemetry.metrics import Metrics
from serving.wire.contract import SERVICE
from serving.wire.editing import Editing

if TYPE_CHECKING:
    from serving.telemetry.tracing import Tracing

_log = logging.getLogger(__name__)

_HEALTH_INTERVAL_S = 0.5
# Calls that gRPC has taken, and whose handlers have not begun, begin within this time.
_QUIET_S = 0.5
# At the end, bodies that are still coming in have this long to be whole.
_LAST_BODIES_S = 2.0
_BACKENDS: dict[str, type[EmbeddedBackend | TritonBackend]] = {
    "embedded": EmbeddedBackend,
    "triton": TritonBackend,
}


class Gateway:
    """A gateway: make it, `await start()`, and later `await stop()`.

    With a `unix_socket` it listens there only, over gRPC, for the program that it runs in (in_process.py). `backend`
    replaces the one that the settings name.
    """

    def __init__(
        self, settings: Settings, backend: Backend | None = None, *, unix_socket: Path | None = None
    ) -> None:
        """Reads the bundles, keys and certificates; nothing runs yet.

        Raises BundleInvalid, KeysInvalid, CertificateInvalid.
        """
        self.settings = settings
        self.metrics = Metrics()
        self._tasks: set[asyncio.Task[None]] = set()
        keys = None if settings.keys_file is None else Keys(settings.keys_file)
        self._certificates = certificates = Certificates.of(settings)
        fingerprint, bundles = read_repository(settings)
        self._backend = backend or _BACKENDS[settings.backend](bundles.values(), settings, self.metrics)
        served = ServedBundles(bundles, self._backend, settings)
        self.pipeline = Pipeline(served, self._backend, settings, self.metrics)
        self._watcher = RepositoryWatcher(fingerprint, self._backend, served, settings, self.metrics)
        self.tracing = _make_tracing(settings)
        self.memory = memory = MemoryBudget(settings.max_bytes_in_flight)
        self._lifecycle = lifecycle = Lifecycle(settings, self.metrics, memory, keys, self.tracing)
        editing = Editing(self.pipeline)
        handler = grpc_handlers(editing, lifecycle, self.metrics, settings.max_request_bytes)
        self._grpc = GrpcServer(
            SERVICE.full_name,
            handler,
            settings,
            certificates,
            unix_socket,
            until_idle=partial(lifecycle.until_idle, "grpc", _QUIET_S),
        )
        self._http: HttpServer | None = None
        self._operations: HttpServer | None = None
        if unix_socket is None:
            app = create_app(self.pipeline, editing, lifecycle, settings, self.metrics)
            context = None if certificates is None else certificates.http
            self._http = HttpServer(app, settings, memory, settings.http_port, context)
            if settings.operations_port is not None:
                operations = create_operations_app(self.pipeline, self.metrics)
                self._operations = HttpServer(operations, settings, memory, settings.operations_port)

    @property
    def grpc_port(self) -> int:
        """The port of gRPC; 0 before the start."""
        return self._grpc.port

    @property
    def http_port(self) -> int:
        """The port of HTTP; 0 before the start, and with a Unix socket."""
        return 0 if self._http is None else self._http.port

    @property
    def operations_port(self) -> int:
        """The port for probes and metrics; 0 before the start, and if there is none."""
        return 0 if self._operations is None else self._operations.port

    async def start(self) -> None:
        """Listens, reported as not ready; loads and warms up the graphs; then reports that it is ready.

        Raises OSError, BundleInvalid, BackendUnavailable; the gateway is stopped then.
        """
        settings = self.settings
        if settings.keys_file and self._certificates is None and not is_loopback(settings.host):
            _log.warning("keys come in unencrypted: set tls_certificate, unless something in front ends TLS")
        try:
            await self._grpc.start()
            for server in self._http_servers():
                await server.start()
            if self._certificates is not None:
                self._run(self._certificates.keep_renewing(), "certificates")
            await self._backend.load()
            await self.pipeline.warm_up()
        except BaseException:
            await self.stop()
            raise
        self._grpc.report(serving=True)
        self._run(self._report_health(), "health")
        self._run(keep_descriptors_free(self.grpc_port), "grpc-connections")
        self._run(self._watcher.watch(), "repository")
        if self._http is not None:
            _log.info(
                "ready: gRPC on %s:%d, HTTP on %s:%d",
                settings.host,
                self.grpc_port,
                settings.host,
                self.http_port,
            )

    def reload(self) -> None:
        """Looks for new versions of bundles now. A log line and a metric tell the outcome."""
        # Before it is ready, it is still loading what the repository holds.
        if self.pipeline.ready:
            self._run(self._watcher.reload(), "reload")

    async def stop(self) -> None:
        """Reports that it is not ready, takes no new requests, finishes the accepted ones, and closes everything."""
        self.pipeline.draining = True
        self.pipeline.decoders.drain()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._grpc.report(serving=False)
        if self.pipeline.ready:
            await asyncio.sleep(self.settings.drain_delay_s)
        self._lifecycle.stop_receiving(_LAST_BODIES_S)
        for server in self._http_servers():
            server.hurry()
        # Only a caller that does not read its answers can keep a session open longer; it is cut off below.
        with suppress(TimeoutError):
            async with asyncio.timeout(self.settings.drain_timeout_s):
                await self.pipeline.sessions.end()
        await asyncio.gather(self._grpc.stop(), *(server.stop() for server in self._http_servers()))
        await self._backend.close()
        await self.pipeline.close()
        if self.tracing is not None:
            await asyncio.to_thread(self.tracing.close)

    def _http_servers(self) -> list[HttpServer]:
        return [server for server in (self._http, self._operations) if server is not None]

    def _run(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Runs a background task until it ends or the gateway stops."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _report_health(self) -> None:
        """Keeps gRPC's health service up to date while the back end goes and comes back."""
        serving = True
        while True:
            await asyncio.sleep(_HEALTH_INTERVAL_S)
            if serving != (serving := await self.pipeline.healthy()):
                self._grpc.report(serving=serving)


def _make_tracing(settings: Settings) -> Tracing | None:
    if not settings.trace_endpoint:
        return None
    # Imported here, as it needs the extra `tracing`.
    from serving.telemetry.tracing import Tracing

    return Tracing(settings)
