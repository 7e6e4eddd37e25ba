"""What it costs to be watched: decodes through gateways without and with metrics, log lines and traces, in turn.

`make bench-observing`. All gateways run in this process, each in a thread of its own and one at work at a time, on the
same bundle; spans go to a collector in a process of its own, which takes them and does nothing.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import grpc
import tyro
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as otlp
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as otlp_stubs
from prometheus_client.metrics import MetricWrapperBase

from benchmarks.graphs import Graphs, markdown_table
from benchmarks.speed import Step, interleaved
from indomain.v1 import editing_pb2, editing_pb2_grpc
from serving.gateway import Gateway
from serving.logs import JsonFormatter
from serving.metrics import Metrics
from serving.settings import Settings


@dataclass
class ObservingConfig:
    """Compare gateways that are watched more and less; every ratio is within one run."""

    repository: Path = Path("model_repository")
    """Model repository."""
    threads: int = 2
    """Threads of ONNX Runtime."""
    rounds: int = 400
    """Decodes through each gateway, in turn with the others; the median counts."""


class _Uncounted:
    """Stands for any metric and does nothing."""

    def labels(self, *values: str) -> _Uncounted:
        return self

    def inc(self, amount: float = 1.0) -> None: ...

    def set(self, value: float) -> None: ...

    def observe(self, value: float) -> None: ...


class _NoMetrics(Metrics):
    def __init__(self) -> None:
        super().__init__()
        for name, metric in list(vars(self).items()):
            if isinstance(metric, MetricWrapperBase):
                setattr(self, name, _Uncounted())


class _Collector(otlp_stubs.TraceServiceServicer):  # type: ignore[misc]
    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802
        return otlp.ExportTraceServiceResponse()


def collect(told: Connection) -> None:
    """Takes spans until it is told to end."""
    server = grpc.server(ThreadPoolExecutor(2))
    otlp_stubs.add_TraceServiceServicer_to_server(_Collector(), server)
    told.send(server.add_insecure_port("127.0.0.1:0"))
    server.start()
    told.recv()


@contextmanager
def collector() -> Iterator[str]:
    """The address of one that takes spans, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=collect, args=(there,))
    process.start()
    yield f"http://127.0.0.1:{here.recv()}"
    here.send("end")
    process.join()


@contextmanager
def decoding_gateway(request: bytes, metrics: Metrics | None = None, **settings: Any) -> Iterator[Step]:
    """A step that decodes once through a gateway with these settings."""
    gateway = Gateway(Settings(grpc_port=0, http_port=0, **settings))
    gateway.metrics = metrics or gateway.metrics
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(gateway.start(), loop).result()
    with grpc.insecure_channel(f"127.0.0.1:{gateway.grpc_port}") as channel:
        stub = editing_pb2_grpc.EditingStub(channel)
        message = editing_pb2.DecodeRequest.FromString(request)
        yield lambda: stub.Decode(message)
    asyncio.run_coroutine_threadsafe(gateway.stop(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


def main(config: ObservingConfig) -> None:
    graphs = Graphs(config.repository, threads=config.threads)
    code = graphs.bundle.mean_code
    request = editing_pb2.DecodeRequest(
        codes=[editing_pb2.Code(data=code.tobytes(), shape=code.shape)],
        output=editing_pb2.OutputOptions(format=editing_pb2.IMAGE_FORMAT_RAW),
    ).SerializeToString()
    nowhere = Path("/dev/null").open("w")  # noqa: SIM115
    handler = logging.StreamHandler(nowhere)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])

    base: dict[str, Any] = {
        "model_repository": config.repository,
        "intra_op_threads": config.threads,
        "refiner_engine": "onnxruntime",  # not asked here, so not to be tried out either
    }
    with collector() as endpoint, ExitStack() as opened:
        steps = {
            "nothing": decoding_gateway(request, _NoMetrics(), log_requests=False, **base),
            "metrics": decoding_gateway(request, log_requests=False, **base),
            "metrics, log lines": decoding_gateway(request, **base),
            "metrics, traces": decoding_gateway(request, log_requests=False, trace_endpoint=endpoint, **base),
        }
        medians = interleaved(
            {name: opened.enter_context(step) for name, step in steps.items()}, config.rounds
        )
    beside = {"metrics": "nothing", "metrics, log lines": "metrics", "metrics, traces": "metrics"}
    bars = {"metrics": "1.02", "metrics, traces": "1.05"}
    rows = [
        [
            name,
            f"{1000 * seconds:.3f} ms",
            f"{seconds / medians[beside[name]]:.3f} x {beside[name]}" if name in beside else "",
            bars.get(name, ""),
        ]
        for name, seconds in medians.items()
    ]
    print(markdown_table(["a decode, with", "median", "ratio", "bar"], rows))


if __name__ == "__main__":
    main(tyro.cli(ObservingConfig, prog="python -m benchmarks.observing"))
