"""What every RPC passes on its way in and out: request id, deadline, key, errors as a status, metrics, trace, log line.

Written by hand: it must let a cancellation through to the work.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from serving.access.intake import Intake, Take
from serving.access.keys import Keys
from serving.call import CALL, Call, request_id_or_new
from serving.deadline import Deadline
from serving.errors import EditingError, InternalError, MalformedRequest
from serving.settings import Settings
from serving.telemetry.logs import log_request
from serving.telemetry.metrics import Metrics
from serving.wire.convert import ERROR_DETAIL_KEY, error_detail, grpc_status

if TYPE_CHECKING:
    from serving.telemetry.tracing import Tracing

_log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]
Handler = Callable[[Any, Context], Any]


def current_call() -> Call:
    """The call that the running RPC belongs to."""
    call = CALL.get()
    assert call is not None, "the border sets it"
    return call


class Border:
    """Stands around the methods of one service; those that stream write to their context."""

    def __init__(
        self,
        service: ServiceDescriptor,
        settings: Settings,
        metrics: Metrics,
        intake: Intake,
        keys: Keys | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self._service = service
        self._settings = settings
        self._metrics = metrics
        self._intake = intake
        self._keys = keys
        self._tracing = tracing

    def handlers(self, servicer: object) -> grpc.GenericRpcHandler:
        """The servicer's methods behind this border, as a server takes them. (An interceptor costs each call 0.1 ms.)

        Messages come in as bytes and are parsed within: what cannot be parsed is an error like all others.
        """
        return grpc.method_handlers_generic_handler(
            self._service.full_name,
            {
                method.name: self._handler(method, getattr(servicer, method.name))
                for method in self._service.methods
            },
        )

    def _handler(self, method: MethodDescriptor, inner: Handler) -> grpc.RpcMethodHandler[Any, Any]:
        read = _Messages if method.client_streaming else _parse
        message = GetMessageClass(method.input_type)

        async def handle(request: Any, context: Context) -> Any:
            async with self._entered(method, context) as take:
                return await inner(read(message, request, take), context)

        make = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }[method.client_streaming, method.server_streaming]
        return make(handle, response_serializer=_serialize)

    @asynccontextmanager
    async def _entered(self, method: MethodDescriptor, context: Context) -> AsyncIterator[Take]:
        call, metadata = self._open_call(context)
        CALL.set(call)
        context.set_trailing_metadata((("x-request-id", call.request_id),))
        labels = (_kind(method), self._service.full_name, method.name)
        self._metrics.grpc_started.labels(*labels).inc()
        loop, started_s = asyncio.get_running_loop(), call.deadline.clock.now()
        code = "OK"
        try:
            with ExitStack() as held:
                if self._keys is not None:
                    call.owner = held.enter_context(
                        self._keys.admit(metadata.get("authorization"), method.name)
                    )
                if self._tracing is not None:
                    held.enter_context(self._tracing.request(call, method.name, "grpc", metadata))
                yield held.enter_context(self._intake.request())
        except (asyncio.CancelledError, GeneratorExit):
            # gRPC cancels for both: a caller that hung up, and a deadline that passed.
            code = "DEADLINE_EXCEEDED" if call.deadline.expired else "CANCELLED"
            self._metrics.cancelled.labels(call.stage or "none").inc()
            raise
        except (
            grpc.aio.InternalError
        ):  # from what was to be sent: the caller has hung up, gRPC is about to cancel
            code = "CANCELLED"
            self._metrics.cancelled.labels(call.stage or "none").inc()
            raise asyncio.CancelledError from None
        except EditingError as error:
            code = error.row.grpc_code
            await self._abort(error, call, context)
        except Exception:
            _log.exception("failed in stage %s", call.stage or "none")
            code = "INTERNAL"
            await self._abort(_unforeseen(call), call, context)
        finally:
            seconds = call.deadline.clock.now() - started_s
            # in the loop's next turn: the answer need not wait for it
            loop.call_soon(self._account, labels, call, code, seconds)

    def _account(self, labels: tuple[str, str, str], call: Call, code: str, seconds: float) -> None:
        """Counts and logs a request that has ended."""
        method = labels[-1]
        self._metrics.requests.labels(method, code).inc()
        self._metrics.request_seconds.labels(method, "grpc").observe(seconds)
        self._metrics.grpc_handled.labels(*labels, code).inc()
        self._metrics.grpc_handling_seconds.labels(*labels).observe(seconds)
        if self._settings.log_requests:
            log_request(call, transport="grpc", method=method, code=code, seconds=seconds)

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


def _parse(message: type[Message], data: bytes, take: Take) -> Message:
    take(len(data))
    try:
        return message.FromString(data)
    except DecodeError:
        raise MalformedRequest(
            f"The bytes are no {message.DESCRIPTOR.full_name}; generate the client from this gateway's contract."
        ) from None


class _Messages:
    """The messages of a stream. No generator: giving up waiting for one must not end the stream."""

    def __init__(self, message: type[Message], requests: AsyncIterator[bytes], take: Take) -> None:
        self._message = message
        self._requests = requests
        self._take = take
        self._held_bytes = 0

    def __aiter__(self) -> AsyncIterator[Message]:
        return self

    async def __anext__(self) -> Message:
        data = await anext(self._requests)
        self._take(-self._held_bytes)  # the newest one counts
        self._held_bytes = 0
        message = _parse(self._message, data, self._take)
        self._held_bytes = len(data)
        return message


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()


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
