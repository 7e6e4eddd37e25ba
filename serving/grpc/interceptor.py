"""The service over gRPC: takes each RPC through the request lifecycle, and answers errors as a status with details.

An interceptor of grpc.aio costs each call 0.1 ms and hides cancellations; these handlers do its work.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, NoReturn, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from serving.access.lifecycle import Lifecycle, OpenRequest
from serving.access.memory import HoldBytes
from serving.call import Call
from serving.errors import EditingError, MalformedRequest
from serving.telemetry.metrics import Metrics
from serving.wire.contract import METHODS, SERVICE, Method
from serving.wire.editing import Editing
from serving.wire.responses import error_detail

Context = grpc.aio.ServicerContext[Any, Any]
MessageT = TypeVar("MessageT", bound=Message)

ERROR_DETAIL_KEY = "indomain-error-bin"


def grpc_handlers(editing: Editing, lifecycle: Lifecycle, metrics: Metrics) -> grpc.GenericRpcHandler:
    """The methods of the contract, as a gRPC server takes them.

    Messages are parsed within the lifecycle: what cannot be parsed is an error like all others.
    """
    handlers = {method.name: _handler(method, editing, lifecycle, metrics) for method in METHODS}
    return grpc.method_handlers_generic_handler(SERVICE.full_name, handlers)


def _handler(
    method: Method, editing: Editing, lifecycle: Lifecycle, metrics: Metrics
) -> grpc.RpcMethodHandler[Any, Any]:
    labels = (_kind(method), SERVICE.full_name, method.name)
    serve = _serving(method, getattr(editing, method.name))

    def count_end(code: str, seconds: float) -> None:
        metrics.grpc_handled.labels(*labels, code).inc()
        metrics.grpc_handling_seconds.labels(*labels).observe(seconds)

    async def handle(sent: Any, context: Context) -> Any:
        metrics.grpc_started.labels(*labels).inc()
        metadata = {
            key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)
        }
        try:
            with lifecycle.request("grpc", method.name, metadata.get("x-request-id"), count_end) as request:
                context.set_trailing_metadata((("x-request-id", request.call.request_id),))
                request.limit_time(context.time_remaining())
                request.admit(metadata.get("authorization"), method.name)
                request.trace(metadata)
                return await _until_hung_up(serve(sent, context, request))
        except EditingError as error:
            await _abort(error, request.call, context)

    make = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[method.streams_requests, method.streams_responses]
    return make(handle, response_serializer=_serialize)


Serve = Callable[[Any, Context, OpenRequest], Awaitable[Any]]


def _serving(method: Method, serve: Callable[..., Awaitable[Any]]) -> Serve:
    """Calls a method of `Editing` in the way of its kind. Streams are written through the context, so that a cancelled
    call is cancelled wherever its work is."""

    async def unary(sent: bytes, context: Context, request: OpenRequest) -> Message:
        answer: Message = await serve(_parse(method.request, sent, request.hold()), request.call)
        return answer

    async def server_stream(sent: bytes, context: Context, request: OpenRequest) -> None:
        await serve(_parse(method.request, sent, request.hold()), request.call, context.write)

    async def two_way_stream(sent: AsyncIterator[bytes], context: Context, request: OpenRequest) -> None:
        messages = _Messages(method.request, sent, request.hold())
        # tells the caller that it is let in, before there is anything to answer
        await context.send_initial_metadata((("x-request-id", request.call.request_id),))
        await serve(partial(anext, messages, None), request.call, context.write)

    if method.streams_requests:
        return two_way_stream
    return server_stream if method.streams_responses else unary


async def _until_hung_up(work: Awaitable[Any]) -> Any:
    try:
        return await work
    except grpc.aio.InternalError:
        # from what was to be sent: the caller has hung up, and gRPC is about to cancel the call
        raise asyncio.CancelledError from None


async def _abort(error: EditingError, call: Call, context: Context) -> NoReturn:
    detail = error_detail(error, call.request_id)
    await context.abort(
        grpc.StatusCode[error.row.grpc_code],
        error.message,
        (("x-request-id", call.request_id), (ERROR_DETAIL_KEY, detail.SerializeToString())),
    )
    raise AssertionError("abort raises")


class _Messages(AsyncIterator[MessageT]):
    """The messages of a stream. Not a generator: giving up waiting for one must not end the stream."""

    def __init__(self, kind: type[MessageT], sent: AsyncIterator[bytes], hold: HoldBytes) -> None:
        self._kind = kind
        self._sent = sent
        self._hold = hold
        self._held_bytes = 0

    async def __anext__(self) -> MessageT:
        data = await anext(self._sent)
        # only the newest message is held
        self._hold(-self._held_bytes)
        self._held_bytes = 0
        message = _parse(self._kind, data, self._hold)
        self._held_bytes = len(data)
        return message


def _parse(kind: type[MessageT], data: bytes, hold: HoldBytes) -> MessageT:
    hold(len(data))
    try:
        return kind.FromString(data)
    except DecodeError:
        raise MalformedRequest(
            f"The bytes are no {kind.DESCRIPTOR.full_name}; generate the client from this gateway's contract."
        ) from None


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()


def _kind(method: Method) -> str:
    """As dashboards for gRPC servers name it."""
    kinds = {(False, False): "unary", (False, True): "server_stream", (True, True): "bidi_stream"}
    return kinds[method.streams_requests, method.streams_responses]
