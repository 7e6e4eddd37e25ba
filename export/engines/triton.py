"""A graph's config.pbtxt for NVIDIA Triton. It is complete, for `--disable-auto-complete-config`.

`python -m export openvino` sets a bundle's refiner to Triton's OpenVINO back end. Needs no PyTorch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from export.graphs.tensor_spec import DType, TensorSpec

MAX_BATCH = {
    "encoder": 16,
    "generator": 16,
    "mapping": 64,
    "critic": 64,
    "refiner": 8,
    # Not every bundle has these.
    "detector": 8,
    "relabeller": 64,
    "identity": 16,
}
QUEUE_BATCHES = 16  # full batches that may wait; further requests are rejected
LONGEST_WAIT_US = 600_000_000  # longer than any request's own time-out, which counts only if this is set
QUEUE_DELAY_US = 500  # a request waits this long for others to share its batch
# With one, Triton's scheduler (24.10) sometimes does not notice that it is free for half a second.
INSTANCES = 2
TYPES: dict[DType, str] = {"uint8": "TYPE_UINT8", "float32": "TYPE_FP32"}

THREADS = """\
parameters [
  { key: "intra_op_thread_count" value: { string_value: "0" } },
  { key: "inter_op_thread_count" value: { string_value: "1" } }
]
"""

# One request at a time gets all cores. HINT_BF16 has an effect on processors with bfloat16.
OPENVINO = """\
parameters [
  { key: "PERFORMANCE_HINT" value: { string_value: "LATENCY" } },
  { key: "NUM_STREAMS" value: { string_value: "1" } },
  { key: "HINT_BF16" value: { string_value: "YES" } }
]
"""
RUNS_BY = {
    "onnxruntime": 'backend: "onnxruntime"',
    "openvino": 'backend: "openvino"\ndefault_model_filename: "model.onnx"',
    "plan": 'platform: "tensorrt_plan"',
}
PARAMETERS = {"onnxruntime": THREADS, "openvino": OPENVINO, "plan": ""}

Precision = Literal["fp32", "fp16", "bf16"]
Runtime = Literal["onnxruntime", "openvino", "plan"]


class TritonError(ValueError):
    """A bundle cannot be set up for Triton as asked; the message says why."""


@dataclass
class OpenVinoConfig:
    """Set a bundle's refiner to Triton's OpenVINO back end: bfloat16, on CPUs that have it."""

    repository: tyro.conf.Positional[Path]
    """Model repository."""
    bundle: str = ""
    """Its bundle; the only one by default."""


def run_by_openvino(config: OpenVinoConfig) -> str:
    """Write the refiner's configuration; return a summary. Raises FileNotFoundError, TritonError."""
    graph = read_graphs(config.repository, config.bundle)["refiner"]
    text = config_pbtxt(graph["model"], graph["max_batch_size"], *tensor_specs(graph), runtime="openvino")
    (config.repository / graph["model"] / "config.pbtxt").write_text(text)
    return f"{graph['model']} set to Triton's OpenVINO back end; the other graphs stay as they are"


def read_graphs(repository: Path, bundle: str = "") -> dict[str, dict[str, Any]]:
    """Read the graphs of a bundle's manifest, by role. Raises FileNotFoundError, TritonError."""
    manifests = [path for path in repository.glob("*.json") if bundle in ("", path.stem)]
    if len(manifests) != 1:
        found = ", ".join(sorted(path.stem for path in manifests)) or "none"
        raise FileNotFoundError(f"{repository} must hold one bundle, or name it: --bundle; it holds {found}")
    try:
        graphs: dict[str, dict[str, Any]] = json.loads(manifests[0].read_text())["graphs"]
        for graph in graphs.values():
            tensor_specs(graph)
            _ = [graph[key] for key in ("model", "version", "file", "sha256", "max_batch_size")]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TritonError(f"{manifests[0]} is no manifest: {error!r}") from None
    return graphs


@dataclass(frozen=True)
class TensorRT:
    """Settings of the TensorRT accelerator of Triton's ONNX Runtime back end."""

    precision: Precision
    cache: str
    """Folder for engines. An engine fits one GPU, TensorRT, ONNX Runtime and model: the path names all of them."""


def tensor_specs(graph: dict[str, Any]) -> tuple[list[TensorSpec], list[TensorSpec]]:
    """Inputs and outputs of a manifest's graph."""
    inputs, outputs = (
        [TensorSpec(spec["name"], spec["dtype"], tuple(spec["shape"][1:])) for spec in graph[side]]
        for side in ("inputs", "outputs")
    )
    return inputs, outputs


def batches(largest: int) -> tuple[int, int, int]:
    """Smallest, usual and largest batch of a TensorRT profile. Engines are tuned for the usual one."""
    return 1, max(1, largest // 4), largest


def shapes(inputs: Sequence[TensorSpec], batch: int) -> str:
    """Shapes as TensorRT's profiles write them, with the batch: `image:8x64x64x3,mask:8x64x64x1`."""
    return ",".join(f"{spec.name}:{'x'.join(map(str, (batch, *spec.shape)))}" for spec in inputs)


def config_pbtxt(
    model: str,
    max_batch_size: int,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    tensorrt: TensorRT | None = None,
    *,
    runtime: Runtime = "onnxruntime",
) -> str:
    """Text of config.pbtxt.

    Dims are without the batch. It has no `kind`, so that it loads with and without a GPU; only `tensorrt` needs one.
    The runtime `plan` is for a TensorRT plan in place of the graph.
    """
    preferred = ", ".join(str(max_batch_size // divisor) for divisor in (4, 2, 1))
    return f"""\
name: "{model}"
{RUNS_BY[runtime]}
max_batch_size: {max_batch_size}
input [{entries(inputs)}]
output [{entries(outputs)}]
dynamic_batching {{
  preferred_batch_size: [ {preferred} ]
  max_queue_delay_microseconds: {QUEUE_DELAY_US}
  default_queue_policy {{
    max_queue_size: {QUEUE_BATCHES * max_batch_size}
    timeout_action: REJECT
    default_timeout_microseconds: {LONGEST_WAIT_US}
    allow_timeout_override: true
  }}
}}
instance_group [
  {{ count: {INSTANCES}{" kind: KIND_GPU" if tensorrt else ""} }}
]
{PARAMETERS[runtime]}{accelerator(tensorrt, max_batch_size, inputs) if tensorrt else ""}"""


def entries(specs: Sequence[TensorSpec]) -> str:
    """The entries of an `input` or `output` list."""
    lines = (
        f'\n  {{ name: "{b.name}" data_type: {TYPES[b.dtype]} dims: [ {", ".join(map(str, b.shape))} ] }}'
        for b in specs
    )
    return ",".join(lines) + "\n"


def accelerator(tensorrt: TensorRT, max_batch_size: int, inputs: Sequence[TensorSpec]) -> str:
    """TensorRT with its profile, and a warm-up for each of its batches, whose first call builds or loads an engine."""
    least, usual, largest = batches(max_batch_size)
    settings = {
        "precision_mode": tensorrt.precision.upper(),
        "trt_engine_cache_enable": "true",
        "trt_engine_cache_path": tensorrt.cache,
        "trt_timing_cache_enable": "true",
        "trt_timing_cache_path": tensorrt.cache,
        "trt_layer_norm_fp32_fallback": "true",
        "trt_profile_min_shapes": shapes(inputs, least),
        "trt_profile_opt_shapes": shapes(inputs, usual),
        "trt_profile_max_shapes": shapes(inputs, largest),
    }
    lines = "\n".join(
        f'      parameters {{ key: "{key}" value: "{value}" }}' for key, value in settings.items()
    )
    warm_ups = ",\n".join(warm_up(batch, inputs) for batch in sorted({least, usual, largest}))
    return f"""\
optimization {{ execution_accelerators {{
  gpu_execution_accelerator [
    {{
      name: "tensorrt"
{lines}
    }}
  ]
}} }}
model_warmup [
{warm_ups}
]
"""


def warm_up(batch: int, inputs: Sequence[TensorSpec]) -> str:
    """An entry of `model_warmup`: a batch of zeros."""
    lines = "\n".join(
        f'    inputs {{ key: "{b.name}" value: {{ data_type: {TYPES[b.dtype]} '
        f"dims: [ {', '.join(map(str, b.shape))} ] zero_data: true }} }}"
        for b in inputs
    )
    return f'  {{\n    name: "batch of {batch}"\n    batch_size: {batch}\n{lines}\n  }}'
