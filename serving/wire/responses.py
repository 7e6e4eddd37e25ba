"""Results -> messages.

A result and its message have the same names for the same things, so that `_write` fills most messages by itself: a new
field of a message needs a field of the same name in serving/results.py, and nothing here. Bundles, whose classes are
those of the manifest (serving/bundle.py), are written field by field.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any, TypeVar

import numpy as np
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from indomain.v1 import editing_pb2 as pb
from serving import __version__
from serving.bundle import Bundle, Direction, HeldOut, Label, Preset
from serving.call import Call
from serving.errors import EditingError
from serving.jobs import EncodedPicture, Face, ImageFormat, NamedCode, Placement
from serving.pipeline.session import SessionAnswer
from serving.settings import Settings
from serving.wire.requests import ENUMS

MessageT = TypeVar("MessageT", bound=Message)


def answer(kind: type[MessageT], result: Any, call: Call) -> MessageT:
    """A result, with the request's id and the times of its stages."""
    message: Any = kind()
    _write(message, result)
    message.request_id = call.request_id
    if "timings" in kind.DESCRIPTOR.fields_by_name:
        for stage, seconds in call.timings:
            message.timings.add(stage=stage, seconds=seconds)
    return message  # type: ignore[no-any-return]


def session(answered: SessionAnswer) -> pb.EditSessionResponse:
    response = pb.EditSessionResponse(sequence=answered.sequence, skipped=answered.skipped)
    if isinstance(answered.outcome, EditingError):
        response.error.CopyFrom(error_detail(answered.outcome, answered.call.request_id))
    else:
        response.edited.CopyFrom(answer(pb.EditResponse, answered.outcome, answered.call))
    return response


def bundles(served: Mapping[str, Bundle], settings: Settings, call: Call) -> pb.ListBundlesResponse:
    limits = {field.name: getattr(settings, field.name) for field in pb.Limits.DESCRIPTOR.fields}
    return pb.ListBundlesResponse(
        bundles=[_bundle(bundle) for bundle in served.values()],
        limits=pb.Limits(**limits),
        server_version=__version__,
        request_id=call.request_id,
    )


def error_detail(error: EditingError, request_id: str) -> pb.ErrorDetail:
    return pb.ErrorDetail(
        reason=error.row.reason,
        message=error.message,
        stage=error.stage,
        retryable=error.row.retryable,
        retry_after_s=error.retry_after_s,
        request_id=request_id,
        code=error.row.grpc_code,
    )


# --- bundles ---------------------------------------------------------------------------------------------


def _bundle(bundle: Bundle) -> pb.Bundle:
    return pb.Bundle(
        name=bundle.name,
        resolution=bundle.resolution,
        layers=bundle.layers,
        code_size=bundle.code_size,
        directions=[_direction(direction) for direction in bundle.directions.values()],
        refine=pb.RefineDefaults(**bundle.refine.model_dump()),
        alignment=bundle.alignment,
        licence=bundle.licence,
        summary=bundle.limits,
        data=bundle.data,
        code_space=bundle.code_space,
        presets=[_preset(preset) for preset in bundle.presets.values()],
        detail=_rows(bundle, "detail", pb.DetailCodes),
        noise=_rows(bundle, "noise", pb.NoiseMaps),
        labels=[_label(label) for label in bundle.labels],
        identity_score=bundle.identity is not None,
    )


def _rows(bundle: Bundle, name: str, kind: type[MessageT]) -> MessageT | None:
    """What a group of additional rows is; None where codes have none of that name."""
    for group in bundle.groups:
        if group.name == name:
            count = group.rows.stop - group.rows.start
            return kind(rows=count, **getattr(bundle, name).model_dump())
    return None


def _label(label: Label) -> pb.Label:
    return pb.Label(name=label.name, frequency=label.frequency, held_out=_held_out(label.held_out))


def _held_out(held_out: HeldOut | None) -> pb.HeldOut | None:
    return pb.HeldOut(metric=held_out.metric, value=held_out.value) if held_out else None


def _preset(preset: Preset) -> pb.Preset:
    edits = [
        pb.EditStep(direction=edit.direction, strength=edit.strength, layers=edit.layers, keep=edit.keep)
        for edit in preset.edits
    ]
    return pb.Preset(name=preset.name, label=preset.label, edits=edits)


def _direction(direction: Direction) -> pb.Direction:
    return pb.Direction(
        name=direction.name,
        label=direction.label,
        layers=direction.layers,
        range_min=direction.range[0],
        range_max=direction.range[1],
        held_out=_held_out(direction.held_out),
        conditioned_on=direction.conditioned_on,
    )


# --- what needs more than its names ---------------------------------------------------------------------


def _write_code(message: pb.Code, code: NamedCode) -> None:
    if code.values is not None:
        message.data = np.ascontiguousarray(code.values, dtype="<f4").tobytes()
        message.shape.extend(code.values.shape)
    if code.handle:
        message.handle = code.handle
    message.space = code.space


def _write_picture(message: pb.Picture, picture: EncodedPicture) -> None:
    message.data = picture.data
    message.format = _NUMBERS["ImageFormat"][picture.format or ImageFormat.PNG]
    message.width = picture.width
    message.height = picture.height


def _write_face(message: pb.Face, face: Face) -> None:
    _write(message, face, leave_out=("box", "landmarks", "corners"))
    _write_place(message, face, face)


def _write_placement(message: pb.Placement, placement: Placement) -> None:
    _write(message, placement, leave_out=("found", "corners"))
    _write_place(message, placement, placement.found)


def _write_place(message: pb.Face | pb.Placement, place: Face | Placement, face: Face | None) -> None:
    for x, y in place.corners:
        message.corners.add(x=x, y=y)
    if face is not None:
        left, top, right, bottom = face.box
        message.box.CopyFrom(pb.Box(left=left, top=top, right=right, bottom=bottom))
        for x, y in face.landmarks:
            message.landmarks.add(x=x, y=y)


# --- by name --------------------------------------------------------------------------------------------

Writer = Callable[[Any, Any], None]
"""Writes a value into a message."""


def _write(message: Message, value: Any, leave_out: tuple[str, ...] = ()) -> None:
    """Fills a message with the fields that it and a dataclass have under one name; None is left out."""
    # mypy takes classes for unhashable
    for name, write in _writers(type(value), message.DESCRIPTOR, leave_out):  # type: ignore[arg-type]
        part = getattr(value, name)
        if part is not None:
            write(message, part)


@cache
def _writers(
    kind: type[Any], message: Descriptor, leave_out: tuple[str, ...]
) -> tuple[tuple[str, Writer], ...]:
    found: list[tuple[str, Writer]] = []
    for name in (field.name for field in dataclasses.fields(kind) if field.name not in leave_out):
        if name in message.fields_by_name:
            found.append((name, _writer(message.fields_by_name[name])))
        elif name == "rendering":
            # its pictures are fields of each answer that has them
            found.append((name, _write))
    return tuple(found)


def _writer(field: FieldDescriptor) -> Writer:
    name = field.name
    if field.message_type is not None:
        write = _WRITERS.get(field.message_type.name, _write)
        return partial(_write_all, name, write) if field.is_repeated else partial(_write_part, name, write)
    if field.enum_type is not None:
        numbers = _NUMBERS[field.enum_type.name]
        return lambda message, value: setattr(message, name, numbers[value])
    if field.is_repeated:
        return lambda message, values: getattr(message, name).extend(values)
    return lambda message, value: setattr(message, name, value)


def _write_part(name: str, write: Writer, message: Message, value: Any) -> None:
    write(getattr(message, name), value)


def _write_all(name: str, write: Writer, message: Message, values: Any) -> None:
    for value in values:
        write(getattr(message, name).add(), value)


_WRITERS: dict[str, Writer] = {
    "Code": _write_code,
    "Picture": _write_picture,
    "Face": _write_face,
    "Placement": _write_placement,
}
_NUMBERS: dict[str, dict[str, Any]] = {
    name: {
        kind[value.name.removeprefix(enum.values[0].name.removesuffix("UNSPECIFIED"))]: value.number
        for value in enum.values
        if value.number
    }
    for name, kind in ENUMS.items()
    for enum in (pb.DESCRIPTOR.enum_types_by_name[name],)
}
