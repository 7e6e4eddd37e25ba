"""Health and reflection over gRPC: the services that are open without a key.

The ready-made ones of grpcio let a stranger hold memory without end: they take messages of any size that the server
allows, wait for them and for unread answers for ever, and a watcher that does not read stops every change of health.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health, health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from serving.grpc.connections import cut_connection

Context = grpc.aio.ServicerContext[Any, Any]
Sent = AsyncIterator[bytes]
Handle = Callable[[Sent, Context], Awaitable[None]]

# Names of services and files are short.
_MAX_MESSAGE_BYTES = 4096
# gRPC receives a message of up to the server's limit as a whole, and does not tell how much of it has come. So only a
# few are waited for at once, and not for long.
_RECEIVED_AT_ONCE, _RECEIVE_TIMEOUT_S = 4, 0.5
# Calls at once, most of which watch health.
_MAX_CALLS = 256
# An answer that is not read for so long is given up.
_SEND_TIMEOUT_S = 5.0


class OpenServices:
    """The handlers of both services for a server. `report` changes a health."""

    def __init__(self, services: tuple[str, ...]) -> None:
        self.names = (*services, health.SERVICE_NAME, reflection.SERVICE_NAME)
        self._statuses: dict[str, Any] = dict.fromkeys(
            ("", *services), health_pb2.HealthCheckResponse.NOT_SERVING
        )
        self._changed = asyncio.Event()
        self._reflection = reflection.aio.ReflectionServicer(self.names)
        self._receiving = asyncio.Semaphore(_RECEIVED_AT_ONCE)
        self._calls = 0

    def handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        """What a server takes."""
        methods: dict[str, dict[str, Handle]] = {
            health.SERVICE_NAME: {"Check": self._check, "Watch": self._watch},
            reflection.SERVICE_NAME: {"ServerReflectionInfo": self._reflect},
        }
        return tuple(
            grpc.method_handlers_generic_handler(
                service, {name: self._bounded(handle) for name, handle in of_service.items()}
            )
            for service, of_service in methods.items()
        )

    def report(self, *, serving: bool) -> None:
        """Tells all who ask and all who watch whether requests would be served."""
        kinds = health_pb2.HealthCheckResponse
        status = kinds.SERVING if serving else kinds.NOT_SERVING
        for service in self._statuses:
            self._statuses[service] = status
        self._changed.set()
        self._changed = asyncio.Event()

    def _bounded(self, handle: Handle) -> grpc.RpcMethodHandler[Any, Any]:
        async def bounded(sent: Sent, context: Context) -> None:
            if self._calls >= _MAX_CALLS:
                await context.abort(
                    grpc.StatusCode.RESOURCE_EXHAUSTED, "Too many calls of this kind are open."
                )
            self._calls += 1
            try:
                await handle(sent, context)
            except TimeoutError:
                await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "The message did not come in time.")
            finally:
                self._calls -= 1

        # As if it streamed both ways: any other handler is called when its message is there as a whole.
        return grpc.stream_stream_rpc_method_handler(bounded, response_serializer=_serialize)

    async def _check(self, sent: Sent, context: Context) -> None:
        name = await self._service_name(sent, context)
        if name not in self._statuses:
            await context.abort(grpc.StatusCode.NOT_FOUND, "No such service.")
        await _send(context, health_pb2.HealthCheckResponse(status=self._statuses[name]))

    async def _watch(self, sent: Sent, context: Context) -> None:
        name = await self._service_name(sent, context)
        told = None
        while True:
            changed = self._changed
            status = self._statuses.get(name, health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
            if status != told:
                await _send(context, health_pb2.HealthCheckResponse(status=status))
                told = status
            await changed.wait()

    async def _reflect(self, sent: Sent, context: Context) -> None:
        async def requests() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
            while True:
                try:
                    yield await self._receive(reflection_pb2.ServerReflectionRequest, sent, context)
                except (TimeoutError, StopAsyncIteration):
                    # who wants to know more asks again
                    return

        answers: Any = self._reflection.ServerReflectionInfo(requests(), context)
        async for answer in answers:
            await _send(context, answer)

    async def _service_name(self, sent: Sent, context: Context) -> str:
        try:
            request = await self._receive(health_pb2.HealthCheckRequest, sent, context)
            return str(request.service)
        except StopAsyncIteration:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "The request has no message.")
            raise

    async def _receive(self, kind: type[Any], sent: Sent, context: Context) -> Any:
        """The next message. Raises TimeoutError, and StopAsyncIteration where there is none."""
        async with self._receiving, asyncio.timeout(_RECEIVE_TIMEOUT_S):
            data = await anext(sent)
        if len(data) > _MAX_MESSAGE_BYTES:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "The message is too long.")
        try:
            return kind.FromString(data)
        except DecodeError:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "The bytes are no message.")
            raise


async def _send(context: Context, answer: Message) -> None:
    """Sends an answer; cuts the connection of a caller who does not read it."""
    try:
        async with asyncio.timeout(_SEND_TIMEOUT_S):
            await context.write(answer)
    except TimeoutError:
        cut_connection(context.peer())
        raise asyncio.CancelledError from None


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()
