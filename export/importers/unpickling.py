"""Reads foreign checkpoints as data: torch's zips and older files, pickles, .npy, safetensors. Nothing of theirs runs.

A pickle is a program for a stack machine, whose instructions include "import this" and "call that". The machine here
imports nothing: a name stays a name, and a call is looked up in `FUNCTIONS`, a short table of functions of our own
that make tensors, arrays and plain containers. Whatever is not in that table is refused. What the tensors mean is for
`export/importers/`.
"""

from __future__ import annotations

import io
import math
import pickletools
import struct
import tokenize
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import UnionType
from typing import IO, Any

import numpy as np
import torch
from numpy.lib import format as npy
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from training.run_folders.checkpoint import CheckpointError

ADVICE = "if you trust the file, load it with the code that wrote it and save its state dict as .safetensors"
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # opens a file of torch.save before 1.6
LEGACY_PROTOCOL = 1001
MOST_AXES = 8
CALLS_A_BYTE = 8  # times that a pickle may use each of its bytes in calls
STORAGE_IN_PICKLE = "torch.storage._load_from_bytes"
STORAGES = {
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}
# what bad bytes raise in the standard library, numpy and torch; MemoryError for sizes that no machine has
BAD_BYTES = (
    ValueError, TypeError, KeyError, IndexError, AttributeError, EOFError, OverflowError, MemoryError, RuntimeError,
    OSError, AssertionError, SyntaxError, struct.error, tokenize.TokenError, zipfile.BadZipFile, SafetensorError,
)  # fmt: skip


def read_checkpoint(file: Path) -> Any:
    """What a checkpoint file holds: dicts, lists, numbers, tensors, `Array`s and `Record`s.

    Raises CheckpointError for a file that is broken, or asks for anything but data; FileNotFoundError if it is missing.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file} is not a file")
    try:
        with file.open("rb") as stream:
            return read_stream(stream, file)
    except CheckpointError as error:
        raise CheckpointError(f"{file} was refused: {error}; {ADVICE}") from None
    except BAD_BYTES as error:
        what = str(error)[:200] or type(error).__name__
        raise CheckpointError(
            f"{file} was refused: it is broken or of no known kind ({what}); {ADVICE}"
        ) from None


def read_stream(stream: IO[bytes], file: Path) -> Any:
    """By the file's first bytes, its kind; `file` is for safetensors, which wants a path."""
    head, size = stream.read(9), stream.seek(0, io.SEEK_END)
    stream.seek(0)
    if head.startswith(b"PK"):
        return read_torch_zip(stream, size)
    if head.startswith(npy.MAGIC_PREFIX):
        return read_npy(stream, size)
    if head.endswith(b"{"):  # a length in eight bytes, then JSON
        return load_file(file)
    return read_pickle(stream, size)


# --- the values that a file may hold ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Name:
    """A global that a pickle mentions, by its full name. It is never imported."""

    full: str


@dataclass
class Record:
    """An object of a class that is not ours, as it was written: what it was, and its fields. It does nothing."""

    kind: str
    fields: dict[str, Any] = field(default_factory=dict)

    def fill(self, state: Any) -> None:
        """Pickle's BUILD."""
        self.fields.update(expect(state, dict, "fields"))


@dataclass
class Storage:
    """Numbers behind tensors: a tensor of one axis."""

    values: Tensor


@dataclass
class Dtype:
    """A numpy dtype on its way: the code, then the byte order."""

    code: str
    order: str = "<"

    def fill(self, state: Any) -> None:
        """Pickle's BUILD: (version, byte order, ...)."""
        self.order = str(expect(state, tuple, "a dtype's state")[1])

    def numpy(self) -> np.dtype[Any]:
        """The dtype of plain numbers, or of objects."""
        if self.code not in (
            "b1",
            "i1",
            "i2",
            "i4",
            "i8",
            "u1",
            "u2",
            "u4",
            "u8",
            "f2",
            "f4",
            "f8",
            "O",
            "O8",
        ):
            raise CheckpointError(f"it holds an array of dtype {self.code!r}")
        return np.dtype("O") if self.code.startswith("O") else np.dtype(self.code).newbyteorder(self.order)  # type: ignore[arg-type]


@dataclass
class Array:
    """A numpy array on its way: `value` is an ndarray of numbers, or, of an array of objects, their list."""

    value: Any = None

    def fill(self, state: Any) -> None:
        """Pickle's BUILD: (version, shape, dtype, column-major, bytes or list of objects)."""
        _, shape, dtype, column_major, content = expect(state, tuple, "an array's state")
        kind, shape = expect(dtype, Dtype, "dtype").numpy(), sizes(shape)
        if kind.hasobject:
            self.value = list(expect(content, list, "an array's objects"))
            return
        content = (
            content.encode("latin-1") if isinstance(content, str) else content
        )  # text: pickled by Python 2
        numbers = np.frombuffer(expect(content, bytes | bytearray, "an array's bytes"), kind)
        self.value = numbers.reshape(shape, order="F" if column_major else "C").copy()


def expect(value: Any, kind: type | UnionType, what: str) -> Any:
    """The value, if it is of that type."""
    if not isinstance(value, kind):
        raise CheckpointError(f"it has {type(value).__name__} where {what} should be")
    return value


def sizes(values: Any) -> tuple[int, ...]:
    """Sizes or strides: a few whole numbers, none negative."""
    numbers = tuple(expect(values, list | tuple, "a shape"))
    if len(numbers) > MOST_AXES or not all(isinstance(n, int) and n >= 0 for n in numbers):
        raise CheckpointError("it has a shape that no tensor has")
    return numbers


# --- the functions that a file may name: ours, by the names of those they stand for -----------------------------------


def make_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    """A view of a storage; one that shows more elements than there are would be a bomb."""
    values = expect(storage, Storage, "a storage").values
    size, stride, (offset,) = sizes(size), sizes(stride), sizes((offset,))
    if math.prod(size) > values.numel():
        raise CheckpointError(f"it has a tensor of shape {size} on {values.numel()} numbers")
    return values.as_strided(size, stride, offset)


def make_storage(content: Any) -> Storage:
    """A storage within a plain pickle: the bytes of a small file of torch's older kind."""
    stream = io.BytesIO(expect(content, bytes, "a storage's bytes"))
    storage = read_pickle(stream, len(stream.getvalue()), nested=True)
    return expect(storage, Storage, "a storage")


def make_dict(items: Any = ()) -> dict[Any, Any]:
    """Any kind of dict."""
    filled: dict[Any, Any] = {}
    put_items(filled, [value for pair in items for value in expect(pair, list | tuple, "a pair")])
    return filled


def make_set(items: Any = ()) -> set[Any]:
    """Any kind of set."""
    return {simple(item) for item in items}


def make_scalar(dtype: Any, content: Any) -> Any:
    """A number of numpy's as one of Python's."""
    content = content.encode("latin-1") if isinstance(content, str) else content
    return np.frombuffer(expect(content, bytes, "a number's bytes"), expect(dtype, Dtype, "dtype").numpy())[
        0
    ].item()


def make_array(content: Any, dtype: Any, shape: Any, order: Any) -> Array:
    """An array as protocol 5 writes it."""
    array = Array()
    array.fill((1, shape, dtype, order == "F", content))
    return array


def make_bytes(text: Any, encoding: Any) -> bytes:
    """Bytes that an old protocol wrote as text."""
    if encoding not in ("latin1", "latin-1"):
        raise CheckpointError(f"it has bytes encoded as {str(encoding)[:40]!r}")
    return str(expect(text, str, "text")).encode("latin-1")


def make_persistent(meta: Any) -> Record:
    """NVIDIA's persistent object: its class's name and state. The source code that came with it is dropped."""
    return Record(
        str(expect(meta, dict, "an object")["class_name"]), dict(expect(meta["state"], dict, "a state"))
    )


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": make_dict,
    "dnnlib.EasyDict": make_dict,
    "dnnlib.util.EasyDict": make_dict,
    "builtins.set": make_set,
    "__builtin__.set": make_set,
    "argparse.Namespace": lambda: Record("Namespace"),
    "torch.Size": tuple,
    "torch.device": lambda *_: "device",
    "torch._utils._rebuild_tensor_v2": make_tensor,
    "torch._utils._rebuild_parameter": lambda data, *_: expect(data, Tensor, "a tensor"),
    STORAGE_IN_PICKLE: make_storage,
    "numpy.dtype": lambda code, *_: Dtype(str(code)),
    "numpy.core.multiarray._reconstruct": lambda *_: Array(),
    "numpy._core.multiarray._reconstruct": lambda *_: Array(),
    "numpy.core.numeric._frombuffer": make_array,
    "numpy._core.numeric._frombuffer": make_array,
    "numpy.core.multiarray.scalar": make_scalar,
    "numpy._core.multiarray.scalar": make_scalar,
    "_codecs.encode": make_bytes,
    "torch_utils.persistence._reconstruct_persistent_obj": make_persistent,
}
INNOCENT = {*STORAGES, "numpy.ndarray"}  # may be mentioned, not called


# --- the machine ------------------------------------------------------------------------------------------------------

MARK = object()
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

    def __init__(self, find_storage: Callable[[Any], Storage], room: int, *, nested: bool = False) -> None:
        self.find_storage, self.room = find_storage, CALLS_A_BYTE * room
        self.functions = FUNCTIONS.keys() - ({STORAGE_IN_PICKLE} if nested else set())
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, stream: IO[bytes]) -> Any:
        """Read one pickle from the stream; it is left behind that pickle's end."""
        self.stack, self.memo = [], {}
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name == "STOP":
                break
            self.step(opcode.name, argument)
        return self.pop()

    def step(self, opcode: str, argument: Any) -> None:
        """One instruction."""
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
            expect(self.top(), list, "a list").extend(items)
        elif opcode in ("SETITEM", "SETITEMS"):
            items = self.pop_several(2) if opcode == "SETITEM" else self.pop_marked()
            put_items(expect(self.top(), dict, "a dict"), items)
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
            raise CheckpointError(f"it holds the instruction {opcode}, which no checkpoint needs")

    def name(self, full: str) -> Name:
        """A global: a known name, and no more than that."""
        if full not in self.functions and full not in INNOCENT:
            raise CheckpointError(f"it asks for {full[:100]!r}, which is neither tensors nor plain data")
        return Name(full)

    def call(self, function: Any, arguments: Iterable[Any]) -> Any:
        """Our function of that name."""
        full = expect(function, Name, "a function's name").full
        if full not in self.functions:
            raise CheckpointError(f"it calls {full!r}")
        self.spend(arguments)
        return FUNCTIONS[full](*arguments)

    def spend(self, values: Iterable[Any]) -> None:
        """Account for what a call copies: a short file can ask for one long value again and again."""
        kinds = str | bytes | bytearray | list | tuple | dict | set
        self.room -= sum(len(value) for value in values if isinstance(value, kinds))
        if self.room < 0:
            raise CheckpointError("it asks for far more memory than the file has bytes")

    def build(self, state: Any) -> None:
        """Give an object of ours its state; a dict's attributes (torch's `_metadata`) are of no use here."""
        target = self.top()
        if isinstance(target, Record | Array | Dtype):
            self.spend(state if isinstance(state, tuple) else [state])
            target.fill(state)
        elif not isinstance(target, dict):
            raise CheckpointError(f"it sets the state of a {type(target).__name__}")

    def top(self) -> Any:
        if not self.stack or self.stack[-1] is MARK:
            raise CheckpointError("it takes more from the stack than was put there")
        return self.stack[-1]

    def pop(self) -> Any:
        value = self.top()
        self.stack.pop()
        return value

    def pop_several(self, count: int) -> list[Any]:
        return [self.pop() for _ in range(count)][::-1]

    def pop_marked(self) -> list[Any]:
        """Everything down to the newest mark, which goes too."""
        values = []
        while self.stack and self.stack[-1] is not MARK:
            values.append(self.stack.pop())
        if not self.stack:
            raise CheckpointError("it takes more from the stack than was put there")
        self.stack.pop()
        return values[::-1]


def put_items(target: dict[Any, Any], items: list[Any]) -> None:
    """Alternating keys and values."""
    target.update(zip(map(simple, items[::2]), items[1::2], strict=True))


def simple(key: Any) -> Any:
    """A key of a dict: a word or a number; the hash of a deeply nested one would overflow the C stack."""
    if not isinstance(key, str | bytes | int | float | None):
        raise CheckpointError(f"it has a {type(key).__name__} as a dict's key")
    return key


# --- the files --------------------------------------------------------------------------------------------------------


class Storages:
    """Storages of one file, made when a pickle first mentions them; together no larger than the file."""

    def __init__(self, room: int, content: Callable[[str, int], bytes] | None = None) -> None:
        self.room, self.content = room, content
        self.found: dict[str, Storage] = {}

    def find(self, mention: Any) -> Storage:
        """From a persistent id: ("storage", type, key, device, count), in old files with a view of another."""
        kind, dtype_name, key, _, count, *view = expect(mention, tuple, "a storage's name")
        dtype = STORAGES.get(expect(dtype_name, Name, "a storage's type").full)
        key, (count,) = str(expect(key, str, "a storage's key")), sizes((count,))
        if kind != "storage" or dtype is None or any(view):
            raise CheckpointError("it names something that is not a storage")
        if key not in self.found:
            room = count * dtype.itemsize
            self.room -= room
            if self.room < 0:
                raise CheckpointError("its tensors are larger than the file")
            self.found[key] = Storage(torch.empty(count, dtype=dtype))
            if self.content:
                self.fill(key, self.content(key, room))
        return self.found[key]

    def fill(self, key: str, content: bytes) -> None:
        """Copy a storage's bytes, little-endian, into it."""
        values = self.found[key].values
        if len(content) != values.nbytes:
            raise CheckpointError(f"storage {key!r} should have {values.nbytes} bytes and has {len(content)}")
        if content:
            values.view(torch.uint8).copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))


def read_pickle(stream: IO[bytes], size: int, *, nested: bool = False) -> Any:
    """A plain pickle, or a file of torch's before 1.6: pickles one after the other, then the storages.

    A `nested` one is a storage within a pickle, and may hold no further one.
    """
    storages = Storages(size)
    machine = Machine(storages.find, size, nested=nested)
    value = machine.run(stream)
    if not (isinstance(value, int) and value == LEGACY_MAGIC):
        if storages.found:
            raise CheckpointError("it names storages that it does not hold")
        return value
    protocol, system = machine.run(stream), machine.run(stream)
    if protocol != LEGACY_PROTOCOL or expect(system, dict, "system").get("little_endian") is not True:
        raise CheckpointError("it was saved by an unknown version of torch, or on a big-endian machine")
    value, keys = machine.run(stream), expect(machine.run(stream), list, "storage keys")
    if set(make_set(keys)) != storages.found.keys():
        raise CheckpointError("it names storages that it does not hold")
    for key in keys:
        (count,) = struct.unpack("<q", stream.read(8))
        values = storages.found[key].values
        if count != values.numel():
            raise CheckpointError(f"storage {key!r} should have {values.numel()} numbers and has {count}")
        storages.fill(key, stream.read(values.nbytes))
    return value


def read_torch_zip(stream: IO[bytes], size: int) -> Any:
    """A file of torch.save since 1.6: a zip, nothing compressed, of data.pkl and one entry a storage."""
    with zipfile.ZipFile(stream) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        check_entries(archive.infolist(), size)
        pickles = [name for name in entries if PurePosixPath(name).name == "data.pkl"]
        if len(pickles) != 1 or any(PurePosixPath(name).name == "constants.pkl" for name in entries):
            raise CheckpointError(
                "it is a zip, but not one of torch.save with a state dict (TorchScript is code)"
            )
        folder = PurePosixPath(pickles[0]).parent
        order = str(folder / "byteorder")
        if order in entries and archive.read(order) != b"little":
            raise CheckpointError("it was saved on a big-endian machine")

        def content(key: str, count: int) -> bytes:
            entry = entries.get(str(folder / "data" / key))
            if entry is None or entry.file_size != count:
                raise CheckpointError(f"storage {key[:40]!r} is missing or not of {count} bytes")
            return archive.read(entry)

        machine = Machine(Storages(size, content).find, size, nested=True)
        return machine.run(io.BytesIO(archive.read(pickles[0])))


def check_entries(entries: list[zipfile.ZipInfo], size: int) -> None:
    """Refuse what torch never writes: compressed (a bomb), encrypted, twice, overlapping, or with a path out."""
    names = [entry.filename for entry in entries]
    if len(set(names)) != len(names):
        raise CheckpointError("it has two entries of one name")
    if sum(entry.file_size for entry in entries) > size:
        raise CheckpointError("its entries are larger than the file")
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise CheckpointError(f"its entry {entry.filename[:100]!r} is compressed")
        if entry.flag_bits & 1:
            raise CheckpointError(f"its entry {entry.filename[:100]!r} is encrypted")
        path = PurePosixPath(entry.filename.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts:
            raise CheckpointError(f"its entry {entry.filename[:100]!r} points out of the file")


def read_npy(stream: IO[bytes], size: int) -> Any:
    """An array of numbers as an ndarray; of an array of objects, their list."""
    version = npy.read_magic(stream)
    read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read_header(stream)
    if dtype.hasobject:
        return expect(read_pickle(stream, size), Array, "an array").value
    if math.prod(shape) * dtype.itemsize > size:
        raise CheckpointError("its array is larger than the file")
    stream.seek(0)
    return np.load(stream, allow_pickle=False)
