"""ONNX Runtime on a GPU: its CUDA and TensorRT providers, behind the protocol Session.

Small networks keep a GPU busy for less time than it takes to start their operators one by one. A run that has been
captured as a CUDA graph starts as a whole. That needs fixed shapes and fixed buffers. So a graph is opened for batches
of 1, 2, 4, 8, ... samples, each with buffers of its own on the device; a batch between two sizes is filled up.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from serving.backends.backend import Tensors
from serving.backends.engines.sessions import ORT_DTYPES, EngineUnfit
from serving.bundle import GraphSpec, TensorSpec

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Device:
    """What computes: a provider of ONNX Runtime with its options, and the memory that it computes in, as ONNX Runtime
    names it.

    capture: options by which runs are captured as CUDA graphs; none where they are not. second: a provider for what the
    first one cannot compute. engines: folder for what the provider builds; a batch's size has its own below it.
    """

    provider: str
    memory: str
    options: Mapping[str, str] = field(default_factory=dict)
    capture: Mapping[str, str] = field(default_factory=dict)
    second: Device | None = None
    engines: Path | None = None


# TF32's 10 bits are too few for a refinement's gradients. Several sessions share the memory: none takes more than it
# needs.
CUDA = Device(
    "CUDAExecutionProvider",
    "cuda",
    {"use_tf32": "0", "arena_extend_strategy": "kSameAsRequested"},
    {"enable_cuda_graph": "1"},
)


def tensorrt(graph: GraphSpec, folder: Path | None) -> Device:
    """TensorRT for a graph. folder: where its engines are kept for the next start; None: nowhere.

    It computes in float16 where the graph does, and otherwise in float32 (set NVIDIA_TF32_OVERRIDE=0).
    """
    options = {"trt_fp16_enable": "1"} if graph.precision == "float16" else {}
    return Device(
        "TensorrtExecutionProvider",
        "cuda",
        options,
        second=CUDA,
        engines=folder / graph.sha256[:16] if folder else None,
    )


def has_provider(device: Device) -> bool:
    """Whether this build of ONNX Runtime knows the device's provider; it may still not start here."""
    return device.provider in onnxruntime.get_available_providers()


@cache
def _load_cuda() -> None:
    """Loads CUDA's libraries, which may have come with pip, where the system does not look for them."""
    onnxruntime.preload_dlls()


class DeviceSession:
    """A graph on a device. `inputs` and `outputs` map names to dtypes.

    All runs are on one thread of its own: what has been captured belongs to the thread that captured it.
    """

    def __init__(self, file: Path, graph: GraphSpec, device: Device) -> None:
        """Opens it for one sample. Raises EngineUnfit where the device is not there, and what ONNX Runtime raises."""
        if not has_provider(device):
            raise EngineUnfit(
                f"ONNX Runtime has no {device.provider} here; install onnxruntime-gpu in place of onnxruntime, "
                "or set INDOMAIN_ENGINE=auto."
            )
        if device.memory == "cuda":
            _load_cuda()
        self._file, self._graph, self._device = file, graph, device
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        described = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self.inputs = {v.name: ORT_DTYPES.get(v.type, v.type) for v in described.get_inputs()}
        self.outputs = {v.name: ORT_DTYPES.get(v.type, v.type) for v in described.get_outputs()}
        self._batch_axes = {v.shape[0] for v in described.get_inputs() if isinstance(v.shape[0], str)}
        del described
        self._batches: dict[int, _FixedBatch] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"{graph.model}-device")
        self.prepare(1)

    def prepare(self, most: int) -> None:
        """Opens and warms up every size of batch for up to so many samples. Each may take seconds, and has the weights
        again: afterwards no request waits for that."""
        for exponent in range(_size_for(most).bit_length()):
            self._thread.submit(self._batch, 1 << exponent).result()

    def run(self, feeds: Tensors) -> Tensors:
        return self._thread.submit(self._run, feeds).result()

    def _run(self, feeds: Tensors) -> Tensors:
        return self._batch(_size_for(len(next(iter(feeds.values()))))).run(feeds)

    def _batch(self, size: int) -> _FixedBatch:
        if size not in self._batches:
            self._batches[size] = self._open(size)
        return self._batches[size]

    def _open(self, size: int) -> _FixedBatch:
        opened = partial(_FixedBatch, self._file, self._graph, self._device, self._batch_axes, size)
        try:
            if not self._device.capture:
                return opened(capture=False)
            try:
                return opened(capture=True)
            # ONNX Runtime's errors have no common class. The next try shows whether it was the capture.
            except Exception as error:
                found = opened(capture=False)
                _log.warning("%s runs without CUDA graphs, slower: %s", self._graph.model, error)
                return found
        except Exception as error:
            raise EngineUnfit(
                f"ONNX Runtime's {self._device.provider} does not start here; look at the driver and at the versions "
                "of CUDA, cuDNN and TensorRT, or set INDOMAIN_ENGINE=auto."
                if size == 1
                else f"{self._graph.model} runs on the device for one sample, but not for {size}, which take more "
                f"memory; set INDOMAIN_MAX_BATCH_SIZE to {size // 2}."
            ) from error


class _FixedBatch:
    """A session for batches of one size, and its buffers on the device."""

    def __init__(
        self, file: Path, graph: GraphSpec, device: Device, batch_axes: set[str], size: int, *, capture: bool
    ) -> None:
        options = fixed_options(batch_axes, size)
        providers = _providers(device, size, capture=capture)
        # No fallback: ONNX Runtime would go on without the device.
        self._session = onnxruntime.InferenceSession(
            str(file), options, providers=providers, enable_fallback=0
        )
        if self._session.get_providers()[0] != device.provider:
            raise RuntimeError(f"ONNX Runtime left out {device.provider}")
        self._size = size

        def buffer(spec: TensorSpec) -> Any:
            return onnxruntime.OrtValue.ortvalue_from_shape_and_type(
                [size, *spec.shape[1:]], np.dtype(spec.dtype).type, device.memory
            )

        self._inputs = {spec.name: buffer(spec) for spec in graph.inputs}
        self._outputs = {spec.name: buffer(spec) for spec in graph.outputs}
        self._binding = self._session.io_binding()
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        for name, value in self._outputs.items():
            self._binding.bind_ortvalue_output(name, value)
        # The first run chooses kernels, and captures.
        self.run({spec.name: np.zeros((size, *spec.shape[1:]), spec.dtype) for spec in graph.inputs})

    def run(self, feeds: Tensors) -> Tensors:
        for name, buffer in self._inputs.items():
            buffer.update_inplace(_filled(feeds[name], self._size))
        self._session.run_with_iobinding(self._binding)
        count = len(next(iter(feeds.values())))
        # A copy, as in the processor's memory numpy() gives the buffer itself.
        return {name: np.array(value.numpy()[:count]) for name, value in self._outputs.items()}


def fixed_options(batch_axes: set[str], size: int) -> Any:
    """Options of a session for batches of one size: with it, all arithmetic of shapes is done when it is opened.

    What was left of it would run on the processor, and ONNX Runtime would capture nothing.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    for name in batch_axes:
        options.add_free_dimension_override_by_name(name, size)
    return options


def _providers(device: Device, size: int, *, capture: bool) -> list[tuple[str, dict[str, str]]]:
    options = {**device.options, **(device.capture if capture else {})}
    if device.engines:
        # TensorRT names engines by the graph, whatever the size of the batch.
        folder = device.engines / str(size)
        folder.mkdir(parents=True, exist_ok=True)
        options |= {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(folder)}
    others = _providers(device.second, size, capture=False) if device.second else []
    return [(device.provider, options), *others]


def _size_for(count: int) -> int:
    """The least power of two that so many samples fit into."""
    return 1 << (count - 1).bit_length()


def _filled(value: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    """Samples [N, ...], and copies of the first up to `size`: zeros may be no inputs that the graph is made for."""
    if len(value) < size:
        return np.concatenate([value, np.repeat(value[:1], size - len(value), 0)])
    return np.ascontiguousarray(value)
