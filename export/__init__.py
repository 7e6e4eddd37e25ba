"""Checkpoints to ONNX bundles: importing, folding, tracing, parity checks and Triton's configuration files."""

import os

# Must be set before onnxruntime is imported anywhere.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
