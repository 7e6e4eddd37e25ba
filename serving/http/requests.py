"""How an HTTP body is read (JSON or multipart) and how an answer is written (JSON, or a picture as a picture).

Routes are in http_api.py; what the bodies mean, in wire/as_json.py.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Sequence
from contextlib import aclosing, contextmanager
from typing import TypeVar

from pydantic import BaseModel
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from serving.call import Call
from serving.errors import Cancelled, InvalidOption, MalformedRequest, UnsupportedMediaType
from serving.jobs import EncodedPicture, ImageFormat, Region, Source
from serving.results import AreaChange, Losses
from serving.wire import bodies
from serving.wire.as_json import area_from, picture_from, read_body, source_from

BodyT = TypeVar("BodyT", bound=bodies.Body)

MEDIA_TYPES = {
    ImageFormat.PNG: "image/png",
    ImageFormat.JPEG: "image/jpeg",
    ImageFormat.WEBP: "image/webp",
    ImageFormat.RAW: "application/octet-stream",
}
_FORMAT_OF_MEDIA_TYPE = {media: format for format, media in MEDIA_TYPES.items()}
_SMALL_BYTES = 256 * 1024  # parsing more than this would hold up the loop for milliseconds


async def read_json(request: Request, kind: type[BodyT]) -> BodyT:
    """A JSON body. Raises MalformedRequest, UnsupportedMediaType, RequestTooLarge."""
    if _media_type(request) != "application/json":
        raise UnsupportedMediaType("This route takes application/json.")
    with _caller_there():
        content = await request.body()
    if len(content) <= _SMALL_BYTES:
        return read_body(kind, content)
    return await asyncio.to_thread(read_body, kind, content)


async def read_find_faces(request: Request) -> tuple[bodies.FindFacesOptions, EncodedPicture]:
    if _is_form(request):
        pictures, options = await _read_form(request, "picture")
        return read_body(bodies.FindFacesOptions, options), pictures["picture"]
    body = await read_json(request, bodies.FindFacesBody)
    return body, picture_from(body.picture)


async def read_invert(request: Request) -> tuple[bodies.InvertOptions, EncodedPicture]:
    if _is_form(request):
        pictures, options = await _read_form(request, "picture")
        return read_body(bodies.InvertOptions, options), pictures["picture"]
    body = await read_json(request, bodies.InvertBody)
    return body, picture_from(body.picture)


async def read_watch(request: Request) -> tuple[bodies.WatchOptions, EncodedPicture]:
    if _is_form(request):
        pictures, options = await _read_form(request, "picture")
        return read_body(bodies.WatchOptions, options), pictures["picture"]
    body = await read_json(request, bodies.WatchInvertBody)
    return body, picture_from(body.picture)


async def read_edit(
    request: Request,
) -> tuple[bodies.EditOptions, Source, Region | EncodedPicture | None]:
    """With the source and the area."""
    if _is_form(request):
        pictures, options = await _read_form(request, "picture", optional="mask")
        form = read_body(bodies.EditOptions, options)
        return form, pictures["picture"], area_from(form.region, pictures.get("mask"))
    body = await read_json(request, bodies.EditBody)
    mask = picture_from(body.mask) if body.mask is not None else None
    return body, source_from(body, "An edit"), area_from(body.region, mask)


async def read_diffuse(request: Request) -> tuple[bodies.DiffuseOptions, dict[str, EncodedPicture]]:
    """The pictures: target, context and perhaps mask."""
    if _is_form(request):
        pictures, options = await _read_form(request, "target", "context", optional="mask")
        return read_body(bodies.DiffuseOptions, options), pictures
    body = await read_json(request, bodies.DiffuseBody)
    pictures = {"target": picture_from(body.target), "context": picture_from(body.context)}
    if body.mask is not None:
        pictures["mask"] = picture_from(body.mask)
    return body, pictures


async def _read_form(
    request: Request, *names: str, optional: str = ""
) -> tuple[dict[str, EncodedPicture], bytes | str]:
    """The files of these names, and the JSON part `options` (a field or a file; may be left out)."""
    try:
        with _caller_there():
            async with aclosing(request.stream()) as stream:
                parser = _InMemory(request.headers, stream, max_files=len(names) + 2, max_fields=4)
                form = await parser.parse()
    except MultiPartException as error:
        raise MalformedRequest(f"The form cannot be read: {error.message} /docs has the schema.") from None
    try:
        pictures: dict[str, EncodedPicture] = {}
        for name in (*names, *([optional] if optional else [])):
            file = form.get(name)
            if isinstance(file, UploadFile):
                pictures[name] = EncodedPicture(await file.read())
            elif name != optional:
                raise MalformedRequest(f"The form has no file named {name!r}; /docs has the schema.")
        options = form.get("options", "")
        return pictures, await options.read() if isinstance(options, UploadFile) else options
    finally:
        await form.close()


class _InMemory(MultiPartParser):
    """Files stay in memory, where the border bounds them, with all requests together: no disk that may be full, and no
    picture that lies on one."""

    spool_max_size = sys.maxsize


@contextmanager
def _caller_there() -> Iterator[None]:
    try:
        yield
    except ClientDisconnect:
        raise Cancelled("The caller hung up before the request had come in whole.") from None


def _is_form(request: Request) -> bool:
    return _media_type(request) == "multipart/form-data"


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def wanted_picture(request: Request) -> ImageFormat | None:
    """The format in which the caller wants nothing but the picture; None: JSON. The first type that is known wins."""
    for entry in request.headers.get("accept", "").split(","):
        media_type = entry.partition(";")[0].strip().lower()
        if media_type in _FORMAT_OF_MEDIA_TYPE:
            return _FORMAT_OF_MEDIA_TYPE[media_type]
        if media_type == "image/*":
            return ImageFormat.PNG
        if media_type in ("application/json", "*/*"):
            return None
    return None


def answer_json(answer: BaseModel) -> Response:
    return Response(answer.model_dump_json(exclude_none=True), media_type="application/json")


def answer_picture(
    pictures: EncodedPicture | Sequence[EncodedPicture] | None,
    call: Call,
    domain_score: float | None = None,
    losses: Losses | None = None,
    area: AreaChange | None = None,
) -> Response:
    """One picture as it is; figures in headers, stage times in Server-Timing (milliseconds)."""
    found = [pictures] if isinstance(pictures, EncodedPicture) else list(pictures or ())
    if not found:
        raise InvalidOption("output.omit_image leaves no picture to answer; accept application/json instead.")
    if len(found) > 1:
        raise InvalidOption(
            f"{len(found)} pictures do not fit into one answer; accept application/json instead."
        )
    picture = found[0]
    headers = {
        "server-timing": ", ".join(f"{stage};dur={1000 * seconds:.2f}" for stage, seconds in call.timings),
        "x-picture-size": f"{picture.width}x{picture.height}",
    }
    if domain_score is not None:
        headers["x-domain-score"] = f"{domain_score:.4f}"
    if losses is not None:
        headers["x-pixel-mse-before"] = f"{losses.pixel_mse_before:.6f}"
        headers["x-pixel-mse-after"] = f"{losses.pixel_mse_after:.6f}"
        headers["x-refine-steps"] = str(losses.steps_done)
    if area is not None:
        headers["x-inside-mse"] = f"{area.inside_mse_after:.6f}"
        headers["x-outside-mse"] = f"{area.outside_mse_after:.6f}"
    return Response(picture.data, headers=headers, media_type=MEDIA_TYPES[picture.format or ImageFormat.PNG])
