"""Checkpoint files of others, with their tensors as torch's. `indomain/unpickling/` reads all of them but safetensors.

What the tensors mean is for `export/importers/`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from indomain.exceptions import InvalidFileError
from indomain.unpickling import downloads
from indomain.unpickling import files as unpickling
from training.run_folders.checkpoint import CheckpointError

MOST_HEADER = 100_000_000  # bytes, the format's own limit


class DownloadError(CheckpointError):
    """A file is not the one that was published: a web page, a pointer, an archive, a part of it, or empty."""


def read_checkpoint(file: Path) -> Any:
    """Read what a checkpoint file holds: dicts, lists, numbers, tensors, `Array`s and `Record`s.

    Raises CheckpointError for a file that is broken, or asks for anything but data; DownloadError, a kind of it, for
    one that is cut short, empty, or a web page or a pointer instead; FileNotFoundError if it is missing.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file} is not a file")
    try:
        return read_safetensors(file) if is_safetensors(file) else unpickling.read_checkpoint(file, as_tensor)
    except downloads.DownloadError as error:
        raise DownloadError(str(error)) from None
    except InvalidFileError as error:
        raise CheckpointError(str(error)) from None


def is_safetensors(file: Path) -> bool:
    """Whether a file starts as safetensors do: the length of its header, which is JSON, and that. Text does not."""
    with file.open("rb") as stream:
        head = stream.read(9)
    return head[8:] == b"{" and header_bytes(head) <= MOST_HEADER


def header_bytes(head: bytes) -> int:
    """The length of a .safetensors file's header, from its first eight bytes."""
    return int.from_bytes(head[:8], "little")


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """Read a .safetensors file. Raises CheckpointError; DownloadError for one that is cut short."""
    try:
        return load_file(file)
    except (SafetensorError, *unpickling.BAD_BYTES) as error:
        with file.open("rb") as stream:
            whole = header_bytes(stream.read(8)) + 8 <= file.stat().st_size
        if not whole or "incomplete" in str(error).lower():
            raise DownloadError(f"{file} was refused: its tensors are cut short; download it again") from None
        what = f"it is a broken .safetensors ({str(error)[:200]})"
        raise CheckpointError(f"{file} was refused: {what}; {unpickling.ADVICE}") from None


def as_tensor(view: np.ndarray[Any, Any], dtype: str) -> Tensor:
    """A tensor that shares the memory of an array; for bfloat16 the array holds its bits."""
    tensor = torch.from_numpy(view)
    return tensor.view(torch.bfloat16) if dtype == "bfloat16" else tensor
