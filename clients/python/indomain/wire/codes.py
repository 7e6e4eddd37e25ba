"""Latent codes: numpy arrays to messages and back. The gateway checks whether a code fits a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from indomain.v1 import editing_pb2

CodeArray: TypeAlias = npt.NDArray[np.float32]
"""float32 [L, 512], one vector for each layer of the generator; or [N, L, 512] for N codes."""


def code_to_wire(code: npt.ArrayLike) -> editing_pb2.Code:
    """The message of a code [L, 512] or of codes [N, L, 512]; float64 is rounded to float32."""
    array = np.ascontiguousarray(code, dtype="<f4")
    return editing_pb2.Code(data=array.tobytes(), shape=array.shape)


def code_from_wire(code: editing_pb2.Code) -> CodeArray:
    """The array of a message: float32, writable, of the message's shape."""
    return np.frombuffer(code.data, dtype="<f4").reshape(tuple(code.shape)).astype(np.float32)


def codes_to_wire(codes: npt.ArrayLike | Sequence[npt.ArrayLike]) -> list[editing_pb2.Code]:
    """The messages of an array [L, 512] or [N, L, 512], or of a sequence of such arrays."""
    if isinstance(codes, Sequence):
        return [code_to_wire(code) for code in codes]
    return [code_to_wire(codes)]
