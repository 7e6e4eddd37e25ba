"""The client for coroutines: the twin of _client.py, method by method. What is sent and answered is in _calls.py."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from functools import partial
from types import TracebackType
from typing import Self, TypeVar

import numpy.typing as npt
from PIL import Image

from indomain import _calls
from indomain._client import Client
from indomain._constants import DEFAULT_ADDRESS, DEFAULT_MAX_RETRIES, DEFAULT_TIMEOUT_S
from indomain._credentials import Credentials
from indomain._exceptions import IndomainError
from indomain._pictures import PictureFormat, PictureLike
from indomain._results import (
    AsyncInversion,
    Between,
    Bundle,
    Diffused,
    Edit,
    Edited,
    GatewayInfo,
    Inversion,
    InvertProgress,
    Mixed,
    Refine,
    Sample,
)
from indomain._retry import Terms
from indomain._session import AsyncEditSession
from indomain._transports import connect_async
from indomain._twins import documented_as

_Answer = TypeVar("_Answer")


@documented_as(Client)
class AsyncClient:
    """The same calls as `Client`'s, for coroutines: what gives one result is awaited, what gives several is iterated
    over with `async for`, a session is opened with `async with`.

    Example:
        >>> async def smile(path):
        ...     async with indomain.AsyncClient("localhost:8500") as client:
        ...         inversion = await client.invert(path)
        ...         async for picture in client.interpolate(inversion, await inversion.edit(smile=2.0), 3):
        ...             picture.image.save(f"smile{picture.index}.png")
        >>> asyncio.run(smile("portrait.png"))

    One client serves many tasks of one event loop, the one that it is first used in. It connects at the first call, or
    where an `async with` begins. Arguments, results and errors are those of `Client`.
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        max_retries: int = DEFAULT_MAX_RETRIES,
        picture_format: PictureFormat = "png",
        api_key: str | None = None,
        tls: bool = False,
        root_certificates: str | os.PathLike[str] | None = None,
        client_certificate: tuple[str | os.PathLike[str], str | os.PathLike[str]] | None = None,
        model_repository: str | os.PathLike[str] | None = None,
    ) -> None:
        credentials = Credentials.of(
            api_key, tls=tls, root_certificates=root_certificates, client_certificate=client_certificate
        )
        self._transport = connect_async(address, credentials, model_repository)
        self._terms = Terms(self._transport.address, timeout_s, max_retries)
        self._picture_format: PictureFormat = picture_format

    async def info(self, *, timeout_s: float | None = None) -> GatewayInfo:
        return await self._answer(_calls.info(), timeout_s)

    async def bundles(self, *, timeout_s: float | None = None) -> tuple[Bundle, ...]:
        return (await self.info(timeout_s=timeout_s)).bundles

    async def invert(
        self,
        image: PictureLike,
        *,
        bundle: str = "",
        steps: int | None = None,
        quality: str | None = None,
        refine: Refine | None = None,
        include_aligned: bool = False,
        include_start: bool = False,
        timeout_s: float | None = None,
    ) -> AsyncInversion:
        call = _calls.invert(
            image,
            bundle=bundle,
            refine=_calls.refine_options(steps, quality, refine),
            output=_calls.output_options(self._picture_format, aligned=include_aligned, start=include_start),
        )
        return await self._answer(call.then(self._bound), timeout_s)

    def watch_invert(
        self,
        image: PictureLike,
        *,
        interval_s: float | None = None,
        previews: bool = True,
        bundle: str = "",
        steps: int | None = None,
        quality: str | None = None,
        refine: Refine | None = None,
        include_aligned: bool = False,
        include_start: bool = False,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[InvertProgress | AsyncInversion, None]:
        call = _calls.watch_invert(
            image,
            interval_s=interval_s,
            previews=previews,
            bundle=bundle,
            refine=_calls.refine_options(steps, quality, refine),
            output=_calls.output_options(self._picture_format, aligned=include_aligned, start=include_start),
        )

        def bound(event: InvertProgress | Inversion) -> InvertProgress | AsyncInversion:
            return self._bound(event) if isinstance(event, Inversion) else event

        return self._answers(call.then(bound), timeout_s)

    async def edit(
        self,
        source: _calls.EditSource,
        *edits: Edit,
        keep: Iterable[str] = (),
        region: _calls.Area | None = None,
        mask: PictureLike | None = None,
        bundle: str = "",
        steps: int | None = None,
        quality: str | None = None,
        refine: Refine | None = None,
        include_aligned: bool = False,
        include_start: bool = False,
        timeout_s: float | None = None,
        **strengths: float,
    ) -> Edited:
        call = _calls.edit(
            source,
            _calls.edit_steps(edits, strengths, keep),
            region,
            mask,
            bundle=bundle,
            refine=_calls.refine_options(steps, quality, refine),
            output=_calls.output_options(self._picture_format, aligned=include_aligned, start=include_start),
        )
        return await self._answer(call, timeout_s)

    def session(
        self,
        source: _calls.EditSource,
        *,
        bundle: str = "",
        steps: int | None = None,
        quality: str | None = None,
        refine: Refine | None = None,
        picture_format: PictureFormat | None = None,
        picture_quality: int | None = None,
        timeout_s: float | None = None,
    ) -> AsyncEditSession:
        output = _calls.output_options(
            picture_format or self._picture_format, codes=False, quality=picture_quality
        )
        opening = _calls.session_opening(
            source, bundle=bundle, refine=_calls.refine_options(steps, quality, refine), output=output
        )
        request_id = self._terms.new_request_id()
        converse = partial(self._transport.session, request_id, timeout_s)
        return AsyncEditSession(converse, opening, self._transport.address)

    def interpolate(
        self,
        start: _calls.EditSource,
        end: _calls.EditSource,
        count: int = 8,
        *,
        bundle: str = "",
        steps: int | None = None,
        quality: str | None = None,
        refine: Refine | None = None,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[Between, None]:
        call = _calls.interpolate(
            start,
            end,
            count,
            bundle=bundle,
            refine=_calls.refine_options(steps, quality, refine),
            output=_calls.output_options(self._picture_format),
        )
        return self._answers(call, timeout_s)

    async def mix(
        self,
        base: _calls.EditSource,
        style: _calls.EditSource,
        layers: Iterable[int],
        strength: float | None = None,
        *,
        bundle: str = "",
        steps: int | None = None,
        quality: str | None = None,
        refine: Refine | None = None,
        timeout_s: float | None = None,
    ) -> Mixed:
        call = _calls.mix(
            base,
            style,
            layers,
            strength,
            bundle=bundle,
            refine=_calls.refine_options(steps, quality, refine),
            output=_calls.output_options(self._picture_format),
        )
        return await self._answer(call, timeout_s)

    async def diffuse(
        self,
        target: PictureLike,
        context: PictureLike,
        *,
        region: tuple[float, float, float, float] | None = None,
        mask: PictureLike | None = None,
        bundle: str = "",
        steps: int | None = None,
        quality: str | None = None,
        refine: Refine | None = None,
        include_aligned: bool = False,
        include_start: bool = False,
        timeout_s: float | None = None,
    ) -> Diffused:
        call = _calls.diffuse(
            target,
            context,
            region,
            mask,
            bundle=bundle,
            refine=_calls.refine_options(steps, quality, refine),
            output=_calls.output_options(self._picture_format, aligned=include_aligned, start=include_start),
        )
        return await self._answer(call, timeout_s)

    async def decode(
        self, codes: npt.ArrayLike, *, bundle: str = "", timeout_s: float | None = None
    ) -> list[Image.Image]:
        output = _calls.output_options(self._picture_format)
        return await self._answer(_calls.decode(codes, bundle=bundle, output=output), timeout_s)

    async def sample(
        self,
        seeds: int | Iterable[int] = 0,
        truncation: float | None = None,
        *,
        bundle: str = "",
        timeout_s: float | None = None,
    ) -> list[Sample]:
        output = _calls.output_options(self._picture_format)
        return await self._answer(_calls.sample(seeds, truncation, bundle=bundle, output=output), timeout_s)

    async def close(self) -> None:
        self._terms.close()
        await self._transport.close()

    async def __aenter__(self) -> Self:
        await self._transport.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _bound(self, inversion: Inversion) -> AsyncInversion:
        return AsyncInversion(**vars(inversion) | {"_edit": self.edit})

    async def _answer(self, call: _calls.Call[_Answer], timeout_s: float | None) -> _Answer:
        tries = self._terms.tries(call.request, timeout_s)
        while True:
            try:
                return call.read(await self._transport.call(call.method, *tries.next()))
            except IndomainError as error:
                wait_s = tries.wait_after_s(error)
            await asyncio.sleep(wait_s)

    async def _answers(
        self, call: _calls.Call[_Answer], timeout_s: float | None
    ) -> AsyncGenerator[_Answer, None]:
        tries = self._terms.tries(call.request, timeout_s)
        while True:
            answered = False
            try:
                async with aclosing(self._transport.stream(call.method, *tries.next())) as answers:
                    async for answer in answers:
                        answered = True
                        yield call.read(answer)
                return
            except IndomainError as error:
                wait_s = tries.wait_after_s(error, answered=answered)
            await asyncio.sleep(wait_s)
