"""Connections of the HTTP server: each must move. Silent, slow and greedy ones are cut before they cost others much.

uvicorn's protocols for HTTP (h11) and websockets, with what they do not bound themselves.
"""

from __future__ import annotations

import asyncio
import heapq
import resource
from contextlib import ExitStack
from typing import Any

import h11
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from serving.access.memory import MemoryBudget
from serving.call import ANONYMOUS, Call
from serving.errors import QueueFull
from serving.settings import Settings

# A request line and its headers must come within this time, of a new connection as of one that is used again.
HEADER_TIMEOUT_S = 10.0
# An answer or a message of which nothing moves for this long is given up.
STALL_TIMEOUT_S = 10.0
# Messages and answers that are slower than this for longer than STALL_TIMEOUT_S are given up.
LEAST_BYTES_PER_S = 32 * 1024
# A new connection may be without a request for so long before it makes room for others.
_FIRST_REQUEST_S = 1.0
# Of all connections that there may be, one in so many makes room at a time.
_ROOM_SHARE = 128
# While the gateway shuts down, an answer is given up when nothing of it moves for so long.
_LAST_STALL_S = 2.0
# Chunks smaller than this on average cost more than they carry; the first ones are not judged.
_LEAST_CHUNK_BYTES, _FREE_CHUNKS = 64, 256
# Frames of a websocket that may come at once, and how many more each second.
_FRAMES_AT_ONCE, _FRAMES_PER_S = 1000, 200.0
# Bytes of all websockets together that may come at once, and how many more each second: taking messages apart keeps the
# event loop busy.
_BYTES_AT_ONCE, _BYTES_PER_S = 24 * 1024 * 1024, 24 * 1024 * 1024
# What comes is taken apart in pieces, of this size at first: a frame may have six bytes.
_PIECE_BYTES = 4096


class Patience:
    """How long a message that comes in is still waited for: `left_s` seconds.

    STALL_TIMEOUT_S at first. Waiting takes from it, and bytes add to it, a second for LEAST_BYTES_PER_S, up to
    STALL_TIMEOUT_S again: what was sent fast at first is no excuse for silence afterwards.
    """

    def __init__(self) -> None:
        self.left_s = STALL_TIMEOUT_S

    def waited(self, seconds: float, received_bytes: int) -> None:
        self.left_s = min(STALL_TIMEOUT_S, self.left_s - seconds + received_bytes / LEAST_BYTES_PER_S)


class Pace:
    """How fast all connections that share it take in bytes: _BYTES_PER_S, and _BYTES_AT_ONCE after a rest."""

    def __init__(self) -> None:
        self._left_bytes, self._counted_s = float(_BYTES_AT_ONCE), 0.0

    def rest_s(self, count: int, now_s: float) -> float:
        """How long nothing more should be read after `count` bytes."""
        refilled = self._left_bytes + _BYTES_PER_S * (now_s - self._counted_s)
        self._left_bytes = min(_BYTES_AT_ONCE, refilled) - count
        self._counted_s = now_s
        return max(0.0, -self._left_bytes / _BYTES_PER_S)


class ConnectionConfig(Config):
    """uvicorn's configuration, with what connections share: the memory for messages, the pace at which these are taken
    in, and how many connections there may be."""

    def __init__(self, app: Any, settings: Settings, memory: MemoryBudget, **options: Any) -> None:
        super().__init__(app, http=BoundedH11Protocol, ws=BoundedWebSocketProtocol, **options)
        self.memory = memory
        self.pace = Pace()
        # half of the descriptors: files, graphs, gRPC and Triton need some
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.max_connections = min(settings.max_http_connections, max(8, descriptors // 2))


class _Connection(h11.Connection):
    """Refuses bodies in very small chunks, and two lengths for one body (which proxies may read differently)."""

    def __init__(self, max_header_bytes: int) -> None:
        super().__init__(h11.SERVER, max_header_bytes)
        self._chunks = 0
        self._chunk_bytes = 0

    def next_event(self) -> Any:
        event = super().next_event()
        if isinstance(event, h11.Data):
            self._chunks += 1
            self._chunk_bytes += len(event.data)
            if self._chunks > _FREE_CHUNKS and self._chunk_bytes < _LEAST_CHUNK_BYTES * self._chunks:
                raise h11.RemoteProtocolError("chunks are too small")
        elif isinstance(event, h11.Request):
            self._chunks = self._chunk_bytes = 0
            names = {name for name, _ in event.headers}
            if {b"content-length", b"transfer-encoding"} <= names:
                raise h11.RemoteProtocolError("content-length with transfer-encoding")
        return event


class _StallGuard:
    """Aborts a connection whose answer is read too slowly: its buffer is full, and too little of it goes."""

    def __init__(self) -> None:
        self._timer: asyncio.TimerHandle | None = None
        self._window_s = STALL_TIMEOUT_S

    def start(self, transport: asyncio.Transport) -> None:
        if self._timer is None:
            self._look_later(transport)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def hurry(self, transport: asyncio.Transport) -> None:
        """From now on it aborts sooner: the gateway is shutting down."""
        self._window_s = min(self._window_s, _LAST_STALL_S)
        if self._timer is not None:
            self._timer.cancel()
            self._look_later(transport)

    def _look_later(self, transport: asyncio.Transport) -> None:
        most_bytes = transport.get_write_buffer_size() - int(LEAST_BYTES_PER_S * self._window_s)
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._window_s, self._look, transport, most_bytes)

    def _look(self, transport: asyncio.Transport, most_bytes: int) -> None:
        if transport.get_write_buffer_size() > max(0, most_bytes):
            transport.abort()
        else:
            self._look_later(transport)


class BoundedH11Protocol(H11Protocol):
    """HTTP/1.1 on one connection."""

    def __init__(self, config: Any, *args: Any, **options: Any) -> None:
        super().__init__(config, *args, **options)
        self.conn = _Connection(config.h11_max_incomplete_event_size or 16 * 1024)
        self._max_connections: int = config.max_connections
        self._header_timer: asyncio.TimerHandle | None = None
        self.waits_since_s = self.loop.time()
        self._stall = _StallGuard()

    @property
    def waits_for_request(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    @property
    def waits_for_body(self) -> bool:
        """Whether the body of its request is not whole yet, even where it has been refused already."""
        return self.cycle is not None and self.cycle.more_body

    def hurry(self) -> None:
        """The gateway is shutting down: an answer that is not read is not waited for as long as before."""
        self._stall.hurry(self.transport)

    def connection_made(self, transport: Any) -> None:
        if len(self.connections) >= self._max_connections and not self._make_room():
            transport.abort()
            return
        super().connection_made(transport)
        self._expect_headers()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.transport.get_protocol() is self and self.waits_for_request:
            # also where the data were only a part of the headers: the time for all of them goes on
            self._expect_headers()
        elif self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def connection_lost(self, exc: Exception | None) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
        self._stall.stop()
        if self.transport is not None:
            super().connection_lost(exc)

    def on_response_complete(self) -> None:
        self.waits_since_s = self.loop.time()
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall.start(self.transport)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stall.stop()

    def _expect_headers(self) -> None:
        if self._header_timer is None:
            self._header_timer = self.loop.call_later(HEADER_TIMEOUT_S, self._headers_did_not_come)

    def _headers_did_not_come(self) -> None:
        self._header_timer = None
        if self.waits_for_request:
            self.transport.abort()

    def _make_room(self) -> bool:
        """Closes the connections that have waited the longest for a request, or else for the rest of one. False where
        none waits. One that has just begun may wait for its first request."""
        ours = [each for each in self.connections if isinstance(each, BoundedH11Protocol)]
        begun_s = self.loop.time() - _FIRST_REQUEST_S
        waiting = (
            [each for each in ours if each.waits_for_request and each.waits_since_s < begun_s]
            or [each for each in ours if each.waits_for_body]
            or [each for each in ours if each.waits_for_request]
        )
        # A few at once: a burst of new connections must not look through all others for each.
        count = max(1, self._max_connections // _ROOM_SHARE)
        for oldest in heapq.nsmallest(count, waiting, key=lambda each: each.waits_since_s):
            self.connections.discard(oldest)
            oldest.transport.abort()
        return bool(waiting)


class BoundedWebSocketProtocol(WebSocketsSansIOProtocol):
    """A websocket. What has come of a message counts as held memory of its owner, and must go on coming.

    A connection with very many frames is cut: each costs more than it carries.
    """

    def __init__(self, config: Any, *args: Any, **options: Any) -> None:
        super().__init__(config, *args, **options)
        self._memory: MemoryBudget = config.memory
        self._held = ExitStack()
        self._held_bytes = 0
        self._patience, self._looked_s = Patience(), 0.0
        self._frames_left, self._filled_s = float(_FRAMES_AT_ONCE), self.loop.time()
        self._refused: QueueFull | None = None
        self._pace: Pace = config.pace
        self._resting: asyncio.TimerHandle | None = None
        self._progress_timer: asyncio.TimerHandle | None = None
        self._stall = _StallGuard()

    def data_received(self, data: bytes) -> None:
        if self.handshake_complete:
            try:
                self._hold(len(data))
            except QueueFull as error:
                # nothing more is read; the session ends, and tells why
                self._refused = error
                self.transport.pause_reading()
                self.queue.put_nowait({"type": "websocket.receive", "text": ""})
                return
        at, piece_bytes = 0, _PIECE_BYTES
        while at < len(data) and not self.transport.is_closing():
            super().data_received(data[at : at + piece_bytes])
            at += piece_bytes
            # Pieces of a large frame need not be small.
            piece_bytes *= 2 if self._frames_left > _FRAMES_AT_ONCE / 2 else 1
        rest_s = self._pace.rest_s(len(data), self.loop.time())
        if rest_s > 0.0 and self._resting is None and not self.transport.is_closing():
            self.transport.pause_reading()
            self._resting = self.loop.call_later(rest_s, self._end_rest)

    def _end_rest(self) -> None:
        self._resting = None
        # otherwise a message waits for the session, which resumes reading when it takes it
        if not self.read_paused and not self.transport.is_closing():
            self.transport.resume_reading()

    def handle_events(self) -> None:
        now_s = self.loop.time()
        refilled = self._frames_left + _FRAMES_PER_S * (now_s - self._filled_s)
        self._frames_left = min(_FRAMES_AT_ONCE, refilled) - len(self.conn.events)
        self._filled_s = now_s
        if self._frames_left < 0.0:
            self.transport.abort()
            return
        super().handle_events()

    def hurry(self) -> None:
        """The gateway is shutting down: an answer that is not read is not waited for as long as before."""
        self._stall.hurry(self.transport)

    async def receive(self) -> Any:
        message = await super().receive()
        if self._refused is not None:
            raise self._refused
        # from here on the request's own account has it
        self._release()
        return message

    def connection_lost(self, exc: Exception | None) -> None:
        self._release()
        self._stall.stop()
        if self._resting is not None:
            self._resting.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall.start(self.transport)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stall.stop()

    def _hold(self, count: int) -> None:
        if not self._held_bytes:
            call: Call | None = self.scope["state"].get("call")
            self._add = self._held.enter_context(self._memory.request(call.owner if call else ANONYMOUS))
            self._patience, self._looked_s = Patience(), self.loop.time()
            self._progress_timer = self.loop.call_later(self._patience.left_s, self._look_at_progress)
        self._add(count)
        now_s = self.loop.time()
        self._patience.waited(now_s - self._looked_s, count)
        self._looked_s = now_s
        self._held_bytes += count

    def _release(self) -> None:
        self._held.close()
        self._held_bytes = 0
        if self._progress_timer is not None:
            self._progress_timer.cancel()
            self._progress_timer = None

    def _look_at_progress(self) -> None:
        """Aborts the connection where a message comes too slowly; a whole one waits for its session."""
        self._progress_timer = None
        if not self.queue.empty() or not self._held_bytes:
            return
        remaining_s = self._patience.left_s - (self.loop.time() - self._looked_s)
        if remaining_s <= 0.0:
            self.transport.abort()
        else:
            self._progress_timer = self.loop.call_later(remaining_s, self._look_at_progress)
