"""The messages of a request over gRPC, as they come in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from serving.access.lifecycle import OpenRequest
from serving.access.memory import HoldBytes
from serving.errors import DeadlineExceeded, EditingError, MalformedRequest, QueueFull, RequestTooLarge
from serving.wire.bounds import check_values

Context = grpc.aio.ServicerContext[Any, Any]
MessageT = TypeVar("MessageT", bound=Message)

# A message that takes longer than this counts as large; most are there at once. Where there is no room for it, it is
# looked at again so many times before it is refused.
_PATIENCE_S, _LOOKS = 0.25, 8
# A timer that is later than this says that the event loop is behind, not that the caller is slow.
_LATE_S = 0.05
# Longer messages take turns.
_SMALL_BYTES = 64 * 1024
# A message that is not there after this is given up.
_RECEIVE_TIMEOUT_S = 30.0
# If a caller has hung up, gRPC says so within this after the last message.
_NEWS_S = 0.05


class Messages(AsyncIterator[MessageT]):
    """The messages of a request. Not a generator: giving up waiting for one must not end the stream, and gRPC's own
    generator of them keeps the newest one in memory until garbage collection.

    gRPC gathers a message as a whole and does not tell how much of it has come. One that is not there soon therefore
    counts as the largest that there may be, until it is there. With `waits` the caller may take any time to begin one:
    a session's messages come when somebody moves a slider, and are counted when they are there.
    """

    def __init__(
        self,
        kind: type[MessageT],
        context: Context,
        request: OpenRequest,
        max_bytes: int,
        *,
        waits: bool = False,
    ) -> None:
        self._kind = kind
        self._context = context
        self._request = request
        self._hold = request.hold()
        self._max_bytes = max_bytes
        self._waits = waits
        self._held_bytes = 0

    async def __anext__(self) -> MessageT:
        data = await (self._context.read() if self._waits else self._receive_soon())
        if data is grpc.aio.EOF:
            # To a caller who has hung up there is no message either; gRPC cancels the call a moment later.
            await asyncio.sleep(_NEWS_S)
            raise StopAsyncIteration
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
            raise MalformedRequest("The request has no message.") from None

    async def _receive_soon(self) -> Any:
        """The bytes of a message, or grpc.aio.EOF.

        Raises QueueFull where a message that is not there soon would be too much to hold, DeadlineExceeded where it
        does not come at all, and ShuttingDown.
        """
        wait = _Wait(self._request, self._hold, self._max_bytes)
        try:
            return await self._context.read()
        except asyncio.CancelledError:
            if wait.failure is None:
                raise
            wait.task.uncancel()
            raise wait.failure from None
        finally:
            wait.end()


class _Wait:
    """Looks after a task that waits for a message, every _PATIENCE_S, and cancels it with a `failure`.

    A message that is there at once, as most are, costs no more than one timer.
    """

    def __init__(self, request: OpenRequest, hold: HoldBytes, max_bytes: int) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.task = task
        self.failure: EditingError | None = None
        self._request, self._hold, self._max_bytes = request, hold, max_bytes
        self._reserved_bytes = self._looks = 0
        self._loop = asyncio.get_running_loop()
        self._gives_up_s = self._loop.time() + _RECEIVE_TIMEOUT_S
        self._look_later()

    def end(self) -> None:
        """The message is there, or nobody waits for it any longer."""
        self._timer.cancel()
        if self._reserved_bytes:
            self._hold(-self._reserved_bytes)

    def _look_later(self) -> None:
        self._due_s = self._loop.time() + _PATIENCE_S
        self._timer = self._loop.call_later(_PATIENCE_S, self._look)

    def _look(self) -> None:
        now_s = self._loop.time()
        try:
            self._request.check_receives()
            if now_s > self._gives_up_s:
                raise DeadlineExceeded(
                    "The request came in too slowly; send it over a faster connection, or smaller."
                )
            if not self._reserved_bytes and now_s - self._due_s <= _LATE_S:
                self._reserve()
        except EditingError as error:
            self.failure = error
            self.task.cancel()
        else:
            self._look_later()

    def _reserve(self) -> None:
        self._looks += 1
        try:
            self._hold(self._max_bytes)
            self._reserved_bytes = self._max_bytes
        except QueueFull:
            if self._looks == _LOOKS:
                raise


def _parse(kind: type[MessageT], data: bytes, hold: HoldBytes) -> MessageT:
    hold(len(data))
    check_values(data, kind.DESCRIPTOR)
    try:
        return kind.FromString(data)
    except DecodeError:
        raise MalformedRequest(
            f"The bytes are no {kind.DESCRIPTOR.full_name}; generate the client from this gateway's contract."
        ) from None
