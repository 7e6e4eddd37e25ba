"""Latent codes between numpy and the wire. Whether a code fits a bundle is the gateway's to say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from indomain.v1 import editing_pb2

CodeArray: TypeAlias = npt.NDArray[np.float32]
"""float32 [L, 512]: one vector a layer of the generator; [N, L, 512] where several codes are asked for."""


def code_to_wire(code: npt.ArrayLike) -> editing_pb2.Code:
    """The message for a code [L, 512] or codes [N, L, 512]; float64 is rounded to float32."""
    array = np.ascontiguousarray(code, dtype="<f4")
    return editing_pb2.Code(data=array.tobytes(), shape=array.shape)


def code_from_wire(code: editing_pb2.Code) -> CodeArray:
    """The array of a message of the gateway: float32, writable."""
    return np.frombuffer(code.data, dtype="<f4").reshape(tuple(code.shape)).astype(np.float32)


def codes_to_wire(codes: npt.ArrayLike | Sequence[npt.ArrayLike]) -> list[editing_pb2.Code]:
    """The messages for [L, 512], [N, L, 512] or a sequence of either."""
    if isinstance(codes, np.ndarray):
        return [code_to_wire(codes)]
    if isinstance(codes, Sequence):
        return [code_to_wire(code) for code in codes]
    return [code_to_wire(codes)]
