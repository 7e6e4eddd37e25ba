"""Files of others that hold tensors: torch's zips and older files, pickles, .npy, .npz."""

from __future__ import annotations

import io
import math
import struct
import tokenize
import zipfile
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from indomain.exceptions import InvalidFileError
from indomain.unpickling.downloads import HEAD, DownloadError, about_text, refuse_other_kinds
from indomain.unpickling.functions import MakeTensor, as_array, functions_with
from indomain.unpickling.machine import Machine
from indomain.unpickling.pickles import Storages, read_pickle
from indomain.unpickling.values import Array, expect

ADVICE = "if you trust the file, load it with the code that wrote it and save its state dict as .safetensors"
MOST_UNPACKED = 64 << 20  # bytes of a compressed .npz's arrays
# What bad bytes raise in the standard library and numpy; MemoryError for sizes that no machine has.
BAD_BYTES = (
    ValueError, TypeError, KeyError, IndexError, AttributeError, EOFError, OverflowError, MemoryError, RuntimeError,
    OSError, AssertionError, SyntaxError, struct.error, tokenize.TokenError, zipfile.BadZipFile,
)  # fmt: skip


def read_checkpoint(file: Path, make: MakeTensor = as_array) -> Any:
    """Read what a checkpoint file holds: dicts, lists, numbers, tensors, `Array`s and `Record`s.

    `make` makes its tensors: arrays of numpy if left out.

    Raises:
        InvalidFileError: the file is broken, or asks for anything but data.
        DownloadError: a kind of it; the file is cut short, empty, or a web page or a pointer instead.
        FileNotFoundError: it is missing.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file} is not a file")
    try:
        with file.open("rb") as stream:
            return read_stream(stream, make)
    except DownloadError as error:
        raise DownloadError(f"{file} was refused: {error}") from None
    except InvalidFileError as error:
        raise InvalidFileError(f"{file} was refused: {error}; {ADVICE}") from None
    except BAD_BYTES as error:
        what = str(error)[:200] or type(error).__name__
        raise InvalidFileError(
            f"{file} was refused: it is broken or of no known kind ({what}); {ADVICE}"
        ) from None


def read_stream(stream: IO[bytes], make: MakeTensor) -> Any:
    """Read by the kind that the first bytes tell."""
    head, size = stream.read(HEAD), stream.seek(0, io.SEEK_END)
    refuse_other_kinds(head, size)
    stream.seek(0)
    if head.startswith(b"PK"):
        return read_zip(stream, size, make)
    if head.startswith(npy.MAGIC_PREFIX):
        return read_npy(stream, size, make)
    # A length in eight bytes, then JSON.
    if head[8:9] == b"{":
        raise InvalidFileError("it is .safetensors, which is not read here")
    try:
        return read_pickle(stream, size, make)
    except (DownloadError, *BAD_BYTES) as error:
        unsafe = isinstance(error, InvalidFileError) and not isinstance(error, DownloadError)
        if not unsafe and (about := about_text(head)):
            raise DownloadError(about) from None
        raise


def read_zip(stream: IO[bytes], size: int, make: MakeTensor) -> Any:
    """Read a zip: of torch.save since 1.6, or of numpy's arrays (.npz). Raises InvalidFileError, DownloadError."""
    try:
        archive = zipfile.ZipFile(stream)
    except zipfile.BadZipFile:
        raise DownloadError(
            f"it is a zip without its end, cut short after {size} bytes; download it again"
        ) from None
    with archive:
        names = archive.namelist()
        if not names:
            raise DownloadError("it is a zip with nothing in it; save or download it again")
        if all(name.endswith(".npy") for name in names):
            return read_npz(archive, size, make)
        return read_torch_zip(archive, size, make)


def read_npz(archive: zipfile.ZipFile, size: int, make: MakeTensor) -> dict[str, Any]:
    """Read a file of numpy.savez: arrays by their names, at most MOST_UNPACKED bytes. Raises InvalidFileError."""
    entries = archive.infolist()
    if sum(entry.file_size for entry in entries) > max(size, MOST_UNPACKED):
        raise InvalidFileError("its entries are larger than any latents or directions")
    arrays = {}
    for entry in entries:
        content = archive.read(entry)
        arrays[entry.filename.removesuffix(".npy")] = read_npy(io.BytesIO(content), len(content), make)
    return arrays


def read_torch_zip(archive: zipfile.ZipFile, size: int, make: MakeTensor) -> Any:
    """Read a file of torch.save since 1.6: a zip, nothing compressed, of data.pkl and one entry a storage.

    Raises InvalidFileError.
    """
    entries = {entry.filename: entry for entry in archive.infolist()}
    check_entries(archive.infolist(), size)
    pickles = [name for name in entries if PurePosixPath(name).name == "data.pkl"]
    if len(pickles) != 1 or any(PurePosixPath(name).name == "constants.pkl" for name in entries):
        raise InvalidFileError(
            "it is a zip, but not one of torch.save with a state dict (TorchScript is code); "
            f"it holds {list(entries)[:5]}"
        )
    folder = PurePosixPath(pickles[0]).parent
    order = str(folder / "byteorder")
    if order in entries and archive.read(order) != b"little":
        raise InvalidFileError("it was saved on a big-endian machine")

    def content(key: str, count: int) -> bytes:
        entry = entries.get(str(folder / "data" / key))
        if entry is None or entry.file_size != count:
            raise InvalidFileError(f"storage {key[:40]!r} is missing or not of {count} bytes")
        return archive.read(entry)

    machine = Machine(functions_with(make), Storages(size, content).find, size)
    return machine.run(io.BytesIO(archive.read(pickles[0])))


def check_entries(entries: list[zipfile.ZipInfo], size: int) -> None:
    """Raise InvalidFileError for what torch never writes.

    That is entries that are compressed (a bomb), encrypted, there twice, overlapping, or with a path out of the file.
    """
    names = [entry.filename for entry in entries]
    if len(set(names)) != len(names):
        raise InvalidFileError("it has two entries of one name")
    if sum(entry.file_size for entry in entries) > size:
        raise InvalidFileError("its entries are larger than the file")
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise InvalidFileError(f"its entry {entry.filename[:100]!r} is compressed")
        if entry.flag_bits & 1:
            raise InvalidFileError(f"its entry {entry.filename[:100]!r} is encrypted")
        path = PurePosixPath(entry.filename.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts:
            raise InvalidFileError(f"its entry {entry.filename[:100]!r} points out of the file")


def read_npy(stream: IO[bytes], size: int, make: MakeTensor) -> Any:
    """Read a .npy file: an array of numbers as an ndarray, one of objects as their list. Raises InvalidFileError."""
    try:
        version = npy.read_magic(stream)
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read_header(stream)
    except ValueError as error:
        if str(error).startswith("EOF"):
            raise DownloadError("its header is cut short; download it again") from None
        raise
    if dtype.hasobject:
        return expect(read_pickle(stream, size, make), Array, "an array").value
    if math.prod(shape) * dtype.itemsize > size - stream.tell():
        raise DownloadError("its array is larger than the file, which is cut short; download it again")
    stream.seek(0)
    return np.load(stream, allow_pickle=False)
