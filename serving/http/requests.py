"""How a message is read from an HTTP body (JSON or a form), and how one is answered (JSON, or its picture alone)."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from typing import Any, TypeVar

from google.protobuf.message import Message
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from indomain.v1 import editing_pb2 as pb
from serving.call import Call
from serving.errors import Cancelled, InvalidOption, MalformedRequest, UnsupportedMediaType
from serving.wire.contract import picture_fields
from serving.wire.json import LARGE_BYTES, JsonPieces, read_json, read_json_aside

MessageT = TypeVar("MessageT", bound=Message)

MEDIA_TYPES = {
    pb.IMAGE_FORMAT_PNG: "image/png",
    pb.IMAGE_FORMAT_JPEG: "image/jpeg",
    pb.IMAGE_FORMAT_WEBP: "image/webp",
    pb.IMAGE_FORMAT_RAW: "application/octet-stream",
}
_FORMAT_OF_MEDIA_TYPE = {media_type: number for number, media_type in MEDIA_TYPES.items()}
OPTIONS_PART = "options"
PICTURE_FIELD = "picture"


async def read_message(request: Request, kind: type[MessageT]) -> MessageT:
    """The message in a body, in one of three forms.

    JSON. A form with the message's pictures as files of the fields' names, and the rest as JSON in the part `options`.
    Or the field `picture` alone as the bytes of a file, with the rest as JSON in the query's `options`.

    Raises MalformedRequest, UnsupportedMediaType, RequestTooLarge, Cancelled.
    """
    if request.method in ("GET", "HEAD"):
        return kind()
    pictures = picture_fields(kind)
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise UnsupportedMediaType(
            f"The content-encoding is {encoding[:80]!r}; send the body as it is, without compression."
        )
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == "multipart/form-data" and pictures:
        return await _read_form(request, kind)
    if media_type.startswith("image/") and PICTURE_FIELD in pictures:
        return await _read_picture(request, kind)
    if media_type != "application/json":
        forms = ", multipart/form-data" if pictures else ""
        forms += ", or a picture as image/*" if PICTURE_FIELD in pictures else ""
        got = repr(media_type[:80]) if media_type else "none"
        raise UnsupportedMediaType(f"The content-type is {got}; this route takes application/json{forms}.")
    with _caller_there():
        content = await request.body()
    return await read_json_aside(kind, content)


async def _read_picture(request: Request, kind: type[MessageT]) -> MessageT:
    given = request.query_params.multi_items()
    for name, _ in given:
        if name != OPTIONS_PART:
            raise MalformedRequest(
                f"The query has an unknown {name[:80]!r}; beside a picture it may have {OPTIONS_PART}, as JSON."
            )
    if len(given) > 1:
        raise MalformedRequest(f"The query has {OPTIONS_PART!r} more than once; send it once.")
    options = request.query_params.get(OPTIONS_PART)
    message = read_json(kind, options) if options else kind()
    with _caller_there():
        content = await request.body()
    _put_picture(message, PICTURE_FIELD, content)
    return message


def _put_picture(message: Any, field: str, content: bytes) -> None:
    """Puts the bytes of a picture into a field. Raises MalformedRequest where the options have one there already, or
    another member of the field's oneof: it would be lost without a word."""
    oneof = message.DESCRIPTOR.fields_by_name[field].containing_oneof
    there = (
        message.WhichOneof(oneof.name) if oneof is not None else field if message.HasField(field) else None
    )
    if there is not None:
        raise MalformedRequest(
            f"The options have {there!r}, and there is a file for {field!r}; send one of them."
        )
    getattr(message, field).data = content


async def _read_form(request: Request, kind: type[MessageT]) -> MessageT:
    names = picture_fields(kind)
    try:
        with _caller_there():
            async with aclosing(request.stream()) as stream:
                # two files and some fields more than are of use: their names are told
                parser = _InMemory(request.headers, stream, max_files=len(names) + 2, max_fields=4)
                form = await parser.parse()
    except MultiPartException as error:
        raise MalformedRequest(f"The form cannot be read: {error.message} /docs has the schema.") from None
    try:
        for name in form:
            if name not in names and name != OPTIONS_PART:
                parts = ", ".join([*names, OPTIONS_PART])
                raise MalformedRequest(f"The form has an unknown part {name[:80]!r}; it may have {parts}.")
            if len(form.getlist(name)) > 1:
                raise MalformedRequest(f"The form has {name!r} more than once; send it once.")
        options = form.get(OPTIONS_PART)
        content = await options.read() if isinstance(options, UploadFile) else options
        message = await read_json_aside(kind, content) if content else kind()
        for name in names:
            file = form.get(name)
            if isinstance(file, UploadFile):
                call: Call = request.state.call
                await call.turn()
                _put_picture(message, name, await file.read())
            elif file is not None:
                raise MalformedRequest(
                    f"The form's part {name!r} is no file; send it as one (curl: -F {name}=@FILE)."
                )
        return message
    finally:
        await form.close()


class _InMemory(MultiPartParser):
    """Files stay in memory, where the lifecycle bounds them together with all requests: no disk can be full, and no
    picture lies on one."""

    spool_max_size = sys.maxsize

    @property
    def _charset(self) -> str:
        """Texts are UTF-8, whatever the caller names: of Python's codecs one takes minutes for a megabyte, others make
        characters that cannot be written, or raise errors of their own."""
        return "utf-8"

    @_charset.setter
    def _charset(self, named: str) -> None:
        pass


@contextmanager
def _caller_there() -> Iterator[None]:
    try:
        yield
    except ClientDisconnect:
        raise Cancelled("The caller hung up before the request had come in whole.") from None


# --- answers ---------------------------------------------------------------------------------------------


def wanted_picture_format(request: Request) -> int | None:
    """The pb.ImageFormat in which the caller wants nothing but the picture; None: JSON. The first known type wins."""
    for entry in request.headers.get("accept", "").split(","):
        media_type = entry.partition(";")[0].strip().lower()
        if media_type in _FORMAT_OF_MEDIA_TYPE:
            return _FORMAT_OF_MEDIA_TYPE[media_type]
        if media_type == "image/*":
            return pb.IMAGE_FORMAT_PNG
        if media_type in ("application/json", "*/*"):
            return None
    return None


def answer_json(answer: Message) -> SizedResponse:
    """The answer as JSON; a large one loses its pictures on the way."""
    pieces = JsonPieces(answer)
    return SizedResponse(pieces, pieces.size, "application/json")


class SizedResponse(Response):
    """A response whose size is known before it is sent.

    It goes out piece by piece, and others get their turns between: as a whole it would be copied three times.
    """

    def __init__(
        self, pieces: Iterable[bytes], size: int, media_type: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(headers={"content-length": str(size), **(headers or {})}, media_type=media_type)
        self.size = size
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        pieces = iter(self._pieces)
        piece = next(pieces, b"")
        for following in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            await asyncio.sleep(0)
            piece = following
        await send({"type": "http.response.body", "body": piece})


def _pieces(data: bytes) -> Iterator[bytes]:
    view = memoryview(data)
    for start in range(0, len(data), LARGE_BYTES):
        yield bytes(view[start : start + LARGE_BYTES])


def answer_picture(answer: Any) -> SizedResponse:
    """The picture of an answer as it is; figures in headers, stage times in Server-Timing (milliseconds)."""
    pictures = list(answer.images) if hasattr(answer, "images") else _chosen(answer)
    if not pictures:
        raise InvalidOption("output.omit_image leaves no picture to answer; accept application/json instead.")
    if len(pictures) > 1:
        raise InvalidOption(
            f"{len(pictures)} pictures do not fit into one answer; accept application/json instead."
        )
    (picture,) = pictures
    headers = {
        "server-timing": ", ".join(f"{each.stage};dur={1000 * each.seconds:.2f}" for each in answer.timings),
        "x-picture-size": f"{picture.width}x{picture.height}",
    }
    if hasattr(answer, "domain_score"):
        headers["x-domain-score"] = f"{answer.domain_score:.4f}"
    if hasattr(answer, "identity_score") and answer.HasField("identity_score"):
        headers["x-identity-score"] = f"{answer.identity_score:.4f}"
    if hasattr(answer, "losses") and answer.HasField("losses"):
        headers["x-pixel-mse-before"] = f"{answer.losses.pixel_mse_before:.6f}"
        headers["x-pixel-mse-after"] = f"{answer.losses.pixel_mse_after:.6f}"
        headers["x-refine-steps"] = str(answer.losses.steps_done)
    if hasattr(answer, "area") and answer.HasField("area"):
        headers["x-inside-mse"] = f"{answer.area.inside_mse_after:.6f}"
        headers["x-outside-mse"] = f"{answer.area.outside_mse_after:.6f}"
    if hasattr(answer, "strokes") and answer.HasField("strokes"):
        headers["x-strokes-mse"] = f"{answer.strokes.pixel_mse_after:.6f}"
    data, media_type = picture.data, MEDIA_TYPES[picture.format]
    return SizedResponse(_pieces(data), len(data), media_type, headers)


def _chosen(answer: Any) -> list[pb.Picture]:
    """The whole photograph where it was asked for, otherwise the picture, if there is one."""
    return [getattr(answer, name) for name in ("pasted", "image") if answer.HasField(name)][:1]
