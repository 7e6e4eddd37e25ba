"""What it costs to be watched: decodes through gateways without and with metrics, log lines and traces, in turn.

`make bench-observing`. Each gateway is a process of its own on the same bundle, one at work at a time; spans go to a
collector, which takes them and does nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import grpc
import tyro
import uvloop
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as otlp
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as otlp_stubs
from prometheus_client.metrics import MetricWrapperBase

from benchmarks.gateway import running
from benchmarks.graphs import Graphs, markdown_table
from benchmarks.load import in_turn
from indomain.v1 import editing_pb2, editing_pb2_grpc
from serving.__main__ import keep_pauses_short
from serving.gateway import Gateway
from serving.settings import Settings
from serving.telemetry.logs import JsonFormatter
from serving.telemetry.metrics import Metrics


@dataclass
class ObservingConfig:
    """Compare gateways that are watched more and less; every ratio is within one run."""

    repository: Path = Path("model_repository")
    """Model repository."""
    threads: int = 2
    """Threads of ONNX Runtime."""
    seconds: float = 10.0
    """Of decodes through each gateway, in turn with the others; the median counts."""


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


def serve(told: Connection, settings: dict[str, Any], counted: bool) -> None:
    """A gateway, until it is told to end; its log goes nowhere."""
    handler = logging.FileHandler(os.devnull)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])

    async def until_told() -> None:
        gateway = Gateway(Settings(grpc_port=0, http_port=0, **settings))
        if not counted:
            gateway.metrics = _NoMetrics()
        await gateway.start()
        keep_pauses_short()
        told.send(gateway.grpc_port)
        await asyncio.to_thread(told.recv)
        await gateway.stop()

    uvloop.run(until_told())


@contextmanager
def decoding_gateway(
    message: editing_pb2.DecodeRequest, settings: dict[str, Any], *, counted: bool = True
) -> Iterator[Callable[[], Awaitable[None]]]:
    """What decodes once through a gateway with these settings."""
    with (
        running(serve, settings, counted) as port,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        stub = editing_pb2_grpc.EditingStub(channel)

        async def ask() -> None:
            stub.Decode(message)

        yield ask


def main(config: ObservingConfig) -> None:
    graphs = Graphs(config.repository, threads=config.threads)
    code = graphs.bundle.mean_code
    message = editing_pb2.DecodeRequest(
        codes=[editing_pb2.Code(data=code.tobytes(), shape=code.shape)],
        output=editing_pb2.OutputOptions(format=editing_pb2.IMAGE_FORMAT_RAW),
    )
    base: dict[str, Any] = {
        "model_repository": config.repository,
        "intra_op_threads": config.threads,
        "engine": "onnxruntime",  # not asked here, so not to be tried out either
    }
    silent = base | {"log_requests": False}
    with ExitStack() as opened:
        endpoint = f"http://127.0.0.1:{opened.enter_context(running(collect))}"
        steps = {
            "nothing": decoding_gateway(message, silent, counted=False),
            "metrics": decoding_gateway(message, silent),
            "metrics, log lines": decoding_gateway(message, base),
            "metrics, traces": decoding_gateway(message, silent | {"trace_endpoint": endpoint}),
        }
        asks = {name: opened.enter_context(step) for name, step in steps.items()}
        asyncio.run(in_turn(asks, config.seconds / 6))  # warms up
        found = asyncio.run(in_turn(asks, config.seconds))
    medians = {name: measured.milliseconds(50) for name, measured in found.items()}
    beside = {"metrics": "nothing", "metrics, log lines": "metrics", "metrics, traces": "metrics"}
    bars = {"metrics": "1.02", "metrics, traces": "1.05"}
    rows = [
        [
            name,
            f"{milliseconds:.3f} ms",
            f"{milliseconds / medians[beside[name]]:.3f} x {beside[name]}" if name in beside else "",
            bars.get(name, ""),
        ]
        for name, milliseconds in medians.items()
    ]
    print(markdown_table(["a decode, with", "median", "ratio", "bar"], rows))


if __name__ == "__main__":
    main(tyro.cli(ObservingConfig, prog="python -m benchmarks.observing"))
