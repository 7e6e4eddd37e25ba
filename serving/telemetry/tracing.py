"""Traces: one span for each request and one for each stage, sent to an OpenTelemetry collector.

A request continues the caller's W3C trace context (`traceparent` in gRPC metadata or an HTTP header) and passes it on
to a back end (`outgoing_metadata` in call.py). The module needs the extra `tracing`; it is imported only if
`trace_endpoint` is set.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from serving import __version__
from serving.call import Call, StageTimer
from serving.settings import Settings

_EXPORT_TIMEOUT_S = 5
_MAX_RUNS_HELD = 32  # a session has any number of them, which are sent in parts
_W3C = TraceContextTextMapPropagator()


@dataclass(slots=True)
class _StageRun:
    """One run of a stage: what its span will hold."""

    trace: RequestTrace
    outer: _StageRun | None
    stage: str
    begun_ns: int
    ended_ns: int = 0
    queued_s: float = 0.0
    error: Exception | None = None
    span: Span | None = None

    def open_span(self) -> Span:
        """The span of this run, which is made when it is first needed."""
        if self.span is None:
            around = self.trace.span if self.outer is None else self.outer.open_span()
            self.span = self.trace.tracer.start_span(
                self.stage, set_span_in_context(around), start_time=self.begun_ns
            )
        return self.span


_STAGE_RUN: ContextVar[_StageRun | None] = ContextVar("stage-run", default=None)


class RequestTrace:
    """The spans of one request (the protocol `Trace` of call.py).

    Spans are made after the request has been answered, so that no caller waits for that; earlier only if the id of a
    span is needed.
    """

    def __init__(self, tracer: Tracer, begin: Callable[[], Span]) -> None:
        self.tracer = tracer
        self._begin = begin
        self._stage_runs: list[_StageRun] = []

    @cached_property
    def span(self) -> Span:
        """The span of the whole request."""
        return self._begin()

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits."""
        return f"{self.span.get_span_context().trace_id:032x}"

    @contextmanager
    def during(self, stage: str, timer: StageTimer) -> Iterator[None]:
        """Records a span for a stage. Time in queues is part of the span, and an attribute of it."""
        outer = _STAGE_RUN.get()
        run = _StageRun(self, outer if outer and outer.trace is self else None, stage, time.time_ns())
        before = _STAGE_RUN.set(run)
        try:
            yield
        except Exception as error:
            run.error = error
            raise
        finally:
            run.ended_ns, run.queued_s = time.time_ns(), timer.queued_s
            self._stage_runs.append(run)
            _STAGE_RUN.reset(before)
            if len(self._stage_runs) >= _MAX_RUNS_HELD:
                self._send_stages()

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The trace context, for a gRPC call that the current stage makes."""
        run = _STAGE_RUN.get()
        span = self.span if run is None else run.open_span()
        carrier: dict[str, str] = {}
        _W3C.inject(carrier, set_span_in_context(span))
        return tuple(carrier.items())

    def end(self, ended_ns: int, error: Exception | None) -> None:
        """Hands all spans over to be sent."""
        self._send_stages()
        _end(self.span, ended_ns, error)

    def _send_stages(self) -> None:
        stage_runs, self._stage_runs = self._stage_runs, []
        for run in stage_runs:
            run.open_span().set_attribute("indomain.queued_s", run.queued_s)
            _end(run.open_span(), run.ended_ns, run.error)
            run.error = None  # its traceback refers to the stage's frames, and these to this object


def _end(span: Span, ended_ns: int, error: Exception | None) -> None:
    if error is not None:
        span.record_exception(error, timestamp=ended_ns)
        span.set_status(StatusCode.ERROR, f"{type(error).__name__}: {error}")
    span.end(ended_ns)


class Tracing:
    """Sends spans by OTLP over gRPC to `settings.trace_endpoint`, in batches, from a thread of its own."""

    def __init__(self, settings: Settings) -> None:
        endpoint = settings.trace_endpoint
        exporter = OTLPSpanExporter(
            endpoint=endpoint, insecure=not endpoint.startswith("https://"), timeout=_EXPORT_TIMEOUT_S
        )
        resource = Resource.create({"service.name": "indomain-gateway", "service.version": __version__})
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(settings.trace_sample_ratio)),
            resource=resource,
            shutdown_on_exit=False,  # the gateway shuts it down
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("serving", __version__)

    @contextmanager
    def request(self, call: Call, method: str, transport: str, carrier: Mapping[str, str]) -> Iterator[None]:
        """Records the span of a whole request. `carrier` holds the caller's `traceparent`, if it sent one."""
        begun_ns = time.time_ns()

        def begin() -> Span:
            return self._tracer.start_span(
                method,
                _W3C.extract(carrier),
                SpanKind.SERVER,
                {
                    "rpc.service": "indomain.v1.Editing",
                    "rpc.method": method,
                    "network.protocol.name": transport,
                    "indomain.request_id": call.request_id,
                    "indomain.owner": call.owner,
                },
                start_time=begun_ns,
            )

        call.trace = trace = RequestTrace(self._tracer, begin)
        loop, failure = asyncio.get_running_loop(), None
        try:
            yield
        except Exception as error:
            failure = error
            raise
        finally:
            loop.call_soon(trace.end, time.time_ns(), failure)
            failure = None  # its traceback refers to this frame

    def flush(self) -> None:
        """Sends what has ended so far. Blocks."""
        self._provider.force_flush()

    def close(self) -> None:
        """Sends what has not been sent yet. Blocks, for some seconds where no collector answers."""
        self._provider.shutdown()
