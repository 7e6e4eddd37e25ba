"""What lies between the gateway's pipeline and a Triton server: `python -m benchmarks.triton`, or `make bench-triton`.

Each graph's run by the bare client, by the back end over the connection, and by the back end through shared memory, in
turn within one run, so that the ratios count. Without an address it starts the server of the tests, whose python back
end runs ONNX Runtime.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from tritonclient.grpc import InferInput
from tritonclient.grpc.aio import InferenceServerClient

from benchmarks.graphs import markdown_table
from serving.backends.backend import Tensors
from serving.backends.shared_memory import DATATYPES
from serving.backends.triton import TritonBackend
from serving.bundle import ROLES, Bundle, GraphSpec
from serving.deadline import Deadline
from serving.repository.reader import read_bundles
from serving.settings import Settings
from serving.telemetry.metrics import Metrics
from tests.serving import triton_server

Run = Callable[[GraphSpec, Tensors], Awaitable[object]]


@dataclass
class TritonConfig:
    """Compare ways to a Triton server; every ratio is within one run."""

    repository: Path = Path("model_repository")
    """Model repository of the bundle; the server has the same."""
    bundle: str = ""
    """Bundle; the first one by default."""
    address: str = ""
    """gRPC address of a server on this machine; by default one is installed and started."""
    batches: tuple[int, ...] = (1, 4)
    """Samples in a request."""
    rounds: int = 50
    """Times that each candidate is run, in turn with the others; the median counts."""


@contextmanager
def serving(config: TritonConfig) -> Iterator[str]:
    """The server's address."""
    if config.address:
        yield config.address
        return
    triton_server.install()
    with tempfile.TemporaryDirectory() as folder:
        repository = triton_server.derive_repository(config.repository, Path(folder) / "repository")
        server = triton_server.TritonServer(repository, Path(folder) / "log").start()
        try:
            yield server.address
        finally:
            server.kill()


def some_inputs(bundle: Bundle, graph: GraphSpec, count: int) -> Tensors:
    """The sample that lies with the graph, repeated; zeros where there is none."""
    sample = next((bundle.references[r] for r in bundle.references if bundle.graphs[r] is graph), None)
    if sample is None:
        return {spec.name: np.zeros((count, *spec.shape[1:]), spec.dtype) for spec in graph.inputs}
    return {name: np.repeat(value, count, axis=0) for name, value in sample.inputs.items()}


def bare(client: InferenceServerClient) -> Run:
    async def run(graph: GraphSpec, inputs: Tensors) -> object:
        tensors = []
        for name, value in inputs.items():
            tensors.append(InferInput(name, list(value.shape), DATATYPES[value.dtype.name]))
            tensors[-1].set_data_from_numpy(value)
        return await client.infer(graph.model, tensors, model_version=str(graph.version))

    return run


def through(backend: TritonBackend) -> Run:
    return lambda graph, inputs: backend.infer(graph, inputs, Deadline.after(60.0))


async def measure(config: TritonConfig, address: str) -> str:
    """The table: median milliseconds of each way, and its ratio to the bare client's."""
    names = (config.bundle,) if config.bundle else ()
    bundle = next(iter(read_bundles(config.repository, names).values()))
    settings = Settings(triton_addresses=(address,))
    backends = [
        TritonBackend([bundle], settings.model_copy(update={"triton_shared_memory": shared}), Metrics())
        for shared in (False, True)
    ]
    client = InferenceServerClient(address)
    for backend in backends:
        await backend.load()
    ways = (bare(client), *(through(backend) for backend in backends))
    rows = []
    for role in ROLES:
        graph = bundle.graphs[role]
        for count in config.batches:
            inputs = some_inputs(bundle, graph, count)
            times: list[list[float]] = [[] for _ in ways]
            for _ in range(config.rounds):
                for way, taken in zip(ways, times, strict=True):
                    begun_s = time.perf_counter()
                    await way(graph, inputs)
                    taken.append(time.perf_counter() - begun_s)
            medians = [1000 * statistics.median(taken) for taken in times]
            rows.append(
                [
                    role,
                    str(count),
                    f"{medians[0]:.2f}",
                    *(f"{value:.2f} ({value / medians[0]:.2f}x)" for value in medians[1:]),
                ]
            )
    for backend in backends:
        await backend.close()
    await client.close()
    return markdown_table(
        ["graph", "samples", "client, ms", "back end, ms", "back end, shared memory, ms"], rows
    )


if __name__ == "__main__":
    chosen = tyro.cli(TritonConfig, prog="python -m benchmarks.triton")
    with serving(chosen) as where:
        print(asyncio.run(measure(chosen, where)))
