"""What a client needs of a transport. Methods are named as in the contract, e.g. `"WatchInvert"`.

All methods but `close` raise an `IndomainError` where the call fails.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import Protocol

from google.protobuf.message import Message

from indomain.v1 import editing_pb2


class Transport(Protocol):
    """Carries the requests of a `Client`; may be used from several threads."""

    address: str

    def call(self, method: str, request: Message, request_id: str, timeout_s: float) -> Message:
        """Sends the request of a method with one answer; returns the answer."""

    def stream(
        self, method: str, request: Message, request_id: str, timeout_s: float
    ) -> Generator[Message, None, None]:
        """Sends the request of a method with many answers; yields them. Closing the generator cancels the call."""

    def session(self, request_id: str, timeout_s: float | None) -> Conversation:
        """Opens an edit session."""

    def close(self) -> None: ...


class Conversation(Protocol):
    """An open edit session. One thread may send while another receives."""

    def send(self, request: editing_pb2.EditSessionRequest) -> None: ...

    def receive(self) -> editing_pb2.EditSessionResponse | None:
        """Waits for the next answer; None after the last one."""

    def finish(self) -> None:
        """Says that no more requests follow."""

    def close(self) -> None: ...


class AsyncTransport(Protocol):
    """The same for coroutines."""

    address: str

    async def open(self) -> None:
        """Connects, unless it is connected. Every call does this too."""

    async def call(self, method: str, request: Message, request_id: str, timeout_s: float) -> Message: ...

    def stream(
        self, method: str, request: Message, request_id: str, timeout_s: float
    ) -> AsyncGenerator[Message, None]: ...

    async def session(self, request_id: str, timeout_s: float | None) -> AsyncConversation: ...

    async def close(self) -> None: ...


class AsyncConversation(Protocol):
    """The same for coroutines. One task may send while another receives."""

    async def send(self, request: editing_pb2.EditSessionRequest) -> None: ...

    async def receive(self) -> editing_pb2.EditSessionResponse | None: ...

    async def finish(self) -> None: ...

    async def close(self) -> None: ...
