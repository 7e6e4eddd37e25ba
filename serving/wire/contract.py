"""The contract as data: its methods, what its comments say, and which values it accepts.

Both transports and the OpenAPI document are made from this; the contract itself is clients/proto.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from indomain.v1 import editing_pb2 as pb
from indomain.wire.routes import http_route

SERVICE = pb.DESCRIPTOR.services_by_name["Editing"]


@dataclass(frozen=True, slots=True)
class Method:
    """A method of the service. Over HTTP, one that streams requests is a websocket, one that streams only answers an
    event stream."""

    name: str
    verb: str
    path: str
    request: type[Message]
    response: type[Message]
    streams_requests: bool
    streams_responses: bool


def _method(descriptor: MethodDescriptor) -> Method:
    verb, path = http_route(descriptor.name)
    return Method(
        descriptor.name,
        verb,
        path,
        GetMessageClass(descriptor.input_type),
        GetMessageClass(descriptor.output_type),
        descriptor.client_streaming,
        descriptor.server_streaming,
    )


METHODS = tuple(_method(descriptor) for descriptor in SERVICE.methods)


def picture_fields(message: type[Message]) -> list[str]:
    """The fields that hold one picture."""
    fields = message.DESCRIPTOR.fields
    return [
        field.name
        for field in fields
        if field.message_type is pb.Picture.DESCRIPTOR and not field.is_repeated
    ]


def answers_picture(message: type[Message]) -> bool:
    """Whether an answer can be given as its picture alone."""
    return any(field.name in ("image", "images") for field in message.DESCRIPTOR.fields)


def accepted(field: FieldDescriptor) -> pb.Accepted:
    """Which values of a field are accepted; all where nothing is set."""
    extensions: Any = field.GetOptions().Extensions
    options: pb.Accepted = extensions[pb.accepted]
    return options


@cache
def comments() -> dict[str, str]:
    """What the contract says of each of its parts: `indomain.v1.EditRequest.edits` -> text on one line."""
    content = resources.files("indomain.v1").joinpath("editing.binpb").read_bytes()
    (file,) = FileDescriptorSet.FromString(content).file
    names = _names_by_path(file)
    found: dict[str, str] = {}
    for location in file.source_code_info.location:
        text = " ".join(f"{location.leading_comments} {location.trailing_comments}".split())
        if text and tuple(location.path) in names:
            found[names[tuple(location.path)]] = text
    return found


def _names_by_path(file: FileDescriptorProto) -> dict[tuple[int, ...], str]:
    """Full names by their paths in protobuf's source information: field numbers and indices, in turn."""
    names: dict[tuple[int, ...], str] = {}
    for i, message in enumerate(file.message_type):
        names |= _names_of_message(message, (4, i), f"{file.package}.{message.name}")
    for i, enum in enumerate(file.enum_type):
        names[5, i] = f"{file.package}.{enum.name}"
        names |= {
            (5, i, 2, k): f"{file.package}.{enum.name}.{value.name}" for k, value in enumerate(enum.value)
        }
    for i, service in enumerate(file.service):
        names[6, i] = f"{file.package}.{service.name}"
        names |= {
            (6, i, 2, k): f"{file.package}.{service.name}.{m.name}" for k, m in enumerate(service.method)
        }
    return names


def _names_of_message(
    message: DescriptorProto, path: tuple[int, ...], name: str
) -> dict[tuple[int, ...], str]:
    fields = {(*path, 2, k): f"{name}.{field.name}" for k, field in enumerate(message.field)}
    oneofs = {(*path, 8, k): f"{name}.{oneof.name}" for k, oneof in enumerate(message.oneof_decl)}
    return {path: name} | fields | oneofs
