"""A bound on messages before they are built: how many values a protobuf message holds, found out from its bytes.

Building a message of four megabytes can take ten seconds and gigabytes where it holds millions of empty parts. Counting
stops at the bound, so that it takes milliseconds whatever is sent.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from serving.errors import MalformedRequest

# Values in one message, at most: more than any request needs, as codes and pictures are bytes, and count once each.
MAX_VALUES = 20_000
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_LONGEST_VARINT = 10
_MAX_DEPTH = 16
_CONTINUED = bytes(range(0x80, 0x100))


def check_values(data: bytes, kind: Any) -> None:
    """Raises MalformedRequest where a message of that kind (its descriptor) would hold more than MAX_VALUES values.

    What is no protobuf at all passes: whoever parses it says so.
    """
    if _count(data, 0, len(data), kind, 0, 0) > MAX_VALUES:
        raise MalformedRequest(
            f"The message has more than {MAX_VALUES} values; send fewer, or several messages."
        )


def _count(data: bytes, at: int, end: int, kind: Descriptor, count: int, depth: int) -> int:
    """`count` and the values between two offsets; stops soon after the bound."""
    parts, packed = _length_delimited(kind)
    while at < end and count <= MAX_VALUES:
        tag, at = _varint(data, at, end)
        number, wire_type = tag >> 3, tag & 7
        count += 1
        if wire_type == _LENGTH:
            length, at = _varint(data, at, end)
            if number in parts and depth < _MAX_DEPTH:
                count = _count(data, at, min(at + length, end), parts[number], count, depth + 1)
            elif number in packed:
                count += _count_packed(data, at, min(at + length, end))
            at += length
        elif wire_type == _VARINT:
            _, at = _varint(data, at, end)
        elif wire_type == _FIXED64:
            at += 8
        elif wire_type == _FIXED32:
            at += 4
    return count


def _count_packed(data: bytes, at: int, end: int) -> int:
    """How many numbers one piece holds; of a very long one, the least that there may be."""
    least = (end - at) // _LONGEST_VARINT
    # all bytes of a number but its last one are 128 or more
    return least if least > MAX_VALUES else max(least, len(data[at:end].translate(None, _CONTINUED)))


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """A number and the offset behind it; the end where there is none."""
    value = shift = 0
    while at < end and shift < 7 * _LONGEST_VARINT:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    return value, end


@cache
def _length_delimited(kind: Descriptor) -> tuple[dict[int, Descriptor], frozenset[int]]:
    """The fields that hold messages, by their numbers; and those that hold many numbers in one piece."""
    parts = {field.number: field.message_type for field in kind.fields if field.message_type is not None}
    text = (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)
    packed = {field.number for field in kind.fields if field.is_repeated and field.type not in text}
    return parts, frozenset(packed - parts.keys())
