"""config.pbtxt of a graph, for NVIDIA Triton with `--disable-auto-complete-config`: everything is written out."""

from __future__ import annotations

from collections.abc import Sequence

from export.graphs import Border, Graph

MAX_BATCH = {"encoder": 16, "generator": 16, "mapping": 64, "critic": 64, "refiner": 8}
QUEUE_BATCHES = 16  # full batches that may wait; the next request is rejected, not kept waiting for ever
QUEUE_DELAY_US = 500  # a lone request waits this long for company
TYPES = {"uint8": "TYPE_UINT8", "float32": "TYPE_FP32"}


def config_pbtxt(graph: Graph, model: str) -> str:
    """Text of config.pbtxt. Dims leave the batch out; no `kind`, so that it loads with and without a GPU."""
    batch = MAX_BATCH[graph.role]
    preferred = ", ".join(str(batch // divisor) for divisor in (4, 2, 1))
    return f"""\
name: "{model}"
backend: "onnxruntime"
max_batch_size: {batch}
input [{tensors(graph.inputs)}]
output [{tensors(graph.outputs)}]
dynamic_batching {{
  preferred_batch_size: [ {preferred} ]
  max_queue_delay_microseconds: {QUEUE_DELAY_US}
  default_queue_policy {{
    max_queue_size: {QUEUE_BATCHES * batch}
    timeout_action: REJECT
    allow_timeout_override: true
  }}
}}
instance_group [
  {{ count: 1 }}
]
parameters [
  {{ key: "intra_op_thread_count" value: {{ string_value: "0" }} }},
  {{ key: "inter_op_thread_count" value: {{ string_value: "1" }} }}
]
"""


def tensors(borders: Sequence[Border]) -> str:
    """The entries of an `input` or `output` list."""
    entries = (
        f'\n  {{ name: "{b.name}" data_type: {TYPES[b.dtype]} dims: [ {", ".join(map(str, b.shape))} ] }}'
        for b in borders
    )
    return ",".join(entries) + "\n"
