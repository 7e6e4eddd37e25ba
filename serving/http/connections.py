"""Connections of the HTTP server: each must move. Silent, slow and greedy ones are cut before they cost others much.

uvicorn's protocols for HTTP (h11) and websockets, with what they do not bound themselves.
"""

from __future__ import annotations

import asyncio
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
# A message may take as long as at this rate, and STALL_TIMEOUT_S more.
LEAST_BYTES_PER_S = 32 * 1024
# Chunks smaller than this on average cost more than they carry; the first ones are not judged.
_LEAST_CHUNK_BYTES, _FREE_CHUNKS = 64, 256


def receive_time_s(received_bytes: int) -> float:
    """How long a body or message of which so much has come may take so far, in seconds."""
    return STALL_TIMEOUT_S + received_bytes / LEAST_BYTES_PER_S


class ConnectionConfig(Config):
    """uvicorn's configuration, with what connections share: the memory for messages, and how many there may be."""

    def __init__(self, app: Any, settings: Settings, memory: MemoryBudget, **options: Any) -> None:
        super().__init__(app, http=BoundedH11Protocol, ws=BoundedWebSocketProtocol, **options)
        self.memory = memory
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
    """Aborts a connection whose answer is not read: its buffer is full, and nothing of it goes for a while."""

    def __init__(self) -> None:
        self._timer: asyncio.TimerHandle | None = None

    def start(self, transport: asyncio.Transport) -> None:
        if self._timer is None:
            self._look_later(transport, transport.get_write_buffer_size())

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_later(self, transport: asyncio.Transport, waiting_bytes: int) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(STALL_TIMEOUT_S, self._look, transport, waiting_bytes)

    def _look(self, transport: asyncio.Transport, waiting_bytes: int) -> None:
        still_bytes = transport.get_write_buffer_size()
        if still_bytes >= waiting_bytes:
            transport.abort()
        else:
            self._look_later(transport, still_bytes)


class BoundedH11Protocol(H11Protocol):
    """HTTP/1.1 on one connection."""

    def __init__(self, config: Any, *args: Any, **options: Any) -> None:
        super().__init__(config, *args, **options)
        self.conn = _Connection(config.h11_max_incomplete_event_size or 16 * 1024)
        self._max_connections: int = config.max_connections
        self._header_timer: asyncio.TimerHandle | None = None
        self._waits_since_s = self.loop.time()
        self._stall = _StallGuard()

    @property
    def waits_for_request(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: Any) -> None:
        if len(self.connections) >= self._max_connections and not self._make_room():
            transport.abort()
            return
        super().connection_made(transport)
        self._expect_headers()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.waits_for_request:
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
        self._waits_since_s = self.loop.time()
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
        """Closes the connection that has waited for a request the longest; False where none waits."""
        waiting = [
            each
            for each in self.connections
            if isinstance(each, BoundedH11Protocol) and each.waits_for_request
        ]
        if not waiting:
            return False
        oldest = min(waiting, key=lambda each: each._waits_since_s)
        self.connections.discard(oldest)
        oldest.transport.abort()
        return True


class BoundedWebSocketProtocol(WebSocketsSansIOProtocol):
    """A websocket. What has come of a message counts as held memory of its owner, and must go on coming."""

    def __init__(self, config: Any, *args: Any, **options: Any) -> None:
        super().__init__(config, *args, **options)
        self._memory: MemoryBudget = config.memory
        self._held = ExitStack()
        self._held_bytes = 0
        self._begun_s = 0.0
        self._refused: QueueFull | None = None
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
        super().data_received(data)

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
            self._begun_s = self.loop.time()
            self._progress_timer = self.loop.call_later(STALL_TIMEOUT_S, self._look_at_progress)
        self._add(count)
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
        remaining_s = receive_time_s(self._held_bytes) - (self.loop.time() - self._begun_s)
        if remaining_s <= 0.0:
            self.transport.abort()
        else:
            self._progress_timer = self.loop.call_later(remaining_s, self._look_at_progress)
