"""The Triton back end: graphs on one NVIDIA Triton server or on several, over gRPC.

A request goes to the server with the least work outstanding from here. A server that fails is left out, what it had
under way goes to another (the graphs have no state, so any request may be run again), and a probe takes it back once
it answers and its graphs give the samples that were stored with them. Batches are Triton's own affair.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Collection, Iterable

import numpy as np
from tritonclient.utils import InferenceServerException

from serving.access.tls import triton_credentials
from serving.backends import Inference, Tensors, count_samples
from serving.backends.shared_memory import Segment
from serving.backends.triton_server import Lost, RunFailed, Server
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
        credentials = triton_credentials(settings)
        self._servers = [
            Server(address, self._wanted, settings, metrics, self._segment, credentials)
            for address in dict.fromkeys(settings.triton_addresses)
        ]
        self._alone: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._outstanding: defaultdict[str, int] = defaultdict(int)  # samples, by model
        self._seconds: dict[str, float] = {}  # smoothed time of a request, by model
        self._turn = 0
        self._closed = False

    async def load(self) -> None:
        """Waits until one server has every graph, however long that takes: servers and gateway start in any order."""
        for server in self._servers:
            server.start()
        waiting = asyncio.ensure_future(self._until_healthy())
        try:
            while not (await asyncio.wait({waiting}, timeout=10.0))[0]:
                for server in self._servers:
                    _log.warning("waiting for Triton at %s: %s", server.address, server.complaint)
        finally:
            waiting.cancel()

    async def add(self, bundles: Iterable[Bundle]) -> None:
        """All servers that are up must have them; the others will get them before they are taken back."""
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
                await asyncio.gather(*(self._bring(server, added) for server in self._servers if server.up))
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
        if self._settings.triton_model_control:  # other gateways may not have switched yet
            await asyncio.sleep(self._settings.triton_unload_delay_s)
        for key in leaving:
            del self._wanted[key]
        await self._unload(leaving)

    def check_room(self, graph: GraphSpec, count: int) -> None:
        pass  # its servers' queues are their own

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

    async def healthy(self) -> bool:
        return any(server.has(self._wanted) for server in self._servers)

    async def close(self) -> None:
        self._closed = True
        await asyncio.gather(*(server.close() for server in self._servers))
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
        self._seconds[graph.model] = 0.8 * self._seconds.get(graph.model, taken_s) + 0.2 * taken_s
        return outputs

    async def _run(self, graph: GraphSpec, inputs: Tensors, count: int, deadline: Deadline) -> Tensors:
        try:
            return await self._on_some_server(graph, inputs, count, deadline)
        except RunFailed as error:
            failed_on = error.server
        # One after another, so that two which failed never share a batch again: who fails alone is at fault.
        async with self._alone[graph.model]:
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
        alone_on: Server | None = None,
    ) -> Tensors:
        """On one server after another, the least loaded first, until one answers or says it is the request's fault.

        `alone_on`: the run failed there, and is tried again, there first. Raises RunFailed without it only.
        """
        tried: set[Server] = set()
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
            except Lost as error:
                refusal = BackendUnavailable(
                    "Triton went away while it ran this, and no other server took it over; try again in a moment."
                )
                refusal.__cause__ = error.__cause__
            except QueueFull as error:  # the others may have room: they have other callers too
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

    def _choose(self, graph: GraphSpec, tried: Collection[Server], first: Server | None) -> Server | None:
        able = [server for server in self._servers if server.has((graph.key,)) and server not in tried]
        if not able:
            return None
        self._turn += 1
        server = min(able, key=lambda server: (server is not first, server.outstanding, server.turn))
        server.turn = self._turn
        return server

    def _time_to_drain_s(self, model: str) -> float:
        """A request that came just before had to wait for the whole queue."""
        return min(30.0, max(0.1, self._seconds.get(model, 1.0)))

    # --- the servers -------------------------------------------------------------------------------------------

    async def _until_healthy(self) -> None:
        while not await self.healthy():  # noqa: ASYNC110  (the probes of several servers decide it)
            await asyncio.sleep(0.02)

    async def _bring(self, server: Server, graphs: _Graphs) -> None:
        try:
            await server.have(graphs)
        except (InferenceServerException, Lost, RunFailed) as error:
            if not server.up:
                return  # it is brought up to date when it is back
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
