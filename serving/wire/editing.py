"""The service `indomain.v1.Editing`, free of any transport: methods read a message, call the pipeline, write an answer.

serving/grpc and serving/http serve all of them, as the contract lists them.

Every method raises the errors of serving/errors.py. One that streams answers is given `send`; the session is also given
`receive`, which returns None after the caller's last message, and the error where one could not be read.
"""

# The methods have the names of the contract.
# ruff: noqa: N802

from __future__ import annotations

from collections.abc import Awaitable, Callable

from indomain.v1 import editing_pb2 as pb
from serving.call import Call
from serving.errors import EditingError, KeyLimitReached
from serving.jobs import SessionRequest
from serving.pipeline.pipeline import Pipeline
from serving.pipeline.session import SessionAnswer
from serving.results import InterpolationFrame, InvertProgress
from serving.wire import requests, responses


class Editing:
    """`call` is the request that a method works for."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    async def ListBundles(self, request: pb.ListBundlesRequest, call: Call) -> pb.ListBundlesResponse:
        return responses.bundles(self._pipeline.bundles, self._pipeline.settings, call)

    async def FindFaces(self, request: pb.FindFacesRequest, call: Call) -> pb.FindFacesResponse:
        found = await self._pipeline.find_faces(requests.find_faces(request), call)
        return responses.answer(pb.FindFacesResponse, found, call)

    async def Invert(self, request: pb.InvertRequest, call: Call) -> pb.InvertResponse:
        inversion = await self._pipeline.invert(requests.invert(request), call)
        return responses.answer(pb.InvertResponse, inversion, call)

    async def WatchInvert(
        self,
        request: pb.WatchInvertRequest,
        call: Call,
        send: Callable[[pb.WatchInvertResponse], Awaitable[None]],
    ) -> None:
        async def send_progress(progress: InvertProgress) -> None:
            await send(pb.WatchInvertResponse(progress=responses.answer(pb.InvertProgress, progress, call)))

        inversion = await self._pipeline.watch_invert(requests.watch_invert(request), call, send_progress)
        await send(pb.WatchInvertResponse(result=responses.answer(pb.InvertResponse, inversion, call)))

    async def Edit(self, request: pb.EditRequest, call: Call) -> pb.EditResponse:
        edited = await self._pipeline.edit(requests.edit(request), call)
        return responses.answer(pb.EditResponse, edited, call)

    async def EditSession(
        self,
        receive: Callable[[], Awaitable[pb.EditSessionRequest | EditingError | None]],
        call: Call,
        send: Callable[[pb.EditSessionResponse], Awaitable[None]],
    ) -> None:
        opened = False

        async def receive_request() -> SessionRequest | None:
            nonlocal opened
            message = await receive()
            if isinstance(message, EditingError):
                # one bad message does not end a session
                return SessionRequest(0, fault=message)
            if message is None:
                return None
            try:
                if opened:
                    # the first message was charged when the session was opened
                    call.charge()
            except KeyLimitReached as error:
                return SessionRequest(message.sequence, fault=error)
            opened = True
            return requests.session(message)

        async def send_answer(answer: SessionAnswer) -> None:
            await send(responses.session(answer))

        await self._pipeline.edit_session(receive_request, send_answer, call)

    async def Decode(self, request: pb.DecodeRequest, call: Call) -> pb.DecodeResponse:
        decoded = await self._pipeline.decode(requests.decode(request), call)
        return responses.answer(pb.DecodeResponse, decoded, call)

    async def Interpolate(
        self,
        request: pb.InterpolateRequest,
        call: Call,
        send: Callable[[pb.InterpolateResponse], Awaitable[None]],
    ) -> None:
        async def send_frame(frame: InterpolationFrame) -> None:
            await send(responses.answer(pb.InterpolateResponse, frame, call))

        await self._pipeline.interpolate(requests.interpolate(request), call, send_frame)

    async def Mix(self, request: pb.MixRequest, call: Call) -> pb.MixResponse:
        mixed = await self._pipeline.mix(requests.mix(request), call)
        return responses.answer(pb.MixResponse, mixed, call)

    async def Mean(self, request: pb.MeanRequest, call: Call) -> pb.MeanResponse:
        mean = await self._pipeline.mean(requests.mean(request), call)
        return responses.answer(pb.MeanResponse, mean, call)

    async def Diffuse(self, request: pb.DiffuseRequest, call: Call) -> pb.DiffuseResponse:
        diffused = await self._pipeline.diffuse(requests.diffuse(request), call)
        return responses.answer(pb.DiffuseResponse, diffused, call)

    async def Sample(self, request: pb.SampleRequest, call: Call) -> pb.SampleResponse:
        sampled = await self._pipeline.sample(requests.sample(request), call)
        return responses.answer(pb.SampleResponse, sampled, call)
