"""Messages as JSON, read strictly: unknown fields are refused by name, and the number of values is bounded first."""

from __future__ import annotations

import asyncio
import json
from typing import TypeVar

from google.protobuf.message import Message

from indomain.wire.json import message_from_json, message_to_json
from serving.errors import MalformedRequest

MessageT = TypeVar("MessageT", bound=Message)

# Values in one body, at most. Pictures and codes are one string each, so that no honest request comes near.
MAX_VALUES = 20_000
# Reading more than this would hold up the event loop for milliseconds.
_SMALL_BYTES = 256 * 1024


def read_json(kind: type[MessageT], content: bytes | str) -> MessageT:
    """The message that a JSON text holds. Raises MalformedRequest."""
    _check_size(content)
    try:
        return message_from_json(json.loads(content), kind, ignore_unknown_fields=False)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise MalformedRequest(f"The JSON cannot be read: {reason[:400]}; /docs has the schema.") from None


async def read_json_aside(kind: type[MessageT], content: bytes | str) -> MessageT:
    """The same. A large one is read in a thread of its own."""
    if len(content) <= _SMALL_BYTES:
        return read_json(kind, content)
    return await asyncio.to_thread(read_json, kind, content)


def write_json(message: Message) -> str:
    """A message as a JSON text."""
    return json.dumps(message_to_json(message), ensure_ascii=False, separators=(",", ":"))


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
