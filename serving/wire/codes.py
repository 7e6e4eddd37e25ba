"""Latent codes as bytes with a shape: the same on both transports."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from serving.errors import InvalidCode


def code_array(data: bytes, shape: Sequence[int]) -> npt.NDArray[np.float32]:
    """float32, little-endian -> an array of that shape. Raises InvalidCode."""
    if not 2 <= len(shape) <= 3 or any(size < 1 for size in shape):
        raise InvalidCode(f"A code has the shape [layers, 512] or [N, layers, 512], not {list(shape)[:8]}.")
    count = int(np.prod([int(size) for size in shape], dtype=object))
    if len(data) != 4 * count:
        raise InvalidCode(f"A code of shape {list(shape)} has {4 * count} bytes (float32), not {len(data)}.")
    return np.frombuffer(data, dtype="<f4").reshape(tuple(shape)).astype(np.float32, copy=False)


def code_bytes(code: npt.NDArray[np.float32]) -> bytes:
    """An array -> float32, little-endian, row by row."""
    return np.ascontiguousarray(code, dtype="<f4").tobytes()
