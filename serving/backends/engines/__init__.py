"""The runtimes that can run a graph in this process, and which of them runs each."""

import os
import sys

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime reads it once, at import
# OpenVINO would tell Google Analytics that it is imported, and write into the home folder, if it found this package.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
