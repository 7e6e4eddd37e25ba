"""The embedded back end: runs graphs in this process, with a session and a batcher for each, on a few threads.

It needs no server. Batches are not padded: on a CPU nothing is gained by that. (A session on a GPU does it itself.)
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from serving.backends.backend import Inference, Tensors, count_samples
from serving.backends.batcher import Batcher
from serving.backends.engines.choice import open_graph
from serving.backends.engines.choice_cache import ChoiceCache
from serving.backends.engines.gpu import DeviceSession
from serving.backends.engines.sessions import EngineName, EngineUnfit, Session
from serving.backends.references import check_reference
from serving.bundle import Bundle, GraphKey, GraphSpec, Role
from serving.deadline import Clock, Deadline, MonotonicClock
from serving.errors import BackendUnavailable, BundleInvalid, EditingError, ShuttingDown
from serving.settings import Settings
from serving.telemetry.metrics import Metrics

ADDRESS = "embedded"  # the label `address` of this back end in metrics
REFINER_NICENESS = 5
"""How much nicer (as of nice(1)) a refiner's threads are than the process's others. A processor that two threads want
is shared as their weights are: 1024 at 0, 335 at 5. More would hand refinements over to whatever else the machine does,
outside of containers."""
_CGROUP_LIMIT = Path("/sys/fs/cgroup/cpu.max")


def available_processors() -> int:
    """The number of processors that this process may use.

    ONNX Runtime itself looks neither at the CPU affinity nor at a container's limit.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _CGROUP_LIMIT.read_text().split()
        count = min(count, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass  # no cgroup v2, or its limit is "max": no limit
    return count


class EmbeddedBackend:
    """Runs the graphs of some bundles in this process."""

    def __init__(
        self, bundles: Iterable[Bundle], settings: Settings, metrics: Metrics, clock: Clock | None = None
    ) -> None:
        self._bundles = tuple(bundles)
        self._settings = settings
        self._metrics = metrics
        self._clock = clock or MonotonicClock()
        self._threads = settings.intra_op_threads or available_processors()
        # As many runs at once as have processors of their own. More would only slow each other down, above all the
        # generator and the domain score graph, which run at the same time. A refiner has threads of its own, as its
        # long chunks would block the other graphs, and those give way.
        at_once = max(1, available_processors() // self._threads)
        self._workers = ThreadPoolExecutor(at_once, thread_name_prefix="graphs")
        # One more batch than workers may be taken, so that no worker stands idle; the other queues grow meanwhile.
        self._turns = asyncio.Semaphore(at_once + 1)
        self._graphs: dict[GraphKey, _Graph] = {}

    async def load(self) -> None:
        await self.add(self._bundles)
        self._metrics.backend_up.labels(ADDRESS).set(1)

    async def add(self, bundles: Iterable[Bundle]) -> None:
        added: dict[GraphKey, _Graph] = {}
        try:
            for bundle in bundles:
                for role in bundle.graphs:
                    # Bundles may share graphs, also two that are new.
                    if bundle.graphs[role].key not in self._graphs | added:
                        graph = _Graph(
                            bundle,
                            role,
                            self._settings,
                            self._metrics,
                            self._clock,
                            self._threads,
                            None if role == "refiner" else (self._workers, self._turns),
                        )
                        added[bundle.graphs[role].key] = graph
                        await graph.load()
        except BaseException:
            await _close(added.values())
            raise
        self._graphs |= added

    async def keep(self, bundles: Iterable[Bundle]) -> None:
        kept = {graph.key for bundle in bundles for graph in bundle.graphs.values()}
        leaving = [self._graphs.pop(key) for key in self._graphs.keys() - kept]
        await _close(leaving)

    @property
    def engines(self) -> Mapping[str, str]:
        return {graph.model: graph.engine for graph in self._graphs.values()}

    def check_room(self, graph: GraphSpec, count: int) -> None:
        if graph.key in self._graphs:
            self._graphs[graph.key].check_room(count)

    async def infer(self, graph: GraphSpec, inputs: Tensors, deadline: Deadline) -> Inference:
        running = self._graphs.get(graph.key)
        if running is not None:
            return await running.infer(inputs, deadline)
        if not self._graphs:
            raise ShuttingDown("The gateway is shutting down; ask another one, or later.")
        raise BackendUnavailable("The bundle was replaced by a newer version of it; begin again.")

    async def healthy(self) -> bool:
        return bool(self._graphs)

    async def close(self) -> None:
        self._metrics.backend_up.labels(ADDRESS).set(0)
        graphs, self._graphs = list(self._graphs.values()), {}
        await _close(graphs)
        self._workers.shutdown()


def _give_way() -> None:
    """Lets other threads go first, on Linux, where threads have priorities of their own: a refinement may wait for a
    slider's picture, which takes a twentieth of its time. Threads that this one starts inherit it."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + REFINER_NICENESS)


async def _close(graphs: Iterable[_Graph]) -> None:
    for graph in graphs:
        await graph.close()


class _Graph:
    """One graph with its session and its batcher. It runs on the shared workers, or on a thread of its own."""

    def __init__(
        self,
        bundle: Bundle,
        role: Role,
        settings: Settings,
        metrics: Metrics,
        clock: Clock,
        threads: int,
        shared: tuple[ThreadPoolExecutor, asyncio.Semaphore] | None,
    ) -> None:
        self._bundle, self._role, self._settings = bundle, role, settings
        self._spec = spec = bundle.graphs[role]
        self.model, self.engine = spec.model, ""
        self._metrics = metrics
        self._threads = threads
        self._has_own_worker = shared is None
        # A pool starts no thread before it is given work.
        own_worker = ThreadPoolExecutor(1, thread_name_prefix=spec.model, initializer=_give_way)
        self._workers, turn = shared or (own_worker, None)
        self._batcher = Batcher(
            spec.model,
            self._run,
            max_batch_size=min(spec.max_batch_size, settings.max_batch_size),
            max_queue_samples=settings.max_queue_samples,
            max_delay_s=settings.max_batch_delay_ms / 1000.0,
            turn=turn,
            clock=clock,
            on_batch=metrics.batch_size.labels(spec.model).observe,
            on_depth=metrics.queue_depth.labels(spec.model).set,
        )
        self._session: Session | None = None
        self._output_names = [output.name for output in spec.outputs]

    async def load(self) -> None:
        """Opens the session and checks it. Raises BundleInvalid."""
        # In a thread apart, as other graphs are running on the shared workers; or in the graph's own, so that the
        # threads which a session starts give way as that one does.
        opening = self._workers if self._has_own_worker else None
        try:
            self._session = await asyncio.get_running_loop().run_in_executor(opening, self._open)
        except EngineUnfit as error:
            raise BundleInvalid(f"Bundle {self._bundle.name}: {error}") from None
        except Exception as error:
            repair = "export the bundle again"
            if self._spec.precision != "float32":
                repair += f" with --precision float32, or serve it from a GPU: it computes in {self._spec.precision}"
            raise BundleInvalid(
                f"Bundle {self._bundle.name}: {self._spec.model} cannot be loaded; {repair}."
            ) from error
        self._check_against_manifest(self._session)
        try:
            await check_reference(self._bundle, self._role, self._run_alone)
        except EditingError:
            raise
        except Exception as error:
            raise BundleInvalid(
                f"Bundle {self._bundle.name}: {self._spec.model} cannot be run; export the bundle again."
            ) from error

    def check_room(self, count: int) -> None:
        self._batcher.check_room(count)

    async def infer(self, inputs: Tensors, deadline: Deadline) -> Inference:
        samples = self._split(inputs)
        results = await self._batcher.submit(samples, deadline)
        if len(results) == 1:
            return Inference(results[0].outputs, results[0].queued_s)
        outputs = {
            name: np.concatenate([result.outputs[name] for result in results]) for name in self._output_names
        }
        return Inference(outputs, max(result.queued_s for result in results))

    async def close(self) -> None:
        await self._batcher.close()
        if self._has_own_worker:
            self._workers.shutdown()
        if self.engine:
            self._metrics.graph_engine.labels(self._spec.model, self.engine).set(0)
        self._session = None

    def _open(self) -> Session:
        settings = self._settings
        wanted: EngineName | None = None if settings.engine == "auto" else settings.engine
        chosen = open_graph(
            self._bundle, self._role, self._threads, wanted, ChoiceCache(settings.engine_cache)
        )
        self.engine = chosen.engine
        if chosen.batch is not None:
            self._batcher.limit(chosen.batch)
        if isinstance(chosen.session, DeviceSession):
            chosen.session.prepare(self._batcher.max_batch_size)
        self._metrics.graph_engine.labels(self._spec.model, chosen.engine).set(1)
        return chosen.session

    def _check_against_manifest(self, session: Session) -> None:
        for specs, found in ((self._spec.inputs, session.inputs), (self._spec.outputs, session.outputs)):
            for spec in specs:
                if found.get(spec.name) != spec.dtype:
                    raise BundleInvalid(
                        f"Bundle {self._bundle.name}: {self._spec.model} has no {spec.dtype} tensor {spec.name!r}, "
                        "though its manifest says so; export the bundle again."
                    )

    def _split(self, inputs: Tensors) -> list[Tensors]:
        count = count_samples(self._spec, inputs)
        names = [spec.name for spec in self._spec.inputs]
        return [{name: inputs[name][n : n + 1] for name in names} for n in range(count)]

    async def _run_alone(self, inputs: Tensors) -> Tensors:
        (outputs,) = await self._run([inputs])
        return outputs

    async def _run(self, samples: Sequence[Tensors]) -> Sequence[Tensors]:
        return await asyncio.get_running_loop().run_in_executor(self._workers, self._run_session, samples)

    def _run_session(self, samples: Sequence[Tensors]) -> Sequence[Tensors]:
        assert self._session is not None, "loaded before the batcher starts"
        first = samples[0]
        feeds = {
            name: first[name] if len(samples) == 1 else np.concatenate([sample[name] for sample in samples])
            for name in first
        }
        outputs = self._session.run(feeds)
        return [{name: outputs[name][n : n + 1] for name in self._output_names} for n in range(len(samples))]
