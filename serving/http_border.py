"""What every HTTP request passes on its way in and out: request id, deadline, size limit, errors as JSON, metrics.

The HTTP twin of grpc_border.py, as plain ASGI; the routes are in http_api.py.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from serving.call import Call, request_id_or_new
from serving.deadline import Deadline
from serving.errors import (
    Cancelled,
    DeadlineExceeded,
    EditingError,
    InternalError,
    InvalidOption,
    RequestTooLarge,
)
from serving.metrics import Metrics
from serving.settings import Settings
from serving.wire.as_json import error_answer

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


class Border:
    """ASGI middleware around all routes."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics) -> None:
        self._app = app
        self._settings = settings
        self._metrics = metrics

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
        scope.setdefault("state", {})["call"] = call
        answer = _Answer(send, call.request_id)
        code = "OK"
        try:
            call.deadline = Deadline.after(self._time_limit_s(headers))
            if (
                scope["type"] == "websocket"
            ):  # its messages are limited by the server, its requests by the session
                await self._app(scope, receive, answer.send)
                return
            limited = _limited(receive, headers, self._settings.max_request_bytes, call)
            await self._app(scope, limited, answer.send)
        except asyncio.CancelledError:
            code = "CANCELLED"
            self._metrics.cancelled.labels(call.stage or "none").inc()
            raise
        except EditingError as error:
            code = error.row.grpc_code
            await self._refuse(error, call, scope, receive, answer)
        except Exception:
            _log.exception("request %s failed in stage %s", call.request_id, call.stage or "none")
            code = "INTERNAL"
            unforeseen = InternalError(
                f"The gateway failed in a way that was not foreseen; report request {call.request_id}.",
                stage=call.stage,
            )
            await self._refuse(unforeseen, call, scope, receive, answer)
        finally:
            method = METHOD_OF_PATH.get(scope["path"])
            if method:
                self._metrics.requests.labels(method, code).inc()

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
        self, error: EditingError, call: Call, scope: Scope, receive: Receive, answer: _Answer
    ) -> None:
        self._metrics.rejected.labels(error.row.reason).inc()
        if isinstance(error, Cancelled):
            self._metrics.cancelled.labels(call.stage or "none").inc()
        if error.__cause__ is not None:
            _log.error("request %s: %s", call.request_id, error.message, exc_info=error.__cause__)
        if answer.whole:
            return  # an event stream or a session has told it
        if answer.started:
            raise error  # too late for a status: the server cuts the connection
        headers = {"retry-after": str(math.ceil(error.retry_after_s))} if error.row.retryable else {}
        content = error_answer(error, call.request_id).model_dump_json()
        response = Response(content, error.row.http_status, headers, media_type="application/json")
        if scope["type"] == "websocket":
            await WebSocket(scope, receive, answer.send).send_denial_response(response)
            return
        if isinstance(error, RequestTooLarge):
            response.headers["connection"] = "close"
            await _answer_while_sent_to(response, scope, receive, answer.send)
        else:
            await response(scope, receive, answer.send)


class _Answer:
    """Puts the request id on the answer and remembers whether it has begun."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._request_id = request_id
        self.started = False
        self.whole = False

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind in ("http.response.start", "websocket.accept", "websocket.http.response.start"):
            self.started = True
            MutableHeaders(scope=message)[REQUEST_ID_HEADER] = self._request_id
        elif kind == "websocket.close" or kind == "http.response.body":
            self.whole = not message.get("more_body", False)
        await self._send(message)


def _limited(receive: Receive, headers: Headers, max_bytes: int, call: Call) -> Receive:
    """`receive`, but a body over the limit is refused by its announced length or, at the latest, as it grows; and one
    that is still not whole at the call's deadline is no longer waited for."""
    too_large = RequestTooLarge(
        f"The request has more than {max_bytes} bytes; send a smaller picture, or fewer codes."
    )
    announced = headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > max_bytes:
        raise too_large
    seen, whole = 0, False

    async def limited() -> Message:
        nonlocal seen, whole
        if whole:  # from here on it waits for nothing but the caller hanging up
            return await receive()
        try:
            async with asyncio.timeout(call.deadline.remaining_s):
                message = await receive()
        except TimeoutError:
            raise DeadlineExceeded(
                "Time ran out before the request had come in whole; allow more time."
            ) from None
        seen += len(message.get("body", b""))
        if seen > max_bytes:
            raise too_large
        whole = not message.get("more_body", False)
        return message

    return limited


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
