"""Pickles as files: a plain one, and those that torch wrote before 1.6, with the storages behind them."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from typing import IO, Any

import numpy as np

from indomain.exceptions import InvalidFileError
from indomain.unpickling.downloads import DownloadError
from indomain.unpickling.functions import STORAGES, MakeTensor, as_array, functions_with, make_set
from indomain.unpickling.machine import Machine
from indomain.unpickling.values import Name, Storage, expect, sizes

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # opens a file of torch.save before 1.6
LEGACY_PROTOCOL = 1001
STORAGE_IN_PICKLE = "torch.storage._load_from_bytes"


class Storages:
    """Storages of one file, made when a pickle first mentions them. Together they are no larger than the file."""

    def __init__(self, room: int, content: Callable[[str, int], bytes] | None = None) -> None:
        """`room`: bytes of the file. `content` gives a storage's bytes from its key and size; else they come later."""
        self.room, self.content = room, content
        self.found: dict[str, Storage] = {}

    def find(self, mention: Any) -> Storage:
        """The storage of a persistent id: ("storage", type, key, device, count[, view]). Raises InvalidFileError.

        Old files may name a view of another storage; that is refused.
        """
        kind, dtype_name, key, _, count, *view = expect(mention, tuple, "a storage's name")
        dtype = STORAGES.get(expect(dtype_name, Name, "a storage's type").full)
        key, (count,) = str(expect(key, str, "a storage's key")), sizes((count,))
        if kind != "storage" or dtype is None or any(view):
            raise InvalidFileError("it names something that is not a storage")
        if key not in self.found:
            numpy_dtype = np.dtype("uint16" if dtype == "bfloat16" else dtype)
            room = count * numpy_dtype.itemsize
            self.room -= room
            if self.room < 0:
                raise InvalidFileError("its tensors are larger than the file")
            self.found[key] = Storage(np.empty(count, numpy_dtype), dtype)
            if self.content:
                self.fill(key, self.content(key, room))
        return self.found[key]

    def fill(self, key: str, content: bytes) -> None:
        """Copy a storage's bytes, little-endian, into it."""
        values = self.found[key].values
        if len(content) != values.nbytes:
            raise InvalidFileError(
                f"storage {key!r} should have {values.nbytes} bytes and has {len(content)}"
            )
        if content:
            values.view(np.uint8)[:] = np.frombuffer(content, np.uint8)


def make_storage(content: Any) -> Storage:
    """A storage within a plain pickle: the bytes of a small file of torch's older kind. Raises InvalidFileError."""
    stream = io.BytesIO(expect(content, bytes, "a storage's bytes"))
    storage: Storage = expect(
        read_pickle(stream, len(stream.getvalue()), as_array, nested=True), Storage, "a storage"
    )
    return storage


def read_pickle(stream: IO[bytes], size: int, make: MakeTensor, *, nested: bool = False) -> Any:
    """Read a plain pickle of `size` bytes, or a file of torch before 1.6: several pickles, then the storages.

    `make` makes its tensors. A `nested` one is a storage within a pickle, and may hold no further one.

    Raises InvalidFileError.
    """
    storages = Storages(size)
    functions = functions_with(make) | ({} if nested else {STORAGE_IN_PICKLE: make_storage})
    machine = Machine(functions, storages.find, size)
    value = machine.run(stream)
    if not (isinstance(value, int) and value == LEGACY_MAGIC):
        if storages.found:
            raise InvalidFileError("it names storages that it does not hold")
        return value
    protocol, system = machine.run(stream), machine.run(stream)
    if protocol != LEGACY_PROTOCOL or expect(system, dict, "system").get("little_endian") is not True:
        raise InvalidFileError("it was saved by an unknown version of torch, or on a big-endian machine")
    value, keys = machine.run(stream), expect(machine.run(stream), list, "storage keys")
    if set(make_set(keys)) != storages.found.keys():
        raise InvalidFileError("it names storages that it does not hold")
    for key in keys:
        length = stream.read(8)
        if len(length) < 8:
            raise DownloadError(f"it is cut short before storage {key!r}; download it again")
        (count,) = struct.unpack("<q", length)
        values = storages.found[key].values
        if count != values.size:
            raise InvalidFileError(f"storage {key!r} should have {values.size} numbers and has {count}")
        content = stream.read(values.nbytes)
        if len(content) < values.nbytes:
            raise DownloadError(f"it is cut short within storage {key!r}; download it again")
        storages.fill(key, content)
    return value
