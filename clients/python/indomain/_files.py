"""Results as files: one .npz with the arrays, and everything else as JSON in the array `about`. Never a pickle."""

from __future__ import annotations

import json
import os
import types
import typing
import zipfile
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from PIL import Image

from indomain._exceptions import InvalidFileError

_FORMAT: Final = 1
_NOT_KEPT: Final = (
    "handle",
    "source_handle",
    "_edit",
)  # a gateway's names for codes, and the client: both pass


def save(result: Any, file: str | os.PathLike[str] | BinaryIO) -> None:
    """Writes a result's dataclass. Raises OSError."""
    arrays: dict[str, Any] = {}
    facts: dict[str, Any] = {}
    for field in fields(result):
        value = getattr(result, field.name)
        if field.name in _NOT_KEPT:
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
    """The fields of a result. Raises OSError, InvalidFileError."""
    try:
        with np.load(file, allow_pickle=False) as stored:
            about = json.loads(str(stored["about"]))
            arrays = {name: stored[name] for name in stored.files if name != "about"}
        facts = about["facts"]
    except (ValueError, KeyError, TypeError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise _invalid(kind, file, "it is no .npz of this package") from error
    if about.get("format") != _FORMAT or about.get("kind") != _kind(kind):
        raise _invalid(
            kind, file, f"it holds {about.get('kind')!r} in format {about.get('format')!r}, not {_FORMAT}"
        )
    hints = typing.get_type_hints(kind, localns={"AsyncClient": object, "Client": object})
    try:
        values = {name: _value(fact, hints[name]) for name, fact in facts.items()}
        return values | {name: _array(array, hints[name]) for name, array in arrays.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise _invalid(kind, file, f"its {error} does not fit") from error


def _kind(cls: type) -> str:
    return cls.__name__.removeprefix("Async")


def _value(fact: Any, hint: Any) -> Any:
    """A fact as the field's type: JSON knows neither dataclasses nor tuples."""
    if isinstance(hint, types.UnionType):  # with None
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
