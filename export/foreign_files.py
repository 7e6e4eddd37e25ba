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
from indomain.unpickling import files as unpickling
from training.run_folders.checkpoint import CheckpointError


def read_checkpoint(file: Path) -> Any:
    """Read what a checkpoint file holds: dicts, lists, numbers, tensors, `Array`s and `Record`s.

    Raises CheckpointError for a file that is broken, or asks for anything but data; FileNotFoundError if it is missing.
    """
    try:
        return load_file(file) if is_safetensors(file) else unpickling.read_checkpoint(file, as_tensor)
    except InvalidFileError as error:
        raise CheckpointError(str(error)) from None
    except SafetensorError as error:
        what = f"it is a broken .safetensors ({str(error)[:200]})"
        raise CheckpointError(f"{file} was refused: {what}; {unpickling.ADVICE}") from None


def is_safetensors(file: Path) -> bool:
    """Whether a file starts as safetensors do: a length in eight bytes, then JSON."""
    if not file.is_file():
        raise FileNotFoundError(f"{file} is not a file")
    with file.open("rb") as stream:
        return stream.read(9)[8:] == b"{"


def as_tensor(view: np.ndarray[Any, Any], dtype: str) -> Tensor:
    """A tensor that shares the memory of an array; for bfloat16 the array holds its bits."""
    tensor = torch.from_numpy(view)
    return tensor.view(torch.bfloat16) if dtype == "bfloat16" else tensor
