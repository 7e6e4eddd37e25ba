"""Calls over gRPC, for `Client` and `AsyncClient`."""

from __future__ import annotations

import asyncio
import os
import queue
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import grpc
from google.protobuf.message import Message

from indomain.constants import CHANNEL_OPTIONS, REQUEST_ID_KEY
from indomain.exceptions import ForkedError, RequestCancelledError
from indomain.transports.credentials import Credentials
from indomain.transports.errors import error_from_rpc
from indomain.v1 import editing_pb2, editing_pb2_grpc

_users_of_asyncio: set[int] = set()
"""The processes, this one and those that it is a child of, in which gRPC's asyncio was used."""


def use_asyncio() -> None:
    """Notes that gRPC's asyncio is used in this process. Raises ForkedError in a child of one in which it was.

    There it would crash or hang, also after all of its users were closed: the thread that waits for all calls is not in
    the child. gRPC's calls without asyncio survive a fork.
    """
    _users_of_asyncio.add(os.getpid())
    if len(_users_of_asyncio) > 1:
        raise ForkedError(
            "This process was forked after its parent had used an AsyncClient over gRPC, or an embedded gateway, and "
            "gRPC then can serve neither here. Use http://..., fork before they are made, or start processes with the "
            "method 'spawn'",
            reason="forked",
        )


# How long a new session waits for the gateway to say that it was let in.
_ADMISSION_S = 1.0


class _Stub:
    """The methods of the service on a channel; every call has the credentials and a request id."""

    _stub: Any
    _credentials: Credentials

    def _start(self, method: str, request: Message, request_id: str, timeout_s: float) -> Any:
        metadata = self._credentials.metadata_with(request_id)
        return getattr(self._stub, method)(request, timeout=timeout_s, metadata=metadata)


class GrpcTransport(_Stub):
    """A channel to a gateway. It connects at the first call, and again after the connection broke."""

    def __init__(self, address: str, credentials: Credentials) -> None:
        self.address = address
        self._credentials = credentials
        tls = credentials.for_grpc()
        self._channel = (
            grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
            if tls is None
            else grpc.secure_channel(address, tls, options=CHANNEL_OPTIONS)
        )
        self._stub = editing_pb2_grpc.EditingStub(self._channel)

    def call(self, method: str, request: Message, request_id: str, timeout_s: float) -> Message:
        with _typed_errors(request_id, self.address):
            answer: Message = self._start(method, request, request_id, timeout_s)
        return answer

    def stream(
        self, method: str, request: Message, request_id: str, timeout_s: float
    ) -> Generator[Message, None, None]:
        answers = self._start(method, request, request_id, timeout_s)
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
    """An edit session. gRPC reads the requests from a queue, in a thread of its own."""

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


class AsyncGrpcTransport(_Stub):
    """The same for coroutines, in the event loop of the first call."""

    def __init__(self, address: str, credentials: Credentials) -> None:
        self.address = self._target = address
        self._credentials = credentials
        self._tls = credentials.for_grpc()
        self._channel: grpc.aio.Channel | None = None
        self._stub = None

    async def open(self) -> None:
        """Raises ForkedError in a child whose parent used gRPC's asyncio when it forked."""
        use_asyncio()
        # A channel needs a running loop, so it is made here and not in the constructor.
        if self._channel is None:
            self._channel = (
                grpc.aio.insecure_channel(self._target, options=CHANNEL_OPTIONS)
                if self._tls is None
                else grpc.aio.secure_channel(self._target, self._tls, options=CHANNEL_OPTIONS)
            )
            self._stub = editing_pb2_grpc.EditingStub(self._channel)

    async def call(self, method: str, request: Message, request_id: str, timeout_s: float) -> Message:
        await self.open()
        with _typed_errors(request_id, self.address):
            answer: Message = await self._start(method, request, request_id, timeout_s)
        return answer

    async def stream(
        self, method: str, request: Message, request_id: str, timeout_s: float
    ) -> AsyncGenerator[Message, None]:
        await self.open()
        answers = self._start(method, request, request_id, timeout_s)
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
        # If the gateway refuses the session while a request is being written, gRPC loses the reason. So wait for the
        # gateway's first metadata, which say that it let it in. A proxy may hold them back: do not wait for long.
        with suppress(TimeoutError), _typed_errors(request_id, self.address):
            async with asyncio.timeout(_ADMISSION_S):
                if REQUEST_ID_KEY not in dict(await answers.initial_metadata()):
                    await answers.code()
            if answers.done():
                # The session was refused: this raises the reason.
                await answers.read()
        return AsyncGrpcConversation(answers, request_id, self.address)

    async def close(self) -> None:
        if self._channel is not None:
            await self._channel.close()


class AsyncGrpcConversation:
    """An edit session, for coroutines."""

    def __init__(self, call: Any, request_id: str, address: str) -> None:
        self._call = call
        self._answers: AsyncIterator[editing_pb2.EditSessionResponse] = aiter(call)
        self._request_id = request_id
        self._address = address

    async def send(self, request: editing_pb2.EditSessionRequest) -> None:
        # If the session has ended, receive() raises the reason.
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
    """Raises errors of gRPC as errors of this package."""
    try:
        yield
    except grpc.RpcError as failure:
        raise error_from_rpc(failure, request_id=request_id, address=address) from failure
    except asyncio.CancelledError:
        # gRPC raises this too where the call was cancelled (the channel was closed) and the waiting task was not.
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise RequestCancelledError(
            "The call was cancelled", reason="cancelled", code="CANCELLED", request_id=request_id
        ) from None
