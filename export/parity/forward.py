"""Checks of graphs without a gradient inside: encoder, generator, mapping, scores, detector, relabeller."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import Tensor, nn

from export.graphs.graphs import Graph
from export.parity.differences import Array, Figures, relative_error, within_one_level
from export.parity.sessions import run
from export.parity.tolerances import TOLERANCES, Tolerances, batches, require

FORBIDDEN = ("Loop", "Scan", "If", "Random", "Multinomial", "Bernoulli")  # also as beginnings of names


def with_filled_rows(codes: Tensor, layers: int | None) -> Tensor:
    """Fill the rows of codes float [N, L + R, 512] beyond the layers, which native codes have zeros in, at random."""
    filled = codes.clone()
    filled[:, layers:] = 0.5 * torch.randn(
        filled[:, layers:].shape, generator=torch.Generator().manual_seed(0)
    )
    return filled if layers is not None else codes


def other_labels(labels: Tensor) -> Tensor:
    """Labels float32 [N, K] to change codes to: the opposite ones, and in every third sample some that stay (-1)."""
    other = 1 - labels
    other[2::3, ::2] = -1
    return other


def check_structure(graph: Graph, file: Path) -> None:
    """Check a graph's file: valid, inputs and outputs as declared, batch dynamic, no control flow, nothing random.

    Raises ParityError.
    """
    # By its path, as weights may lie beside it.
    onnx.checker.check_model(str(file), full_check=True)
    model = onnx.load(file, load_external_data=False)
    opsets = {entry.domain: entry.version for entry in model.opset_import if entry.domain}
    version = next(entry.version for entry in model.opset_import if not entry.domain)
    require(
        version <= graph.opset and not opsets,
        graph.role,
        f"opset {version} with extra domains {sorted(opsets)}",
    )
    found = sorted({node.op_type for node in model.graph.node if node.op_type.startswith(FORBIDDEN)})
    require(not found, graph.role, f"nodes that a graph may not have: {', '.join(found)}")
    for specs, values in ((graph.inputs, model.graph.input), (graph.outputs, model.graph.output)):
        have = [(v.name, *(d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim)) for v in values]
        require([h[0] for h in have] == [b.name for b in specs], graph.role, f"specs are {have}")
        for spec, (name, batch, *shape) in zip(specs, have, strict=True):
            require(isinstance(batch, str), graph.role, f"the batch of {name} is fixed at {batch}")
            require(tuple(shape) == spec.shape, graph.role, f"{name} has shape {shape}, not {spec.shape}")


def check_forward(
    graph: Graph,
    session: ort.InferenceSession,
    checkpoint: nn.Module,
    inputs: Tensor | tuple[Tensor, ...],
    tolerances: Tolerances = TOLERANCES,
) -> Figures:
    """Compare a graph of one output with its folded module, and with the checkpoint's own network.

    `checkpoint`: the training network with the same inputs and outputs. `inputs`: as many samples as the largest batch,
    of each input. Returns the errors, in batches and of each sample alone. Raises ParityError.
    """
    given = (inputs,) if isinstance(inputs, Tensor) else inputs
    (result,), count = graph.outputs, len(given[0])

    def infer(part: slice) -> Array:
        named = zip(graph.inputs, given, strict=True)
        return run(session, {spec.name: x[part].numpy() for spec, x in named})[result.name]

    with torch.no_grad():
        firsts = [slice(n) for n in batches(count)]
        folded = [(infer(part), graph.module(*(x[part] for x in given)).numpy()) for part in firsts]
        original = checkpoint(*given).numpy()
    together = infer(slice(count))
    alone = np.concatenate([infer(slice(n, n + 1)) for n in range(count)])
    if result.dtype == "uint8":
        share = min(within_one_level(*pair) for pair in folded)
        kept, apart = within_one_level(together, original), within_one_level(together, alone)
        for value, what in ((share, "its network"), (kept, "the checkpoint"), (apart, "the sample alone")):
            level = 1.0 if what == "the sample alone" else tolerances.picture_share
            require(
                value >= level,
                graph.role,
                f"{value:.5f} of the values are within 1/255 of {what}; {level} needed",
            )
        return {"share_within_one_level": share, "share_within_one_level_of_checkpoint": kept}
    error, rounding = max(relative_error(*pair) for pair in folded), relative_error(together, original)
    apart = relative_error(together, alone)
    rounding_allowed = tolerances.rounding_of_score if graph.role == "critic" else tolerances.rounding
    for value, limit, what in (
        (error, tolerances.relative, "its network"),
        (rounding, rounding_allowed, "the checkpoint"),
        (apart, tolerances.batch, "the sample alone"),
    ):
        require(
            value <= limit,
            graph.role,
            f"relative error {value:.2e} against {what}; at most {limit:g} allowed",
        )
    return {
        "relative_error": error,
        "relative_error_to_checkpoint": rounding,
        "relative_error_in_batch": apart,
    }
