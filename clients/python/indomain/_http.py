"""Calls over HTTP, for both kinds of client: JSON in and out, server-sent events for streams, a websocket for sessions.

Needs the extra `http` (httpx and websockets).
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from typing import Any

import grpc
import httpx
import websockets
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from websockets.asyncio.client import connect as connect_websocket_async
from websockets.sync.client import connect as connect_websocket

from indomain._credentials import Credentials
from indomain._exceptions import (
    IndomainError,
    RequestCancelledError,
    error_from_detail,
    error_without_detail,
)
from indomain.v1 import editing_pb2
from indomain.wire.json import message_from_json, message_to_json

_METHODS = editing_pb2.DESCRIPTOR.services_by_name["Editing"].methods_by_name
_TIMEOUT_HEADER = "x-timeout-s"
_GRACE_S = (
    2.0  # the gateway keeps the deadline; a connection that says nothing this long after it is given up
)

# How gRPC itself reads statuses of proxies: https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md
_CODE_OF_STATUS = {
    400: grpc.StatusCode.INTERNAL,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.UNIMPLEMENTED,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    429: grpc.StatusCode.UNAVAILABLE,
    502: grpc.StatusCode.UNAVAILABLE,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.UNAVAILABLE,
}


class HttpTransport:
    """A pool of connections to a gateway."""

    def __init__(self, address: str, credentials: Credentials) -> None:
        self.address = address.rstrip("/")
        self._credentials = credentials
        self._http = httpx.Client(**_pool_options(self.address, credentials))

    def call(self, method: str, request: Message, request_id: str, timeout_s: float) -> Message:
        with _typed_errors(request_id, self.address):
            response = self._http.request(**self._request(method, request, request_id, timeout_s))
        return _read_answer(method, response, request_id, self.address)

    def stream(
        self, method: str, request: Message, request_id: str, timeout_s: float
    ) -> Generator[Message, None, None]:
        with (
            _typed_errors(request_id, self.address),
            self._http.stream(**self._request(method, request, request_id, timeout_s)) as response,
        ):
            if response.status_code != 200:
                response.read()
                raise _refusal(response.status_code, response.content, request_id, self.address)
            events = _Events(method, request_id, self.address)
            for line in response.iter_lines():
                if (message := events.take(line)) is not None:
                    yield message
            events.check_whole()

    def session(self, request_id: str, timeout_s: float | None) -> WebSocketConversation:
        with _typed_errors(request_id, self.address):
            options = _websocket_options(self.address, self._credentials, request_id, timeout_s)
            opened = ExitStack()
            socket = opened.enter_context(connect_websocket(**options))
        return WebSocketConversation(socket, opened, _Course(request_id, timeout_s, self.address))

    def close(self) -> None:
        self._http.close()

    def _request(self, method: str, request: Message, request_id: str, timeout_s: float) -> dict[str, Any]:
        return _request_options(method, request, self._credentials, request_id, timeout_s)


class AsyncHttpTransport:
    """The same in an event loop."""

    def __init__(self, address: str, credentials: Credentials) -> None:
        self.address = address.rstrip("/")
        self._credentials = credentials
        self._http = httpx.AsyncClient(**_pool_options(self.address, credentials))

    async def open(self) -> None:
        """Each call connects by itself."""

    async def call(self, method: str, request: Message, request_id: str, timeout_s: float) -> Message:
        with _typed_errors(request_id, self.address):
            response = await self._http.request(**self._request(method, request, request_id, timeout_s))
        return _read_answer(method, response, request_id, self.address)

    async def stream(
        self, method: str, request: Message, request_id: str, timeout_s: float
    ) -> AsyncGenerator[Message, None]:
        with _typed_errors(request_id, self.address):
            async with self._http.stream(**self._request(method, request, request_id, timeout_s)) as response:
                if response.status_code != 200:
                    await response.aread()
                    raise _refusal(response.status_code, response.content, request_id, self.address)
                events = _Events(method, request_id, self.address)
                async for line in response.aiter_lines():
                    if (message := events.take(line)) is not None:
                        yield message
                events.check_whole()

    async def session(self, request_id: str, timeout_s: float | None) -> AsyncWebSocketConversation:
        with _typed_errors(request_id, self.address):
            options = _websocket_options(self.address, self._credentials, request_id, timeout_s)
            opened = AsyncExitStack()
            socket = await opened.enter_async_context(connect_websocket_async(**options))
        return AsyncWebSocketConversation(socket, opened, _Course(request_id, timeout_s, self.address))

    async def close(self) -> None:
        await self._http.aclose()

    def _request(self, method: str, request: Message, request_id: str, timeout_s: float) -> dict[str, Any]:
        return _request_options(method, request, self._credentials, request_id, timeout_s)


# --- one request, one answer -------------------------------------------------------------------------


def _pool_options(address: str, credentials: Credentials) -> dict[str, Any]:
    encrypted = address.startswith("https://")
    if credentials.tls and not encrypted:
        raise ValueError(f"{address} is not encrypted; certificates and tls go with https://")
    return {
        "base_url": address,
        "verify": credentials.for_https() if encrypted else False,
        "limits": httpx.Limits(max_connections=None, max_keepalive_connections=32),
    }


def _request_options(
    method: str, request: Message, credentials: Credentials, request_id: str, timeout_s: float
) -> dict[str, Any]:
    options: dict[str, Any] = {
        "method": "POST",
        "url": _path(method),
        "headers": _headers(credentials, request_id, timeout_s),
        "timeout": timeout_s + _GRACE_S,
    }
    if method == "ListBundles":
        return options | {"method": "GET", "url": "/v1/bundles"}
    return options | {"json": message_to_json(request)}


def _path(method: str) -> str:
    """`WatchInvert` -> `/v1/watch-invert`."""
    return "/v1/" + re.sub(r"(?<=[a-z])(?=[A-Z])", "-", method).lower()


def _headers(credentials: Credentials, request_id: str, timeout_s: float | None) -> dict[str, str]:
    headers = dict(credentials.metadata_with(request_id))
    return headers if timeout_s is None else headers | {_TIMEOUT_HEADER: f"{timeout_s:.3f}"}


def _read_answer(method: str, response: httpx.Response, request_id: str, address: str) -> Message:
    if response.status_code != 200:
        raise _refusal(response.status_code, response.content, request_id, address)
    with _readable(request_id, address):
        return message_from_json(json.loads(response.content), _answer_kind(method))


def _answer_kind(method: str) -> type[Message]:
    return GetMessageClass(_METHODS[method].output_type)


def _refusal(status: int, content: bytes, request_id: str, address: str) -> IndomainError:
    """The typed error of an answer that is not a success: the gateway's own, or a proxy's."""
    try:
        values = json.loads(content)
        detail = message_from_json(values, editing_pb2.ErrorDetail) if "reason" in values else None
    except (ValueError, TypeError):
        detail = None
    code = _CODE_OF_STATUS.get(status, grpc.StatusCode.UNKNOWN)
    if detail is None:
        return error_without_detail(code, f"HTTP status {status}", request_id=request_id, address=address)
    return error_from_detail(detail, address=address, status=code, request_id=request_id)


# --- streams -----------------------------------------------------------------------------------------


class _Events:
    """Server-sent events, line by line, as the messages that gRPC streams."""

    def __init__(self, method: str, request_id: str, address: str) -> None:
        self._kind = _answer_kind(method)
        self._request_id = request_id
        self._address = address
        self._event = ""
        self._told = False

    def take(self, line: str) -> Message | None:
        """The message that the line completes, if it does. Raises the typed error of an event `error`."""
        name, _, value = line.partition(": ")
        if name == "event":
            self._event = value
        if name != "data":
            return None
        self._told = True
        with _readable(self._request_id, self._address):
            values = json.loads(value)
            if self._event == "error":
                detail = message_from_json(values, editing_pb2.ErrorDetail)
                raise error_from_detail(detail, address=self._address, request_id=self._request_id)
            if self._event in self._kind.DESCRIPTOR.fields_by_name:  # one kind of several
                values = {self._event: values}
            return message_from_json(values, self._kind)

    def check_whole(self) -> None:
        """Raises GatewayUnreachableError where nothing came: the gateway always has something to say."""
        if not self._told:
            raise _broken("the stream ended before it began", self._request_id, self._address)


# --- sessions ----------------------------------------------------------------------------------------


class _Course:
    """How far a session has come. A websocket has no end of requests only: the answer to the last one is the end."""

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
        return self.finished and self._answered >= self._sent

    def remaining_s(self) -> float | None:
        """Seconds that the session has. Raises DeadlineExceededError."""
        if self._deadline_s is None:
            return None
        remaining_s = self._deadline_s - time.monotonic()
        if remaining_s <= 0.0:
            raise _too_late(self._request_id, self._address)
        return remaining_s

    def write(self, request: editing_pb2.EditSessionRequest) -> str:
        self._sent = request.sequence
        return json.dumps(message_to_json(request))

    def read(self, text: str | bytes) -> editing_pb2.EditSessionResponse:
        """Raises the typed error that ends the session."""
        with _readable(self._request_id, self._address):
            values = json.loads(text)
            if "reason" in values:
                detail = message_from_json(values, editing_pb2.ErrorDetail)
                raise error_from_detail(detail, address=self._address, request_id=self._request_id)
            answer = message_from_json(values, editing_pb2.EditSessionResponse)
        self._answered = answer.sequence
        return answer

    @contextmanager
    def typed_errors(self) -> Iterator[None]:
        with _typed_errors(self._request_id, self._address):
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


class WebSocketConversation:
    """An edit session over a websocket: JSON texts, each answer's pictures as binary messages after it."""

    def __init__(self, socket: Any, opened: ExitStack, course: _Course) -> None:
        self._socket = socket
        self._opened = opened
        self._course = course

    def send(self, request: editing_pb2.EditSessionRequest) -> None:
        with self._course.typed_errors():
            self._socket.send(self._course.write(request))

    def receive(self) -> editing_pb2.EditSessionResponse | None:
        if self._course.over:
            return None
        with self._course.typed_errors():
            answer = self._course.read(self._socket.recv(self._course.remaining_s()))
            for picture in _pictures_to_come(answer):
                picture.data = self._socket.recv(self._course.remaining_s())
        return answer

    def finish(self) -> None:
        self._course.finished = True

    def close(self) -> None:
        self._course.closed = True
        self._opened.close()


class AsyncWebSocketConversation:
    """The same in an event loop."""

    def __init__(self, socket: Any, opened: AsyncExitStack, course: _Course) -> None:
        self._socket = socket
        self._opened = opened
        self._course = course

    async def send(self, request: editing_pb2.EditSessionRequest) -> None:
        with self._course.typed_errors():
            await self._socket.send(self._course.write(request))

    async def receive(self) -> editing_pb2.EditSessionResponse | None:
        if self._course.over:
            return None
        with self._course.typed_errors():
            async with asyncio.timeout(self._course.remaining_s()):
                answer = self._course.read(await self._socket.recv())
                for picture in _pictures_to_come(answer):
                    picture.data = await self._socket.recv()
        return answer

    async def finish(self) -> None:
        self._course.finished = True

    async def close(self) -> None:
        self._course.closed = True
        await self._opened.aclose()


def _pictures_to_come(answer: editing_pb2.EditSessionResponse) -> list[editing_pb2.Picture]:
    """Those whose data follow as binary messages, in this order."""
    edited = answer.edited
    return [getattr(edited, name) for name in ("image", "pasted") if edited.HasField(name)]


def _websocket_options(
    address: str, credentials: Credentials, request_id: str, timeout_s: float | None
) -> dict[str, Any]:
    encrypted = address.startswith("https://")
    return {
        "uri": "ws" + address.removeprefix("http") + _path("EditSession"),
        "additional_headers": _headers(credentials, request_id, timeout_s),
        "ssl": credentials.for_https() if encrypted else None,
        "subprotocols": ["indomain.v1"],
        "max_size": None,
        "compression": None,  # pictures are compressed already
    }


# --- errors ------------------------------------------------------------------------------------------


@contextmanager
def _typed_errors(request_id: str, address: str) -> Iterator[None]:
    """Errors of the connection as those of this package."""
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise _broken(str(error) or "no connection", request_id, address) from error
    except (httpx.TimeoutException, TimeoutError) as error:
        raise _too_late(request_id, address) from error
    except websockets.InvalidStatus as error:
        response = error.response
        raise _refusal(response.status_code, bytes(response.body), request_id, address) from error
    except (httpx.TransportError, websockets.WebSocketException, OSError) as error:
        raise _broken(f"the connection broke: {error}", request_id, address) from error


@contextmanager
def _readable(request_id: str, address: str) -> Iterator[None]:
    """What answers but is no gateway is told as such."""
    try:
        yield
    except ValueError as error:
        raise _broken(f"what answers there is no gateway: {error}", request_id, address) from error


def _broken(text: str, request_id: str, address: str) -> IndomainError:
    return error_without_detail(grpc.StatusCode.UNAVAILABLE, text, request_id=request_id, address=address)


def _too_late(request_id: str, address: str) -> IndomainError:
    return error_without_detail(grpc.StatusCode.DEADLINE_EXCEEDED, "", request_id=request_id, address=address)
