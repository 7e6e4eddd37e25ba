"""Messages of the contract as the JSON of its HTTP interface: the same names, bytes in base64, enums in short."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from google.protobuf import json_format
from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.message import Message

_Message = TypeVar("_Message", bound=Message)


def message_to_json(message: Message) -> dict[str, Any]:
    """Every field that has a value, zeros and empty strings too; enums that say nothing are left out."""
    values = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    _rename_enums(values, message.DESCRIPTOR, _short_name)
    return values


def message_from_json(
    values: dict[str, Any], kind: type[_Message], *, ignore_unknown_fields: bool = True
) -> _Message:
    """By default what a newer gateway says beyond the contract is passed over. Raises ValueError where it is no such
    message."""
    _rename_enums(values, kind.DESCRIPTOR, _full_name)
    try:
        return json_format.ParseDict(values, kind(), ignore_unknown_fields=ignore_unknown_fields)
    except json_format.ParseError as error:
        raise ValueError(f"not a {kind.DESCRIPTOR.name}: {error}") from None


def _rename_enums(
    values: dict[str, Any], descriptor: Any, rename: Callable[[str, EnumDescriptor], str | None]
) -> None:
    for field in descriptor.fields:
        value = values.get(field.name)
        if value is None:
            continue
        if field.enum_type is not None:
            renamed = rename(value, field.enum_type)
            if renamed is None:
                del values[field.name]
            else:
                values[field.name] = renamed
        elif field.message_type is not None and not field.message_type.GetOptions().map_entry:
            for item in value if isinstance(value, list) else [value]:
                _rename_enums(item, field.message_type, rename)


def _short_name(name: str, enum: EnumDescriptor) -> str | None:
    """`IMAGE_FORMAT_PNG` -> `png`, with hyphens between words; None for the value that says nothing."""
    short = name.removeprefix(_prefix(enum)).lower().replace("_", "-")
    return None if short == "unspecified" else short


def _full_name(name: str, enum: EnumDescriptor) -> str:
    """`png` -> `IMAGE_FORMAT_PNG`; what a newer gateway may have becomes the value that says nothing."""
    full = _prefix(enum) + name.upper().replace("-", "_")
    return full if full in enum.values_by_name else enum.values[0].name


def _prefix(enum: EnumDescriptor) -> str:
    return str(enum.values[0].name).removesuffix("UNSPECIFIED")
