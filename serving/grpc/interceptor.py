"""The service over gRPC: takes each RPC through the request lifecycle, and answers errors as a status with details.

An interceptor of grpc.aio costs each call 0.1 ms and hides cancellations; these handlers do its work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any, NoReturn, TypeVar

import grpc
from google.protobuf.message import Message

from serving.access.lifecycle import Lifecycle, OpenRequest
from serving.call import Call, wanted_request_id
from serving.errors import EditingError, forget_frames
from serving.grpc.answers import Sending, not_read, sending, write
from serving.grpc.connections import OpenCalls, cut_connection
from serving.grpc.messages import Context, Messages
from serving.telemetry.metrics import Metrics
from serving.wire.contract import METHODS, SERVICE, Method
from serving.wire.editing import Editing
from serving.wire.responses import error_detail

T = TypeVar("T")

ERROR_DETAIL_KEY = "indomain-error-bin"
# An error must be read in so long.
_ERROR_TIMEOUT_S = 10.0


def grpc_handlers(
    editing: Editing, lifecycle: Lifecycle, metrics: Metrics, max_request_bytes: int
) -> grpc.GenericRpcHandler:
    """The methods of the contract, as a gRPC server takes them.

    Messages are parsed within the lifecycle: what cannot be parsed is an error like all others.
    """
    open_calls = OpenCalls()
    handlers = {
        method.name: _handler(method, editing, lifecycle, metrics, max_request_bytes, open_calls)
        for method in METHODS
    }
    return grpc.method_handlers_generic_handler(SERVICE.full_name, handlers)


def _handler(
    method: Method,
    editing: Editing,
    lifecycle: Lifecycle,
    metrics: Metrics,
    max_request_bytes: int,
    open_calls: OpenCalls,
) -> grpc.RpcMethodHandler[Any, Any]:
    labels = (_kind(method), SERVICE.full_name, method.name)
    serve = _serving(method, getattr(editing, method.name), max_request_bytes)

    def count_end(code: str, seconds: float) -> None:
        metrics.grpc_handled.labels(*labels, code).inc()
        metrics.grpc_handling_seconds.labels(*labels).observe(seconds)

    async def answered(context: Context) -> bytes | None:
        metadata = {
            key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)
        }
        with ExitStack() as held:
            request = held.enter_context(
                lifecycle.request("grpc", method.name, wanted_request_id(metadata), count_end)
            )
            context.set_trailing_metadata((("x-request-id", request.call.request_id),))
            request.limit_time(context.time_remaining())
            request.admit(metadata.get("authorization"), method.name)
            request.trace(metadata)
            answer = await _until_hung_up(serve(context, request))
            if answer is None:
                return None
            data = _serialize(answer)
            # The bytes alone are kept while they are sent: the message would take as much again.
            del answer
            if request.hold_copied_answer(len(data)):
                await request.call.turn()
            watch = Sending(context, request, len(data))
            # The request lasts until its answer has gone.
            end = partial(_end, held.pop_all(), request.call, watch)
            # Typed as a class of the stubs' own.
            context.add_done_callback(lambda _: end())  # type: ignore[arg-type]
            return data

    async def handle(_: Any, context: Context) -> bytes | None:
        metrics.grpc_started.labels(*labels).inc()
        with open_calls.call(context.peer()):
            try:
                await open_calls.wait_for_news(context.peer())
                return await answered(context)
            except EditingError as error:
                forget_frames(error)
                await _until_hung_up(_abort(error, context))
            except asyncio.CancelledError as error:
                forget_frames(error)
                raise

    # As if the requests streamed. A handler of another kind is called only when the message is there as a whole, and
    # until then nobody would ask for a key, or count what has come of it.
    if method.streams_responses:
        return grpc.stream_stream_rpc_method_handler(handle)
    return grpc.stream_unary_rpc_method_handler(handle)


Serve = Callable[[Context, OpenRequest], Awaitable[Message | None]]


def _serving(method: Method, serve: Callable[..., Awaitable[Any]], max_bytes: int) -> Serve:
    """Calls a method of `Editing` in the way of its kind. What it gives is the answer, or None where all of them have
    been sent. Those are written through the context, so that a cancelled call is cancelled wherever its work is."""

    async def unary(context: Context, request: OpenRequest) -> Message:
        message = await Messages(method.request, context, request, max_bytes).only()
        return await serve(message, request.call)  # type: ignore[no-any-return]

    async def server_stream(context: Context, request: OpenRequest) -> None:
        message = await Messages(method.request, context, request, max_bytes).only()
        await serve(message, request.call, partial(_send, context, request))

    async def two_way_stream(context: Context, request: OpenRequest) -> None:
        messages = Messages(method.request, context, request, max_bytes, waits=True)
        # tells the caller that it is let in, before there is anything to answer
        await context.send_initial_metadata((("x-request-id", request.call.request_id),))
        await serve(partial(anext, messages, None), request.call, partial(_send, context, request))

    if method.streams_requests:
        return two_way_stream
    return server_stream if method.streams_responses else unary


async def _send(context: Context, request: OpenRequest, answer: Message) -> None:
    """Sends one of several answers. Raises QueueFull and DeadlineExceeded, as `sending` does."""
    data = _serialize(answer)
    # The bytes alone are kept while they are sent: the message would take as much again.
    del answer
    with sending(context, request, len(data)):
        await write(context, data)


def _end(held: ExitStack, call: Call, watch: Sending) -> None:
    """Ends a request whose only answer has gone, or was given up."""
    watch.end()
    error: BaseException | None = None
    if watch.given_up:
        error = not_read()
    elif call.deadline.expired:
        # gRPC has cancelled the call
        error = asyncio.CancelledError()
    with suppress(EditingError, asyncio.CancelledError):
        held.__exit__(None if error is None else type(error), error, None)


async def _until_hung_up(work: Awaitable[T]) -> T:
    try:
        return await work
    except grpc.aio.InternalError:
        # from what was to be sent: the caller has hung up, and gRPC is about to cancel the call
        raise asyncio.CancelledError from None


async def _abort(error: EditingError, context: Context) -> NoReturn:
    request_id = str(dict(context.trailing_metadata())["x-request-id"])
    detail = error_detail(error, request_id)
    try:
        async with asyncio.timeout(_ERROR_TIMEOUT_S):
            await context.abort(
                grpc.StatusCode[error.row.grpc_code],
                error.message,
                (("x-request-id", request_id), (ERROR_DETAIL_KEY, detail.SerializeToString())),
            )
    except TimeoutError:
        # it is not read either
        cut_connection(context.peer())
    raise asyncio.CancelledError


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()


def _kind(method: Method) -> str:
    """As dashboards for gRPC servers name it."""
    kinds = {(False, False): "unary", (False, True): "server_stream", (True, True): "bidi_stream"}
    return kinds[method.streams_requests, method.streams_responses]
