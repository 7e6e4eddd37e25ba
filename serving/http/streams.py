"""Answers in many parts over HTTP: server-sent events, and the websocket of an edit session.

An error before the first event is answered with its status like any other; a later one is an event `error`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from serving.call import Call
from serving.errors import EditingError, MalformedRequest
from serving.http.middleware import unless_gone
from serving.jobs import EncodedPicture, SessionRequest
from serving.pipeline.pipeline import Pipeline
from serving.pipeline.session import SessionAnswer
from serving.wire import as_json as wire
from serving.wire import bodies

SendEvent = Callable[[str, BaseModel], Awaitable[None]]
_SUBPROTOCOL = "indomain.v1"
_TRY_AGAIN_LATER, _INTERNAL_ERROR, _POLICY_VIOLATION = 1013, 1011, 1008  # codes of RFC 6455


class EventStream(Response):
    """Server-sent events: `work` is given a function that sends one. It is cancelled when the caller hangs up."""

    media_type = "text/event-stream"

    def __init__(self, work: Callable[[SendEvent], Awaitable[None]], call: Call) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._work = work
        self._call = call

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await unless_gone(Request(scope, receive), self._send_all(send))

    async def _send_all(self, send: Send) -> None:
        started = False

        async def send_event(name: str, data: BaseModel) -> None:
            nonlocal started
            if not started:
                started = True
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            text = f"event: {name}\ndata: {data.model_dump_json(exclude_none=True)}\n\n"
            await send({"type": "http.response.body", "body": text.encode(), "more_body": True})

        try:
            await self._work(send_event)
        except EditingError as error:
            if not started:
                raise
            await send_event("error", wire.error_answer(error, self._call.request_id))
            await send({"type": "http.response.body", "body": b""})
            raise  # to be counted at the border
        await send({"type": "http.response.body", "body": b""})


async def serve_session(websocket: WebSocket, pipeline: Pipeline, call: Call) -> None:
    """Requests as JSON text, or a picture as it is; answers as JSON text, followed by the picture as it is.

    Raises errors of the table, what ended the session; single requests fail in their answers.
    """
    # A page that offers subprotocols (one may carry its key) needs one of them chosen.
    await websocket.accept(_SUBPROTOCOL if _SUBPROTOCOL in websocket.scope["subprotocols"] else None)

    async def receive() -> SessionRequest | None:
        message = await websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        picture = message.get("bytes")
        if picture is not None:
            return SessionRequest(0, source=EncodedPicture(picture))
        try:
            return wire.session_request_from(wire.read_body(bodies.SessionBody, message.get("text") or ""))
        except MalformedRequest as error:
            return SessionRequest(0, fault=error)

    async def tell(answer: SessionAnswer) -> None:
        body, pictures = wire.session_answer(answer)
        await websocket.send_text(body.model_dump_json(exclude_none=True))
        for picture in pictures:
            await websocket.send_bytes(picture)

    try:
        await pipeline.edit_session(receive, tell, call)
    except WebSocketDisconnect:  # how a session ends; what was under way for it has been cancelled
        return
    except EditingError as error:
        await _end_with(error, websocket, call)
        raise


async def _end_with(error: EditingError, websocket: WebSocket, call: Call) -> None:
    if websocket.application_state is not WebSocketState.CONNECTED:
        return
    body = wire.error_answer(error, call.request_id)
    code = _INTERNAL_ERROR if error.row.grpc_code == "INTERNAL" else _POLICY_VIOLATION
    if error.row.retryable:
        code = _TRY_AGAIN_LATER
    try:
        async with asyncio.timeout(1.0):  # one that does not read is not waited for
            await websocket.send_text(body.model_dump_json())
            await websocket.close(code, error.row.reason)
    except (TimeoutError, RuntimeError, WebSocketDisconnect):
        pass
