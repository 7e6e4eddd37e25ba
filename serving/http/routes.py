"""The HTTP routes: every method of the contract, health, metrics, the page. No logic here.

What all requests pass is in middleware.py, bodies and answers in requests.py, streams in streams.py.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from fastapi import FastAPI, Request, Response, WebSocket
from fastapi.responses import PlainTextResponse, RedirectResponse
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from serving import __version__
from serving.access.lifecycle import Lifecycle
from serving.call import Call
from serving.errors import MalformedRequest, MethodNotAllowed, NotFound
from serving.http.middleware import (
    REQUEST_ID_HEADER,
    TIMEOUT_HEADER,
    LifecycleMiddleware,
    cancelled_on_disconnect,
)
from serving.http.openapi import add_contract
from serving.http.requests import answer_json, answer_picture, read_message, wanted_picture_format
from serving.http.streams import EventStream, SendMessage, serve_session
from serving.http.studio import add_studio
from serving.pipeline.pipeline import Pipeline
from serving.settings import Settings
from serving.telemetry.metrics import Metrics
from serving.wire.contract import METHODS, Method, answers_picture
from serving.wire.editing import Editing
from serving.wire.json import LARGE_BYTES

Endpoint = Callable[[Request], Awaitable[Response]]


def create_app(
    pipeline: Pipeline, editing: Editing, lifecycle: Lifecycle, settings: Settings, metrics: Metrics
) -> FastAPI:
    """The ASGI application of a gateway."""
    # this one's /docs brings its own script: no request to another host
    app = FastAPIOffline(
        title="Indomain",
        version=__version__,
        description="In-domain GAN inversion and semantic editing. The same over gRPC: `indomain.v1.Editing`.",
    )
    app.add_middleware(LifecycleMiddleware, settings=settings, lifecycle=lifecycle)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", REQUEST_ID_HEADER, TIMEOUT_HEADER, "traceparent"],
            expose_headers=["*"],
        )
    app.add_exception_handler(HTTPException, _as_domain_error)
    for method in METHODS:
        if method.streams_requests:
            app.add_api_websocket_route(method.path, partial(_serve_session, editing))
        else:
            serve = _event_stream if method.streams_responses else _unary
            endpoint = serve(method, getattr(editing, method.name))
            # Starlette's way: FastAPI's own, which would read bodies too, takes a third of a millisecond more.
            app.add_route(method.path, endpoint, methods=[method.verb], include_in_schema=False)
    _add_operation_routes(app, pipeline, metrics, tells_engines=settings.keys_file is None)
    if settings.studio:
        add_studio(app)
    else:
        app.add_api_route("/", lambda: RedirectResponse("/docs"), include_in_schema=False)
    add_contract(app, settings)
    return app


def create_operations_app(pipeline: Pipeline, metrics: Metrics) -> FastAPI:
    """The ASGI application of the operations port: probes and metrics, for whoever can reach it."""
    app = FastAPI(title="Indomain operations", version=__version__, openapi_url=None)
    _add_operation_routes(app, pipeline, metrics, tells_engines=True)
    return app


def _unary(method: Method, serve: Callable[..., Any]) -> Endpoint:
    has_picture = answers_picture(method.response)

    async def endpoint(request: Request) -> Response:
        accept = wanted_picture_format(request) if has_picture else None
        message: Any = await read_message(request, method.request)
        if _announced_bytes(request) > LARGE_BYTES:
            await _call(request).turn()
        if accept is not None and not message.output.format:
            message.output.format = accept
        call = _call(request)
        answer = await cancelled_on_disconnect(request, serve(message, call))
        response = answer_json(answer) if accept is None else answer_picture(answer)
        # The response holds the pictures now; the message would keep them twice.
        del answer
        if call.hold_answer(response.size):
            await call.turn()
        return response

    return endpoint


def _announced_bytes(request: Request) -> float:
    """How large the body is; one that comes in chunks of unknown number counts as large. A message's own `ByteSize`
    writes the whole of it to find out."""
    if "transfer-encoding" in request.headers:
        return math.inf
    return int(request.headers.get("content-length", "0"))


def _event_stream(method: Method, serve: Callable[..., Awaitable[None]]) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        call = _call(request)
        message = await read_message(request, method.request)

        async def work(send: SendMessage) -> None:
            await serve(message, call, send)

        return EventStream(work, call)

    return endpoint


async def _serve_session(editing: Editing, websocket: WebSocket) -> None:
    await serve_session(websocket, editing, _call(websocket))


def _add_operation_routes(app: FastAPI, pipeline: Pipeline, metrics: Metrics, *, tells_engines: bool) -> None:
    @app.get("/healthz", response_class=PlainTextResponse, tags=["operation"])
    async def healthz() -> str:
        """200 as long as the process answers."""
        return "ok\n"

    @app.get("/readyz", response_class=PlainTextResponse, tags=["operation"])
    async def readyz() -> Response:
        """200 when a request sent now would be served, otherwise 503. Then a line for each graph that runs in this
        process, with its engine; not for strangers, where there are keys."""
        if not await pipeline.healthy():
            return PlainTextResponse("not ready\n", 503)
        engines = pipeline.engines.items() if tells_engines else ()
        lines = [f"{model}: {engine}\n" for model, engine in engines]
        return PlainTextResponse("".join(["ready\n", *lines]))

    @app.get("/metrics", response_class=PlainTextResponse, tags=["operation"])
    async def exposition() -> Response:
        """Metrics in Prometheus' text format."""
        return Response(metrics.exposition(), media_type=CONTENT_TYPE_LATEST)


def _call(request: Request | WebSocket) -> Call:
    call = request.state.call
    assert isinstance(call, Call), "the middleware sets it"
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
