"""The runtimes that can run a graph in this process, and which of them runs each."""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime reads it once, at import
