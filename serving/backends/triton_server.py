"""One Triton server as the gateway sees it: its channel, what it has ready, what is under way, what its errors mean.

Which server a request goes to is decided in triton.py.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import InferInput, InferRequestedOutput, InferResult
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from serving.backends import Tensors
from serving.backends.samples import check_sample
from serving.backends.shared_memory import DATATYPES, Segment
from serving.bundle import Bundle, GraphKey, GraphSpec, Role
from serving.call import outgoing_metadata
from serving.errors import BackendFailed, DeadlineExceeded, EditingError, QueueFull
from serving.settings import Settings
from serving.telemetry.metrics import Metrics

_log = logging.getLogger(__name__)

Graphs = Mapping[GraphKey, tuple[Bundle, Role]]

_CHANNEL = [
    # By default a channel may look for a server that was away only two minutes later.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.dns_min_time_between_resolutions_ms", 1000),  # one that moved has its name, but another address
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
]
_PROBE_INTERVAL_AWAY_S = 0.25
_PROBE_TIMEOUT_S = 3.0
_PROBES_IN_VAIN = 2  # who does not answer so many in turn hangs
_FAILURES_IN_TURN = 3  # of requests that failed even alone, none having succeeded: its own fault, not theirs
_SAMPLE_TIMEOUT_S = 120.0  # the first run of a graph may build an engine
_LOAD_TIMEOUT_S = 600.0


class Lost(Exception):
    """The server went away, or has not got the graph: another one may answer."""


class RunFailed(Exception):
    """The run failed on a server; a sample that shared the batch may be at fault."""

    def __init__(self, server: Server, text: str) -> None:
        super().__init__(text)
        self.server = server


class Server:
    """A server at an address. `start()` it in a running loop; `wanted` are the graphs that it is to have, which the
    owner may change."""

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
        self.complaint = ""  # why it is not up, or what it lacks; for the log
        self.outstanding = 0  # samples
        self.turn = 0
        self._wanted = wanted
        self._settings = settings
        self._gauge = metrics.backend_up.labels(address)
        self._ejections = metrics.ejections.labels(address)
        self._ready: set[GraphKey] = set()
        self._segment = segment
        self._credentials = credentials
        self._loaded_here: set[GraphKey] = set()
        self._failures = 0
        self._shares = False  # whether the server has been told of the segment
        self._calls: set[asyncio.Future[Any]] = set()
        self._changing = asyncio.Lock()  # one at a time loads, unloads or checks graphs
        self._look_again = asyncio.Event()
        self._probe: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._gauge.set(0)
        self._client = InferenceServerClient(self.address, creds=self._credentials, channel_args=_CHANNEL)
        self._probe = asyncio.create_task(self._keep_looking(), name=f"probe-{self.address}")

    async def close(self) -> None:
        probe, self._probe = self._probe, None
        if probe is None:
            return
        probe.cancel()
        with suppress(asyncio.CancelledError):
            await probe
        if self._segment is not None and self._shares:
            with suppress(InferenceServerException):
                await self._client.unregister_system_shared_memory(
                    self._segment.name, client_timeout=_PROBE_TIMEOUT_S
                )
        await self._client.close()
        self.up = False
        self._gauge.set(0)

    def has(self, graphs: Iterable[GraphKey]) -> bool:
        """Whether it is up and has these graphs ready and found right."""
        return self.up and self._ready.issuperset(graphs)

    # --- requests ----------------------------------------------------------------------------------------------

    async def infer(self, graph: GraphSpec, inputs: Tensors, count: int, timeout_s: float) -> Tensors:
        """Raises Lost, RunFailed, QueueFull, DeadlineExceeded, BackendFailed. Cancelling it reaches the server."""
        slot = self._segment.take(graph, count) if self._segment and self._shares else None
        if slot is None:
            asked = [_input(spec.name, inputs[spec.name]) for spec in graph.inputs]
            wanted = [InferRequestedOutput(spec.name) for spec in graph.outputs]
            result = await self._call(graph, asked, wanted, count, timeout_s)
            outputs = {spec.name: result.as_numpy(spec.name) for spec in graph.outputs}
            if any(value is None or len(value) != count for value in outputs.values()):
                raise BackendFailed(f"{graph.model} on Triton did not give all that its manifest says.")
            return outputs
        answered = False
        try:
            await self._call(graph, slot.inputs(inputs), slot.outputs(), count, timeout_s)
            answered = True
            return slot.results()
        except (RunFailed, QueueFull, BackendFailed):
            answered = True
            raise
        finally:
            slot.leave(at_rest=answered)

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
                timeout=max(1, int(timeout_s * 1e6)),  # in its queue, microseconds
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
            raise Lost(self.complaint) from None  # `eject` cancelled the call, not the caller
        except InferenceServerException as error:
            raise self._meaning(error, graph) from error
        finally:
            self._calls.discard(call)
            self.outstanding -= count

    def _meaning(self, error: InferenceServerException, graph: GraphSpec) -> Exception:
        """Queue full, time-out, shutdown and no server at all come as one status: the text tells them apart."""
        status, text = (error.status() or "").removeprefix("StatusCode."), error.message() or ""
        if status == "DEADLINE_EXCEEDED" or "timeout expired" in text:
            return DeadlineExceeded(f"Time ran out while {graph.model} was asked; allow more, or send less.")
        if "maximum queue size" in text or (status == "RESOURCE_EXHAUSTED" and "larger than max" not in text):
            return QueueFull(f"The queue of {graph.model} on Triton is full; try again a little later.")
        if status in ("NOT_FOUND", "UNIMPLEMENTED") or "unknown model" in text or "stopped accepting" in text:
            self._ready.discard(graph.key)
            self._tell()
            self._look_again.set()
            return Lost(text)
        if (
            status in ("UNAVAILABLE", "CANCELLED") or "shared memory region" in text
        ):  # it has forgotten it: restarted
            self.eject(text)
            return Lost(text)
        if status in ("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"):
            return BackendFailed(
                f"Triton does not take this for {graph.model}; is it the bundle served here?"
            )
        return RunFailed(self, text)

    def count_failure(self) -> None:
        """Of a request that failed though it ran alone. One who fails all would else draw them all: it is fast."""
        self._failures += 1
        if self._failures >= _FAILURES_IN_TURN:
            self._failures = 0
            self.eject("its graphs fail")

    def eject(self, why: str) -> None:
        """Leaves it out until the probe finds it well; what it has under way is given up, to be run elsewhere."""
        self.complaint = why
        if not self.up:
            return
        self.up = False
        self._ready.clear()
        self._shares = False
        self._ejections.inc()
        self._tell()
        _log.warning("Triton at %s is left out: %s", self.address, why)
        for call in self._calls:
            call.cancel()
        self._look_again.set()

    # --- health ------------------------------------------------------------------------------------------------

    async def _keep_looking(self) -> None:
        in_vain = 0
        while True:
            self._look_again.clear()
            try:
                await self._look()
                in_vain = 0
            except InferenceServerException as error:
                in_vain += 1
                if "DEADLINE_EXCEEDED" not in (error.status() or "") or in_vain >= _PROBES_IN_VAIN:
                    self.eject(error.message() or "it does not answer")
            except Exception as error:
                _log.exception("Triton at %s could not be looked at", self.address)
                self.eject(str(error))
            self._tell()
            pause_s = self._settings.triton_probe_interval_s
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s if self.up else min(pause_s, _PROBE_INTERVAL_AWAY_S)):
                    await self._look_again.wait()

    async def _look(self) -> None:
        if not await self._client.is_server_live(client_timeout=_PROBE_TIMEOUT_S):
            raise InferenceServerException("it is not live", "StatusCode.UNAVAILABLE")
        if not self.up:
            _log.info("Triton at %s answers", self.address)
            if self._segment is not None:
                await self._share(self._segment)
            self.up = True
        async with self._changing:
            self._ready -= await self._absent(self._wanted)
        complaint = await self._bring(self._wanted) if self._lacking() else ""
        if complaint and complaint != self.complaint:
            _log.warning("Triton at %s: %s", self.address, complaint)
        self.complaint = complaint

    async def _share(self, segment: Segment) -> None:
        with suppress(InferenceServerException):  # it may know it from before it was left out
            await self._client.unregister_system_shared_memory(segment.name, client_timeout=_PROBE_TIMEOUT_S)
        try:
            await self._client.register_system_shared_memory(
                segment.name, f"/{segment.name}", segment.size_bytes, client_timeout=_PROBE_TIMEOUT_S
            )
        except InferenceServerException as error:
            _log.warning("Triton at %s takes no shared memory: %s", self.address, error.message())
        else:
            self._shares = True

    def _lacking(self) -> set[GraphKey]:
        return self._wanted.keys() - self._ready

    def _tell(self) -> None:
        self._gauge.set(self.has(self._wanted))

    async def _absent(self, graphs: Graphs) -> set[GraphKey]:
        keys = list(graphs)
        found = await asyncio.gather(
            *(self._client.is_model_ready(k[0], str(k[1]), client_timeout=_PROBE_TIMEOUT_S) for k in keys)
        )
        return {key for key, ready in zip(keys, found, strict=True) if not ready}

    # --- graphs ------------------------------------------------------------------------------------------------

    async def have(self, graphs: Graphs) -> None:
        """Returns once it has them. Raises BundleInvalid, InferenceServerException; waits as long as it must."""
        while not self.has(graphs):
            if not self.up:
                raise InferenceServerException("it went away", "StatusCode.UNAVAILABLE")
            self.complaint = await self._bring(graphs, strict=True)
            if not self.has(graphs):
                await asyncio.sleep(_PROBE_INTERVAL_AWAY_S)

    async def unload(self, graphs: Graphs, *, only_own: bool = False) -> None:
        """Gives up these versions, where it is told what to load. `only_own`: those that were loaded from here, as
        other gateways may want the rest."""
        self._ready -= graphs.keys()
        leaving = self._loaded_here & graphs.keys() if only_own else graphs.keys()
        self._loaded_here -= graphs.keys()
        if not self._settings.triton_model_control or not self.up:
            return
        async with self._changing:
            await self._for_each_model(leaving, lambda model: self._unload(model, _versions(leaving, model)))

    async def _bring(self, graphs: Graphs, *, strict: bool = False) -> str:
        """Loads what is not loaded, if that is ours to do, and checks what was not checked: what is left to say.

        `strict` raises what it would say of a graph that was found wrong or cannot be loaded."""
        graphs = dict(graphs)  # the owner may change what is wanted meanwhile
        async with self._changing:
            absent = await self._absent({key: graphs[key] for key in graphs.keys() - self._ready})
            try:
                if absent and self._settings.triton_model_control:
                    self._loaded_here |= absent
                    await self._load_absent(absent, self._wanted.keys() - absent)
                    absent = await self._absent({key: graphs[key] for key in absent})
                for key in graphs.keys() - self._ready - absent:
                    await self._check(*graphs[key])
                    if self.up:  # still: if it was left out meanwhile, another may come back in its place
                        self._ready.add(key)
            except (EditingError, InferenceServerException, Lost, RunFailed) as error:
                if strict:
                    raise
                return str(error)
        return (
            f"waits for {', '.join(f'{key[0]} version {key[1]}' for key in sorted(absent))}" if absent else ""
        )

    async def _check(self, bundle: Bundle, role: Role) -> None:
        async def run(inputs: Tensors) -> Tensors:
            return await self.infer(bundle.graphs[role], inputs, 1, _SAMPLE_TIMEOUT_S)

        await check_sample(bundle, role, run)

    async def _load_absent(self, absent: Iterable[GraphKey], present: Iterable[GraphKey]) -> None:
        await self._for_each_model(
            absent, lambda model: self._load(model, _versions(absent, model), _versions(present, model))
        )

    async def _for_each_model(
        self, graphs: Iterable[GraphKey], change: Callable[[str], Awaitable[None]]
    ) -> None:
        """All of them, together, whatever becomes of one. Raises what the first that failed did."""
        models = sorted({key[0] for key in graphs})
        results = await asyncio.gather(
            *(self._when_free(partial(change, model)) for model in models), return_exceptions=True
        )
        for result in results:
            if result is not None:
                raise result

    async def _when_free(self, change: Callable[[], Awaitable[None]]) -> None:
        """Triton refuses to change a model while somebody else, such as another gateway, is at it."""
        while True:
            try:
                return await change()
            except InferenceServerException as error:
                if "currently loading or unloading" not in (error.message() or ""):
                    raise
            await asyncio.sleep(_PROBE_INTERVAL_AWAY_S)

    async def _unload(self, model: str, versions: set[int]) -> None:
        loaded = await self._loaded(model)
        if not loaded & versions:
            return  # another gateway was first
        if loaded <= versions:
            await self._client.unload_model(model, client_timeout=_LOAD_TIMEOUT_S)
        else:
            await self._load_versions(model, loaded - versions)

    async def _load(self, model: str, absent: set[int], present: set[int]) -> None:
        """Loads what is absent beside what is loaded, for whomever."""
        loaded = await self._loaded(model)
        if not loaded | present:
            await self._client.load_model(model, client_timeout=_LOAD_TIMEOUT_S)  # its newest version
            loaded = await self._loaded(model)
        if not absent <= loaded:
            await self._load_versions(model, loaded | absent | present)

    async def _loaded(self, model: str) -> set[int]:
        """Versions that run, or will in a moment."""
        index = await self._client.get_model_repository_index(client_timeout=_PROBE_TIMEOUT_S)
        states = ("READY", "LOADING")
        return {int(entry.version) for entry in index.models if entry.name == model and entry.state in states}

    async def _load_versions(self, model: str, versions: set[int]) -> None:
        """These versions of a model, each that runs already without a break; by its configuration otherwise."""
        answer = await self._client.get_model_config(model, as_json=True, client_timeout=_PROBE_TIMEOUT_S)
        config = answer["config"] | {"version_policy": {"specific": {"versions": sorted(versions)}}}
        await self._client.load_model(model, config=json.dumps(config), client_timeout=_LOAD_TIMEOUT_S)


def _versions(graphs: Iterable[GraphKey], model: str) -> set[int]:
    return {key[1] for key in graphs if key[0] == model}


def _input(name: str, value: np.ndarray[Any, Any]) -> InferInput:
    tensor = InferInput(name, list(value.shape), DATATYPES[value.dtype.name])
    tensor.set_data_from_numpy(np.ascontiguousarray(value))
    return tensor
