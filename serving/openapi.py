"""What /docs shows of bodies that the routes read by themselves (to refuse large ones before they are read)."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from serving.wire import bodies

_REQUESTS = (
    bodies.InvertBody,
    bodies.InvertOptions,
    bodies.EditBody,
    bodies.EditOptions,
    bodies.DecodeBody,
    bodies.SampleBody,
)
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


def picture_or_json(body: str, options: str, answer: type[BaseModel]) -> dict[str, Any]:
    """Route arguments for a JSON body or a form with a file and the JSON part `options`."""
    form = {
        "type": "object",
        "required": ["picture"],
        "properties": {"picture": {"type": "string", "format": "binary"}, "options": _ref(options)},
    }
    multipart = {"schema": form, "encoding": {"options": {"contentType": "application/json"}}}
    return _described({"multipart/form-data": multipart, "application/json": {"schema": _ref(body)}}, answer)


def _described(content: dict[str, Any], answer: type[BaseModel]) -> dict[str, Any]:
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
        for name, schema in definitions["$defs"].items():
            schemas.setdefault(name, schema)
        if with_keys:
            document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            document["security"] = [{"key": []}]
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # the documented way to extend it
