"""What every RPC passes on its way in and out: request id, deadline, key, errors as a status, metrics, trace, log line.

Written by hand: it must let a cancellation through to the work.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, aclosing, asynccontextmanager
from typing import Any, NoReturn, TypeVar

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from serving.call import CALL, Call, request_id_or_new
from serving.deadline import Deadline
from serving.errors import EditingError, InternalError
from serving.keys import Keys
from serving.logs import log_request
from serving.metrics import Metrics
from serving.settings import Settings
from serving.tracing import Tracing
from serving.wire.as_protobuf import ERROR_DETAIL_KEY, error_detail, grpc_status

_log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]
Handler = Callable[[Any, Context], Any]
Servicer = TypeVar("Servicer")


def current_call() -> Call:
    """The call that the running RPC belongs to."""
    call = CALL.get()
    assert call is not None, "the border sets it"
    return call


class Border:
    """Stands around the methods of one service."""

    def __init__(
        self,
        service: ServiceDescriptor,
        settings: Settings,
        metrics: Metrics,
        keys: Keys | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self._service = service
        self._settings = settings
        self._metrics = metrics
        self._keys = keys
        self._tracing = tracing

    def guard(self, servicer: Servicer) -> Servicer:
        """The servicer, its methods behind this border. (An interceptor costs each call 0.1 ms.)"""
        for method in self._service.methods:
            inner = getattr(servicer, method.name)
            around = self._around_stream if inspect.isasyncgenfunction(inner) else self._around
            setattr(servicer, method.name, around(method, inner))
        return servicer

    def _around(self, method: MethodDescriptor, inner: Handler) -> Callable[[Any, Context], Awaitable[Any]]:
        async def handle(request: Any, context: Context) -> Any:
            async with self._entered(method, context):
                return await inner(request, context)

        return handle

    def _around_stream(
        self, method: MethodDescriptor, inner: Handler
    ) -> Callable[[Any, Context], AsyncIterator[Any]]:
        async def handle(request: Any, context: Context) -> AsyncIterator[Any]:
            async with self._entered(method, context), aclosing(inner(request, context)) as answers:
                async for answer in answers:
                    yield answer

        return handle

    @asynccontextmanager
    async def _entered(self, method: MethodDescriptor, context: Context) -> AsyncIterator[None]:
        call, metadata = self._open_call(context)
        CALL.set(call)
        context.set_trailing_metadata((("x-request-id", call.request_id),))
        labels = (_kind(method), self._service.full_name, method.name)
        self._metrics.grpc_started.labels(*labels).inc()
        started_s = call.deadline.clock.now()
        code = "OK"
        try:
            with ExitStack() as held:
                if self._keys is not None:
                    call.owner = held.enter_context(
                        self._keys.admit(metadata.get("authorization"), method.name)
                    )
                if self._tracing is not None:
                    held.enter_context(self._tracing.request(call, method.name, "grpc", metadata))
                yield
        except (asyncio.CancelledError, GeneratorExit):
            # gRPC cancels for both: a caller that hung up, and a deadline that passed.
            code = "DEADLINE_EXCEEDED" if call.deadline.expired else "CANCELLED"
            self._metrics.cancelled.labels(call.stage or "none").inc()
            raise
        except EditingError as error:
            code = error.row.grpc_code
            await self._abort(error, call, context)
        except Exception:
            _log.exception("failed in stage %s", call.stage or "none")
            code = "INTERNAL"
            await self._abort(_unforeseen(call), call, context)
        finally:
            seconds = call.deadline.clock.now() - started_s
            self._metrics.requests.labels(method.name, code).inc()
            self._metrics.request_seconds.labels(method.name, "grpc").observe(seconds)
            self._metrics.grpc_handled.labels(*labels, code).inc()
            self._metrics.grpc_handling_seconds.labels(*labels).observe(seconds)
            log_request(call, transport="grpc", method=method.name, code=code, seconds=seconds)

    def _open_call(self, context: Context) -> tuple[Call, dict[str, str]]:
        """The call, and those of its metadata that are text."""
        given = context.invocation_metadata() or ()
        metadata = {key: value for key, value in given if isinstance(value, str)}
        remaining_s = context.time_remaining()
        limit_s = self._settings.default_deadline_s if remaining_s is None else remaining_s
        call = Call(
            request_id_or_new(metadata.get("x-request-id")),
            Deadline.after(min(limit_s, self._settings.max_deadline_s)),
            self._metrics.observe_stage,
        )
        return call, metadata

    async def _abort(self, error: EditingError, call: Call, context: Context) -> NoReturn:
        self._metrics.rejected.labels(error.row.reason).inc()
        if error.__cause__ is not None:
            _log.error("%s", error.message, exc_info=error.__cause__)
        detail = error_detail(error, call.request_id)
        await context.abort(
            grpc_status(error),
            error.message,
            (("x-request-id", call.request_id), (ERROR_DETAIL_KEY, detail.SerializeToString())),
        )
        raise AssertionError("abort raises")


def _kind(method: MethodDescriptor) -> str:
    kinds = {
        (False, False): "unary",
        (False, True): "server_stream",
        (True, False): "client_stream",
        (True, True): "bidi_stream",
    }
    return kinds[method.client_streaming, method.server_streaming]


def _unforeseen(call: Call) -> InternalError:
    return InternalError(
        f"The gateway failed in a way that was not foreseen; report request {call.request_id}.",
        stage=call.stage,
    )
