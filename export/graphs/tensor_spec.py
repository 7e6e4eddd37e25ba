"""Name, type and shape of a graph's input or output. Needs no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

DType = Literal["uint8", "float32"]


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a graph."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    """Without the batch."""
