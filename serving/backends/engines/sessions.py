"""The runtimes that can run a graph in this process, behind one small protocol, Session: open a file, run a batch.

ONNX Runtime runs every graph, in float32. OpenVINO, where it is installed, may run any, in float32, or in bfloat16 on
processors with AVX512_BF16 or AMX, several times faster. `gpu.py` has ONNX Runtime on a GPU. `choice.py` says which one
runs a graph.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import onnxruntime

from serving.backends.backend import Tensors
from serving.backends.engines.compiled_model import CompiledModel
from serving.bundle import GraphSpec, TensorSpec

try:
    import openvino as openvino
except ImportError:
    openvino = None

_log = logging.getLogger(__name__)

EngineName = Literal["onnxruntime", "openvino", "openvino-bfloat16", "onnxruntime-cuda", "tensorrt"]
"""A runtime and what it computes in: what the graph says where nothing else is said, which is float32 for most."""
ORT_DTYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}
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


_ORT_PROVIDERS = ["CPUExecutionProvider"]


class OnnxRuntimeSession:
    """A session on ONNX Runtime's CPU provider, in float32. optimised: the file is one that `_optimised` gave."""

    def __init__(self, file: Path, threads: int, *, optimised: bool = False) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Sessions share the processors: a session that spins after a run would take them from the others.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if optimised:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._session = onnxruntime.InferenceSession(str(file), options, providers=_ORT_PROVIDERS)
        self.inputs = {v.name: ORT_DTYPES.get(v.type, v.type) for v in self._session.get_inputs()}
        self.outputs = {v.name: ORT_DTYPES.get(v.type, v.type) for v in self._session.get_outputs()}
        self._names = list(self.outputs)

    def run(self, feeds: Tensors) -> Tensors:
        return dict(zip(self._names, self._session.run(self._names, dict(feeds)), strict=True))


class InHalves:
    """Runs an even number of samples on ONNX Runtime as two halves at the same time.

    That is faster, as the threads within one run often wait for one another. The results are bit for bit those of one
    run. The second session takes as much memory as the first.
    """

    def __init__(self, file: Path, threads: int, kept: CompiledModel | None = None) -> None:
        found = _optimised(file, threads, kept) if kept else None
        opened = partial(OnnxRuntimeSession, found or file, optimised=found is not None)
        self._second_caller = ThreadPoolExecutor(1, thread_name_prefix="second-half")
        # A session uses the threads of its pool and the thread that calls it; here two threads call.
        halves = self._second_caller.submit(opened, threads - 1)
        self._whole, self._halves = opened(threads), halves.result()
        self.inputs, self.outputs = self._whole.inputs, self._whole.outputs

    def run(self, feeds: Tensors) -> Tensors:
        count = len(next(iter(feeds.values())))
        if count % 2:
            return self._whole.run(feeds)
        second = self._second_caller.submit(
            self._halves.run, {name: value[count // 2 :] for name, value in feeds.items()}
        )
        first = self._halves.run({name: value[: count // 2] for name, value in feeds.items()})
        return {name: np.concatenate([first[name], value]) for name, value in second.result().items()}


def _optimised(file: Path, threads: int, kept: CompiledModel) -> Path | None:
    """A graph as ONNX Runtime rewrites it for this processor, which takes seconds for a refiner: what was kept of it,
    or made anew and kept. It answers the same to the bit. None where it cannot be kept."""
    if found := kept.found():
        return found
    try:
        with tempfile.TemporaryDirectory() as folder:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = threads
            options.log_severity_level = 3
            options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
            onnxruntime.InferenceSession(str(file), options, providers=_ORT_PROVIDERS)
            kept.keep(Path(options.optimized_model_filepath).read_bytes())
    except Exception as error:
        # Without room for it, or past the 2 GB of a single file, the graph itself is opened.
        _log.debug("the optimised %s is not kept: %s", file, error)
    return kept.found()


class OpenVinoSession:
    """A session on OpenVINO's CPU plugin, in float32 or in bfloat16 (convolutions and matrix products only).

    In float32 it runs one sample after another: it sums in another order in batches, and a result must not depend on
    its company.
    """

    def __init__(
        self,
        file: Path,
        graph: GraphSpec,
        threads: int,
        *,
        bfloat16: bool = False,
        kept: CompiledModel | None = None,
    ) -> None:
        self.one_by_one = not bfloat16
        settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
        settings["INFERENCE_PRECISION_HINT"] = "bf16" if bfloat16 else "f32"
        compiled = _compiled(file, settings, kept)

        def known(ports: Sequence[Any], specs: Sequence[TensorSpec]) -> dict[str, str]:
            # A port also has the names of inner values that are equal to it.
            types = {name: port.element_type.get_type_name() for port in ports for name in port.get_names()}
            wanted = (spec.name for spec in specs if spec.name in types)
            return {name: _OPENVINO_DTYPES.get(types[name], types[name]) for name in wanted}

        self.inputs = known(compiled.inputs, graph.inputs)
        self.outputs = known(compiled.outputs, graph.outputs)
        self._request = compiled.create_infer_request()

    def run(self, feeds: Tensors) -> Tensors:
        count = len(next(iter(feeds.values())))
        if not self.one_by_one or count == 1:
            return self._infer(feeds)
        runs = [self._infer({name: value[n : n + 1] for name, value in feeds.items()}) for n in range(count)]
        return {name: np.concatenate([found[name] for found in runs]) for name in self.outputs}

    def _infer(self, feeds: Tensors) -> Tensors:
        found = self._request.infer(dict(feeds), share_inputs=True)
        return {name: np.array(found[name]) for name in self.outputs}


def _compiled(file: Path, settings: dict[str, Any], kept: CompiledModel | None) -> Any:
    """The compiled model of a graph: what was kept of it, or made anew and kept."""
    core = openvino.Core()
    if found := kept and kept.found():
        try:
            return core.import_model(found.read_bytes(), "CPU", settings)
        except RuntimeError as error:
            _log.debug("%s is compiled anew: %s", file, error)
    compiled = core.compile_model(core.read_model(file), "CPU", settings)
    if kept:
        exported = BytesIO()
        compiled.export_model(exported)
        kept.keep(exported.getvalue())
    return compiled


def has_openvino() -> bool:
    """Whether OpenVINO is installed."""
    return openvino is not None


def has_bfloat16() -> bool:
    """Whether OpenVINO is installed and this processor computes in bfloat16."""
    if not has_openvino():
        return False
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
