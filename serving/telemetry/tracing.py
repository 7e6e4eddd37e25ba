"""Traces: one span a request and one a stage, to an OpenTelemetry collector. Needs the extra `tracing`.

The caller's W3C context (`traceparent` in gRPC metadata or an HTTP header) is gone on with, and handed on to a back end
(`outgoing_metadata` in call.py). Where `trace_endpoint` is not set, this module is not so much as imported.
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
from serving.call import Call, Lap
from serving.settings import Settings

_EXPORT_TIMEOUT_S = 5
_PASSAGES_HELD = 32  # a session has any number: some are sent now and then
_W3C = TraceContextTextMapPropagator()


@dataclass(slots=True)
class _Passage:
    """A request's way through one stage: what a span of it will tell."""

    trace: Trace
    outer: _Passage | None
    stage: str
    begun_ns: int
    ended_ns: int = 0
    queued_s: float = 0.0
    error: Exception | None = None
    span: Span | None = None

    def begin(self) -> Span:
        if self.span is None:
            around = self.trace.span if self.outer is None else self.outer.begin()
            self.span = self.trace.tracer.start_span(
                self.stage, set_span_in_context(around), start_time=self.begun_ns
            )
        return self.span


_PASSAGE: ContextVar[_Passage | None] = ContextVar("passage", default=None)


class Trace:
    """The spans of one request. They are made once it has been answered, as nobody need wait for that; earlier only
    where one's name is asked for."""

    def __init__(self, tracer: Tracer, begin: Callable[[], Span]) -> None:
        self.tracer = tracer
        self._begin = begin
        self._passages: list[_Passage] = []

    @cached_property
    def span(self) -> Span:
        """That of the whole request."""
        return self._begin()

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits."""
        return f"{self.span.get_span_context().trace_id:032x}"

    @contextmanager
    def during(self, stage: str, lap: Lap) -> Iterator[None]:
        """A span for a stage; time in queues is part of it and stands on it as an attribute."""
        outer = _PASSAGE.get()
        passage = _Passage(self, outer if outer and outer.trace is self else None, stage, time.time_ns())
        before = _PASSAGE.set(passage)
        try:
            yield
        except Exception as error:
            passage.error = error
            raise
        finally:
            passage.ended_ns, passage.queued_s = time.time_ns(), lap.queued_s
            self._passages.append(passage)
            _PASSAGE.reset(before)
            if len(self._passages) >= _PASSAGES_HELD:
                self._send_stages()

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Of a call made for the stage at hand."""
        passage = _PASSAGE.get()
        span = self.span if passage is None else passage.begin()
        carrier: dict[str, str] = {}
        _W3C.inject(carrier, set_span_in_context(span))
        return tuple(carrier.items())

    def end(self, ended_ns: int, error: Exception | None) -> None:
        """Sends all spans on their way."""
        self._send_stages()
        _end(self.span, ended_ns, error)

    def _send_stages(self) -> None:
        passages, self._passages = self._passages, []
        for passage in passages:
            passage.begin().set_attribute("indomain.queued_s", passage.queued_s)
            _end(passage.begin(), passage.ended_ns, passage.error)
            passage.error = None  # whose traceback holds the stage's frames, and so this passage


def _end(span: Span, ended_ns: int, error: Exception | None) -> None:
    if error is not None:
        span.record_exception(error, timestamp=ended_ns)
        span.set_status(StatusCode.ERROR, f"{type(error).__name__}: {error}")
    span.end(ended_ns)


class Tracing:
    """Where spans go: OTLP over gRPC to `settings.trace_endpoint`, in batches, from a thread of its own."""

    def __init__(self, settings: Settings) -> None:
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

        call.trace = trace = Trace(self._tracer, begin)
        loop, failure = asyncio.get_running_loop(), None
        try:
            yield
        except Exception as error:
            failure = error
            raise
        finally:
            loop.call_soon(trace.end, time.time_ns(), failure)
            failure = None  # its traceback holds this frame

    def flush(self) -> None:
        """Sends what has ended so far. Blocks."""
        self._provider.force_flush()

    def close(self) -> None:
        """Sends what has not been sent yet. Blocks, for some seconds where no collector answers."""
        self._provider.shutdown()
