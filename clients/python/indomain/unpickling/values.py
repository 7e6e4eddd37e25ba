"""The values that a checkpoint file may hold, besides numbers, text, tensors and plain containers."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import UnionType
from typing import Any

import numpy as np

from indomain.exceptions import InvalidFileError

MOST_AXES = 8
DTYPES = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "O", "O8")


@dataclass(frozen=True)
class Name:
    """The full name of a global that a pickle mentions. It is never imported."""

    full: str


@dataclass
class Record:
    """A stand-in for an object of a class that is not ours: its class's name and its fields. It does nothing."""

    kind: str
    fields: dict[str, Any] = field(default_factory=dict)

    def fill(self, state: Any) -> None:
        """Pickle's BUILD: fields, or (fields, fields in slots). A state of another form is dropped."""
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, dict):
                self.fields.update(part)


@dataclass
class Storage:
    """The numbers that tensors are views of: an array of one axis. numpy has no bfloat16: its bits are uint16 there."""

    values: np.ndarray[Any, Any]
    dtype: str


@dataclass
class Dtype:
    """A numpy dtype: its code; the byte order follows with BUILD."""

    code: str
    order: str = "<"

    def fill(self, state: Any) -> None:
        """Pickle's BUILD: (version, byte order, ...)."""
        self.order = str(expect(state, tuple, "a dtype's state")[1])

    def numpy(self) -> np.dtype[Any]:
        """The dtype itself, of plain numbers or of objects. Raises InvalidFileError for any other."""
        if self.code not in DTYPES:
            raise InvalidFileError(f"it holds an array of dtype {self.code!r}")
        return np.dtype("O") if self.code.startswith("O") else np.dtype(self.code).newbyteorder(self.order)  # type: ignore[arg-type]


@dataclass
class Array:
    """A numpy array, filled by BUILD: `value` is an ndarray of numbers, or the list of an array of objects."""

    value: Any = None

    def fill(self, state: Any) -> None:
        """Pickle's BUILD: (version, shape, dtype, column-major, bytes or list of objects)."""
        _, shape, dtype, column_major, content = expect(state, tuple, "an array's state")
        kind, shape = expect(dtype, Dtype, "dtype").numpy(), sizes(shape)
        if kind.hasobject:
            self.value = list(expect(content, list, "an array's objects"))
            return
        # Python 2 pickled bytes as text.
        content = content.encode("latin-1") if isinstance(content, str) else content
        numbers = np.frombuffer(expect(content, bytes | bytearray, "an array's bytes"), kind)
        self.value = numbers.reshape(shape, order="F" if column_major else "C").copy()


def expect(value: Any, kind: type | UnionType, what: str) -> Any:
    """Return the value if it is of that type. Raises InvalidFileError that says `what` should be there."""
    if not isinstance(value, kind):
        raise InvalidFileError(f"it has {type(value).__name__} where {what} should be")
    return value


def sizes(values: Any) -> tuple[int, ...]:
    """A shape, or strides, as a tuple: a few whole numbers, none negative. Raises InvalidFileError."""
    numbers = tuple(expect(values, list | tuple, "a shape"))
    if len(numbers) > MOST_AXES or not all(isinstance(n, int) and n >= 0 for n in numbers):
        raise InvalidFileError("it has a shape that no tensor has")
    return numbers


def put_items(target: dict[Any, Any], items: list[Any]) -> None:
    """Put alternating keys and values into a dict."""
    target.update(zip(map(simple, items[::2]), items[1::2], strict=True))


def simple(key: Any) -> Any:
    """Return a key of a dict if it is a word, a number or a flat tuple of these; for a stand-in its class's name.

    The hash of a deeply nested key would overflow the C stack. Raises InvalidFileError.
    """
    if isinstance(key, Name | Record):
        return key.full if isinstance(key, Name) else key.kind
    plain = str | bytes | int | float | None
    if not isinstance(key, plain) and not (
        isinstance(key, tuple) and all(isinstance(part, plain) for part in key)
    ):
        raise InvalidFileError(f"it has a {type(key).__name__} as a dict's key")
    return key
