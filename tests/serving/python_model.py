"""Triton's python back end for a graph of ours: ONNX Runtime over the batch that Triton formed.

The server of the tests has no ONNX Runtime back end. Copied beside each model.onnx, run by the server's own Python.
For tests of faults, parameters of the model's configuration: `delay_ms` of each run; `poison`, a first value that
spoils the batch that it is in; `sound_runs`, after which all fail.
"""

import json
import os
import time
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
        self.delay_s = float(parameters.get("delay_ms", "0")) / 1000
        self.poison = float(parameters.get("poison", "nan"))
        self.sound_runs = float(parameters.get("sound_runs", "inf"))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        folder = Path(args["model_repository"]) / args["model_version"]
        self.session = onnxruntime.InferenceSession(
            str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
        self.inputs = [entry["name"] for entry in config["input"]]
        self.outputs = [entry["name"] for entry in config["output"]]

    def execute(self, requests):
        time.sleep(self.delay_s)
        tensors = [
            [pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self.inputs]
            for request in requests
        ]
        self.sound_runs -= 1
        if self.sound_runs < 0 or any(self.poison in parts[0][:, 0] for parts in tensors):
            # an error for each: one that is shared crashes the server
            return [
                pb_utils.InferenceResponse(error=pb_utils.TritonError("a sample of this batch cannot be run"))
                for _ in requests
            ]
        stacked = [np.concatenate(parts) for parts in zip(*tensors, strict=True)]
        results = self.session.run(self.outputs, dict(zip(self.inputs, stacked, strict=True)))
        ends = np.cumsum([len(parts[0]) for parts in tensors])[:-1]
        split = zip(*(np.split(result, ends) for result in results), strict=True)
        return [
            pb_utils.InferenceResponse(
                [
                    pb_utils.Tensor(name, np.ascontiguousarray(value))
                    for name, value in zip(self.outputs, parts, strict=True)
                ]
            )
            for parts in split
        ]
