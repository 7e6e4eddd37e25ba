"""Answers over gRPC on their way to callers, who must read them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from serving.access.lifecycle import OpenRequest
from serving.errors import DeadlineExceeded
from serving.grpc.connections import cut_connection, read_bytes
from serving.grpc.messages import Context

# An answer of which nothing is read for so long is given up.
_STALL_S = 10.0
# The connection of a large answer must move at this rate. A smaller one fits into what gRPC's peers take unasked.
_SMALL_BYTES, _LEAST_BYTES_PER_S = 64 * 1024, 32 * 1024
# What is being written when its work is cancelled is given so long.
_LAST_WRITE_S = 0.25


class Sending:
    """Looks after one answer until `end`.

    Where it is not read, `given_up` is set and the connection is cut: gRPC cannot take back what it was given to send,
    and ends no call before its data have gone. gRPC does not tell either how much of an answer has been read, but the
    system tells it of the connection.
    """

    __slots__ = ("_context", "_loop", "_read_bytes", "_request", "_size", "_stops_s", "_timer", "given_up")

    def __init__(self, context: Context, request: OpenRequest, size: int) -> None:
        self.given_up = False
        self._context = context
        self._request = request
        self._size = size
        self._loop = asyncio.get_running_loop()
        # None later than so long after the deadline.
        self._stops_s = self._loop.time() + _STALL_S + max(0.0, request.call.deadline.remaining_s)
        self._read_bytes: int | None = None
        # A large answer is looked at twice within that time.
        self._look_after(_STALL_S if size <= _SMALL_BYTES else _STALL_S / 2)
        request.begin_sending(self)

    def hurry(self, seconds: float) -> None:
        """Gives the answer up after so long: the gateway is shutting down."""
        self._stops_s = min(self._stops_s, self._loop.time() + seconds)
        self._timer.cancel()
        self._look_after(seconds)

    def end(self) -> None:
        """The answer has gone, or nobody waits for it any longer."""
        self._timer.cancel()
        self._request.end_sending(self)

    def _look_after(self, seconds: float) -> None:
        self._timer = self._loop.call_later(seconds, self._look)

    def _look(self) -> None:
        if self._size > _SMALL_BYTES and self._loop.time() < self._stops_s:
            before, self._read_bytes = self._read_bytes, read_bytes(self._context.peer())
            window_s = _STALL_S / 2
            if before is None or (self._read_bytes or 0) - before >= window_s * _LEAST_BYTES_PER_S:
                self._look_after(window_s)
                return
        self.given_up = True
        cut_connection(self._context.peer())


@contextmanager
def sending(context: Context, request: OpenRequest, size: int) -> Iterator[None]:
    """Looks after one of several answers. Raises DeadlineExceeded where it is not read, and QueueFull where it is large
    and there is no room for it."""
    with request.call.holding_answer(size):
        watch = Sending(context, request, size)
        try:
            yield
        except (grpc.aio.InternalError, asyncio.CancelledError):
            # both come of a connection that was cut
            if not watch.given_up:
                raise
        finally:
            watch.end()
    if watch.given_up:
        raise not_read()


def not_read() -> DeadlineExceeded:
    return DeadlineExceeded("The answer was not read; ask for a smaller one.")


async def write(context: Context, answer: bytes) -> None:
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
