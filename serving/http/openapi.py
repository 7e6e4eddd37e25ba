"""What /docs shows of bodies that the routes read by themselves (to refuse large ones before they are read)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from serving.wire import bodies

_REQUESTS = (
    bodies.FindFacesBody,
    bodies.FindFacesOptions,
    bodies.InvertBody,
    bodies.InvertOptions,
    bodies.WatchInvertBody,
    bodies.WatchOptions,
    bodies.EditBody,
    bodies.EditOptions,
    bodies.InterpolateBody,
    bodies.MixBody,
    bodies.DiffuseBody,
    bodies.DiffuseOptions,
    bodies.SessionBody,
    bodies.DecodeBody,
    bodies.SampleBody,
)
_EVENTS = (bodies.ProgressAnswer, bodies.BetweenAnswer, bodies.InvertAnswer, bodies.SessionAnswerBody)
_REF = "#/components/schemas/{model}"
_PICTURE = {"schema": {"type": "string", "format": "binary"}}
_HEADERS = [
    {
        "name": "x-timeout-s",
        "in": "header",
        "schema": {"type": "number"},
        "description": "Time for this request, in seconds; refinement stops in time to answer.",
    },
    {
        "name": "x-request-id",
        "in": "header",
        "schema": {"type": "string"},
        "description": "Comes back with the answer.",
    },
]


def json_only(body: str, answer: type[BaseModel]) -> dict[str, Any]:
    """Route arguments for a JSON body."""
    return _described({"application/json": {"schema": _ref(body)}}, answer)


def picture_or_json(
    body: str,
    options: str,
    answer: type[BaseModel],
    files: tuple[str, ...] = ("picture",),
    optional_files: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Route arguments for a JSON body or a form with files and the JSON part `options`."""
    return _described(_json_or_form(body, options, files, optional_files), answer)


def events(answers: Mapping[str, type[BaseModel]], body: str, form_options: str = "") -> dict[str, Any]:
    """Route arguments for an answer of server-sent events: `answers` has the data of each kind."""
    content: dict[str, Any] = {"application/json": {"schema": _ref(body)}}
    if form_options:
        content = _json_or_form(body, form_options, ("picture",), ())
    kinds = {"oneOf": [_ref(answer.__name__) for answer in answers.values()]}
    told = ", ".join(f"`{name}`: {answer.__name__}" for name, answer in answers.items())
    described = _described(content, None)
    described["responses"][200] = {
        "description": f"Server-sent events, data in JSON: {told}, `error`: ErrorAnswer",
        "content": {"text/event-stream": {"schema": kinds}},
    }
    return described


def _json_or_form(
    body: str, options: str, files: tuple[str, ...], optional_files: tuple[str, ...]
) -> dict[str, Any]:
    properties = {name: {"type": "string", "format": "binary"} for name in (*files, *optional_files)}
    form = {
        "type": "object",
        "required": list(files),
        "properties": properties | {"options": _ref(options)},
    }
    multipart = {"schema": form, "encoding": {"options": {"contentType": "application/json"}}}
    return {"multipart/form-data": multipart, "application/json": {"schema": _ref(body)}}


def _described(content: dict[str, Any], answer: type[BaseModel] | None) -> dict[str, Any]:
    pictures = dict.fromkeys(("image/png", "image/jpeg", "image/webp"), _PICTURE)
    return {
        "responses": {
            200: {
                "model": answer,
                "content": pictures,
                "description": "JSON, or the picture where it is accepted",
            },
            "4XX": {"model": bodies.ErrorAnswer, "description": "The request is at fault; `reason` says how"},
            "5XX": {
                "model": bodies.ErrorAnswer,
                "description": "The gateway is; `retryable` says whether to ask again",
            },
        },
        "openapi_extra": {"requestBody": {"required": True, "content": content}, "parameters": _HEADERS},
    }


def _ref(model: str) -> dict[str, str]:
    return {"$ref": _REF.format(model=model)}


def describe(app: FastAPI, *, with_keys: bool) -> None:
    """Adds the schemas of the request bodies, and the key, to the application's OpenAPI document."""
    original = app.openapi

    def openapi() -> dict[str, Any]:
        document = original()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        _, definitions = models_json_schema([(model, "validation") for model in _REQUESTS], ref_template=_REF)
        _, answers = models_json_schema([(model, "serialization") for model in _EVENTS], ref_template=_REF)
        for name, schema in (definitions["$defs"] | answers["$defs"]).items():
            schemas.setdefault(name, schema)
        if with_keys:
            document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            document["security"] = [{"key": []}]
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # the documented way to extend it
