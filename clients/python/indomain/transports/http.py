"""Calls over HTTP, for `Client` and `AsyncClient`: JSON requests and answers, server-sent events for streams.

Needs the extra `http` (httpx and websockets). Sessions are in websocket.py.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Generator
from functools import partial
from typing import Any

import httpx
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from indomain.transports.credentials import Credentials
from indomain.transports.errors import error_from_detail
from indomain.transports.http_messages import (
    connection_broken,
    connection_errors,
    error_of_status,
    headers_of,
    path_of,
    unreadable_answers,
)
from indomain.transports.websocket import (
    AsyncWebSocketConversation,
    WebSocketConversation,
    open_conversation,
    open_conversation_async,
)
from indomain.v1 import editing_pb2
from indomain.wire.json import message_from_json, message_to_json

_METHODS = editing_pb2.DESCRIPTOR.services_by_name["Editing"].methods_by_name

# The gateway keeps the time limit itself. Only a connection that is silent this long after it is given up.
_GRACE_S = 2.0


class HttpTransport:
    """A pool of connections to a gateway."""

    def __init__(self, address: str, credentials: Credentials) -> None:
        self.address = address.rstrip("/")
        self._credentials = credentials
        self._request = partial(_request_options, credentials)
        self._http = httpx.Client(**_pool_options(self.address, credentials))

    def call(self, method: str, request: Message, request_id: str, timeout_s: float) -> Message:
        with connection_errors(request_id, self.address):
            response = self._http.request(**self._request(method, request, request_id, timeout_s))
        return _read_answer(method, response, request_id, self.address)

    def stream(
        self, method: str, request: Message, request_id: str, timeout_s: float
    ) -> Generator[Message, None, None]:
        with (
            connection_errors(request_id, self.address),
            self._http.stream(**self._request(method, request, request_id, timeout_s)) as response,
        ):
            if response.status_code != 200:
                response.read()
                raise error_of_status(response.status_code, response.content, request_id, self.address)
            events = _EventReader(method, request_id, self.address)
            for line in response.iter_lines():
                if (message := events.read_line(line)) is not None:
                    yield message
            events.check_not_empty()

    def session(self, request_id: str, timeout_s: float | None) -> WebSocketConversation:
        return open_conversation(self.address, self._credentials, request_id, timeout_s)

    def close(self) -> None:
        self._http.close()


class AsyncHttpTransport:
    """The same for coroutines."""

    def __init__(self, address: str, credentials: Credentials) -> None:
        self.address = address.rstrip("/")
        self._credentials = credentials
        self._request = partial(_request_options, credentials)
        self._http = httpx.AsyncClient(**_pool_options(self.address, credentials))

    async def open(self) -> None:
        """Nothing to do: each call connects by itself."""

    async def call(self, method: str, request: Message, request_id: str, timeout_s: float) -> Message:
        with connection_errors(request_id, self.address):
            response = await self._http.request(**self._request(method, request, request_id, timeout_s))
        return _read_answer(method, response, request_id, self.address)

    async def stream(
        self, method: str, request: Message, request_id: str, timeout_s: float
    ) -> AsyncGenerator[Message, None]:
        with connection_errors(request_id, self.address):
            async with self._http.stream(**self._request(method, request, request_id, timeout_s)) as response:
                if response.status_code != 200:
                    await response.aread()
                    raise error_of_status(response.status_code, response.content, request_id, self.address)
                events = _EventReader(method, request_id, self.address)
                async for line in response.aiter_lines():
                    if (message := events.read_line(line)) is not None:
                        yield message
                events.check_not_empty()

    async def session(self, request_id: str, timeout_s: float | None) -> AsyncWebSocketConversation:
        return await open_conversation_async(self.address, self._credentials, request_id, timeout_s)

    async def close(self) -> None:
        await self._http.aclose()


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
    credentials: Credentials, method: str, request: Message, request_id: str, timeout_s: float
) -> dict[str, Any]:
    options: dict[str, Any] = {
        "method": "POST",
        "url": path_of(method),
        "headers": headers_of(credentials, request_id, timeout_s),
        "timeout": timeout_s + _GRACE_S,
    }
    if method == "ListBundles":
        return options | {"method": "GET", "url": "/v1/bundles"}
    return options | {"json": message_to_json(request)}


def _read_answer(method: str, response: httpx.Response, request_id: str, address: str) -> Message:
    if response.status_code != 200:
        raise error_of_status(response.status_code, response.content, request_id, address)
    with unreadable_answers(request_id, address):
        return message_from_json(json.loads(response.content), _answer_type(method))


def _answer_type(method: str) -> type[Message]:
    return GetMessageClass(_METHODS[method].output_type)


class _EventReader:
    """Reads server-sent events, line by line, as the messages that gRPC would stream."""

    def __init__(self, method: str, request_id: str, address: str) -> None:
        self._answer_type = _answer_type(method)
        self._request_id = request_id
        self._address = address
        self._event = ""
        self._empty = True

    def read_line(self, line: str) -> Message | None:
        """The message that this line completes, or None. Raises the error that an event `error` describes."""
        name, _, value = line.partition(": ")
        if name == "event":
            self._event = value
        if name != "data":
            return None
        self._empty = False
        with unreadable_answers(self._request_id, self._address):
            values = json.loads(value)
            if self._event == "error":
                detail = message_from_json(values, editing_pb2.ErrorDetail)
                raise error_from_detail(detail, address=self._address, request_id=self._request_id)
            # Where a stream has several kinds of events, each is named for the field that holds it.
            if self._event in self._answer_type.DESCRIPTOR.fields_by_name:
                values = {self._event: values}
            return message_from_json(values, self._answer_type)

    def check_not_empty(self) -> None:
        """Raises GatewayUnreachableError where the stream ended without an event: a gateway always sends one."""
        if self._empty:
            raise connection_broken("the stream ended before it began", self._request_id, self._address)
