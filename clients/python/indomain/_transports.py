"""What a client needs of whatever carries its calls, and which kind an address asks for.

A transport sends one request once and raises typed errors; what is asked, and what is tried again, is not its business.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Generator
from typing import Any, Protocol

from google.protobuf.message import Message

from indomain._constants import EMBEDDED
from indomain._credentials import Credentials
from indomain._embedded import AsyncEmbeddedTransport, EmbeddedGateway, EmbeddedTransport
from indomain._exceptions import NotInstalledError
from indomain._grpc import AsyncGrpcTransport, GrpcTransport
from indomain.v1 import editing_pb2


class Transport(Protocol):
    """Every method but `close` raises an IndomainError; methods are named as in the contract."""

    address: str

    def call(self, method: str, request: Message, request_id: str, timeout_s: float) -> Message:
        """The answer of a method that has one."""

    def stream(
        self, method: str, request: Message, request_id: str, timeout_s: float
    ) -> Generator[Message, None, None]:
        """The answers of a method that streams; closing the generator cancels it."""

    def session(self, request_id: str, timeout_s: float | None) -> Conversation:
        """An edit session."""

    def close(self) -> None: ...


class Conversation(Protocol):
    """An edit session under way. One thread may send while another receives."""

    def send(self, request: editing_pb2.EditSessionRequest) -> None: ...

    def receive(self) -> editing_pb2.EditSessionResponse | None:
        """The next answer; None after the last one."""

    def finish(self) -> None:
        """No more requests."""

    def close(self) -> None: ...


class AsyncTransport(Protocol):
    """The same, for coroutines."""

    address: str

    async def open(self) -> None:
        """Connects, where it is not yet; every call does so by itself."""

    async def call(self, method: str, request: Message, request_id: str, timeout_s: float) -> Message: ...

    def stream(
        self, method: str, request: Message, request_id: str, timeout_s: float
    ) -> AsyncGenerator[Message, None]: ...

    async def session(self, request_id: str, timeout_s: float | None) -> AsyncConversation: ...

    async def close(self) -> None: ...


class AsyncConversation(Protocol):
    """The same, for coroutines. One task may send while another receives."""

    async def send(self, request: editing_pb2.EditSessionRequest) -> None: ...

    async def receive(self) -> editing_pb2.EditSessionResponse | None: ...

    async def finish(self) -> None: ...

    async def close(self) -> None: ...


def connect(
    address: str, credentials: Credentials, model_repository: str | os.PathLike[str] | None
) -> Transport:
    """Raises OSError for certificates that cannot be read, ValueError for what does not go together, NotInstalledError,
    and where it cannot start ServerError."""
    if address == EMBEDDED:
        return EmbeddedTransport(EmbeddedGateway(model_repository))
    _check_remote(model_repository)
    if _is_http(address):
        over_http: Transport = _http().HttpTransport(address, credentials)
        return over_http
    return GrpcTransport(address, credentials)


def connect_async(
    address: str, credentials: Credentials, model_repository: str | os.PathLike[str] | None
) -> AsyncTransport:
    """The same, but that an embedded gateway starts when it is first used."""
    if address == EMBEDDED:
        return AsyncEmbeddedTransport(EmbeddedGateway(model_repository))
    _check_remote(model_repository)
    if _is_http(address):
        over_http: AsyncTransport = _http().AsyncHttpTransport(address, credentials)
        return over_http
    return AsyncGrpcTransport(address, credentials)


def _is_http(address: str) -> bool:
    return address.startswith(("http://", "https://"))


def _check_remote(model_repository: object) -> None:
    if model_repository is not None:
        raise ValueError(f"model_repository is for {EMBEDDED!r}; a gateway elsewhere has its own")


def _http() -> Any:
    """Imported when it is asked for: its packages are an extra."""
    try:
        from indomain import _http
    except ModuleNotFoundError as error:
        raise NotInstalledError(
            f"Calls over HTTP need the package {error.name!r}: pip install 'indomain-client[http]', or give the "
            "gateway's gRPC address (host:port)",
            reason="not_installed",
        ) from error
    return _http
