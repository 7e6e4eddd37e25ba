"""Latent codes: numpy arrays to messages and back. The gateway checks whether a code fits a bundle."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from indomain.v1 import editing_pb2

CodeArray: TypeAlias = npt.NDArray[np.float32]
"""float32 [L, 512], one vector for each layer of the generator; or [N, L, 512] for N codes."""


def code_to_wire(code: npt.ArrayLike) -> editing_pb2.Code:
    """The message of a code [L, 512] or of codes [N, L, 512]; float64 is rounded to float32.

    Raises TypeError for what is no array of numbers.
    """
    try:
        array = np.ascontiguousarray(code, dtype="<f4")
    except (TypeError, ValueError):
        raise TypeError(
            f"a code is an array float32 [L, 512], not {type(code).__name__}; indomain.load_code reads one from a file"
        ) from None
    return editing_pb2.Code(data=array.tobytes(), shape=array.shape)


def code_from_wire(code: editing_pb2.Code) -> CodeArray:
    """The array of a message: float32, writable, of the message's shape."""
    return np.frombuffer(code.data, dtype="<f4").reshape(tuple(code.shape)).astype(np.float32)
