"""Messages -> jobs.

A job and its message have the same names for the same things, so that `_read` fills most jobs by itself: a new field
of a message needs a field of the same name in serving/jobs.py, and nothing here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from enum import StrEnum
from functools import cache, partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

from indomain.v1 import editing_pb2 as pb
from serving.errors import EditingError, InvalidCode, InvalidOption, MalformedRequest, about
from serving.jobs import (
    Alignment,
    AlignOptions,
    CodeHandle,
    CodeSource,
    DecodeJob,
    DiffuseJob,
    EditJob,
    EditOptions,
    EditStep,
    EncodedPicture,
    FindFacesJob,
    ImageFormat,
    InterpolateJob,
    InvertJob,
    MeanJob,
    MixJob,
    NamedCode,
    OutputOptions,
    Pasting,
    Path,
    RefineOptions,
    Region,
    SampleJob,
    SessionRequest,
    Source,
    WatchInvertJob,
)
from serving.results import StopReason

T = TypeVar("T")

ENUMS: dict[str, type[StrEnum]] = {
    "ImageFormat": ImageFormat,
    "Alignment": Alignment,
    "Pasting": Pasting,
    "Path": Path,
    "StopReason": StopReason,
}
_NOT_SET: Any = object()


def find_faces(request: pb.FindFacesRequest) -> FindFacesJob:
    return _read(FindFacesJob, request)


def invert(request: pb.InvertRequest) -> InvertJob:
    return _read(InvertJob, request)


def watch_invert(request: pb.WatchInvertRequest) -> WatchInvertJob:
    return _read(
        WatchInvertJob, request, invert=_read(InvertJob, request), previews=not request.omit_previews
    )


def edit(request: pb.EditRequest) -> EditJob:
    return EditJob(_source(request, "An edit"), _read(EditOptions, request), request.bundle)


def session(request: pb.EditSessionRequest) -> SessionRequest:
    """What cannot be read becomes the request's fault: one bad message does not end a session."""
    edit = request.edit
    try:
        return SessionRequest(
            request.sequence,
            _read(EditOptions, edit),
            _source(edit, "A session") if edit.WhichOneof("source") else None,
            edit.bundle,
            output_given=edit.HasField("output"),
        )
    except EditingError as error:
        return SessionRequest(request.sequence, fault=error)


def interpolate(request: pb.InterpolateRequest) -> InterpolateJob:
    return _read(InterpolateJob, request)


def mix(request: pb.MixRequest) -> MixJob:
    return _read(MixJob, request)


def mean(request: pb.MeanRequest) -> MeanJob:
    return _read(MeanJob, request)


def diffuse(request: pb.DiffuseRequest) -> DiffuseJob:
    return _read(DiffuseJob, request)


def decode(request: pb.DecodeRequest) -> DecodeJob:
    return _read(DecodeJob, request)


def sample(request: pb.SampleRequest) -> SampleJob:
    return _read(SampleJob, request)


# --- what needs more than its names ---------------------------------------------------------------------


def _source(message: pb.EditRequest | pb.Source, what: str) -> Source:
    kind = message.WhichOneof("source")
    if kind == "code":
        return _code(message.code)
    if kind == "picture":
        return _read(EncodedPicture, message.picture)
    raise MalformedRequest(f"{what} needs a picture or a code to start from; send exactly one of them.")


def _code(code: pb.Code) -> CodeSource:
    if code.handle and not code.data:
        return CodeHandle(code.handle)
    return NamedCode(_code_array(code.data, code.shape), space=code.space)


def _code_array(data: bytes, shape: Sequence[int]) -> npt.NDArray[np.float32]:
    """float32, little-endian -> an array of that shape. Raises InvalidCode."""
    if not 2 <= len(shape) <= 3 or any(size < 1 for size in shape):
        raise InvalidCode(f"A code has the shape [layers, 512] or [N, layers, 512], not {list(shape)[:8]}.")
    count = int(np.prod([int(size) for size in shape], dtype=object))
    if len(data) != 4 * count:
        raise InvalidCode(f"A code of shape {list(shape)} has {4 * count} bytes (float32), not {len(data)}.")
    return np.frombuffer(data, dtype="<f4").reshape(tuple(shape)).astype(np.float32, copy=False)


def _output(options: pb.OutputOptions) -> OutputOptions:
    return _read(
        OutputOptions,
        options,
        image=not options.omit_image,
        aligned=options.include_aligned,
        start=options.include_start,
        codes=not options.omit_codes,
        pasted=options.include_pasted,
        identity_score=options.include_identity_score,
    )


# --- by name --------------------------------------------------------------------------------------------

Reader = Callable[[Any], Any]
"""Takes a field's value out of a message; `_NOT_SET` where the job's default holds."""


def _read(kind: type[T], message: Message, **given: Any) -> T:
    """A job of the fields that it and the message have under one name, and of those `given`. A field that the message
    leaves out keeps the job's default. Raises MalformedRequest where there is none, and what single readers raise."""
    # mypy takes classes for unhashable
    for name, read in _readers(kind, message.DESCRIPTOR):  # type: ignore[arg-type]
        value = read(message)
        if value is not _NOT_SET:
            given.setdefault(name, value)
    return kind(**given)


@cache
def _readers(kind: type[Any], message: Descriptor) -> tuple[tuple[str, Reader], ...]:
    found: list[tuple[str, Reader]] = []
    for field in dataclasses.fields(kind):
        optional = (
            field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        )
        if field.name in message.fields_by_name:
            found.append((field.name, _reader(message.fields_by_name[field.name], optional=optional)))
        elif field.name in message.oneofs_by_name:
            found.append((field.name, partial(_read_one_of, field.name)))
    return tuple(found)


def _reader(field: FieldDescriptor, *, optional: bool) -> Reader:
    name = field.name
    if field.message_type is pb.Source.DESCRIPTOR:
        return partial(_named_sources if field.is_repeated else _named_source, name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return lambda message: dict(getattr(message, name))
    if field.message_type is not None:
        convert = _CONVERTERS[field.message_type.name]
        if field.is_repeated:
            return lambda message: tuple(convert(item) for item in getattr(message, name))
        return lambda message: (
            convert(getattr(message, name)) if message.HasField(name) else _left_out(name, optional)
        )
    if field.enum_type is not None:
        return partial(_read_enum, name, _members(field.enum_type))
    if field.is_repeated:
        return lambda message: tuple(getattr(message, name))
    if field.has_presence:
        return lambda message: getattr(message, name) if message.HasField(name) else _NOT_SET
    return lambda message: getattr(message, name)


def _named_source(name: str, message: Any) -> Source:
    with about(name):
        return _source(getattr(message, name), f"The {name}")


def _named_sources(name: str, message: Any) -> tuple[Source, ...]:
    sources = []
    for n, source in enumerate(getattr(message, name)):
        with about(f"{name}[{n}]"):
            sources.append(_source(source, "It"))
    return tuple(sources)


def _left_out(name: str, optional: bool) -> Any:
    if not optional:
        raise MalformedRequest(f"The request has no {name!r}; /docs and the contract say what it needs.")
    return _NOT_SET


def _read_one_of(name: str, message: Message) -> Any:
    chosen = message.WhichOneof(name)
    if chosen is None:
        return _NOT_SET
    value = getattr(message, chosen)
    return _CONVERTERS[value.DESCRIPTOR.name](value)


def _read_enum(name: str, members: dict[int, StrEnum], message: Message) -> Any:
    number = getattr(message, name)
    if number and number not in members:
        known = ", ".join(members.values())
        raise InvalidOption(f"{message.DESCRIPTOR.name}.{name} {number} is unknown; it is one of {known}.")
    return members.get(number, _NOT_SET)


def _members(enum: EnumDescriptor) -> dict[int, StrEnum]:
    """The values of an enum by their numbers, without the 0, which says nothing."""
    kind = ENUMS[enum.name]
    prefix = enum.values[0].name.removesuffix("UNSPECIFIED")
    return {value.number: kind[value.name.removeprefix(prefix)] for value in enum.values if value.number}


_CONVERTERS: dict[str, Reader] = {
    "Picture": partial(_read, EncodedPicture),
    "Code": _code,
    "EditStep": partial(_read, EditStep),
    "Region": partial(_read, Region),
    "RefineOptions": partial(_read, RefineOptions),
    "OutputOptions": _output,
    "AlignOptions": partial(_read, AlignOptions),
}
