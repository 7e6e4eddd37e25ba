"""Calls over gRPC, for both kinds of client."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import grpc
from google.protobuf.message import Message

from indomain._constants import CHANNEL_OPTIONS, REQUEST_ID_KEY
from indomain._credentials import Credentials
from indomain._exceptions import RequestCancelledError, error_from_rpc
from indomain.v1 import editing_pb2, editing_pb2_grpc

_ADMISSION_S = 1.0


class GrpcTransport:
    """A channel to a gateway. It connects when it is first used, and again whenever that broke."""

    def __init__(self, address: str, credentials: Credentials) -> None:
        self.address = address
        self._credentials = credentials
        tls = credentials.for_grpc()
        self._channel = (
            grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
            if tls is None
            else grpc.secure_channel(address, tls, options=CHANNEL_OPTIONS)
        )
        self._stub: Any = editing_pb2_grpc.EditingStub(self._channel)

    def call(self, method: str, request: Message, request_id: str, timeout_s: float) -> Message:
        with _typed_errors(request_id, self.address):
            answer: Message = getattr(self._stub, method)(
                request, timeout=timeout_s, metadata=self._credentials.metadata_with(request_id)
            )
        return answer

    def stream(
        self, method: str, request: Message, request_id: str, timeout_s: float
    ) -> Generator[Message, None, None]:
        answers = getattr(self._stub, method)(
            request, timeout=timeout_s, metadata=self._credentials.metadata_with(request_id)
        )
        try:
            with _typed_errors(request_id, self.address):
                yield from answers
        finally:
            answers.cancel()

    def session(self, request_id: str, timeout_s: float | None) -> GrpcConversation:
        metadata = self._credentials.metadata_with(request_id)
        return GrpcConversation(self._stub.EditSession, request_id, timeout_s, metadata, self.address)

    def close(self) -> None:
        self._channel.close()


class GrpcConversation:
    """A stream both ways; gRPC reads the requests from a queue, in a thread of its own."""

    def __init__(
        self,
        method: Any,
        request_id: str,
        timeout_s: float | None,
        metadata: tuple[tuple[str, str], ...],
        address: str,
    ) -> None:
        self._request_id = request_id
        self._address = address
        self._requests: queue.SimpleQueue[editing_pb2.EditSessionRequest | None] = queue.SimpleQueue()
        requests: Iterator[editing_pb2.EditSessionRequest | None] = iter(self._requests.get, None)
        self._answers = method(requests, timeout=timeout_s, metadata=metadata)

    def send(self, request: editing_pb2.EditSessionRequest) -> None:
        self._requests.put(request)

    def receive(self) -> editing_pb2.EditSessionResponse | None:
        with _typed_errors(self._request_id, self._address):
            answer: editing_pb2.EditSessionResponse | None = next(self._answers, None)
        return answer

    def finish(self) -> None:
        self._requests.put(None)

    def close(self) -> None:
        self._requests.put(None)
        self._answers.cancel()


class AsyncGrpcTransport:
    """The same in an event loop: the one in which it is first used."""

    def __init__(self, address: str, credentials: Credentials) -> None:
        self.address = self._target = address
        self._credentials = credentials
        self._tls = credentials.for_grpc()
        self._channel: grpc.aio.Channel | None = None
        self._stub: Any = None

    async def open(self) -> None:
        if self._channel is None:  # only a running loop can have one
            self._channel = (
                grpc.aio.insecure_channel(self._target, options=CHANNEL_OPTIONS)
                if self._tls is None
                else grpc.aio.secure_channel(self._target, self._tls, options=CHANNEL_OPTIONS)
            )
            self._stub = editing_pb2_grpc.EditingStub(self._channel)

    async def call(self, method: str, request: Message, request_id: str, timeout_s: float) -> Message:
        await self.open()
        with _typed_errors(request_id, self.address):
            answer: Message = await getattr(self._stub, method)(
                request, timeout=timeout_s, metadata=self._credentials.metadata_with(request_id)
            )
        return answer

    async def stream(
        self, method: str, request: Message, request_id: str, timeout_s: float
    ) -> AsyncGenerator[Message, None]:
        await self.open()
        answers = getattr(self._stub, method)(
            request, timeout=timeout_s, metadata=self._credentials.metadata_with(request_id)
        )
        try:
            with _typed_errors(request_id, self.address):
                async for answer in answers:
                    yield answer
        finally:
            answers.cancel()

    async def session(self, request_id: str, timeout_s: float | None) -> AsyncGrpcConversation:
        await self.open()
        answers = self._stub.EditSession(
            timeout=timeout_s, metadata=self._credentials.metadata_with(request_id)
        )
        # Were it refused while a request is being written, gRPC would forget why: the gateway says first that it is
        # let in. What does not (a proxy may keep it back) is waited for no longer than a far gateway takes.
        with suppress(TimeoutError), _typed_errors(request_id, self.address):
            async with asyncio.timeout(_ADMISSION_S):
                if REQUEST_ID_KEY not in dict(await answers.initial_metadata()):
                    await answers.code()
            if answers.done():
                await answers.read()  # raises it
        return AsyncGrpcConversation(answers, request_id, self.address)

    async def close(self) -> None:
        if self._channel is not None:
            await self._channel.close()


class AsyncGrpcConversation:
    """A stream both ways."""

    def __init__(self, call: Any, request_id: str, address: str) -> None:
        self._call = call
        self._answers: AsyncIterator[editing_pb2.EditSessionResponse] = aiter(call)
        self._request_id = request_id
        self._address = address

    async def send(self, request: editing_pb2.EditSessionRequest) -> None:
        # One that has ended is told by the next answer, as to who does not wait for the sending.
        with suppress(asyncio.InvalidStateError), _typed_errors(self._request_id, self._address):
            await self._call.write(request)

    async def receive(self) -> editing_pb2.EditSessionResponse | None:
        with _typed_errors(self._request_id, self._address):
            return await anext(self._answers, None)

    async def finish(self) -> None:
        await self._call.done_writing()

    async def close(self) -> None:
        self._call.cancel()


@contextmanager
def _typed_errors(request_id: str, address: str) -> Iterator[None]:
    """Errors of gRPC as those of this package."""
    try:
        yield
    except grpc.RpcError as failure:
        raise error_from_rpc(failure, request_id=request_id, address=address) from failure
    except asyncio.CancelledError:
        # gRPC says so too where the call was cancelled, and not the task that waits for it.
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise RequestCancelledError(
            "The call was cancelled", reason="cancelled", code="CANCELLED", request_id=request_id
        ) from None
