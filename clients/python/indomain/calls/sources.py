"""Sources of an edit, and how the codes among them are named: by their values or by the gateway's handle."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, Protocol, TypeAlias, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt
from google.protobuf.message import Message

from indomain.v1 import editing_pb2
from indomain.wire.codes import CodeArray, code_to_wire
from indomain.wire.pictures import PictureLike, is_picture, picture_to_wire


@runtime_checkable
class HasCode(Protocol):
    """What a source needs of a result: a code float32 [L, 512], and whose it is. It may have a `handle` too."""

    @property
    def bundle(self) -> str: ...

    @property
    def code(self) -> CodeArray: ...

    @property
    def code_space(self) -> str: ...


EditSource: TypeAlias = PictureLike | CodeArray | HasCode
"""A picture, which is inverted first; or a code float32 [L, 512], alone or within a result."""

Codes: TypeAlias = npt.ArrayLike | HasCode | Sequence[npt.ArrayLike | HasCode]
"""Codes float32 [L, 512] or [N, L, 512], results that have one, or several of these."""

# In place of a source, within a session: the source that the session has.
SAME_SOURCE: Final[Any] = object()

_Sourced = TypeVar("_Sourced", editing_pb2.EditRequest, editing_pb2.Source)


def put_source(message: _Sourced, source: EditSource) -> _Sourced:
    """Puts a source into a message and returns the message.

    Raises:
        OSError, TypeError, ValueError: `source` cannot be read, or is neither picture nor code.
    """
    if source is SAME_SOURCE:
        return message
    if isinstance(source, HasCode):
        message.code.CopyFrom(_named_code(source))
        message.code.handle = getattr(source, "handle", "")
    elif is_picture(source):
        message.picture.CopyFrom(picture_to_wire(source))
    else:
        message.code.CopyFrom(_code_to_wire(source))
    return message


def codes_to_wire(codes: Codes) -> list[editing_pb2.Code]:
    """The messages of one code or several. Raises TypeError for what is none."""
    each: Any = codes if isinstance(codes, Sequence) and not isinstance(codes, (str, bytes)) else [codes]
    return [_named_code(code) if isinstance(code, HasCode) else code_to_wire(code) for code in each]


def _named_code(source: HasCode) -> editing_pb2.Code:
    """The message of a result's code, with the space that it is of."""
    message = code_to_wire(source.code)
    message.space = source.code_space
    return message


def _code_to_wire(source: object) -> editing_pb2.Code:
    array = np.asarray(source)
    if not np.issubdtype(array.dtype, np.floating):
        raise TypeError(
            "what is edited is a picture (path, bytes, PIL image, uint8 array), a floating-point code [L, 512] or "
            f"a result of invert or edit, not {type(source).__name__}"
        )
    return code_to_wire(array)


def bundle_of(bundle: str, *sources: EditSource) -> str:
    """`bundle` where it is not empty, otherwise that of the first source that is a result; empty without one."""
    return bundle or next((source.bundle for source in sources if isinstance(source, HasCode)), "")


def has_handles(request: Message) -> bool:
    """Whether the gateway has given a handle for a code of the request."""
    return any(code.handle for code in _codes_in(request))


def name_codes(request: Message, *, by_handle: bool) -> None:
    """Removes from each code that has a handle either the values or the handle."""
    for code in _codes_in(request):
        if code.handle:
            for field in ("data", "shape") if by_handle else ("handle",):
                code.ClearField(field)


def _codes_in(request: Message) -> Iterator[editing_pb2.Code]:
    for field, value in request.ListFields():
        if isinstance(value, editing_pb2.Code):
            yield value
        elif isinstance(value, editing_pb2.Source):
            yield from _codes_in(value)
        elif field.message_type is editing_pb2.Source.DESCRIPTOR:
            for source in value:
                yield from _codes_in(source)
