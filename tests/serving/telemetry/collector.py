"""A collector of traces in the test's own process, which keeps what gateways send it."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as otlp
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as otlp_stubs

from tests.serving.running_gateway import RunningGateway
from tests.serving.waiting import wait_for


class Collector(otlp_stubs.TraceServiceServicer):
    """Takes spans over OTLP, as a real one does."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.server = grpc.server(ThreadPoolExecutor(2))
        otlp_stubs.add_TraceServiceServicer_to_server(self, self.server)
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()

    def Export(self, request: Any, context: Any) -> Any:
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.spans += scope.spans
        return otlp.ExportTraceServiceResponse()


def spans_of(collector: Collector, traced: RunningGateway) -> dict[str, Any]:
    """All spans by name, once they have arrived."""
    assert traced.gateway.tracing is not None
    # a request over gRPC ends just after its answer has gone
    wait_for(lambda: not traced.gateway._lifecycle._sending)
    traced.run(asyncio.to_thread(traced.gateway.tracing.flush))
    return {span.name: span for span in collector.spans}
