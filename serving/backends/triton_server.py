"""One Triton server as the gateway sees it: its channel, its health, its graphs, and what its errors mean.

triton.py decides which server a request goes to; triton_models.py loads and unloads models.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import InferInput, InferRequestedOutput, InferResult
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from serving.backends.backend import Tensors
from serving.backends.references import check_reference
from serving.backends.shared_memory import DATATYPES, Segment
from serving.backends.triton_models import load_models, unload_models
from serving.bundle import Bundle, GraphKey, GraphSpec, Role
from serving.call import outgoing_metadata
from serving.errors import BackendFailed, DeadlineExceeded, EditingError, QueueFull
from serving.settings import Settings
from serving.telemetry.metrics import Metrics

_log = logging.getLogger(__name__)

Graphs = Mapping[GraphKey, tuple[Bundle, Role]]

_CHANNEL = [
    # By default a channel may take two minutes to try again.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A server that moved keeps its name but has another address.
    ("grpc.dns_min_time_between_resolutions_ms", 1000),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
]
_PROBE_INTERVAL_DOWN_S = 0.25
_PROBE_TIMEOUT_S = 3.0
_MAX_UNANSWERED_PROBES = 2  # in a row; then the server hangs
_MAX_FAILURES = 3  # in a row, of requests that ran alone; then the server is at fault, not the requests
_REFERENCE_TIMEOUT_S = 120.0  # the first run of a graph may build a TensorRT engine


class ServerLost(Exception):
    """The server went away or does not have the graph: another server may answer."""


class RunFailed(Exception):
    """A run failed on a server. Another sample in the same batch may be at fault."""

    def __init__(self, server: TritonServer, text: str) -> None:
        super().__init__(text)
        self.server = server


class TritonServer:
    """A server at an address, which a background task probes. Make it in a running event loop.

    `wanted` are the graphs that the server is to have; the owner may change that mapping. A server is `up` if it
    answers; `complaint` says why it is not up, or which graphs it lacks. `outstanding`: samples that it is running.
    """

    def __init__(
        self,
        address: str,
        wanted: Graphs,
        settings: Settings,
        metrics: Metrics,
        segment: Segment | None,
        credentials: grpc.ChannelCredentials | None,
    ) -> None:
        self.address = address
        self.up = False
        self.complaint = ""
        self.outstanding = 0
        self.last_chosen = 0
        self._wanted = wanted
        self._settings = settings
        self._gauge = metrics.backend_up.labels(address)
        self._ejections = metrics.ejections.labels(address)
        self._ready: set[GraphKey] = set()  # loaded, and right on their reference runs
        self._segment = segment
        self._segment_registered = False
        self._loaded_here: set[GraphKey] = set()
        self._failures = 0
        self._calls: set[asyncio.Future[Any]] = set()
        self._models_lock = asyncio.Lock()  # held by whoever loads, unloads or checks graphs
        self._probe_now = asyncio.Event()
        self._gauge.set(0)
        self._client = InferenceServerClient(address, creds=credentials, channel_args=_CHANNEL)
        self._prober = asyncio.create_task(self._probe_forever(), name=f"probe-{address}")

    async def close(self) -> None:
        """Stops the probe and closes the channel."""
        self._prober.cancel()
        with suppress(asyncio.CancelledError):
            await self._prober
        if self._segment is not None and self._segment_registered:
            with suppress(InferenceServerException):
                await self._client.unregister_system_shared_memory(
                    self._segment.name, client_timeout=_PROBE_TIMEOUT_S
                )
        await self._client.close()
        self.up = False
        self._gauge.set(0)

    def has(self, graphs: Iterable[GraphKey]) -> bool:
        """Whether the server is up and has these graphs loaded and checked."""
        return self.up and self._ready.issuperset(graphs)

    # --- requests ----------------------------------------------------------------------------------------------

    async def infer(self, graph: GraphSpec, inputs: Tensors, count: int, timeout_s: float) -> Tensors:
        """Runs `count` samples. Cancelling it cancels the request on the server, too.

        Raises ServerLost, RunFailed, QueueFull, DeadlineExceeded, BackendFailed.
        """
        slot = self._segment.take(graph, count) if self._segment and self._segment_registered else None
        if slot is None:
            sent = [_input(spec.name, inputs[spec.name]) for spec in graph.inputs]
            wanted = [InferRequestedOutput(spec.name) for spec in graph.outputs]
            result = await self._call(graph, sent, wanted, count, timeout_s)
            outputs = {spec.name: result.as_numpy(spec.name) for spec in graph.outputs}
            if any(value is None or len(value) != count for value in outputs.values()):
                raise BackendFailed(f"{graph.model} on Triton did not give all that its manifest says.")
            return outputs
        answered = False
        try:
            await self._call(graph, slot.write_inputs(inputs), slot.requested_outputs(), count, timeout_s)
            answered = True
            return slot.read_outputs()
        except (RunFailed, QueueFull, BackendFailed):
            answered = True
            raise
        finally:
            slot.release(server_is_done=answered)

    async def _call(
        self,
        graph: GraphSpec,
        inputs: list[InferInput],
        outputs: list[InferRequestedOutput],
        count: int,
        timeout_s: float,
    ) -> InferResult:
        call = asyncio.ensure_future(
            self._client.infer(
                graph.model,
                inputs,
                model_version=str(graph.version),
                outputs=outputs,
                timeout=max(1, int(timeout_s * 1e6)),  # in the server's queue, microseconds
                client_timeout=timeout_s,
                headers=dict(outgoing_metadata()),
            )
        )
        self._calls.add(call)
        self.outstanding += count
        try:
            result = await call
            self._failures = 0
            return result
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # Not the caller was cancelled: `eject` cancelled the call.
            raise ServerLost(self.complaint) from None
        except InferenceServerException as error:
            raise self._translate(error, graph) from error
        finally:
            self._calls.discard(call)
            self.outstanding -= count

    def _translate(self, error: InferenceServerException, graph: GraphSpec) -> Exception:
        """The gateway's error for one of Triton's.

        Triton has one status for a full queue, a time-out, a shutdown and a lost connection: the text decides.
        """
        status, text = (error.status() or "").removeprefix("StatusCode."), error.message() or ""
        if status == "DEADLINE_EXCEEDED" or "timeout expired" in text:
            return DeadlineExceeded(f"Time ran out while {graph.model} was asked; allow more, or send less.")
        if "maximum queue size" in text or (status == "RESOURCE_EXHAUSTED" and "larger than max" not in text):
            return QueueFull(f"The queue of {graph.model} on Triton is full; try again a little later.")
        if status in ("NOT_FOUND", "UNIMPLEMENTED") or "unknown model" in text or "stopped accepting" in text:
            self._ready.discard(graph.key)
            self._update_gauge()
            self._probe_now.set()
            return ServerLost(text)
        # A server that does not know the shared memory region has been restarted.
        if status in ("UNAVAILABLE", "CANCELLED") or "shared memory region" in text:
            self.eject(text)
            return ServerLost(text)
        if status in ("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"):
            return BackendFailed(
                f"Triton does not take this for {graph.model}; is it the bundle served here?"
            )
        return RunFailed(self, text)

    def count_failure(self) -> None:
        """Counts a request that failed although it ran alone; ejects a server on which several fail in a row.

        A server that fails all requests is fast, and would otherwise attract all of them.
        """
        self._failures += 1
        if self._failures >= _MAX_FAILURES:
            self._failures = 0
            self.eject("its graphs fail")

    def eject(self, why: str) -> None:
        """Uses the server no more until a probe finds it well. Its running calls raise ServerLost, to run elsewhere."""
        self.complaint = why
        if not self.up:
            return
        self.up = False
        self._ready.clear()
        self._segment_registered = False
        self._ejections.inc()
        self._update_gauge()
        _log.warning("Triton at %s is left out: %s", self.address, why)
        for call in self._calls:
            call.cancel()
        self._probe_now.set()

    # --- health ------------------------------------------------------------------------------------------------

    async def _probe_forever(self) -> None:
        unanswered = 0
        while True:
            self._probe_now.clear()
            try:
                await self._probe()
                unanswered = 0
            except InferenceServerException as error:
                unanswered += 1
                timed_out = "DEADLINE_EXCEEDED" in (error.status() or "")
                if not timed_out or unanswered >= _MAX_UNANSWERED_PROBES:
                    self.eject(error.message() or "it does not answer")
            except Exception as error:
                _log.exception("Triton at %s could not be looked at", self.address)
                self.eject(str(error))
            self._update_gauge()
            pause_s = self._settings.triton_probe_interval_s
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s if self.up else min(pause_s, _PROBE_INTERVAL_DOWN_S)):
                    await self._probe_now.wait()

    async def _probe(self) -> None:
        """Asks whether the server is live and has its graphs; loads and checks those that it lacks."""
        if not await self._client.is_server_live(client_timeout=_PROBE_TIMEOUT_S):
            raise InferenceServerException("it is not live", "StatusCode.UNAVAILABLE")
        if not self.up:
            _log.info("Triton at %s answers", self.address)
            if self._segment is not None:
                await self._register(self._segment)
            self.up = True
        async with self._models_lock:
            self._ready -= await self._not_loaded(self._wanted)
        complaint = await self._prepare(self._wanted) if self._wanted.keys() - self._ready else ""
        if complaint and complaint != self.complaint:
            _log.warning("Triton at %s: %s", self.address, complaint)
        self.complaint = complaint

    async def _register(self, segment: Segment) -> None:
        """Tells the server of the shared memory."""
        # The server may know the segment from before it was ejected.
        with suppress(InferenceServerException):
            await self._client.unregister_system_shared_memory(segment.name, client_timeout=_PROBE_TIMEOUT_S)
        try:
            await self._client.register_system_shared_memory(
                segment.name, f"/{segment.name}", segment.size_bytes, client_timeout=_PROBE_TIMEOUT_S
            )
        except InferenceServerException as error:
            _log.warning("Triton at %s takes no shared memory: %s", self.address, error.message())
        else:
            self._segment_registered = True

    def _update_gauge(self) -> None:
        self._gauge.set(self.has(self._wanted))

    async def _not_loaded(self, graphs: Graphs) -> set[GraphKey]:
        keys = list(graphs)
        found = await asyncio.gather(
            *(self._client.is_model_ready(k[0], str(k[1]), client_timeout=_PROBE_TIMEOUT_S) for k in keys)
        )
        return {key for key, ready in zip(keys, found, strict=True) if not ready}

    # --- graphs ------------------------------------------------------------------------------------------------

    async def wait_for(self, graphs: Graphs) -> None:
        """Loads and checks these graphs, and waits as long as that takes.

        Raises BundleInvalid, InferenceServerException, ServerLost, RunFailed.
        """
        while not self.has(graphs):
            if not self.up:
                raise InferenceServerException("it went away", "StatusCode.UNAVAILABLE")
            self.complaint = await self._prepare(graphs, strict=True)
            if not self.has(graphs):
                await asyncio.sleep(_PROBE_INTERVAL_DOWN_S)

    async def unload(self, graphs: Graphs, *, only_own: bool = False) -> None:
        """Unloads these graphs, if this gateway controls the models.

        only_own: only those that this gateway has loaded, as other gateways may want the rest.
        """
        self._ready -= graphs.keys()
        leaving = self._loaded_here & graphs.keys() if only_own else graphs.keys()
        self._loaded_here -= graphs.keys()
        if not self._settings.triton_model_control or not self.up:
            return
        async with self._models_lock:
            await unload_models(self._client, leaving)

    async def _prepare(self, graphs: Graphs, *, strict: bool = False) -> str:
        """Loads the graphs that are absent, if this gateway controls the models, and checks those not yet checked.

        Returns what is still missing or wrong, for the log. strict: raises what is wrong instead.
        """
        graphs = dict(graphs)  # the owner may change the mapping meanwhile
        async with self._models_lock:
            absent = await self._not_loaded({key: graphs[key] for key in graphs.keys() - self._ready})
            try:
                if absent and self._settings.triton_model_control:
                    self._loaded_here |= absent
                    await load_models(self._client, absent, self._wanted.keys() - absent)
                    absent = await self._not_loaded({key: graphs[key] for key in absent})
                for key in graphs.keys() - self._ready - absent:
                    await self._check(*graphs[key])
                    # A server that was ejected meanwhile may come back as another one.
                    if self.up:
                        self._ready.add(key)
            except (EditingError, InferenceServerException, ServerLost, RunFailed) as error:
                if strict:
                    raise
                return str(error)
        return (
            f"waits for {', '.join(f'{key[0]} version {key[1]}' for key in sorted(absent))}" if absent else ""
        )

    async def _check(self, bundle: Bundle, role: Role) -> None:
        async def run(inputs: Tensors) -> Tensors:
            return await self.infer(bundle.graphs[role], inputs, 1, _REFERENCE_TIMEOUT_S)

        await check_reference(bundle, role, run)


def _input(name: str, value: np.ndarray[Any, Any]) -> InferInput:
    tensor = InferInput(name, list(value.shape), DATATYPES[value.dtype.name])
    tensor.set_data_from_numpy(np.ascontiguousarray(value))
    return tensor
