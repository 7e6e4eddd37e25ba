"""Messages as JSON, read strictly: unknown fields are refused by name, and the number of values is bounded first.

Large pictures are written piece by piece: as a text, one of 36 MB would take five times its size for a while.
"""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
from collections.abc import Iterator
from typing import Any, TypeVar

from google.protobuf.message import Message

from indomain.wire.json import message_from_json, message_to_json
from serving.errors import MalformedRequest

MessageT = TypeVar("MessageT", bound=Message)

# Values in one body, at most. Pictures and codes are one string each, so that no honest request comes near.
MAX_VALUES = 20_000
# Reading more than this would hold up the event loop for milliseconds.
_SMALL_BYTES = 256 * 1024
# Longer fields of bytes are turned into base64 in pieces of this; a multiple of 3, as padding may only come last.
LARGE_BYTES = 3 * 64 * 1024


def read_json(kind: type[MessageT], content: bytes | str) -> MessageT:
    """The message that a JSON text holds. Raises MalformedRequest."""
    _check_size(content)
    try:
        text = content if isinstance(content, str) else content.decode("utf-8-sig")
        values = json.loads(text, object_pairs_hook=_without_repeats)
        if "\\u" in text:
            # raises UnicodeEncodeError at half of a surrogate pair, which protobuf cannot look up
            json.dumps(values, ensure_ascii=False).encode()
        # a large one is not needed twice
        del text
        return message_from_json(values, kind, ignore_unknown_fields=False)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)[:400]
        raise MalformedRequest(f"The JSON cannot be read: {reason}; /docs has the schema.") from None


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The members of a JSON object. Raises ValueError where a name comes twice: one of its values would be lost."""
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise ValueError(f"{name[:80]} comes more than once")
        values[name] = value
    return values


async def read_json_aside(kind: type[MessageT], content: bytes | str) -> MessageT:
    """The same. A large one is read in a thread of its own."""
    if len(content) <= _SMALL_BYTES:
        return read_json(kind, content)
    return await asyncio.to_thread(read_json, kind, content)


def write_json(message: Message) -> str:
    """A message as a JSON text."""
    return json.dumps(message_to_json(message), ensure_ascii=False, separators=(",", ":"))


class JsonPieces:
    """A message as a JSON text in UTF-8, piece by piece. Takes large fields of bytes out of the message.

    size: how many bytes the pieces have together. large: whether anything was taken out.
    """

    def __init__(self, message: Message) -> None:
        taken: dict[str, bytes] = {}
        _take_large(message, taken)
        self.large = bool(taken)
        text = write_json(message)
        self._parts: list[str | bytes] = []
        # Fields come in the order of the text, each once.
        for mark, content in taken.items():
            before, _, text = text.partition(mark)
            self._parts += [before, content]
        self._parts.append(text)
        self.size = sum(
            len(part.encode()) if isinstance(part, str) else -(-len(part) // 3) * 4 for part in self._parts
        )

    def __iter__(self) -> Iterator[bytes]:
        for part in self._parts:
            if isinstance(part, str):
                yield part.encode()
            else:
                view = memoryview(part)
                for start in range(0, len(part), LARGE_BYTES):
                    yield base64.b64encode(view[start : start + LARGE_BYTES])


def _take_large(message: Any, taken: dict[str, bytes]) -> None:
    """Puts a mark in place of each large field of bytes, and adds what was there to `taken`, by the mark's base64."""
    for field, value in message.ListFields():
        if field.type == field.TYPE_BYTES and not field.is_repeated and len(value) > LARGE_BYTES:
            mark = secrets.token_bytes(24)
            taken[base64.b64encode(mark).decode()] = value
            setattr(message, field.name, mark)
        elif field.type == field.TYPE_MESSAGE and not field.message_type.GetOptions().map_entry:
            for part in value if field.is_repeated else (value,):
                _take_large(part, taken)


def _check_size(content: bytes | str) -> None:
    """Counts what separates values, before any of them is built. Raises MalformedRequest."""
    if isinstance(content, bytes):
        count = content.count(b",") + content.count(b"[") + content.count(b"{")
    else:
        count = content.count(",") + content.count("[") + content.count("{")
    if count > MAX_VALUES:
        raise MalformedRequest(
            f"The JSON has more than {MAX_VALUES} values; send codes and pictures in base64, as /docs says."
        )
