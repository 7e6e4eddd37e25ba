"""Answers in many parts over HTTP: server-sent events, and the websocket of an edit session.

An error before the first event is answered with its status like any other; a later one is an event `error`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from itertools import chain
from typing import Any

from google.protobuf.message import Message
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from indomain.v1 import editing_pb2 as pb
from serving.call import Call
from serving.errors import EditingError, forget_frames
from serving.http.middleware import cancelled_on_disconnect
from serving.wire.editing import Editing
from serving.wire.json import JsonPieces, read_json_aside, write_json
from serving.wire.responses import error_detail

SendMessage = Callable[[Any], Awaitable[None]]
_SUBPROTOCOL = "indomain.v1"
# Codes of RFC 6455.
_TRY_AGAIN_LATER, _INTERNAL_ERROR, _POLICY_VIOLATION = 1013, 1011, 1008


class EventStream(Response):
    """Server-sent events: `work` is given a function that sends a message as one. It is cancelled when the caller hangs
    up."""

    media_type = "text/event-stream"

    def __init__(self, work: Callable[[SendMessage], Awaitable[None]], call: Call) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._work = work
        self._call = call

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await cancelled_on_disconnect(Request(scope, receive), self._send_all(send))

    async def _send_all(self, send: Send) -> None:
        started = False

        async def send_event(name: str, data: Message) -> None:
            nonlocal started
            if not started:
                started = True
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            content = JsonPieces(data)
            with self._call.holding_answer(content.size):
                for piece in _event_pieces(name, content):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})

        async def send_message(message: Message) -> None:
            await send_event(*event_of(message))

        try:
            await self._work(send_message)
        except EditingError as error:
            if not started:
                raise
            await send_event("error", error_detail(error, self._call.request_id))
            await send({"type": "http.response.body", "body": b""})
            # the lifecycle counts it
            raise
        await send({"type": "http.response.body", "body": b""})


def _event_pieces(name: str, content: JsonPieces) -> Iterable[bytes]:
    """The text of an event: in one piece, but for large ones."""
    pieces = chain((f"event: {name}\ndata: ".encode(),), content, (b"\n\n",))
    return pieces if content.large else (b"".join(pieces),)


def event_of(message: Any) -> tuple[str, Message]:
    """An event's name and data. A message with a oneof is named for its field that is set, others `picture`."""
    if message.DESCRIPTOR.oneofs and (kind := message.WhichOneof(message.DESCRIPTOR.oneofs[0].name)):
        return kind, getattr(message, kind)
    return "picture", message


async def serve_session(websocket: WebSocket, editing: Editing, call: Call) -> None:
    """Requests as JSON texts, or a picture as it is; answers as JSON texts, each followed by its pictures as they are.

    Raises errors of the table, what ended the session; single requests fail in their answers.
    """
    # A page that offers subprotocols (one may carry its key) needs one of them chosen.
    await websocket.accept(_SUBPROTOCOL if _SUBPROTOCOL in websocket.scope["subprotocols"] else None)

    async def receive() -> pb.EditSessionRequest | EditingError:
        message = await websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        picture = message.get("bytes")
        if picture is not None:
            # in place: messages that are put into others are copied once more for each
            request = pb.EditSessionRequest()
            request.edit.picture.data = picture
            return request
        try:
            return await read_json_aside(pb.EditSessionRequest, message.get("text") or "")
        except EditingError as error:
            return error

    async def send(answer: pb.EditSessionResponse) -> None:
        pictures = _take_pictures(answer)
        text = write_json(answer)
        with call.holding_answer(len(text) + sum(map(len, pictures))):
            await websocket.send_text(text)
            for picture in pictures:
                await websocket.send_bytes(picture)

    try:
        await editing.EditSession(receive, call, send)
    except WebSocketDisconnect as gone:
        # how a session ends; what was under way for it has been cancelled
        forget_frames(gone)
    except EditingError as error:
        await _end_with(error, websocket, call)
        raise


def _take_pictures(answer: pb.EditSessionResponse) -> list[bytes]:
    """Takes the pictures' bytes out of an answer, in the order in which they follow it."""
    taken: list[bytes] = []
    for name in ("image", "pasted"):
        if answer.WhichOneof("outcome") == "edited" and answer.edited.HasField(name):
            picture = getattr(answer.edited, name)
            taken.append(picture.data)
            picture.data = b""
    return taken


async def _end_with(error: EditingError, websocket: WebSocket, call: Call) -> None:
    if websocket.application_state is not WebSocketState.CONNECTED:
        return
    code = _INTERNAL_ERROR if error.row.grpc_code == "INTERNAL" else _POLICY_VIOLATION
    if error.row.retryable:
        code = _TRY_AGAIN_LATER
    try:
        # one that does not read is not waited for
        async with asyncio.timeout(1.0):
            await websocket.send_text(write_json(error_detail(error, call.request_id)))
            await websocket.close(code, error.row.reason)
    except (TimeoutError, RuntimeError, WebSocketDisconnect):
        pass
