"""The Triton back end: runs graphs on one or several NVIDIA Triton servers, over gRPC.

A request goes to the server with the least outstanding work of this gateway. A server that fails is ejected, and its
running requests go to another one: graphs have no state, so any request can run again. A probe takes the server back
once it answers and its graphs pass their reference checks. Triton does the batching.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

import numpy as np
from tritonclient.utils import InferenceServerException

from serving.access.tls import triton_credentials
from serving.backends.backend import Inference, Tensors, count_samples
from serving.backends.shared_memory import Segment
from serving.backends.triton_server import RunFailed, ServerLost, TritonServer
from serving.bundle import Bundle, GraphKey, GraphSpec, Role
from serving.deadline import Clock, Deadline, MonotonicClock
from serving.errors import (
    BackendFailed,
    BackendUnavailable,
    BundleInvalid,
    DeadlineExceeded,
    EditingError,
    QueueFull,
    ShuttingDown,
)
from serving.settings import Settings
from serving.telemetry.average import ExponentialAverage
from serving.telemetry.metrics import Metrics

_log = logging.getLogger(__name__)


class TritonBackend:
    """Runs the graphs of some bundles on the servers at `settings.triton_addresses`."""

    def __init__(
        self, bundles: Iterable[Bundle], settings: Settings, metrics: Metrics, clock: Clock | None = None
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._clock = clock or MonotonicClock()
        self._wanted = _graphs_of(bundles)
        self._segment: Segment | None = None
        if settings.triton_shared_memory:
            graphs = [bundle.graphs[role] for bundle, role in self._wanted.values()]
            self._segment = Segment(graphs, self._clock)
        self._credentials = triton_credentials(settings)
        self._servers: list[TritonServer] = []
        self._alone_locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)  # by model
        self._outstanding: defaultdict[str, int] = defaultdict(int)  # samples, by model
        self._request_s: defaultdict[str, ExponentialAverage] = defaultdict(lambda: ExponentialAverage(0.2))
        self._choices = 0
        self._closed = False

    async def load(self) -> None:
        """Connects, and waits until one server has every graph. Servers and gateway may start in any order."""
        self._servers = [
            TritonServer(
                address, self._wanted, self._settings, self._metrics, self._segment, self._credentials
            )
            for address in dict.fromkeys(self._settings.triton_addresses)
        ]
        waiting = asyncio.ensure_future(self._until_healthy())
        try:
            while not (await asyncio.wait({waiting}, timeout=10.0))[0]:
                for server in self._servers:
                    _log.warning("waiting for Triton at %s: %s", server.address, server.complaint)
        finally:
            waiting.cancel()

    async def add(self, bundles: Iterable[Bundle]) -> None:
        """Loads graphs on all servers that are up. The others get them before they are used again."""
        added = {key: part for key, part in _graphs_of(bundles).items() if key not in self._wanted}
        for model, version, _ in added:
            if any((model, version) == key[:2] for key in self._wanted):
                raise BundleInvalid(
                    f"{model} has changed and still is version {version}; Triton tells versions apart by their number "
                    "only, so export it with the next one."
                )
        if not added:
            return
        try:
            async with asyncio.timeout(self._settings.reload_timeout_s):
                await asyncio.gather(*(self._load_on(server, added) for server in self._servers if server.up))
            if not any(server.has(added) for server in self._servers):
                raise BackendUnavailable("No Triton server is up that could load the new version.")
        except BaseException as error:
            await self._unload(added, only_own=True)
            if isinstance(error, TimeoutError):
                raise BackendUnavailable("Triton did not have the new version ready in time.") from None
            raise
        self._wanted |= added

    async def keep(self, bundles: Iterable[Bundle]) -> None:
        kept = _graphs_of(bundles)
        leaving = {key: part for key, part in self._wanted.items() if key not in kept}
        if not leaving:
            return
        if self._settings.triton_model_control:
            # Other gateways may not have switched to the new version yet.
            await asyncio.sleep(self._settings.triton_unload_delay_s)
        for key in leaving:
            del self._wanted[key]
        await self._unload(leaving)

    def check_room(self, graph: GraphSpec, count: int) -> None:
        pass  # the queues are on the servers

    async def infer(self, graph: GraphSpec, inputs: Tensors, deadline: Deadline) -> Inference:
        count, most = count_samples(graph, inputs), graph.max_batch_size
        if count <= most:
            return Inference(await self._infer(graph, inputs, count, deadline))
        parts = [
            asyncio.ensure_future(
                self._infer(
                    graph,
                    {name: value[n : n + most] for name, value in inputs.items()},
                    min(most, count - n),
                    deadline,
                )
            )
            for n in range(0, count, most)
        ]
        try:
            outputs = await asyncio.gather(*parts)
        finally:
            for part in parts:
                part.cancel()
        return Inference({s.name: np.concatenate([part[s.name] for part in outputs]) for s in graph.outputs})

    @property
    def engines(self) -> Mapping[str, str]:
        return {}

    async def healthy(self) -> bool:
        return any(server.has(self._wanted) for server in self._servers)

    async def close(self) -> None:
        self._closed = True
        servers, self._servers = self._servers, []
        await asyncio.gather(*(server.close() for server in servers))
        if self._segment is not None:
            self._segment.close()
            self._segment = None

    # --- one request -------------------------------------------------------------------------------------------

    async def _infer(self, graph: GraphSpec, inputs: Tensors, count: int, deadline: Deadline) -> Tensors:
        self._count(graph.model, count)
        started_s = self._clock.now()
        try:
            outputs = await self._run(graph, inputs, count, deadline)
        finally:
            self._count(graph.model, -count)
        taken_s = self._clock.now() - started_s
        self._request_s[graph.model].add(taken_s)
        return outputs

    async def _run(self, graph: GraphSpec, inputs: Tensors, count: int, deadline: Deadline) -> Tensors:
        try:
            return await self._on_some_server(graph, inputs, count, deadline)
        except RunFailed as error:
            failed_on = error.server
        # Failed requests run again one after another, so that they share no batch: what fails alone is at fault itself.
        async with self._alone_locks[graph.model]:
            return await self._on_some_server(graph, inputs, count, deadline, alone_on=failed_on)

    def _count(self, model: str, samples: int) -> None:
        self._outstanding[model] += samples
        self._metrics.queue_depth.labels(model).set(self._outstanding[model])

    async def _on_some_server(
        self,
        graph: GraphSpec,
        inputs: Tensors,
        count: int,
        deadline: Deadline,
        alone_on: TritonServer | None = None,
    ) -> Tensors:
        """Tries one server after another, the least loaded first, until one answers or the request is at fault.

        alone_on: the server on which the request failed in a batch; it is tried first. RunFailed is raised only
        without it.
        """
        tried: set[TritonServer] = set()
        refusal: EditingError = BackendUnavailable(
            "No Triton server is ready for this; try again in a moment."
        )
        while (server := self._choose(graph, tried, alone_on)) is not None:
            tried.add(server)
            if deadline.expired:
                raise DeadlineExceeded(
                    f"Time ran out before {graph.model} could run; allow more, or send less."
                )
            try:
                return await server.infer(graph, inputs, count, deadline.remaining_s)
            except ServerLost as error:
                refusal = BackendUnavailable(
                    "Triton went away while it ran this, and no other server took it over; try again in a moment."
                )
                refusal.__cause__ = error.__cause__
            except QueueFull as error:
                # The queue of another server may have room.
                refusal = QueueFull(error.message, retry_after_s=self._time_to_drain_s(graph.model))
            except RunFailed as error:
                if alone_on is None:
                    raise
                server.count_failure()
                refusal = BackendFailed(f"{graph.model} failed on this request; the log has the cause.")
                refusal.__cause__ = error.__cause__
        if self._closed:
            raise ShuttingDown("The gateway is shutting down; ask another one, or later.")
        raise refusal

    def _choose(
        self, graph: GraphSpec, tried: Collection[TritonServer], first: TritonServer | None
    ) -> TritonServer | None:
        """The server to try next: `first`, then the one with the least outstanding work; equal ones take turns."""
        able = [server for server in self._servers if server.has((graph.key,)) and server not in tried]
        if not able:
            return None
        self._choices += 1
        server = min(able, key=lambda server: (server is not first, server.outstanding, server.last_chosen))
        server.last_chosen = self._choices
        return server

    def _time_to_drain_s(self, model: str) -> float:
        """The time that requests take lately: the last one in a full queue waits for the whole of it."""
        lately_s = self._request_s[model].value if model in self._request_s else 1.0
        return min(30.0, max(0.1, lately_s))

    # --- the servers -------------------------------------------------------------------------------------------

    async def _until_healthy(self) -> None:
        while not await self.healthy():  # noqa: ASYNC110  (the probes of several servers decide it)
            await asyncio.sleep(0.02)

    async def _load_on(self, server: TritonServer, graphs: _Graphs) -> None:
        """Loads graphs on one server. Raises BundleInvalid."""
        try:
            await server.wait_for(graphs)
        except (InferenceServerException, ServerLost, RunFailed) as error:
            if not server.up:
                return  # a server gets its graphs before it is used again
            raise BundleInvalid(
                f"Triton at {server.address} cannot load the new version; its log says why."
            ) from error

    async def _unload(self, graphs: _Graphs, *, only_own: bool = False) -> None:
        results = await asyncio.gather(
            *(server.unload(graphs, only_own=only_own) for server in self._servers), return_exceptions=True
        )
        for server, result in zip(self._servers, results, strict=True):
            if isinstance(result, Exception):
                _log.warning("Triton at %s did not unload what is not wanted: %s", server.address, result)


_Graphs = dict[GraphKey, tuple[Bundle, Role]]


def _graphs_of(bundles: Iterable[Bundle]) -> _Graphs:
    return {graph.key: (bundle, role) for bundle in bundles for role, graph in bundle.graphs.items()}
