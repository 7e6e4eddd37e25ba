"""The service `indomain.v1.Editing` over gRPC: each method converts, calls the pipeline, maps back. No logic here.

Request ids, deadlines, errors and metrics are the border's: grpc_border.py.
"""

from __future__ import annotations

from typing import Any

import grpc

from indomain.v1 import editing_pb2 as pb
from indomain.v1 import editing_pb2_grpc as stubs
from serving.grpc.interceptor import current_call
from serving.jobs import SessionRequest
from serving.pipeline.pipeline import Pipeline
from serving.pipeline.session import SessionAnswer
from serving.results import InterpolationFrame, InvertProgress
from serving.wire import convert as wire

SERVICE = pb.DESCRIPTOR.services_by_name["Editing"]
Context = grpc.aio.ServicerContext[Any, Any]


class EditingService(stubs.EditingServicer):
    """Every method raises the errors of serving/errors.py; the border turns them into a status."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    async def ListBundles(self, request: pb.ListBundlesRequest, context: Context) -> pb.ListBundlesResponse:  # noqa: N802
        return wire.bundles_response(self._pipeline.bundles, self._pipeline.settings, current_call())

    async def FindFaces(self, request: pb.FindFacesRequest, context: Context) -> pb.FindFacesResponse:  # noqa: N802
        call = current_call()
        return wire.find_faces_response(
            await self._pipeline.find_faces(wire.find_faces_job(request), call), call
        )

    async def Invert(self, request: pb.InvertRequest, context: Context) -> pb.InvertResponse:  # noqa: N802
        call = current_call()
        return wire.invert_response(await self._pipeline.invert(wire.invert_job(request), call), call)

    # Streams are written through the context, so that a cancelled call is cancelled wherever its work is. The stub's
    # types know only generators.

    async def WatchInvert(self, request: pb.WatchInvertRequest, context: Context) -> None:  # type: ignore[override]  # noqa: N802
        call = current_call()

        async def tell(progress: InvertProgress) -> None:
            await context.write(wire.invert_progress(progress, call))

        result = await self._pipeline.watch_invert(wire.watch_invert_job(request), call, tell)
        await context.write(wire.watched_inversion(result, call))

    async def EditSession(self, requests: Any, context: Context) -> None:  # type: ignore[override]  # noqa: N802
        async def receive() -> SessionRequest | None:
            request = await anext(requests, None)
            return None if request is None else wire.session_request(request)

        async def tell(answer: SessionAnswer) -> None:
            await context.write(wire.session_response(answer))

        call = current_call()
        # says that it is let in, before there is anything to answer
        await context.send_initial_metadata((("x-request-id", call.request_id),))
        await self._pipeline.edit_session(receive, tell, call)

    async def Interpolate(self, request: pb.InterpolateRequest, context: Context) -> None:  # type: ignore[override]  # noqa: N802
        call = current_call()

        async def tell(result: InterpolationFrame) -> None:
            await context.write(wire.interpolate_response(result, call))

        await self._pipeline.interpolate(wire.interpolate_job(request), call, tell)

    async def Mix(self, request: pb.MixRequest, context: Context) -> pb.MixResponse:  # noqa: N802
        call = current_call()
        return wire.mix_response(await self._pipeline.mix(wire.mix_job(request), call), call)

    async def Diffuse(self, request: pb.DiffuseRequest, context: Context) -> pb.DiffuseResponse:  # noqa: N802
        call = current_call()
        return wire.diffuse_response(await self._pipeline.diffuse(wire.diffuse_job(request), call), call)

    async def Edit(self, request: pb.EditRequest, context: Context) -> pb.EditResponse:  # noqa: N802
        call = current_call()
        return wire.edit_response(await self._pipeline.edit(wire.edit_job(request), call), call)

    async def Decode(self, request: pb.DecodeRequest, context: Context) -> pb.DecodeResponse:  # noqa: N802
        call = current_call()
        return wire.decode_response(await self._pipeline.decode(wire.decode_job(request), call), call)

    async def Sample(self, request: pb.SampleRequest, context: Context) -> pb.SampleResponse:  # noqa: N802
        call = current_call()
        return wire.sample_response(await self._pipeline.sample(wire.sample_job(request), call), call)
