"""The client for coroutines: the twin of client.py, method by method. Its calls are declared in calls/."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

from google.protobuf.message import Message
from PIL import Image

from indomain.calls import combining, editing, generating, inverting
from indomain.calls.call import Call
from indomain.clients.base import BaseClient
from indomain.clients.client import Client
from indomain.clients.connect import connector_async
from indomain.clients.connections import LoopConnections, check_process
from indomain.clients.session import AsyncEditSession
from indomain.exceptions import IndomainError
from indomain.results import answers
from indomain.results.bundles import Bundle, GatewayInfo
from indomain.results.inversion import AsyncInversion
from indomain.results.measures import FoundFaces
from indomain.results.pictures import (
    Diffused,
    Edited,
    InterpolationFrame,
    InvertProgress,
    Mean,
    Mixed,
    Sample,
)
from indomain.signatures import arguments_of, documented_as
from indomain.transports.credentials import Credentials
from indomain.transports.protocols import AsyncConversation
from indomain.v1 import editing_pb2

_Response = TypeVar("_Response", bound=Message)
_Result = TypeVar("_Result")


@documented_as(Client)
class AsyncClient(BaseClient[LoopConnections]):
    """The same calls as `Client`'s, for coroutines: calls with one result are awaited, calls with several are iterated
    over with `async for`, a session is opened with `async with`.

    Example:
        >>> async def smile(path):
        ...     async with indomain.AsyncClient("localhost:8500") as client:
        ...         inversion = await client.invert(path)
        ...         async for picture in client.interpolate(inversion, await inversion.edit(smile=1.0), 3):
        ...             picture.image.save(f"smile{picture.index}.png")
        >>> asyncio.run(smile("portrait.png"))

    One client serves many tasks. It connects at the first call, or where an `async with` begins; in each event loop
    that makes calls it has connections of its own. Arguments, results and errors are those of `Client`.
    """

    @staticmethod
    def _connect(
        address: str, credentials: Credentials, model_repository: str | os.PathLike[str] | None
    ) -> LoopConnections:
        return LoopConnections(connector_async(address, credentials, model_repository))

    @arguments_of(generating.info)
    async def info(self, *args: Any, **options: Any) -> GatewayInfo:
        return await self._answer(generating.info(*args, **options), answers.gateway_info)

    async def bundles(self, *, timeout_s: float | None = None) -> tuple[Bundle, ...]:
        return (await self.info(timeout_s=timeout_s)).bundles

    @arguments_of(inverting.find_faces)
    async def find_faces(self, *args: Any, **options: Any) -> FoundFaces:
        return await self._answer(inverting.find_faces(*args, **options), answers.found_faces)

    @arguments_of(inverting.invert)
    async def invert(self, *args: Any, **options: Any) -> AsyncInversion:
        return await self._answer(inverting.invert(*args, **options), self._inversion)

    @arguments_of(inverting.watch_invert)
    def watch_invert(
        self, *args: Any, **options: Any
    ) -> AsyncGenerator[InvertProgress | AsyncInversion, None]:
        read = partial(answers.inversion_event, read=self._inversion)
        return self._answers(inverting.watch_invert(*args, **options), read)

    @arguments_of(editing.edit)
    async def edit(self, *args: Any, **options: Any) -> Edited:
        return await self._answer(editing.edit(*args, **options), answers.edited)

    @arguments_of(editing.session)
    def session(self, *args: Any, **options: Any) -> AsyncEditSession:
        call = editing.session(*args, **options)
        self._fill_in_format(call.request)
        request_id = self._policy.new_request_id()

        async def converse() -> AsyncConversation:
            return await self._connection.get().session(request_id, call.timeout_s)

        return AsyncEditSession(converse, call.request, request_id, self._policy.address)

    @arguments_of(combining.interpolate)
    def interpolate(self, *args: Any, **options: Any) -> AsyncGenerator[InterpolationFrame, None]:
        return self._answers(combining.interpolate(*args, **options), answers.interpolation_frame)

    @arguments_of(combining.mix)
    async def mix(self, *args: Any, **options: Any) -> Mixed:
        return await self._answer(combining.mix(*args, **options), answers.mixed)

    @arguments_of(combining.mean)
    async def mean(self, *args: Any, **options: Any) -> Mean:
        return await self._answer(combining.mean(*args, **options), answers.mean)

    @arguments_of(combining.diffuse)
    async def diffuse(self, *args: Any, **options: Any) -> Diffused:
        return await self._answer(combining.diffuse(*args, **options), answers.diffused)

    @arguments_of(generating.decode)
    async def decode(self, *args: Any, **options: Any) -> list[Image.Image]:
        return await self._answer(generating.decode(*args, **options), answers.pictures)

    @arguments_of(generating.sample)
    async def sample(self, *args: Any, **options: Any) -> list[Sample]:
        call = generating.sample(*args, **options)
        return await self._answer(call, partial(answers.samples, call.request.seeds))

    async def close(self) -> None:
        self._policy.close()
        await self._connection.close()

    async def __aenter__(self) -> Self:
        await self._connection.get().open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _inversion(self, answer: editing_pb2.InvertResponse) -> AsyncInversion:
        return answers.inversion(answer, AsyncInversion, self.edit)

    async def _answer(self, call: Call[_Response], read: Callable[[_Response], _Result]) -> _Result:
        attempts = self._attempts(call)
        while True:
            try:
                answer: Any = await self._connection.get().call(call.method, *attempts.next())
                attempts.check(answer)
                return read(answer)
            except IndomainError as error:
                wait_s = attempts.wait_after_s(error)
            await asyncio.sleep(wait_s)

    async def _answers(
        self, call: Call[_Response], read: Callable[[_Response], _Result]
    ) -> AsyncGenerator[_Result, None]:
        attempts = self._attempts(call)
        process = os.getpid()
        while True:
            answered = False
            try:
                async with aclosing(self._connection.get().stream(call.method, *attempts.next())) as stream:
                    answer: Any
                    async for answer in stream:
                        answered = True
                        attempts.check(answer)
                        yield read(answer)
                        check_process(process, stream)
                return
            except IndomainError as error:
                wait_s = attempts.wait_after_s(error, answered=answered)
            await asyncio.sleep(wait_s)
