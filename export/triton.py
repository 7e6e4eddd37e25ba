"""config.pbtxt of a graph, for NVIDIA Triton with `--disable-auto-complete-config`: everything is written out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

MAX_BATCH = {"encoder": 16, "generator": 16, "mapping": 64, "critic": 64, "refiner": 8}
QUEUE_BATCHES = 16  # full batches that may wait; the next request is rejected, not kept waiting for ever
LONGEST_WAIT_US = 600_000_000  # for a request's own time-out to count, one must be set here that is longer
QUEUE_DELAY_US = 500  # a lone request waits this long for company
# With one, Triton's scheduler now and then misses that it is free and looks again only after half a second (24.10).
INSTANCES = 2
DType = Literal["uint8", "float32"]
TYPES: dict[DType, str] = {"uint8": "TYPE_UINT8", "float32": "TYPE_FP32"}

THREADS = """\
parameters [
  { key: "intra_op_thread_count" value: { string_value: "0" } },
  { key: "inter_op_thread_count" value: { string_value: "1" } }
]
"""

Precision = Literal["fp32", "fp16", "bf16"]


@dataclass(frozen=True)
class Border:
    """An input or output of a graph."""

    name: str
    dtype: DType
    shape: tuple[int, ...]  # without the batch


@dataclass(frozen=True)
class TensorRT:
    """Settings of the TensorRT accelerator of Triton's ONNX Runtime back end."""

    precision: Precision
    cache: str
    """Folder for engines. One engine fits one GPU, TensorRT, ONNX Runtime and model: all of them are in the path."""


def batches(largest: int) -> tuple[int, int, int]:
    """Least, usual and largest batch of a TensorRT profile; engines are tuned for the second."""
    return 1, max(1, largest // 4), largest


def shapes(inputs: Sequence[Border], batch: int) -> str:
    """`image:8x64x64x3,mask:8x64x64x1`, as TensorRT's profiles have it; the batch is in."""
    return ",".join(f"{border.name}:{'x'.join(map(str, (batch, *border.shape)))}" for border in inputs)


def config_pbtxt(
    model: str,
    max_batch_size: int,
    inputs: Sequence[Border],
    outputs: Sequence[Border],
    tensorrt: TensorRT | None = None,
    *,
    plan: bool = False,
) -> str:
    """Text of config.pbtxt. Dims leave the batch out. It has no `kind`, so that it loads with and without a GPU; only
    TensorRT, where it is asked for, needs one. `plan`: for a TensorRT plan in the graph's place."""
    runs_by = 'platform: "tensorrt_plan"' if plan else 'backend: "onnxruntime"'
    preferred = ", ".join(str(max_batch_size // divisor) for divisor in (4, 2, 1))
    return f"""\
name: "{model}"
{runs_by}
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
{"" if plan else THREADS}{accelerator(tensorrt, max_batch_size, inputs) if tensorrt else ""}"""


def entries(borders: Sequence[Border]) -> str:
    """The entries of an `input` or `output` list."""
    lines = (
        f'\n  {{ name: "{b.name}" data_type: {TYPES[b.dtype]} dims: [ {", ".join(map(str, b.shape))} ] }}'
        for b in borders
    )
    return ",".join(lines) + "\n"


def accelerator(tensorrt: TensorRT, max_batch_size: int, inputs: Sequence[Border]) -> str:
    """TensorRT with its profile, and a warm-up for every batch of it: the first call of each would build or load."""
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


def warm_up(batch: int, inputs: Sequence[Border]) -> str:
    """One entry of `model_warmup`: zeros of a batch."""
    lines = "\n".join(
        f'    inputs {{ key: "{b.name}" value: {{ data_type: {TYPES[b.dtype]} '
        f"dims: [ {', '.join(map(str, b.shape))} ] zero_data: true }} }}"
        for b in inputs
    )
    return f'  {{\n    name: "batch of {batch}"\n    batch_size: {batch}\n{lines}\n  }}'
