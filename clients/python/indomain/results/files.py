"""Saved results: .npz files with codes and pictures as arrays, all else as JSON in the array `about`, no pickles."""

from __future__ import annotations

import json
import os
import types
import typing
import zipfile
import zlib
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from PIL import Image

from indomain.exceptions import InvalidFileError
from indomain.wire.codes import CodeArray

_FORMAT: Final = 1
# The gateway forgets handles, and a client cannot be saved.
_NOT_SAVED: Final = ("handle", "source_handle", "_edit")

# What bad bytes raise in numpy and json.
_NO_FILE_OF_OURS: Final = (
    ValueError,
    KeyError,
    TypeError,
    EOFError,
    AttributeError,
    IndexError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
)

# What a kind of result was called in the files of earlier versions.
_FORMER_KINDS: Final = {"Between": "InterpolationFrame"}


def save(result: Any, file: str | os.PathLike[str] | BinaryIO) -> None:
    """Writes a result, which is a dataclass with a picture `image`; into a file named .npy only its code.

    Raises OSError; ValueError for the name of a picture.
    """
    if isinstance(file, (str, os.PathLike)) and Path(file).suffix.lower() in Image.registered_extensions():
        raise ValueError(
            f"{os.fspath(file)} is the name of a picture; a result is saved as .npz, its code as .npy, and its picture "
            "with result.image.save(...)"
        )
    if isinstance(file, (str, os.PathLike)) and Path(file).suffix.lower() == ".npy":
        np.save(file, result.code)
        return
    arrays: dict[str, Any] = {}
    facts: dict[str, Any] = {}
    for field in fields(result):
        value = getattr(result, field.name)
        if field.name in _NOT_SAVED:
            continue
        if isinstance(value, (np.ndarray, Image.Image)):
            arrays[field.name] = np.asarray(value)
        else:
            facts[field.name] = (
                asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
            )
    about = {
        "format": _FORMAT,
        "kind": _kind(type(result)),
        "resolution": result.image.height,
        "facts": facts,
    }
    with Path(file).open("wb") if isinstance(file, (str, os.PathLike)) else nullcontext(file) as target:
        np.savez_compressed(target, about=np.array(json.dumps(about, default=asdict)), **arrays)


def load(kind: type, file: str | os.PathLike[str] | BinaryIO) -> dict[str, Any]:
    """Reads the fields of a result of class `kind` from a file. Raises OSError, InvalidFileError."""
    try:
        with np.load(file, allow_pickle=False) as stored:
            about = json.loads(str(stored["about"]))
            arrays = {name: stored[name] for name in stored.files if name != "about"}
        facts = about["facts"]
    except _NO_FILE_OF_OURS as error:
        why = "it is no .npz of this package; indomain.load_code reads codes alone"
        raise _invalid(kind, file, why) from error
    found = about.get("kind")
    found = _FORMER_KINDS.get(str(found), found)
    if about.get("format") != _FORMAT or found != _kind(kind):
        raise _invalid(kind, file, f"it holds {found!r} in format {about.get('format')!r}, not {_FORMAT}")
    hints = typing.get_type_hints(kind)
    try:
        values = {name: _value(fact, hints[name]) for name, fact in facts.items()}
        return values | {name: _array(array, hints[name]) for name, array in arrays.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise _invalid(kind, file, f"its {error} does not fit") from error


def saved_code(file: Path) -> tuple[CodeArray, str, str] | None:
    """The code of a saved result of whatever kind, its bundle and its code space; None for any other file.

    Raises OSError.
    """
    try:
        with np.load(file, allow_pickle=False) as stored:
            facts = json.loads(str(stored["about"]))["facts"]
            return stored["code"].astype(np.float32, casting="no"), facts["bundle"], facts["code_space"]
    except _NO_FILE_OF_OURS:
        return None


def _kind(cls: type) -> str:
    return cls.__name__.removeprefix("Async")


def _value(fact: Any, hint: Any) -> Any:
    """A value of the JSON as its field's type `hint`: JSON has neither dataclasses nor tuples."""
    # `X | None` is the only union among the fields.
    if isinstance(hint, types.UnionType):
        hint = typing.get_args(hint)[0]
    if isinstance(fact, list):
        return tuple(_value(item, typing.get_args(hint)[0]) for item in fact)
    if isinstance(fact, Mapping) and is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        return hint(**{name: _value(value, hints[name]) for name, value in fact.items()})  # type: ignore[operator]
    return fact


def _array(array: np.ndarray[Any, Any], hint: Any) -> Any:
    if Image.Image not in (typing.get_args(hint) or (hint,)):
        return array.astype(np.float32, casting="no")
    return Image.fromarray(array.astype(np.uint8, casting="no"))


def _invalid(kind: type, file: object, why: str) -> InvalidFileError:
    name = os.fspath(file) if isinstance(file, (str, os.PathLike)) else "the file"
    return InvalidFileError(f"{name} is no saved {_kind(kind)}: {why}", reason="invalid_file")
