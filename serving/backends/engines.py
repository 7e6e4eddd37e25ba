"""The runtimes that can run a graph in this process, behind one small type: open a file, run a batch.

ONNX Runtime runs everything. OpenVINO (the extra `openvino`) may run refiners: on processors with AVX512_BF16 or AMX it
computes in bfloat16, several times faster. As it has answered wrongly without a word before, what it says of a graph
is compared with ONNX Runtime before it is trusted with it.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from serving.backends import Tensors
from serving.bundle import Bundle, GraphSpec, TensorSpec
from serving.jobs import RefineOptions
from serving.pipeline.refinement import RefineSettings, first_inputs

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # it is read once, at import
import onnxruntime

try:
    import openvino
except ImportError:
    openvino = None

_log = logging.getLogger(__name__)

LOSS_TOLERANCE = 0.02
"""How far OpenVINO's first losses may be from ONNX Runtime's, relative; bfloat16 has 8 bits."""
_ORT_DTYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}
_OPENVINO_DTYPES = {"u8": "uint8", "f32": "float32"}


class EngineUnfit(RuntimeError):
    """The runtime that was asked for cannot be used; the message says why."""


class Session(Protocol):
    """An open graph. `inputs` and `outputs`: name -> dtype."""

    inputs: dict[str, str]
    outputs: dict[str, str]

    def run(self, feeds: Tensors) -> Tensors:
        """All outputs by name, the caller's to keep."""
        ...


class OnnxRuntimeSession:
    """On ONNX Runtime's CPU provider, float32 throughout."""

    def __init__(self, file: Path, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Several sessions share the processors: one that went on spinning after a run would take them from the others.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self._session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self.inputs = {v.name: _ORT_DTYPES.get(v.type, v.type) for v in self._session.get_inputs()}
        self.outputs = {v.name: _ORT_DTYPES.get(v.type, v.type) for v in self._session.get_outputs()}
        self._names = list(self.outputs)

    def run(self, feeds: Tensors) -> Tensors:
        return dict(zip(self._names, self._session.run(self._names, dict(feeds)), strict=True))


class InHalves:
    """On ONNX Runtime: an even number of samples as two halves side by side, as within one run threads often wait for
    one another. Answers to the bit what one run would. The second session takes as much memory as the first.
    """

    def __init__(self, file: Path, threads: int) -> None:
        self._whole = OnnxRuntimeSession(file, threads)
        # A session's threads are those of its pool and whoever calls it. Here two call.
        self._halves = OnnxRuntimeSession(file, threads - 1)
        self.inputs, self.outputs = self._whole.inputs, self._whole.outputs
        self._second_caller = ThreadPoolExecutor(1, thread_name_prefix="second-half")

    def run(self, feeds: Tensors) -> Tensors:
        count = len(next(iter(feeds.values())))
        if count % 2:
            return self._whole.run(feeds)
        second = self._second_caller.submit(
            self._halves.run, {name: value[count // 2 :] for name, value in feeds.items()}
        )
        first = self._halves.run({name: value[: count // 2] for name, value in feeds.items()})
        return {name: np.concatenate([first[name], value]) for name, value in second.result().items()}


class OpenVinoSession:
    """On OpenVINO's CPU plugin, convolutions and products of matrices in bfloat16 where the processor has it."""

    def __init__(self, file: Path, graph: GraphSpec, threads: int) -> None:
        core = openvino.Core()
        settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
        settings["INFERENCE_PRECISION_HINT"] = "bf16" if has_bfloat16() else "f32"
        compiled = core.compile_model(core.read_model(file), "CPU", settings)

        def known(ports: Sequence[Any], specs: Sequence[TensorSpec]) -> dict[str, str]:
            # a port may also bear the name of an inner value that is equal to it
            types = {name: port.element_type.get_type_name() for port in ports for name in port.get_names()}
            wanted = (spec.name for spec in specs if spec.name in types)
            return {name: _OPENVINO_DTYPES.get(types[name], types[name]) for name in wanted}

        self.inputs = known(compiled.inputs, graph.inputs)
        self.outputs = known(compiled.outputs, graph.outputs)
        self._request = compiled.create_infer_request()

    def run(self, feeds: Tensors) -> Tensors:
        found = self._request.infer(dict(feeds), share_inputs=True)
        return {name: np.array(found[name]) for name in self.outputs}


def has_bfloat16() -> bool:
    """Whether OpenVINO is installed and this processor computes in bfloat16."""
    if openvino is None:
        return False
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def open_refiner(bundle: Bundle, threads: int, engine: str) -> Session:
    """The session of a bundle's refiner. `engine`: onnxruntime, openvino, or auto, which takes the faster one.

    Raises EngineUnfit where OpenVINO is asked for and is missing, or answers otherwise than ONNX Runtime.
    """
    file = bundle.graph_file("refiner")
    in_halves = threads > 1 and engine != "openvino"  # there it is only compared with
    reference = InHalves(file, threads) if in_halves else OnnxRuntimeSession(file, threads)
    if engine == "onnxruntime" or (engine == "auto" and not has_bfloat16()):
        return reference
    if openvino is None:
        raise EngineUnfit(
            "OpenVINO is not installed; pip install 'indomain-gateway[openvino]', or set INDOMAIN_REFINER_ENGINE=auto."
        )
    session = OpenVinoSession(file, bundle.graphs["refiner"], threads)
    feeds = probe(bundle)
    error = loss_error(session, reference, feeds)
    if error > LOSS_TOLERANCE:
        complaint = f"OpenVINO's losses are off by {error:.2g}, at most {LOSS_TOLERANCE} allowed"
        if engine == "openvino":
            raise EngineUnfit(complaint)
        _log.warning("%s: refined by ONNX Runtime, as %s", bundle.name, complaint)
        return reference
    if engine == "auto" and chunk_seconds(reference, feeds) < chunk_seconds(session, feeds):
        return reference
    _log.info("%s: refined by OpenVINO, its losses within %.2g of ONNX Runtime's", bundle.name, error)
    return session


def probe(bundle: Bundle) -> dict[str, npt.NDArray[Any]]:
    """Inputs of a first chunk: two codes, so that a batch is looked at too, on their way to a grey picture."""
    noise = np.random.default_rng(0).standard_normal((2, *bundle.code_std.shape), dtype=np.float32)
    grey = np.full((2, bundle.resolution, bundle.resolution, 3), 128, np.uint8)
    settings = RefineSettings.resolve(RefineOptions(), bundle.refine, bundle.refine.steps)
    return first_inputs(bundle, bundle.mean_code + 0.5 * bundle.code_std * noise, grey, settings)


def loss_error(session: Session, reference: Session, feeds: Tensors) -> float:
    """Largest relative difference of two sessions' first two losses: the second comes of the first gradient.

    Later ones say less: an optimiser makes more of rounding with each step.
    """

    def first_losses(runs: Session) -> npt.NDArray[Any]:
        chunk = runs.run(feeds)
        onward = {name: chunk.get(f"next_{name}", value) for name, value in feeds.items()}
        return np.concatenate([chunk["loss"], runs.run(onward)["loss"]], 1)[:, :2]

    found, wanted = first_losses(session), first_losses(reference)
    return float(np.nan_to_num(np.abs(found - wanted) / np.abs(wanted), nan=np.inf).max())


def chunk_seconds(session: Session, feeds: Tensors) -> float:
    """Time of a chunk of all codes and of one of the first alone, the best of three."""
    alone = {name: value[:1] for name, value in feeds.items()}

    def once() -> float:
        begun_s = time.perf_counter()
        session.run(feeds)
        session.run(alone)
        return time.perf_counter() - begun_s

    return min(once() for _ in range(3))
