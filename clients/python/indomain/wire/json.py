"""Messages of the contract as the JSON of its HTTP interface: the same names, bytes in base64, enums in short."""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import numpy as np
from google.protobuf import json_format
from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

_Message = TypeVar("_Message", bound=Message)
_Fields = dict[str, Any]

_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_=\r\n"
# Words of the short names of these enums are joined by hyphens, those of the others by underscores.
_HYPHENATED = {"Alignment"}


def message_to_json(message: Message) -> dict[str, Any]:
    """Every field that has a value, zeros and empty strings too, in the order of their numbers; enums that say nothing
    are left out. Several times as fast as protobuf's own, whose choices it shares (a test holds them equal)."""
    values: _Fields = {}
    for name, has_presence, is_code_shape, write in _writers(message.DESCRIPTOR):
        if has_presence and not message.HasField(name):
            continue
        written = write(getattr(message, name))
        # An enum that says nothing; and the shape of a code that is named by its handle alone.
        if written is not None and (written or not is_code_shape):
            values[name] = written
    return values


@cache
def _writers(message: Any) -> list[tuple[str, bool, bool, Callable[[Any], Any]]]:
    """For each field of a kind of message: name, whether it may be unset, whether it is Code.shape, and what turns its
    value into JSON's."""
    return [
        (field.name, field.has_presence, field.full_name == "indomain.v1.Code.shape", _writer(field))
        for field in sorted(message.fields, key=lambda field: field.number)
    ]


def _writer(field: Any) -> Callable[[Any], Any]:
    within = field.message_type
    if within is not None and within.GetOptions().map_entry:
        write = _write_value(within.fields_by_name["value"])
        return lambda entries: {str(key): write(value) for key, value in entries.items()}
    write = _write_value(field)
    return (lambda items: [write(item) for item in items]) if field.is_repeated else write


def _write_value(field: Any) -> Callable[[Any], Any]:
    if field.message_type is not None:
        return message_to_json
    if field.enum_type is not None:
        names = {value.number: short_name(field.enum_type, value.number) for value in field.enum_type.values}
        return lambda number: names.get(number, number) if number else None
    if field.type == FieldDescriptor.TYPE_BYTES:
        return lambda content: b64encode(content).decode("ascii")
    if field.type == FieldDescriptor.TYPE_FLOAT:
        return _shortest_float
    if field.type == FieldDescriptor.TYPE_DOUBLE:
        return _finite
    return lambda value: value


def _shortest_float(value: float) -> float | str:
    """A number of 32 bits in as few digits as tell it from others: 0.7, and not 0.699999988079071."""
    return _finite(float(str(np.float32(value))))


def _finite(value: float) -> float | str:
    """JSON knows no infinity and no NaN; protobuf writes their names."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def message_from_json(
    values: _Fields, kind: type[_Message], *, ignore_unknown_fields: bool = True
) -> _Message:
    """Reads a message. Names may be in snake_case or in camelCase. `values` is changed.

    By default a field or an enum's value that the contract does not know is passed over: a newer gateway may send it.
    Raises ValueError, which names the field and says what is wrong with it.
    """
    expand = _expand if ignore_unknown_fields else _expand_known
    _for_each_field(values, kind.DESCRIPTOR, expand, "")
    try:
        return json_format.ParseDict(values, kind(), ignore_unknown_fields=ignore_unknown_fields)
    except json_format.ParseError as error:
        raise ValueError(_reason(error, kind.DESCRIPTOR)) from None


def short_name(enum: EnumDescriptor, number: int) -> str:
    """The name that a value of an enum has in JSON: `png` for `IMAGE_FORMAT_PNG`."""
    name = enum.values_by_number[number].name.removeprefix(_prefix(enum)).lower()
    return str(name.replace("_", "-") if enum.name in _HYPHENATED else name)


def short_names(enum: EnumDescriptor) -> list[str]:
    """All of them, without that of the value 0, which stands for "not said"."""
    return [short_name(enum, value.number) for value in enum.values if value.number]


# --- walks through nested values -----------------------------------------------------------------------

_Change = Callable[[_Fields, str, FieldDescriptor, str], None]


def _for_each_field(values: object, message: Any, change: _Change, path: str) -> None:
    """Calls `change(values, key, field, path)` for each field of a message and of those within it."""
    if not isinstance(values, dict):
        raise ValueError(f"{path or 'the body'} is no JSON object")
    for key in list(values):
        field = message.fields_by_name.get(key) or message.fields_by_camelcase_name.get(key)
        where = f"{path}.{key}" if path else str(key)
        if field is None:
            if change is _expand_known:
                raise ValueError(
                    f"{where[:120]} is unknown; {message.name} has {', '.join(message.fields_by_name)}"
                )
            continue
        if values[key] is None:
            continue
        change(values, key, field, where)
        within = field.message_type
        if within is None or within.GetOptions().map_entry:
            continue
        if not field.is_repeated:
            _for_each_field(values[key], within, change, where)
        elif isinstance(values[key], list):
            for number, item in enumerate(values[key]):
                _for_each_field(item, within, change, f"{where}[{number}]")
        else:
            raise ValueError(f"{where} is no list")


def _expand(values: _Fields, key: str, field: FieldDescriptor, path: str) -> None:
    """What the interface has, as protobuf reads it. An enum's value that is not known becomes the value 0."""
    if field.enum_type is not None:
        values[key] = _full_name(field.enum_type, values[key]) or field.enum_type.values[0].name


def _expand_known(values: _Fields, key: str, field: FieldDescriptor, path: str) -> None:
    """The same. Takes a data URL (RFC 2397) for the base64 in it, as pages have pictures in this form.

    Raises ValueError for an enum's value that is not known, and for what is no base64.
    """
    if field.type == FieldDescriptor.TYPE_BYTES:
        if isinstance(values[key], str) and values[key].startswith("data:"):
            values[key] = _content_of_data_url(values[key], path)
        if not _is_base64(values[key]):
            raise ValueError(f"{path} is no base64")
    if field.enum_type is not None:
        full = _full_name(field.enum_type, values[key])
        if full is None:
            known = ", ".join(short_names(field.enum_type))
            raise ValueError(f"{path} is {str(values[key])[:40]!r}; it is one of {known}")
        values[key] = full


def _full_name(enum: EnumDescriptor, name: object) -> str | None:
    """`png` -> `IMAGE_FORMAT_PNG`, which may be given, too; None where there is no such value."""
    if not isinstance(name, str):
        return None
    full = name if name in enum.values_by_name else _prefix(enum) + name.upper().replace("-", "_")
    return full if full in enum.values_by_name else None


def _is_base64(value: object) -> bool:
    """protobuf passes over what is outside of base64's alphabet."""
    return isinstance(value, str) and not value.encode("ascii", "replace").translate(None, _BASE64)


def _content_of_data_url(url: str, path: str) -> str:
    head, comma, content = url.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise ValueError(
            f"{path} is a data URL without base64; send data:image/png;base64,... or the base64 alone"
        )
    return content


def _prefix(enum: EnumDescriptor) -> str:
    return str(enum.values[0].name).removesuffix("UNSPECIFIED")


def _reason(error: json_format.ParseError, message: Any) -> str:
    """protobuf's reason, with the field's path in front: `output.quality: Couldn't parse integer: 1.5`."""
    text = " ".join(str(error).split()).removeprefix("Failed to parse ").rstrip(".")
    reason, at, path = text.rpartition(f" at {message.name}.")
    return (f"{path}: {reason.removeprefix(f'{path} field: ')}" if at else text)[:200]
