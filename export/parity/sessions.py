"""Graphs in ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
import onnxruntime as ort
import torch

from export.parity.differences import Array
from export.parity.tolerances import batches


def open_session(path: Path) -> ort.InferenceSession:
    """Open a graph. Its threads do not spin while they wait."""
    options = ort.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(session: ort.InferenceSession, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Run a graph; return all outputs by name."""
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def versions(samples: int) -> dict[str, str | Sequence[int]]:
    """Versions of the packages, and sizes of the batches, that figures of so many samples were reached with."""
    return {
        "onnxruntime": ort.__version__,
        "onnx": onnx.__version__,
        "torch": torch.__version__,
        "batches": batches(samples),
    }
