"""Edit sessions over a websocket, for `Client` and `AsyncClient`. Needs the extra `http` (httpx and websockets).

Requests and answers are JSON texts. The pictures of an answer follow it as binary messages.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from typing import Any

import websockets
from websockets.asyncio.client import connect as connect_async
from websockets.sync.client import connect

from indomain.exceptions import RequestCancelledError
from indomain.transports.credentials import Credentials
from indomain.transports.errors import error_from_detail
from indomain.transports.http_messages import (
    connection_errors,
    headers_of,
    path_of,
    time_ran_out,
    unreadable_answers,
)
from indomain.v1 import editing_pb2
from indomain.wire.json import message_from_json, message_to_json


def open_conversation(
    address: str, credentials: Credentials, request_id: str, timeout_s: float | None
) -> WebSocketConversation:
    """Connects to the gateway at `address`, an http(s) URL. Raises IndomainError."""
    with connection_errors(request_id, address):
        opened = ExitStack()
        socket = opened.enter_context(connect(**_options(address, credentials, request_id, timeout_s)))
    return WebSocketConversation(socket, opened, _Exchange(request_id, timeout_s, address))


async def open_conversation_async(
    address: str, credentials: Credentials, request_id: str, timeout_s: float | None
) -> AsyncWebSocketConversation:
    """The same for coroutines."""
    with connection_errors(request_id, address):
        opened = AsyncExitStack()
        connecting = connect_async(**_options(address, credentials, request_id, timeout_s))
        socket = await opened.enter_async_context(connecting)
    return AsyncWebSocketConversation(socket, opened, _Exchange(request_id, timeout_s, address))


def _options(
    address: str, credentials: Credentials, request_id: str, timeout_s: float | None
) -> dict[str, Any]:
    encrypted = address.startswith("https://")
    return {
        "uri": "ws" + address.removeprefix("http") + path_of("EditSession"),
        "additional_headers": headers_of(credentials, request_id, timeout_s),
        "ssl": credentials.for_https() if encrypted else None,
        "subprotocols": ["indomain.v1"],
        "max_size": None,
        # Pictures are compressed already.
        "compression": None,
    }


class WebSocketConversation:
    """An open edit session."""

    def __init__(self, socket: Any, opened: ExitStack, exchange: _Exchange) -> None:
        self._socket = socket
        self._opened = opened
        self._exchange = exchange

    def send(self, request: editing_pb2.EditSessionRequest) -> None:
        with self._exchange.errors():
            self._socket.send(self._exchange.write(request))

    def receive(self) -> editing_pb2.EditSessionResponse | None:
        if self._exchange.over:
            return None
        with self._exchange.errors():
            answer = self._exchange.read(self._socket.recv(self._exchange.remaining_s()))
            for picture in _pictures_to_follow(answer):
                picture.data = self._socket.recv(self._exchange.remaining_s())
        return answer

    def finish(self) -> None:
        self._exchange.finished = True

    def close(self) -> None:
        self._exchange.closed = True
        self._opened.close()


class AsyncWebSocketConversation:
    """The same for coroutines."""

    def __init__(self, socket: Any, opened: AsyncExitStack, exchange: _Exchange) -> None:
        self._socket = socket
        self._opened = opened
        self._exchange = exchange

    async def send(self, request: editing_pb2.EditSessionRequest) -> None:
        with self._exchange.errors():
            await self._socket.send(self._exchange.write(request))

    async def receive(self) -> editing_pb2.EditSessionResponse | None:
        if self._exchange.over:
            return None
        with self._exchange.errors():
            async with asyncio.timeout(self._exchange.remaining_s()):
                answer = self._exchange.read(await self._socket.recv())
                for picture in _pictures_to_follow(answer):
                    picture.data = await self._socket.recv()
        return answer

    async def finish(self) -> None:
        self._exchange.finished = True

    async def close(self) -> None:
        self._exchange.closed = True
        await self._opened.aclose()


def _pictures_to_follow(answer: editing_pb2.EditSessionResponse) -> list[editing_pb2.Picture]:
    """The pictures of the answer whose data follow as binary messages, in the order in which they come."""
    edited = answer.edited
    return [getattr(edited, name) for name in ("image", "pasted") if edited.HasField(name)]


class _Exchange:
    """The messages of a session, sent and received so far, and its time limit.

    A websocket cannot say that no more requests follow, as gRPC can: the session is over with the answer to the last.
    """

    def __init__(self, request_id: str, timeout_s: float | None, address: str) -> None:
        self._request_id = request_id
        self._address = address
        self._deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        self._sent = 0
        self._answered = 0
        self.finished = False
        self.closed = False

    @property
    def over(self) -> bool:
        """Whether the caller is finished and the last request is answered."""
        return self.finished and self._answered >= self._sent

    def remaining_s(self) -> float | None:
        """Seconds until the session's time runs out; None without a limit. Raises DeadlineExceededError."""
        if self._deadline_s is None:
            return None
        remaining_s = self._deadline_s - time.monotonic()
        if remaining_s <= 0.0:
            raise time_ran_out(self._request_id, self._address)
        return remaining_s

    def write(self, request: editing_pb2.EditSessionRequest) -> str:
        """The text of a request."""
        self._sent = request.sequence
        return json.dumps(message_to_json(request))

    def read(self, text: str | bytes) -> editing_pb2.EditSessionResponse:
        """The answer in a text. Raises the error that ended the session, where the text describes one."""
        with unreadable_answers(self._request_id, self._address):
            values = json.loads(text)
            if "reason" in values:
                detail = message_from_json(values, editing_pb2.ErrorDetail)
                raise error_from_detail(detail, address=self._address, request_id=self._request_id)
            answer = message_from_json(values, editing_pb2.EditSessionResponse)
        self._answered = answer.sequence
        return answer

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Raises errors of the connection as errors of this package."""
        with connection_errors(self._request_id, self._address):
            try:
                yield
            except websockets.ConnectionClosed:
                if not self.closed:
                    raise
                raise RequestCancelledError(
                    "The session was closed",
                    reason="cancelled",
                    code="CANCELLED",
                    request_id=self._request_id,
                ) from None
