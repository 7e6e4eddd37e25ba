"""The OpenAPI document, which /docs shows: made from the contract, its comments and the gateway's settings."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

from indomain.v1 import editing_pb2 as pb
from indomain.wire.json import short_names
from serving.http.middleware import REQUEST_ID_HEADER, TIMEOUT_HEADER
from serving.http.requests import MEDIA_TYPES, OPTIONS_PART, PICTURE_FIELD
from serving.settings import Settings
from serving.wire.contract import (
    METHODS,
    SERVICE,
    Method,
    accepted,
    answers_picture,
    comments,
    picture_fields,
)

Schema = dict[str, Any]

_NUMBERS: dict[int, Schema] = {
    FieldDescriptor.TYPE_DOUBLE: {"type": "number", "format": "double"},
    FieldDescriptor.TYPE_FLOAT: {"type": "number", "format": "float"},
    FieldDescriptor.TYPE_INT32: {"type": "integer", "format": "int32"},
    FieldDescriptor.TYPE_INT64: {"type": "integer", "format": "int64"},
    FieldDescriptor.TYPE_UINT64: {"type": "integer", "minimum": 0},
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_STRING: {"type": "string"},
    FieldDescriptor.TYPE_BYTES: {"type": "string", "format": "byte", "contentEncoding": "base64"},
}
_FILE = {"type": "string", "format": "binary"}
_HEADERS = [
    {
        "name": TIMEOUT_HEADER,
        "in": "header",
        "schema": {"type": "number", "exclusiveMinimum": 0},
        "description": "Time for this request, in seconds; refinement stops in time to answer.",
    },
    {
        "name": REQUEST_ID_HEADER,
        "in": "header",
        "schema": {"type": "string"},
        "description": "Comes back with the answer.",
    },
]


def add_contract(app: FastAPI, settings: Settings) -> None:
    """Adds the contract's methods and messages, and the key, to the application's OpenAPI document."""
    routes_only = app.openapi

    def openapi() -> Schema:
        document = routes_only()
        document.setdefault("paths", {}).update(_paths())
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas.update({kind.name: _message_schema(kind, settings) for kind in _messages()})
        schemas.update({enum.name: _enum_schema(enum) for enum in pb.DESCRIPTOR.enum_types_by_name.values()})
        if settings.keys_file is not None:
            document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            document["security"] = [{"key": []}]
        return document

    # the way that FastAPI documents to extend it
    app.openapi = openapi  # type: ignore[method-assign]


# --- routes ------------------------------------------------------------------------------------------------


def _paths() -> Schema:
    """All methods; OpenAPI has no websockets, so that a session is shown as the GET that opens one."""
    return {
        method.path: {"get" if method.streams_requests else method.verb.lower(): _operation(method)}
        for method in METHODS
    }


def _operation(method: Method) -> Schema:
    operation: Schema = {
        "operationId": method.name,
        "summary": method.name,
        "description": comments().get(f"{SERVICE.full_name}.{method.name}", ""),
        "tags": ["streams" if method.streams_responses else "editing"],
        "parameters": _HEADERS,
        "responses": {
            "200": _answer(method),
            "4XX": _error("The request is at fault; `reason` says how"),
            "5XX": _error("The gateway is at fault; `retryable` says whether to ask again"),
        },
    }
    if method.streams_requests:
        sent, answered = method.request.DESCRIPTOR.name, method.response.DESCRIPTOR.name
        operation["description"] += (
            f" A websocket: send {sent} as JSON texts, or a picture as a binary message; each answer is {answered}"
            " as a JSON text, and its pictures follow as binary messages."
        )
        operation["responses"] = {"101": operation["responses"].pop("200")} | operation["responses"]
    elif method.verb == "POST":
        operation["requestBody"] = {"required": True, "content": _bodies(method.request)}
    return operation


def _bodies(request: type[Message]) -> Schema:
    """A message as JSON; where it has pictures, also as a form with these as files and the rest as JSON; where it has
    `picture`, also as this one alone."""
    kind, files = request.DESCRIPTOR.name, picture_fields(request)
    content: Schema = {"application/json": {"schema": _ref(kind)}}
    if files:
        rest = {"allOf": [_ref(kind)], "description": f"{kind} in JSON, without what is sent as files"}
        form = {"type": "object", "properties": dict.fromkeys(files, _FILE) | {OPTIONS_PART: rest}}
        encoding = {OPTIONS_PART: {"contentType": "application/json"}}
        content = {"multipart/form-data": {"schema": form, "encoding": encoding}} | content
    if PICTURE_FIELD in files:
        content["image/*"] = {
            "schema": _FILE | {"description": f"A picture; the rest as JSON in the query's `{OPTIONS_PART}`"}
        }
    return content


def _answer(method: Method) -> Schema:
    kind = method.response.DESCRIPTOR
    if method.streams_requests:
        return {
            "description": f"Answers: {kind.name}",
            "content": {"application/json": {"schema": _ref(kind.name)}},
        }
    if method.streams_responses:
        fields = kind.oneofs[0].fields if kind.oneofs else []
        kinds = [(field.name, field.message_type.name) for field in fields if field.message_type]
        events = kinds or [("picture", kind.name)]
        told = ", ".join(f"`{name}`: {message}" for name, message in events)
        data = {"oneOf": [_ref(message) for _, message in events]}
        return {
            "description": f"Server-sent events, data in JSON: {told}, `error`: ErrorDetail",
            "content": {"text/event-stream": {"schema": data}},
        }
    content: Schema = {"application/json": {"schema": _ref(kind.name)}}
    if answers_picture(method.response):
        media_types = (media_type for media_type in MEDIA_TYPES.values() if media_type.startswith("image/"))
        content |= {media_type: {"schema": _FILE} for media_type in media_types}
        return {"description": "JSON, or the picture where it is accepted", "content": content}
    return {"description": "JSON", "content": content}


def _error(description: str) -> Schema:
    return {"description": description, "content": {"application/json": {"schema": _ref("ErrorDetail")}}}


# --- messages ----------------------------------------------------------------------------------------------


def _messages() -> Iterable[Descriptor]:
    """Those that methods send and answer, with those within them, and the errors."""
    found: dict[str, Descriptor] = {}

    def add(kind: Any) -> None:
        if kind.name not in found and not kind.GetOptions().map_entry:
            found[kind.name] = kind
            for field in kind.fields:
                if field.message_type is not None:
                    add(field.message_type)

    for method in METHODS:
        add(method.request.DESCRIPTOR)
        add(method.response.DESCRIPTOR)
    add(pb.ErrorDetail.DESCRIPTOR)
    return found.values()


def _message_schema(kind: Descriptor, settings: Settings) -> Schema:
    schema: Schema = {
        "type": "object",
        "title": kind.name,
        "additionalProperties": False,
        "properties": {field.name: _field_schema(field, settings) for field in kind.fields},
    }
    told = [comments().get(kind.full_name, "")]
    for oneof in kind.oneofs:
        # protobuf makes one of its own for each optional field
        if not oneof.name.startswith("_"):
            told.append(f"At most one of: {', '.join(field.name for field in oneof.fields)}.")
            told.append(comments().get(f"{kind.full_name}.{oneof.name}", ""))
    return _described(schema, " ".join(filter(None, told)))


def _field_schema(field: FieldDescriptor, settings: Settings) -> Schema:
    limits = accepted(field)
    most = getattr(settings, limits.limit) if limits.limit else limits.max if limits.HasField("max") else None
    schema: Schema
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        values = field.message_type.fields_by_name["value"]
        schema = {"type": "object", "additionalProperties": _field_schema(values, settings)}
    elif field.message_type is not None:
        schema = _ref(field.message_type.name)
    elif field.enum_type is not None:
        schema = _ref(field.enum_type.name)
    else:
        schema = dict(_NUMBERS[field.type])
    if field.is_repeated and "additionalProperties" not in schema:
        schema = {"type": "array", "items": schema}
    # of a map, what is accepted are its values
    bounded = schema.get("additionalProperties", schema)
    if limits.HasField("min"):
        bounded["minimum"] = limits.min
    if most is not None:
        bounded["maxItems" if field.is_repeated and bounded is schema else "maximum"] = most
    return _described(schema, comments().get(field.full_name, ""))


def _enum_schema(enum: EnumDescriptor) -> Schema:
    told = [comments().get(enum.full_name, "")]
    for name, value in zip(short_names(enum), enum.values[1:], strict=True):
        if comment := comments().get(f"{enum.full_name.rpartition('.')[0]}.{enum.name}.{value.name}"):
            told.append(f"`{name}`: {comment}.")
    return _described({"type": "string", "enum": short_names(enum)}, " ".join(filter(None, told)))


def _described(schema: Schema, text: str) -> Schema:
    if not text:
        return schema
    # beside a reference, older readers of OpenAPI heed nothing else
    return {"allOf": [schema], "description": text} if "$ref" in schema else schema | {"description": text}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}
