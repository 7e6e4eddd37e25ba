"""Takes HTTP requests and websockets through the request lifecycle: limits, errors as JSON, headers for browsers.

Plain ASGI, around the routes (routes.py).
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
from collections.abc import Coroutine
from typing import Any, TypeVar
from urllib.parse import urlsplit

import h11
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from serving.access.lifecycle import Lifecycle
from serving.access.memory import HoldBytes
from serving.call import Call, wanted_request_id
from serving.errors import (
    Cancelled,
    DeadlineExceeded,
    EditingError,
    InvalidOption,
    MalformedRequest,
    PermissionDenied,
    RequestTooLarge,
    ShuttingDown,
    forget_frames,
)
from serving.http.connections import Patience
from serving.settings import Settings
from serving.wire.contract import METHODS
from serving.wire.json import write_json
from serving.wire.responses import error_detail

T = TypeVar("T")

REQUEST_ID_HEADER = "x-request-id"
TIMEOUT_HEADER = "x-timeout-s"
# A caller who is answered while still sending may go on for so long; the second while the gateway shuts down.
_LINGER_S, _LAST_LINGER_S = 5.0, 0.5
_LINGER_BYTES = 64 * 1024 * 1024
# Pieces of bodies above this size take turns.
_LARGE_PIECE_BYTES = 32 * 1024
_METHOD_OF_PATH = {method.path: method.name for method in METHODS}
# The studio loads files of its own and pictures that it has read or made, and asks this gateway.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
PROBES = ("/healthz", "/readyz")
# FastAPI's pages start their script from within.
_PAGES_WITH_SCRIPT = ("/docs", "/redoc")
_POLICY_WITH_SCRIPT = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; worker-src 'self' blob:; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_SAFETY_HEADERS = {
    "content-security-policy": _POLICY,
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class LifecycleMiddleware:
    """ASGI middleware around all routes, of HTTP and websockets. Routes find their `Call` in the request's state."""

    def __init__(self, app: ASGIApp, settings: Settings, lifecycle: Lifecycle) -> None:
        self._app = app
        self._settings = settings
        self._lifecycle = lifecycle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        # Nothing is answered in parts, as a server may choose: a file's response to a broken range has no reason of the
        # table's.
        scope["headers"] = [pair for pair in scope["headers"] if pair[0] != b"range"]
        headers, path = Headers(scope=scope), scope["path"]
        answer = _Answer(send, path, tls=self._settings.tls_certificate is not None)
        body = _Body(receive, headers, self._settings.max_request_bytes, self._lifecycle)
        method = _METHOD_OF_PATH.get(path, "")
        try:
            with self._lifecycle.request(
                scope["type"], method, wanted_request_id(headers), page=path[:100]
            ) as request:
                scope.setdefault("state", {})["call"] = request.call
                answer.request_id = request.call.request_id
                self._check_host(headers, path)
                self._check_origin(headers)
                if _needs_key(path):
                    right = method or ("Metrics" if path == "/metrics" else "")
                    request.admit(_authorization(headers, scope), right)
                request.trace(headers)
                request.limit_time(_time_limit_s(headers))
                if scope["type"] == "http":
                    body.check_announced()
                    received = body.limited(request.hold(), request.call)
                else:
                    received = _counted(receive, request.hold())
                await self._app(scope, received, answer.send)
        except EditingError as error:
            forget_frames(error)
            await self._refuse(error, request.call, scope, body, answer)

    def _check_host(self, headers: Headers, path: str) -> None:
        """A page may make its own name lead to this machine (DNS rebinding), and then call as if it were the gateway's
        own. Where nobody has to say who they are, the gateway answers to names that it knows, and to addresses."""
        settings = self._settings
        guarded = self._lifecycle.asks_for_keys or settings.tls_client_authorities or settings.insecure
        if guarded or path in PROBES:
            return
        host = headers.get("host", "")
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            raise MalformedRequest("The header host is no host name with a port.") from None
        if name in ("localhost", "", settings.host, *settings.allowed_hosts) or _is_address(name):
            return
        raise PermissionDenied(
            f"This gateway does not answer to the name {name[:100]!r}; its setting allowed_hosts says to which it does."
        )

    def _check_origin(self, headers: Headers) -> None:
        """A page of another origin may not use its visitor's way to this gateway; a setting says which pages may. (CORS
        alone would keep the answer from the page, but the request would still be served.)"""
        origin = headers.get("origin")
        if origin is None or origin in self._settings.cors_origins:
            return
        try:
            netloc = urlsplit(origin).netloc
        except ValueError:
            raise MalformedRequest("The header origin is no origin.") from None
        if netloc != headers.get("host"):
            raise PermissionDenied(
                f"Pages of {origin[:200]!r} may not call this gateway; its setting cors_origins says which may."
            )

    async def _refuse(
        self, error: EditingError, call: Call, scope: Scope, body: _Body, answer: _Answer
    ) -> None:
        if answer.complete:
            # an event stream or a session has sent the error itself
            return
        if answer.started and isinstance(error, Cancelled):
            # nobody is there
            return
        if answer.started:
            # too late for a status: the server cuts the connection
            raise error
        headers = {"retry-after": str(math.ceil(error.retry_after_s))} if error.row.retryable else {}
        if error.row.http_status == 401:
            headers["www-authenticate"] = "Bearer"
        content = write_json(error_detail(error, call.request_id))
        response = Response(content, error.row.http_status, headers, media_type="application/json")
        if scope["type"] == "websocket":
            await WebSocket(scope, body.receive, answer.send).send_denial_response(response)
        elif body.is_still_coming:
            response.headers["connection"] = "close"
            await self._answer_while_sent_to(response, scope, body.receive, answer.send)
        else:
            await response(scope, body.receive, answer.send)

    async def _answer_while_sent_to(
        self, response: Response, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Answers a caller who is still sending, and throws away what else comes, for a while: were the connection cut
        at once, most callers would see the cut and not the answer."""

        async def hold_open(message: Message) -> None:
            await send({**message, "more_body": True} if message["type"] == "http.response.body" else message)

        await response(scope, receive, hold_open)
        lifecycle, thrown_away = self._lifecycle, 0
        last = lifecycle.stops_receiving
        try:
            async with asyncio.timeout(_LAST_LINGER_S) if last else lifecycle.receiving(_LINGER_S):
                while thrown_away < _LINGER_BYTES:
                    message = await receive()
                    thrown_away += len(message.get("body", b""))
                    if not message.get("more_body", False):
                        break
        except (TimeoutError, ShuttingDown):
            pass
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class _Answer:
    """Puts the request id, and what browsers should heed, on the answer; remembers whether it has begun and ended."""

    def __init__(self, send: Send, path: str, *, tls: bool) -> None:
        self._send = send
        self._headers = dict(_SAFETY_HEADERS)
        if path.startswith("/v1/"):
            self._headers["cache-control"] = "no-store"
        if path in _PAGES_WITH_SCRIPT:
            self._headers["content-security-policy"] = _POLICY_WITH_SCRIPT
        if tls:
            self._headers["strict-transport-security"] = "max-age=31536000"
        self.request_id = ""
        self.started = False
        self.complete = False

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind in ("http.response.start", "websocket.accept", "websocket.http.response.start"):
            self.started = True
            headers = MutableHeaders(raw=message.setdefault("headers", []))
            headers[REQUEST_ID_HEADER] = self.request_id
            for name, value in self._headers.items():
                headers[name] = value
        elif kind == "websocket.close" or kind == "http.response.body":
            self.complete = not message.get("more_body", False)
        try:
            await self._send(message)
        except h11.LocalProtocolError:
            # the caller has broken the protocol, and uvicorn has answered that
            raise Cancelled("The caller broke off the request.") from None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _needs_key(path: str) -> bool:
    """All that works or tells of work. Health is for probes; the page and the schema hold no secret."""
    return path.startswith("/v1/") or path == "/metrics"


def _authorization(headers: Headers, scope: Scope) -> str | None:
    """The header; a page's websocket cannot send one, and offers the subprotocol `bearer.KEY` in its place."""
    for offered in scope.get("subprotocols", ()):
        if offered.startswith("bearer."):
            return f"Bearer {offered.removeprefix('bearer.')}"
    return headers.get("authorization")


def _time_limit_s(headers: Headers) -> float | None:
    text = headers.get(TIMEOUT_HEADER)
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds > 0.0:
        raise InvalidOption(f"The header {TIMEOUT_HEADER} is a number of seconds above 0.")
    return seconds


# --- what comes in ---------------------------------------------------------------------------------------


class _Body:
    """The body of a request, as it comes in."""

    def __init__(self, receive: Receive, headers: Headers, max_bytes: int, lifecycle: Lifecycle) -> None:
        self.receive = receive
        self._lifecycle = lifecycle
        self._announced = headers.get("content-length", "")
        self._chunked = "transfer-encoding" in headers
        self._max_bytes = max_bytes
        self._whole = False

    @property
    def is_still_coming(self) -> bool:
        return not self._whole and (self._chunked or self._announced not in ("", "0"))

    def check_announced(self) -> None:
        """Raises RequestTooLarge by the announced length, before any of it is read."""
        if self._announced.isdecimal() and int(self._announced) > self._max_bytes:
            raise RequestTooLarge.over(self._max_bytes)

    def limited(self, hold: HoldBytes, call: Call) -> Receive:
        """A `receive` that counts each piece, refuses a body over the limit as it grows, and gives up one that comes
        too slowly, or is not whole at the call's deadline."""
        seen, patience, clock = 0, Patience(), call.deadline.clock

        async def limited() -> Message:
            nonlocal seen
            if self._whole:
                # nothing is waited for any more but the caller hanging up; of many who do at once, one a turn
                message = await self.receive()
                await self._lifecycle.turn()
                return message
            begun_s, left_s = clock.now(), call.deadline.remaining_s
            try:
                async with self._lifecycle.receiving(min(patience.left_s, left_s)):
                    message = await self.receive()
            except TimeoutError:
                why = "allow more time" if patience.left_s > left_s else "it came too slowly"
                raise DeadlineExceeded(f"Time ran out before the request had come in whole; {why}.") from None
            self._whole = not message.get("more_body", False)
            if message["type"] == "http.disconnect":
                await self._lifecycle.turn()
            count = len(message.get("body", b""))
            patience.waited(clock.now() - begun_s, count)
            seen += count
            if seen > self._max_bytes:
                raise RequestTooLarge.over(self._max_bytes)
            hold(count)
            if count > _LARGE_PIECE_BYTES:
                await self._lifecycle.turn()
            return message

        return limited


def _counted(receive: Receive, hold: HoldBytes) -> Receive:
    """A websocket's `receive` that counts the newest message; the one before it is no longer held."""
    held_bytes = 0

    async def counted() -> Message:
        nonlocal held_bytes
        message = await receive()
        hold(-held_bytes)
        held_bytes = 0
        if message["type"] == "websocket.receive":
            count = len(message.get("bytes") or message.get("text") or "")
            hold(count)
            held_bytes = count
        return message

    return counted


async def cancelled_on_disconnect(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled as soon as the caller hangs up. The body must have been read."""
    working = asyncio.create_task(work, name="request")
    watching = asyncio.create_task(_disconnected(request), name="caller-watch")
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


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
