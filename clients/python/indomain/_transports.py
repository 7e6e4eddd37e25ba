"""What a client needs of whatever carries its calls, and which kind an address asks for.

A transport sends one request once and raises typed errors; what is asked, and what is tried again, is not its business.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import Protocol

from google.protobuf.message import Message

from indomain._credentials import Credentials
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


def connect(address: str, credentials: Credentials) -> Transport:
    return GrpcTransport(address, credentials)


def connect_async(address: str, credentials: Credentials) -> AsyncTransport:
    return AsyncGrpcTransport(address, credentials)
