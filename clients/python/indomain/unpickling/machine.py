"""A stack machine for pickles that imports nothing and calls only functions of ours.

A pickle is a program for a stack machine, whose instructions include "import this" and "call that". Here a name stays a
name, and a call is looked up in the table of functions that the machine is given. An object of a class that is not ours
becomes a `Record`: a stand-in that does nothing.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import IO, Any

from indomain.exceptions import InvalidFileError
from indomain.unpickling.downloads import DownloadError
from indomain.unpickling.functions import MENTIONED, is_inert, make_set
from indomain.unpickling.values import Array, Dtype, Name, Record, Storage, expect, put_items

CALLS_A_BYTE = 8  # times that a pickle may use each of its bytes in calls

MARK = object()
SIZED = (str, bytes, bytearray, list, tuple, dict, set)
PUSHED = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "UNICODE", "BINUNICODE",
    "SHORT_BINUNICODE", "BINUNICODE8",
}  # fmt: skip
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
EMPTY: dict[str, Callable[[], Any]] = {
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}


class Machine:
    """Pickle's stack machine without its two dangerous instructions: it imports nothing, and calls only us."""

    def __init__(
        self,
        functions: Mapping[str, Callable[..., Any]],
        find_storage: Callable[[Any], Storage],
        size: int,
    ) -> None:
        """`functions`: what may be called, by name. `find_storage` takes a persistent id. `size`: bytes of the file."""
        self.functions, self.find_storage = functions, find_storage
        self.room = CALLS_A_BYTE * size
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, stream: IO[bytes]) -> Any:
        """Read one pickle, up to its end in the stream, and return its value. Raises InvalidFileError."""
        self.stack, self.memo = [], {}
        for opcode, argument, _ in instructions(stream):
            if opcode.name == "STOP":
                break
            self.step(opcode.name, argument)
        return self.pop()

    def step(self, opcode: str, argument: Any) -> None:
        """Follow one instruction. Raises InvalidFileError for one that no checkpoint needs."""
        push = self.stack.append
        if opcode in PUSHED:
            push(argument)
        elif opcode in CONSTANTS:
            push(CONSTANTS[opcode])
        elif opcode in EMPTY:
            push(EMPTY[opcode]())
        elif opcode in ("PROTO", "FRAME"):
            pass
        elif opcode == "MARK":
            push(MARK)
        elif opcode == "POP":
            self.stack.pop()
        elif opcode == "POP_MARK":
            self.pop_marked()
        elif opcode == "DUP":
            push(self.top())
        elif opcode in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.top()
        elif opcode == "MEMOIZE":
            self.memo[len(self.memo)] = self.top()
        elif opcode in ("GET", "BINGET", "LONG_BINGET"):
            push(self.memo[argument])
        elif opcode == "LIST":
            push(self.pop_marked())
        elif opcode == "TUPLE":
            push(tuple(self.pop_marked()))
        elif opcode in ("TUPLE1", "TUPLE2", "TUPLE3"):
            push(tuple(self.pop_several(int(opcode[-1]))))
        elif opcode == "DICT":
            filled: dict[Any, Any] = {}
            put_items(filled, self.pop_marked())
            push(filled)
        elif opcode == "FROZENSET":
            push(make_set(self.pop_marked()))
        elif opcode in ("APPEND", "APPENDS"):
            items = [self.pop()] if opcode == "APPEND" else self.pop_marked()
            self.append(items)
        elif opcode in ("SETITEM", "SETITEMS"):
            items = self.pop_several(2) if opcode == "SETITEM" else self.pop_marked()
            target = self.top()
            put_items(target.fields if isinstance(target, Record) else expect(target, dict, "a dict"), items)
        elif opcode == "ADDITEMS":
            items = self.pop_marked()
            expect(self.top(), set, "a set").update(make_set(items))
        elif opcode == "GLOBAL":
            push(self.name(argument.replace(" ", ".", 1)))
        elif opcode == "STACK_GLOBAL":
            push(self.name(".".join(str(expect(part, str, "a name")) for part in self.pop_several(2))))
        elif opcode in ("REDUCE", "NEWOBJ"):
            function, arguments = self.pop_several(2)
            push(self.call(function, expect(arguments, tuple, "arguments")))
        elif opcode == "NEWOBJ_EX":
            function, arguments, keywords = self.pop_several(3)
            if isinstance(function, Name) and function.full in self.functions and keywords:
                raise InvalidFileError(f"it calls {function.full!r} with keywords")
            push(self.call(function, expect(arguments, tuple, "arguments")))
        elif opcode == "OBJ":
            function, *arguments = self.pop_marked()
            push(self.call(function, arguments))
        elif opcode == "INST":
            push(self.call(self.name(argument.replace(" ", ".", 1)), self.pop_marked()))
        elif opcode == "BUILD":
            self.build(self.pop())
        elif opcode == "BINPERSID":
            push(self.find_storage(self.pop()))
        else:
            raise InvalidFileError(f"it holds the instruction {opcode}, which no checkpoint needs")

    def name(self, full: str) -> Name:
        """A global as its name, if that is known or stays inert. Raises InvalidFileError."""
        if full not in self.functions and full not in MENTIONED and not is_inert(full):
            raise InvalidFileError(f"it asks for {full[:100]!r}, which is neither tensors nor plain data")
        return Name(full)

    def call(self, function: Any, arguments: Iterable[Any]) -> Any:
        """Call our function of that name, or make a stand-in for what that would have made. Raises InvalidFileError."""
        full = expect(function, Name, "a function's name").full
        if full not in self.functions and is_inert(full):
            return Record(full)
        if full not in self.functions:
            raise InvalidFileError(f"it calls {full!r}")
        self.spend(arguments)
        return self.functions[full](*arguments)

    def spend(self, values: Iterable[Any]) -> None:
        """Count what a call copies. Raises InvalidFileError.

        A short file can ask for one long value again and again.
        """
        self.room -= sum(len(value) for value in values if isinstance(value, SIZED))
        if self.room < 0:
            raise InvalidFileError("it asks for far more memory than the file has bytes")

    def append(self, items: list[Any]) -> None:
        """Append to the list on top of the stack. A stand-in for some kind of list drops them."""
        if not isinstance(self.top(), Record):
            expect(self.top(), list, "a list").extend(items)

    def build(self, state: Any) -> None:
        """Give an object of ours its state. Attributes of a dict (torch's `_metadata`) or of a list are dropped."""
        target = self.top()
        if isinstance(target, Record | Array | Dtype):
            self.spend(state if isinstance(state, tuple) else [state])
            target.fill(state)
        elif not isinstance(target, dict | list):
            raise InvalidFileError(f"it sets the state of a {type(target).__name__}")

    def top(self) -> Any:
        """The value on top of the stack. Raises InvalidFileError where there is none."""
        if not self.stack or self.stack[-1] is MARK:
            raise InvalidFileError("it takes more from the stack than was put there")
        return self.stack[-1]

    def pop(self) -> Any:
        """Take the value off the stack."""
        value = self.top()
        self.stack.pop()
        return value

    def pop_several(self, count: int) -> list[Any]:
        """Take `count` values off the stack, the deepest first."""
        return [self.pop() for _ in range(count)][::-1]

    def pop_marked(self) -> list[Any]:
        """Take everything off the stack down to the newest mark, and the mark."""
        values = []
        while self.stack and self.stack[-1] is not MARK:
            values.append(self.stack.pop())
        if not self.stack:
            raise InvalidFileError("it takes more from the stack than was put there")
        self.stack.pop()
        return values[::-1]


def instructions(stream: IO[bytes]) -> Iterator[tuple[pickletools.OpcodeInfo, Any, int | None]]:
    """Yield the instructions of one pickle. Raises DownloadError where the stream ends before the pickle does."""
    try:
        yield from pickletools.genops(stream)
    except ValueError:
        if stream.read(1) == b"":
            raise DownloadError("its pickle is cut short; download it again") from None
        raise
