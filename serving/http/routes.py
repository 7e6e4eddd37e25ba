"""The HTTP routes: each reads its body, calls the pipeline, maps back. No logic here.

Request ids, deadlines, limits, errors and metrics are the border's: http_border.py. Bodies: http_requests.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import FastAPI, Request, Response, WebSocket
from fastapi.responses import PlainTextResponse, RedirectResponse
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from serving import __version__
from serving.access.intake import Intake
from serving.access.keys import Keys
from serving.call import Call
from serving.errors import MalformedRequest, MethodNotAllowed, NotFound
from serving.http.middleware import REQUEST_ID_HEADER, TIMEOUT_HEADER, Border, unless_gone
from serving.http.openapi import describe, events, json_only, picture_or_json
from serving.http.requests import (
    answer_json,
    answer_picture,
    read_diffuse,
    read_edit,
    read_find_faces,
    read_invert,
    read_json,
    read_watch,
    wanted_picture,
)
from serving.http.streams import EventStream, SendEvent, serve_session
from serving.http.studio import add_studio
from serving.pipeline.pipeline import Pipeline
from serving.results import InterpolationFrame, InvertProgress
from serving.telemetry.metrics import Metrics
from serving.wire import as_json as wire
from serving.wire import bodies

if TYPE_CHECKING:
    from serving.telemetry.tracing import Tracing


def create_app(
    pipeline: Pipeline,
    metrics: Metrics,
    intake: Intake,
    keys: Keys | None = None,
    tracing: Tracing | None = None,
) -> FastAPI:
    """The ASGI application over a pipeline."""
    settings = pipeline.settings
    app = FastAPIOffline(  # /docs brings its own script: no request to another host
        title="Indomain",
        version=__version__,
        description="In-domain GAN inversion and semantic editing. The same over gRPC: `indomain.v1.Editing`.",
    )
    app.add_middleware(Border, settings=settings, metrics=metrics, intake=intake, keys=keys, tracing=tracing)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", REQUEST_ID_HEADER, TIMEOUT_HEADER, "traceparent"],
            expose_headers=["*"],
        )
    app.add_exception_handler(HTTPException, _as_domain_error)
    _add_editing_routes(app, pipeline)
    _add_stream_routes(app, pipeline)
    _add_operation_routes(app, pipeline, metrics)
    if settings.studio:
        add_studio(app)
    else:
        app.add_api_route("/", lambda: RedirectResponse("/docs"), include_in_schema=False)
    describe(app, with_keys=keys is not None)
    return app


def create_operations_app(pipeline: Pipeline, metrics: Metrics) -> FastAPI:
    """The ASGI application of the operations port: probes and metrics, for whoever can reach it."""
    app = FastAPI(title="Indomain operations", version=__version__, openapi_url=None)
    _add_operation_routes(app, pipeline, metrics)
    return app


def _add_editing_routes(app: FastAPI, pipeline: Pipeline) -> None:
    @app.get("/v1/bundles", response_model=bodies.BundlesAnswer, tags=["editing"])
    async def bundles(request: Request) -> Response:
        """The bundles served here, their directions, defaults and limits."""
        return answer_json(wire.bundles_answer(pipeline.bundles, pipeline.settings, _call(request)))

    @app.post(
        "/v1/find-faces",
        tags=["editing"],
        **picture_or_json("FindFacesBody", "FindFacesOptions", bodies.FindFacesAnswer),
    )
    async def find_faces(request: Request) -> Response:
        """Which faces are on a picture, the largest first, and which of them can be edited."""
        call = _call(request)
        job = wire.find_faces_job_from(*await read_find_faces(request))
        return answer_json(
            wire.find_faces_answer(await unless_gone(request, pipeline.find_faces(job, call)), call)
        )

    @app.post(
        "/v1/invert", tags=["editing"], **picture_or_json("InvertBody", "InvertOptions", bodies.InvertAnswer)
    )
    async def invert(request: Request) -> Response:
        """Picture -> code: align, encode, refine, decode."""
        call, accept = _call(request), wanted_picture(request)
        body, picture = await read_invert(request)
        job = wire.invert_job_from(body, picture, accept)
        result = await unless_gone(request, pipeline.invert(job, call))
        if accept:
            return answer_picture(
                result.rendering.pasted or result.rendering.image, call, result.domain_score, result.losses
            )
        return answer_json(wire.invert_answer(result, call))

    @app.post(
        "/v1/edit",
        tags=["editing"],
        **picture_or_json(
            "EditBody", "EditOptions", bodies.EditAnswer, ("picture",), optional_files=("mask",)
        ),
    )
    async def edit(request: Request) -> Response:
        """Picture or code -> edited code and picture."""
        call, accept = _call(request), wanted_picture(request)
        body, source, area = await read_edit(request)
        job = wire.edit_job_from(body, source, area, accept)
        result = await unless_gone(request, pipeline.edit(job, call))
        if accept:
            picture = result.rendering.pasted or result.rendering.image
            return answer_picture(picture, call, result.domain_score, result.losses, result.area)
        return answer_json(wire.edit_answer(result, call))

    @app.post("/v1/mix", tags=["editing"], **json_only("MixBody", bodies.MixAnswer))
    async def mix(request: Request) -> Response:
        """Layers of one code put into another."""
        call, accept = _call(request), wanted_picture(request)
        job = wire.mix_job_from(await read_json(request, bodies.MixBody), accept)
        result = await unless_gone(request, pipeline.mix(job, call))
        if accept:
            return answer_picture(
                result.rendering.pasted or result.rendering.image, call, result.domain_score
            )
        return answer_json(wire.mix_answer(result, call))

    @app.post(
        "/v1/diffuse",
        tags=["editing"],
        **picture_or_json(
            "DiffuseBody", "DiffuseOptions", bodies.DiffuseAnswer, ("target", "context"), ("mask",)
        ),
    )
    async def diffuse(request: Request) -> Response:
        """Semantic diffusion: a region of a target pasted into a context, and refined where the target is."""
        call, accept = _call(request), wanted_picture(request)
        body, pictures = await read_diffuse(request)
        job = wire.diffuse_job_from(body, pictures, accept)
        result = await unless_gone(request, pipeline.diffuse(job, call))
        if accept:
            return answer_picture(
                result.rendering.pasted or result.rendering.image, call, result.domain_score, result.losses
            )
        return answer_json(wire.diffuse_answer(result, call))

    @app.post("/v1/decode", tags=["editing"], **json_only("DecodeBody", bodies.DecodeAnswer))
    async def decode(request: Request) -> Response:
        """Codes -> pictures. A picture alone is answered for a single code only."""
        call, accept = _call(request), wanted_picture(request)
        job = wire.decode_job_from(await read_json(request, bodies.DecodeBody), accept)
        result = await unless_gone(request, pipeline.decode(job, call))
        if accept:
            return answer_picture(result.images, call)
        return answer_json(wire.decode_answer(result, call))

    @app.post("/v1/sample", tags=["editing"], **json_only("SampleBody", bodies.SampleAnswer))
    async def sample(request: Request) -> Response:
        """Seeds -> codes and pictures. A picture alone is answered for a single seed only."""
        call, accept = _call(request), wanted_picture(request)
        job = wire.sample_job_from(await read_json(request, bodies.SampleBody), accept)
        result = await unless_gone(request, pipeline.sample(job, call))
        if accept:
            return answer_picture(result.images, call)
        return answer_json(wire.sample_answer(result, call))


def _add_stream_routes(app: FastAPI, pipeline: Pipeline) -> None:
    @app.post(
        "/v1/watch-invert",
        tags=["streams"],
        **events(
            {"progress": bodies.ProgressAnswer, "result": bodies.InvertAnswer},
            "WatchInvertBody",
            form_options="WatchOptions",
        ),
    )
    async def watch_invert(request: Request) -> Response:
        """Picture -> code with progress: events `progress`, then one `result` (or `error`)."""
        call = _call(request)
        job = wire.watch_invert_job_from(*await read_watch(request))

        async def work(send: SendEvent) -> None:
            async def tell(progress: InvertProgress) -> None:
                await send("progress", wire.progress_answer(progress, call))

            result = await pipeline.watch_invert(job, call, tell)
            await send("result", wire.invert_answer(result, call))

        return EventStream(work, call)

    @app.post(
        "/v1/interpolate", tags=["streams"], **events({"picture": bodies.BetweenAnswer}, "InterpolateBody")
    )
    async def interpolate(request: Request) -> Response:
        """The pictures on the straight way from one code to another: events `picture`, in order (or `error`)."""
        call = _call(request)
        job = wire.interpolate_job_from(await read_json(request, bodies.InterpolateBody))

        async def work(send: SendEvent) -> None:
            async def tell(result: InterpolationFrame) -> None:
                await send("picture", wire.between_answer(result, call))

            await pipeline.interpolate(job, call, tell)

        return EventStream(work, call)

    @app.websocket("/v1/edit-session")
    async def edit_session(websocket: WebSocket) -> None:
        await serve_session(websocket, pipeline, _call(websocket))


def _add_operation_routes(app: FastAPI, pipeline: Pipeline, metrics: Metrics) -> None:
    @app.get("/healthz", response_class=PlainTextResponse, tags=["operation"])
    async def healthz() -> str:
        """200 as long as the process answers."""
        return "ok\n"

    @app.get("/readyz", response_class=PlainTextResponse, tags=["operation"])
    async def readyz() -> Response:
        """200 when a request sent now would be served, otherwise 503."""
        ready = await pipeline.healthy()
        return PlainTextResponse("ready\n" if ready else "not ready\n", 200 if ready else 503)

    @app.get("/metrics", response_class=PlainTextResponse, tags=["operation"])
    async def exposition() -> Response:
        """Metrics in Prometheus' text format."""
        return Response(metrics.exposition(), media_type=CONTENT_TYPE_LATEST)


def _call(request: Request | WebSocket) -> Call:
    call = request.state.call
    assert isinstance(call, Call), "the border sets it"
    return call


async def _as_domain_error(request: Request, error: Exception) -> Response:
    """The framework's own refusals, told like all others."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        raise NotFound(f"There is no {request.url.path[:80]!r} here; /docs lists what there is.")
    if error.status_code == 405:
        raise MethodNotAllowed(
            f"{request.url.path[:80]!r} does not take {request.method}; /docs says what it takes."
        )
    raise MalformedRequest(f"The request cannot be read: {error.detail}; /docs has the schema.")
