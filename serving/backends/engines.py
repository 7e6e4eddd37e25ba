"""The runtimes that can run a graph in this process, behind one small protocol, Session: open a file, run a batch.

ONNX Runtime runs every graph. OpenVINO (the extra `openvino`) may run refiners: on processors with AVX512_BF16 or AMX
it computes in bfloat16, several times faster. OpenVINO has given wrong results without an error before, so its results
on a refiner are compared with ONNX Runtime's before it is used.
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

from serving.backends.backend import Tensors
from serving.bundle import Bundle, GraphSpec, TensorSpec, first_inputs

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # it is read once, at import
import onnxruntime

try:
    import openvino
except ImportError:
    openvino = None

_log = logging.getLogger(__name__)

LOSS_TOLERANCE = 0.02
"""How far OpenVINO's first losses may be from ONNX Runtime's, relative. bfloat16 has 8 significant bits."""
_ORT_DTYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}
_OPENVINO_DTYPES = {"u8": "uint8", "f32": "float32"}


class EngineUnfit(RuntimeError):
    """The runtime that the settings name cannot be used; the message says why."""


class Session(Protocol):
    """An open graph. `inputs` and `outputs` map names to dtypes."""

    inputs: dict[str, str]
    outputs: dict[str, str]

    def run(self, feeds: Tensors) -> Tensors:
        """Runs one batch. Returns all outputs by name, in arrays that belong to the caller."""
        ...


class OnnxRuntimeSession:
    """A session on ONNX Runtime's CPU provider, in float32."""

    def __init__(self, file: Path, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Sessions share the processors: a session that spins after a run would take them from the others.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self._session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self.inputs = {v.name: _ORT_DTYPES.get(v.type, v.type) for v in self._session.get_inputs()}
        self.outputs = {v.name: _ORT_DTYPES.get(v.type, v.type) for v in self._session.get_outputs()}
        self._names = list(self.outputs)

    def run(self, feeds: Tensors) -> Tensors:
        return dict(zip(self._names, self._session.run(self._names, dict(feeds)), strict=True))


class InHalves:
    """Runs an even number of samples on ONNX Runtime as two halves at the same time.

    That is faster, as the threads within one run often wait for one another. The results are bit for bit those of one
    run. The second session takes as much memory as the first.
    """

    def __init__(self, file: Path, threads: int) -> None:
        self._whole = OnnxRuntimeSession(file, threads)
        # A session uses the threads of its pool and the thread that calls it; here two threads call.
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
    """A session on OpenVINO's CPU plugin. Convolutions and matrix products run in bfloat16 if the processor has it."""

    def __init__(self, file: Path, graph: GraphSpec, threads: int) -> None:
        core = openvino.Core()
        settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
        settings["INFERENCE_PRECISION_HINT"] = "bf16" if has_bfloat16() else "f32"
        compiled = core.compile_model(core.read_model(file), "CPU", settings)

        def known(ports: Sequence[Any], specs: Sequence[TensorSpec]) -> dict[str, str]:
            # A port also has the names of inner values that are equal to it.
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
    """Opens a bundle's refiner. `engine`: "onnxruntime", "openvino", or "auto" for the faster of the two.

    Raises EngineUnfit if the engine is "openvino", and OpenVINO is missing or differs from ONNX Runtime.
    """
    file = bundle.graph_file("refiner")
    # With the engine "openvino", ONNX Runtime only serves as the reference.
    in_halves = threads > 1 and engine != "openvino"
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
    """Inputs of a first chunk for the comparison: a batch of two random codes, refined towards a grey picture."""
    noise = np.random.default_rng(0).standard_normal((2, *bundle.code_std.shape), dtype=np.float32)
    grey = np.full((2, bundle.resolution, bundle.resolution, 3), 128, np.uint8)
    return first_inputs(bundle, bundle.mean_code + 0.5 * bundle.code_std * noise, grey, bundle.refine)


def loss_error(session: Session, reference: Session, feeds: Tensors) -> float:
    """The largest relative difference between two sessions' first two losses.

    The second loss depends on the first gradient. Later losses say less: an optimiser amplifies rounding errors.
    """

    def first_losses(runs: Session) -> npt.NDArray[Any]:
        chunk = runs.run(feeds)
        onward = {name: chunk.get(f"next_{name}", value) for name, value in feeds.items()}
        return np.concatenate([chunk["loss"], runs.run(onward)["loss"]], 1)[:, :2]

    found, wanted = first_losses(session), first_losses(reference)
    return float(np.nan_to_num(np.abs(found - wanted) / np.abs(wanted), nan=np.inf).max())


def chunk_seconds(session: Session, feeds: Tensors) -> float:
    """Seconds for a chunk of all codes and a chunk of the first code alone; the best of three trials."""
    alone = {name: value[:1] for name, value in feeds.items()}

    def once() -> float:
        begun_s = time.perf_counter()
        session.run(feeds)
        session.run(alone)
        return time.perf_counter() - begun_s

    return min(once() for _ in range(3))
