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
from serving.call import Call, wanted_request_id
from serving.errors import DeadlineExceeded, EditingError, MalformedRequest, QueueFull, RequestTooLarge
from serving.grpc.connections import cut_connection
from serving.telemetry.metrics import Metrics
from serving.wire.bounds import check_values
from serving.wire.contract import METHODS, SERVICE, Method
from serving.wire.editing import Editing
from serving.wire.responses import error_detail

Context = grpc.aio.ServicerContext[Any, Any]
MessageT = TypeVar("MessageT", bound=Message)

ERROR_DETAIL_KEY = "indomain-error-bin"
# A message that takes longer than this counts as large; most are there at once. Where there is no room for it, it is
# looked at again so many times before it is refused.
_PATIENCE_S, _LOOKS = 0.25, 8
# A timer that is later than this says that the event loop is behind, not that the caller is slow.
_LATE_S = 0.05
# Longer messages take turns.
_SMALL_BYTES = 64 * 1024
# An answer must be read in so long, and a large one at this rate; none later than so long after the deadline.
_STALL_S, _LEAST_BYTES_PER_S = 10.0, 32 * 1024
# What is being written when its work is cancelled is given so long, and so is the error of a call that does not read.
_LAST_WRITE_S = 0.25
# A message that is not there after this is given up.
_RECEIVE_TIMEOUT_S = 30.0


def grpc_handlers(
    editing: Editing, lifecycle: Lifecycle, metrics: Metrics, max_request_bytes: int
) -> grpc.GenericRpcHandler:
    """The methods of the contract, as a gRPC server takes them.

    Messages are parsed within the lifecycle: what cannot be parsed is an error like all others.
    """
    handlers = {
        method.name: _handler(method, editing, lifecycle, metrics, max_request_bytes) for method in METHODS
    }
    return grpc.method_handlers_generic_handler(SERVICE.full_name, handlers)


def _handler(
    method: Method, editing: Editing, lifecycle: Lifecycle, metrics: Metrics, max_request_bytes: int
) -> grpc.RpcMethodHandler[Any, Any]:
    labels = (_kind(method), SERVICE.full_name, method.name)
    serve = _serving(method, getattr(editing, method.name), max_request_bytes)

    def count_end(code: str, seconds: float) -> None:
        metrics.grpc_handled.labels(*labels, code).inc()
        metrics.grpc_handling_seconds.labels(*labels).observe(seconds)

    async def handle(sent: Any, context: Context) -> Any:
        metrics.grpc_started.labels(*labels).inc()
        metadata = {
            key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)
        }
        try:
            with lifecycle.request("grpc", method.name, wanted_request_id(metadata), count_end) as request:
                context.set_trailing_metadata((("x-request-id", request.call.request_id),))
                request.limit_time(context.time_remaining())
                request.admit(metadata.get("authorization"), method.name)
                request.trace(metadata)
                return await _until_hung_up(serve(sent, context, request))
        except EditingError as error:
            await _until_hung_up(_abort(error, request.call, context))

    # As if all streamed both ways. A handler of another kind is called only when the message is there as a whole, and
    # until then nobody would ask for a key, or count what has come of it; and its answer is sent when it has returned,
    # when nobody counts that any longer.
    return grpc.stream_stream_rpc_method_handler(handle)


Sent = AsyncIterator[bytes]
Serve = Callable[[Sent, Context, OpenRequest], Awaitable[Any]]


def _serving(method: Method, serve: Callable[..., Awaitable[Any]], max_bytes: int) -> Serve:
    """Calls a method of `Editing` in the way of its kind. Answers are written through the context, so that a cancelled
    call is cancelled wherever its work is."""

    async def unary(sent: Sent, context: Context, request: OpenRequest) -> None:
        message = await _Messages(method.request, sent, request, max_bytes).only()
        await _send(context, request, _serialize(await serve(message, request.call)))

    async def server_stream(sent: Sent, context: Context, request: OpenRequest) -> None:
        message = await _Messages(method.request, sent, request, max_bytes).only()
        await serve(message, request.call, _sender(context, request))

    async def two_way_stream(sent: Sent, context: Context, request: OpenRequest) -> None:
        messages = _Messages(method.request, sent, request, max_bytes, waits=True)
        # tells the caller that it is let in, before there is anything to answer
        await context.send_initial_metadata((("x-request-id", request.call.request_id),))
        await serve(partial(anext, messages, None), request.call, _sender(context, request))

    if method.streams_requests:
        return two_way_stream
    return server_stream if method.streams_responses else unary


def _sender(context: Context, request: OpenRequest) -> Callable[[Message], Awaitable[None]]:
    """Sends one of several answers."""
    return lambda answer: _send(context, request, _serialize(answer))


async def _send(context: Context, request: OpenRequest, answer: bytes) -> None:
    """Sends an answer. Raises QueueFull where it is large and there is no room for it, and DeadlineExceeded where the
    caller does not read it: then the connection is cut, as gRPC cannot take back what it was given to send."""
    call, size = request.call, len(answer)
    with call.holding_answer(size):
        seconds = _STALL_S + min(size / _LEAST_BYTES_PER_S, call.deadline.remaining_s)
        try:
            async with request.sending(seconds):
                await _write(context, answer)
        except TimeoutError:
            cut_connection(context.peer())
            raise DeadlineExceeded("The answer was not read; ask for a smaller one.") from None


async def _write(context: Context, answer: bytes) -> None:
    """Writes an answer, to its end even where it is cancelled meanwhile: until then gRPC may refuse to send an error.

    A caller who does not read is not waited for long.
    """
    writing = asyncio.ensure_future(context.write(answer))
    try:
        await asyncio.shield(writing)
    except asyncio.CancelledError:
        await asyncio.wait((writing,), timeout=_LAST_WRITE_S)
        writing.cancel()
        raise


async def _until_hung_up(work: Awaitable[Any]) -> Any:
    try:
        return await work
    except grpc.aio.InternalError:
        # from what was to be sent: the caller has hung up, and gRPC is about to cancel the call
        raise asyncio.CancelledError from None


async def _abort(error: EditingError, call: Call, context: Context) -> NoReturn:
    detail = error_detail(error, call.request_id)
    try:
        async with asyncio.timeout(_STALL_S):
            await context.abort(
                grpc.StatusCode[error.row.grpc_code],
                error.message,
                (("x-request-id", call.request_id), (ERROR_DETAIL_KEY, detail.SerializeToString())),
            )
    except TimeoutError:
        # it is not read either
        cut_connection(context.peer())
    raise asyncio.CancelledError


class _Messages(AsyncIterator[MessageT]):
    """The messages of a request. Not a generator: giving up waiting for one must not end the stream.

    gRPC gathers a message as a whole and does not tell how much of it has come. One that is not there soon therefore
    counts as the largest that there may be, until it is there. With `waits` the caller may take any time to begin one:
    a session's messages come when somebody moves a slider, and are counted when they are there.
    """

    def __init__(
        self, kind: type[MessageT], sent: Sent, request: OpenRequest, max_bytes: int, *, waits: bool = False
    ) -> None:
        self._kind = kind
        self._sent = sent
        self._request = request
        self._hold = request.hold()
        self._max_bytes = max_bytes
        self._waits = waits
        self._held_bytes = 0

    async def __anext__(self) -> MessageT:
        data = await anext(self._sent) if self._waits else await self._receive_soon()
        # only the newest message is held
        self._hold(-self._held_bytes)
        self._held_bytes = 0
        if len(data) > self._max_bytes:
            raise RequestTooLarge.over(self._max_bytes)
        message = _parse(self._kind, data, self._hold)
        self._held_bytes = len(data)
        # A session that gives up waiting must not lose a message here.
        if len(data) > _SMALL_BYTES and not self._waits:
            await self._request.call.turn()
        return message

    async def only(self) -> MessageT:
        """The message of a request that has one. Raises MalformedRequest where there is none."""
        try:
            return await anext(self)
        except StopAsyncIteration:
            # To a caller who has hung up there is no message either; gRPC cancels the call a moment later.
            await asyncio.sleep(_PATIENCE_S)
            raise MalformedRequest("The request has no message.") from None

    async def _receive_soon(self) -> bytes:
        """Raises QueueFull where a message that is not there soon would be too much to hold, and DeadlineExceeded where
        it does not come at all."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        reserved_bytes = 0
        failure: EditingError | None = None

        def reserve(due_s: float, looks: int) -> None:
            nonlocal reserved_bytes, failure
            if loop.time() - due_s > _LATE_S:
                look_later(looks)
                return
            try:
                self._hold(self._max_bytes)
                reserved_bytes = self._max_bytes
            except QueueFull as error:
                if looks < _LOOKS:
                    look_later(looks + 1)
                    return
                failure = error
                task.cancel()

        def look_later(looks: int) -> None:
            due_s = loop.time() + _PATIENCE_S
            timers.append(loop.call_at(due_s, reserve, due_s, looks))

        timers: list[asyncio.TimerHandle] = []
        look_later(1)
        try:
            async with self._request.receiving(_RECEIVE_TIMEOUT_S):
                return await anext(self._sent)
        except TimeoutError:
            raise DeadlineExceeded(
                "The request came in too slowly; send it over a faster connection, or smaller."
            ) from None
        except asyncio.CancelledError:
            if failure is None:
                raise
            task.uncancel()
            raise failure from None
        finally:
            for timer in timers:
                timer.cancel()
            self._hold(-reserved_bytes)


def _parse(kind: type[MessageT], data: bytes, hold: HoldBytes) -> MessageT:
    hold(len(data))
    check_values(data, kind.DESCRIPTOR)
    try:
        return kind.FromString(data)
    except DecodeError:
        raise MalformedRequest(
            f"The bytes are no {kind.DESCRIPTOR.full_name}; generate the client from this gateway's contract."
        ) from None


def _serialize(message: Message) -> bytes:
    """The bytes of an answer. They alone are kept while it is sent: the message would take as much again."""
    return message.SerializeToString()


def _kind(method: Method) -> str:
    """As dashboards for gRPC servers name it."""
    kinds = {(False, False): "unary", (False, True): "server_stream", (True, True): "bidi_stream"}
    return kinds[method.streams_requests, method.streams_responses]
