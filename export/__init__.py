"""Checkpoints to ONNX bundles: folding, tracing, storage, parity checks and Triton's configuration files."""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # must be set before onnxruntime is imported anywhere
