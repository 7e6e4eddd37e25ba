"""Traces: one span a request and one a stage, to an OpenTelemetry collector. Needs the extra `tracing`.

The caller's W3C context (`traceparent` in gRPC metadata or an HTTP header) is gone on with, and handed on to a back end
by `outgoing_metadata`. Where `trace_endpoint` is not set, nothing of OpenTelemetry is so much as imported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from serving import __version__
from serving.call import CALL, Call, Lap
from serving.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

_EXPORT_TIMEOUT_S = 5


def outgoing_metadata() -> tuple[tuple[str, str], ...]:
    """The trace context of the request at hand, as metadata of a gRPC call made for it. Empty where none is traced."""
    call = CALL.get()
    return () if call is None or call.trace is None else call.trace.metadata()


class Trace:
    """The spans of one request."""

    def __init__(self, tracer: Tracer, span: Span) -> None:
        self._tracer = tracer
        self.span = span

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits."""
        return f"{self.span.get_span_context().trace_id:032x}"

    @contextmanager
    def during(self, stage: str, lap: Lap) -> Iterator[None]:
        """A span for a stage; time in queues is part of it and stands on it as an attribute."""
        with self._tracer.start_as_current_span(stage) as span:
            yield
            span.set_attribute("indomain.queued_s", lap.queued_s)

    def metadata(self) -> tuple[tuple[str, str], ...]:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        carrier: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(carrier)
        return tuple(carrier.items())


class Tracing:
    """Where spans go: OTLP over gRPC to `settings.trace_endpoint`, in batches, from a thread of its own."""

    def __init__(self, settings: Settings) -> None:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

        endpoint = settings.trace_endpoint
        exporter = OTLPSpanExporter(
            endpoint=endpoint, insecure=not endpoint.startswith("https://"), timeout=_EXPORT_TIMEOUT_S
        )
        resource = Resource.create({"service.name": "indomain-gateway", "service.version": __version__})
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(settings.trace_sample_ratio)),
            resource=resource,
            shutdown_on_exit=False,  # the gateway does it
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("serving", __version__)

    @contextmanager
    def request(self, call: Call, method: str, transport: str, carrier: Mapping[str, str]) -> Iterator[None]:
        """The span of a whole request. `carrier` has the caller's `traceparent`, if it sent one."""
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        with self._tracer.start_as_current_span(
            method,
            context=TraceContextTextMapPropagator().extract(carrier),
            kind=SpanKind.SERVER,
            attributes={
                "rpc.service": "indomain.v1.Editing",
                "rpc.method": method,
                "network.protocol.name": transport,
                "indomain.request_id": call.request_id,
                "indomain.owner": call.owner,
            },
        ) as span:
            call.trace = Trace(self._tracer, span)
            yield

    def flush(self) -> None:
        """Sends what has ended so far. Blocks."""
        self._provider.force_flush()

    def close(self) -> None:
        """Sends what has not been sent yet. Blocks, for some seconds where no collector answers."""
        self._provider.shutdown()
