"""What every HTTP request passes on its way in and out: request id, deadline, key, size limit, errors as JSON, headers
that browsers heed, metrics, trace, log line.

The HTTP twin of grpc_border.py, as plain ASGI; the routes are in http_api.py.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Coroutine
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from serving.access.intake import Intake, Take
from serving.access.keys import Keys
from serving.call import CALL, Call, request_id_or_new
from serving.deadline import Deadline
from serving.errors import (
    Cancelled,
    DeadlineExceeded,
    EditingError,
    InternalError,
    InvalidOption,
    PermissionDenied,
    RequestTooLarge,
)
from serving.settings import Settings
from serving.telemetry.logs import log_request
from serving.telemetry.metrics import Metrics
from serving.wire.as_json import error_answer

if TYPE_CHECKING:
    from serving.telemetry.tracing import Tracing

_log = logging.getLogger(__name__)
T = TypeVar("T")

REQUEST_ID_HEADER = "x-request-id"
TIMEOUT_HEADER = "x-timeout-s"
_LINGER_S = 5.0
_LINGER_BYTES = 64 * 1024 * 1024
METHOD_OF_PATH = {  # the same names as over gRPC, so that one metric counts both
    "/v1/bundles": "ListBundles",
    "/v1/invert": "Invert",
    "/v1/watch-invert": "WatchInvert",
    "/v1/edit": "Edit",
    "/v1/edit-session": "EditSession",
    "/v1/interpolate": "Interpolate",
    "/v1/mix": "Mix",
    "/v1/diffuse": "Diffuse",
    "/v1/decode": "Decode",
    "/v1/sample": "Sample",
}
_POLICY = (  # the studio's: files of its own, pictures that it has read or made, and this gateway
    "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_POLICY_WITH_SCRIPT = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; worker-src 'self' blob:; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_PAGES_WITH_SCRIPT = ("/docs", "/redoc")  # FastAPI's pages start their script from within
_SAFETY_HEADERS = {
    "content-security-policy": _POLICY,
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class Border:
    """ASGI middleware around all routes, of HTTP and websockets."""

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        metrics: Metrics,
        intake: Intake,
        keys: Keys | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self._app = app
        self._settings = settings
        self._metrics = metrics
        self._intake = intake
        self._keys = keys
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        call = Call(
            request_id_or_new(headers.get(REQUEST_ID_HEADER)),
            Deadline.after(self._settings.default_deadline_s),
            self._metrics.observe_stage,
        )
        CALL.set(call)
        scope.setdefault("state", {})["call"] = call
        answer = _Answer(send, call.request_id, scope["path"], tls=self._settings.tls_certificate is not None)
        body = _Body(receive, headers, self._settings.max_request_bytes, call)
        method = METHOD_OF_PATH.get(scope["path"], "")
        started_s = call.deadline.clock.now()
        code = "OK"
        try:
            with ExitStack() as held:
                self._check_origin(headers)
                if self._keys is not None and _needs_key(scope["path"]):
                    right = method or ("Metrics" if scope["path"] == "/metrics" else "")
                    call.owner = held.enter_context(self._keys.admit(_authorization(headers, scope), right))
                if self._tracing is not None and method:
                    held.enter_context(self._tracing.request(call, method, scope["type"], headers))
                call.deadline = Deadline.after(self._time_limit_s(headers))
                if scope["type"] == "http":
                    body.check_announced()
                    receive = body.limited(held.enter_context(self._intake.request()))
                await self._app(scope, receive, answer.send)
        except asyncio.CancelledError:
            code = "CANCELLED"
            self._metrics.cancelled.labels(call.stage or "none").inc()
            raise
        except EditingError as error:
            code = error.row.grpc_code
            await self._refuse(error, call, scope, body, answer)
        except Exception:
            _log.exception("failed in stage %s", call.stage or "none")
            code = "INTERNAL"
            unforeseen = InternalError(
                f"The gateway failed in a way that was not foreseen; report request {call.request_id}.",
                stage=call.stage,
            )
            await self._refuse(unforeseen, call, scope, body, answer)
        finally:
            if method:
                seconds = call.deadline.clock.now() - started_s
                self._metrics.requests.labels(method, code).inc()
                self._metrics.request_seconds.labels(method, scope["type"]).observe(seconds)
                if self._settings.log_requests:
                    log_request(call, transport=scope["type"], method=method, code=code, seconds=seconds)

    def _check_origin(self, headers: Headers) -> None:
        """A page of another origin may not use its visitor's way to this gateway; which pages may is a setting. (CORS
        alone would keep the answer from it, not the request from being served.)"""
        origin = headers.get("origin")
        if origin is None or origin in self._settings.cors_origins:
            return
        if urlsplit(origin).netloc != headers.get("host"):
            raise PermissionDenied(
                f"Pages of {origin[:200]!r} may not call this gateway; its setting cors_origins says which may."
            )

    def _time_limit_s(self, headers: Headers) -> float:
        text = headers.get(TIMEOUT_HEADER)
        try:
            wanted_s = float(text) if text else self._settings.default_deadline_s
        except ValueError:
            wanted_s = math.nan
        if not wanted_s > 0.0:
            raise InvalidOption(f"The header {TIMEOUT_HEADER} is a number of seconds above 0.")
        return min(wanted_s, self._settings.max_deadline_s)

    async def _refuse(
        self, error: EditingError, call: Call, scope: Scope, body: _Body, answer: _Answer
    ) -> None:
        self._metrics.rejected.labels(error.row.reason).inc()
        if isinstance(error, Cancelled):
            self._metrics.cancelled.labels(call.stage or "none").inc()
        if error.__cause__ is not None:
            _log.error("%s", error.message, exc_info=error.__cause__)
        if answer.whole:
            return  # an event stream or a session has told it
        if answer.started:
            raise error  # too late for a status: the server cuts the connection
        headers = {"retry-after": str(math.ceil(error.retry_after_s))} if error.row.retryable else {}
        if error.row.http_status == 401:
            headers["www-authenticate"] = "Bearer"
        content = error_answer(error, call.request_id).model_dump_json()
        response = Response(content, error.row.http_status, headers, media_type="application/json")
        if scope["type"] == "websocket":
            await WebSocket(scope, body.receive, answer.send).send_denial_response(response)
            return
        if body.is_still_coming:
            response.headers["connection"] = "close"
            await _answer_while_sent_to(response, scope, body.receive, answer.send)
        else:
            await response(scope, body.receive, answer.send)


class _Answer:
    """Puts the request id and what browsers should heed on the answer, and remembers whether it has begun."""

    def __init__(self, send: Send, request_id: str, path: str, *, tls: bool) -> None:
        self._send = send
        self._headers = {REQUEST_ID_HEADER: request_id, **_SAFETY_HEADERS}
        if path.startswith("/v1/"):
            self._headers["cache-control"] = "no-store"
        if path in _PAGES_WITH_SCRIPT:
            self._headers["content-security-policy"] = _POLICY_WITH_SCRIPT
        if tls:
            self._headers["strict-transport-security"] = "max-age=31536000"
        self.started = False
        self.whole = False

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind in ("http.response.start", "websocket.accept", "websocket.http.response.start"):
            self.started = True
            headers = MutableHeaders(raw=message.setdefault("headers", []))
            for name, value in self._headers.items():
                headers[name] = value
        elif kind == "websocket.close" or kind == "http.response.body":
            self.whole = not message.get("more_body", False)
        await self._send(message)


def _needs_key(path: str) -> bool:
    """All that works or tells of work. Health is for probes; the page and the schema hold no secret."""
    return path.startswith("/v1/") or path == "/metrics"


def _authorization(headers: Headers, scope: Scope) -> str | None:
    """The header; a page's websocket cannot send one, and offers the subprotocol `bearer.KEY` in its place."""
    for offered in scope.get("subprotocols", ()):
        if offered.startswith("bearer."):
            return f"Bearer {offered.removeprefix('bearer.')}"
    return headers.get("authorization")


class _Body:
    """The body of a request, as it comes in."""

    def __init__(self, receive: Receive, headers: Headers, max_bytes: int, call: Call) -> None:
        self.receive = receive
        self._announced = headers.get("content-length", "")
        self._chunked = "transfer-encoding" in headers
        self._max_bytes = max_bytes
        self._call = call
        self._whole = False

    @property
    def is_still_coming(self) -> bool:
        return not self._whole and (self._chunked or self._announced not in ("", "0"))

    def check_announced(self) -> None:
        """Raises RequestTooLarge by the announced length, before any of it is read."""
        if self._announced.isdecimal() and int(self._announced) > self._max_bytes:
            raise self._too_large()

    def limited(self, take: Take) -> Receive:
        """`receive`, but a body over the limit is refused at the latest as it grows; `take` is told of each piece; and
        one that is still not whole at the call's deadline is no longer waited for."""
        seen = 0

        async def limited() -> Message:
            nonlocal seen
            if self._whole:  # from here on it waits for nothing but the caller hanging up
                return await self.receive()
            try:
                async with asyncio.timeout(self._call.deadline.remaining_s):
                    message = await self.receive()
            except TimeoutError:
                raise DeadlineExceeded(
                    "Time ran out before the request had come in whole; allow more time."
                ) from None
            self._whole = not message.get("more_body", False)
            count = len(message.get("body", b""))
            seen += count
            if seen > self._max_bytes:
                raise self._too_large()
            take(count)
            return message

        return limited

    def _too_large(self) -> RequestTooLarge:
        return RequestTooLarge(
            f"The request has more than {self._max_bytes} bytes; send a smaller picture, or fewer codes."
        )


async def _answer_while_sent_to(response: Response, scope: Scope, receive: Receive, send: Send) -> None:
    """Answers a caller who is still sending, and throws away what else comes, for a while: were the connection cut
    at once, most callers would see the cut and not the answer."""

    async def hold_open(message: Message) -> None:
        await send({**message, "more_body": True} if message["type"] == "http.response.body" else message)

    await response(scope, receive, hold_open)
    thrown_away = 0
    try:
        async with asyncio.timeout(_LINGER_S):
            while thrown_away < _LINGER_BYTES:
                message = await receive()
                thrown_away += len(message.get("body", b""))
                if not message.get("more_body", False):
                    break
    except TimeoutError:
        pass
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled as soon as the caller hangs up. The body must have been read."""
    working = asyncio.create_task(work, name="request")
    watching = asyncio.create_task(_gone(request), name="caller-watch")
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise Cancelled("The caller hung up.")
    finally:
        watching.cancel()
        if not working.done():
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
