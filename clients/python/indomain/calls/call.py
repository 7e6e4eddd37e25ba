"""A call that is ready to be sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

_Response = TypeVar("_Response", bound=Message)


@dataclass(frozen=True)
class Call(Generic[_Response]):
    """One call; `_Response` is the type of its answer, or of each answer of a stream.

    Attributes:
        method: its name in the contract, e.g. `"Invert"`.
        request: the method's message of the contract. A code in it that the gateway has a handle for has both, handle
            and values; each attempt sends one of them. Where it names no format for pictures, the client fills in its
            own.
        timeout_s: seconds for the call; None: the client's limit.
    """

    method: str
    request: Any
    timeout_s: float | None
