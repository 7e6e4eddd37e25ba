"""Changes to an exported graph: duplicates are merged, names shortened, weights stored compactly.

Every change here is exact: the graph computes the same float32 numbers before and after.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import (
    ClearMetadataAndDocStringPass,
    CommonSubexpressionEliminationPass,
    DeduplicateInitializersPass,
    IdentityEliminationPass,
    LiftConstantsToInitializersPass,
    RemoveUnusedNodesPass,
    TopologicalSortPass,
)

SIXTEEN_BITS = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
SMALL = 1024  # tensors of fewer elements stay float32, as they would save nothing
PRODUCER = "indomain export"
EXTERNAL_DATA_BYTES = 2_000_000_000  # more weights lie beside the graph, as protobuf ends at 2 GiB


def data_file(file: Path) -> Path:
    """The file for a graph's weights that do not fit into the graph's own."""
    return file.with_name(f"{file.name}.data")


def save(model: ir.Model, file: Path) -> None:
    """Write a graph, with its weights beside it where they are too many for one file of protobuf."""
    tensors = [value.const_value for value in model.graph.initializers.values()]
    weights = sum(int(tensor.nbytes) for tensor in tensors if tensor is not None)
    ir.save(model, file, external_data=data_file(file).name if weights > EXTERNAL_DATA_BYTES else None)


def tidy(model: ir.Model) -> None:
    """Merge what is computed or stored twice, as between steps of a chunk; shorten names; drop notes of tracing."""
    drop_zero_biases(model)
    passes = (
        LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        DeduplicateInitializersPass(size_limit=1 << 30),
        IdentityEliminationPass(),
        # Before equal nodes are merged: it drops unused outputs, in which they may differ.
        RemoveUnusedNodesPass(),
        CommonSubexpressionEliminationPass(),
        RemoveUnusedNodesPass(),
        TopologicalSortPass(),
        ClearMetadataAndDocStringPass(),
    )
    for step in passes:
        step(model)
    model.producer_name, model.producer_version = PRODUCER, None
    only_cast_bytes(model)
    separate_transposed_weights(model)
    shorten_names(model)


def drop_zero_biases(model: ir.Model) -> None:
    """Remove biases of zeros, whose type is found at run time: the exporter adds them to convolutions without a bias.

    ONNX Runtime uses its blocked layout only for convolutions whose bias is a constant.
    """
    for node in model.graph:
        if node.op_type != "Conv" or len(node.inputs) < 3 or node.inputs[2] is None:
            continue
        source = node.inputs[2].producer()
        while source is not None and source.op_type in ("CastLike", "Expand"):
            value = source.inputs[0]
            assert value is not None
            constant = ir.convenience.get_const_tensor(value)
            if constant is not None and not constant.numpy().any():
                node.resize_inputs(2)
                break
            source = value.producer()


def only_cast_bytes(model: ir.Model) -> None:
    """Let nodes that read a picture's shape read its cast's: TensorRT accepts bytes in a Cast only."""
    for picture in model.graph.inputs:
        uses = list(picture.uses())
        casts = [node for node, _ in uses if node.op_type == "Cast"]
        if picture.dtype != ir.DataType.UINT8 or not casts:
            continue
        for node, index in uses:
            if node.op_type == "Shape":
                node.replace_input_with(index, casts[0].outputs[0])
    TopologicalSortPass()(model)


def separate_transposed_weights(model: ir.Model) -> None:
    """Give transposed convolutions a constant of their own where they share a weight with ordinary ones.

    An up-convolution's forward and backward passes share one, and OpenVINO 2026.4 then gives wrong results without an
    error; also through two Casts of one weight, or two transpositions. Two negations are exact, take no room in the
    file, and every runtime folds them into a second constant when it loads the graph.
    """
    graph = model.graph
    for value in list(graph.initializers.values()):
        uses = [(node, index) for node, index in value.uses() if node.op_type in ("Conv", "ConvTranspose")]
        if len({node.op_type for node, _ in uses}) < 2:
            continue
        once = ir.node("Neg", [value])
        twice = ir.node("Neg", once.outputs)
        for node, index in uses:
            if node.op_type == "ConvTranspose":
                node.replace_input_with(index, twice.outputs[0])
        graph.insert_before(graph[0], [once, twice])


def shorten_names(model: ir.Model) -> None:
    """Number inner values, weights and nodes.

    The exporter's names are long, and some collide with those of inputs and outputs.
    """
    graph = model.graph
    for index, (name, value) in enumerate(list(graph.initializers.items())):
        del graph.initializers[name]
        value.name = f"w{index}"
        graph.register_initializer(value)
    outputs = set(graph.outputs)
    values = (value for node in graph for value in node.outputs if value not in outputs)
    for index, value in enumerate(values):
        value.name = f"v{index}"
        # Whoever loads the graph infers these again.
        value.shape = value.type = None
    for index, node in enumerate(graph):
        node.name = f"n{index}"


def compress(model: ir.Model) -> None:
    """Store larger float32 weights whose numbers float16 holds exactly as float16, with a Cast behind."""
    graph = model.graph
    for value in list(graph.initializers.values()):
        tensor = value.const_value
        if tensor is None or tensor.dtype != ir.DataType.FLOAT or tensor.size < SMALL:
            continue
        full = tensor.numpy()
        with np.errstate(over="ignore"):
            half = full.astype(np.float16)
        if not np.array_equal(half.astype(np.float32), full):
            continue
        name = value.name
        assert name is not None
        stored = ir.val(f"{name}.half", const_value=ir.tensor(half, name=f"{name}.half"))
        cast = ir.node("Cast", [stored], {"to": ir.DataType.FLOAT.value}, name=f"{name}.cast")
        del graph.initializers[name]
        graph.register_initializer(stored)
        ir.convenience.replace_all_uses_with(value, cast.outputs[0])
        cast.outputs[0].name = name
        graph.insert_before(graph[0], cast)


def widen(file: Path, to: Path) -> None:
    """Write a graph again with float32 wherever it has floats of 16 bits: the same operators without their rounding.

    Every runtime can run it, while not every one can run bfloat16, and it can be checked to float32's tolerances.
    """
    model = ir.load(file)
    graph = model.graph
    for value in list(graph.initializers.values()):
        tensor = value.const_value
        if tensor is not None and tensor.dtype in SIXTEEN_BITS:
            value.const_value = ir.tensor(tensor.numpy().astype(np.float32), name=value.name)
            value.type = ir.TensorType(ir.DataType.FLOAT)
    for node in graph:
        if node.op_type == "Cast" and node.attributes["to"].as_int() in SIXTEEN_BITS:
            node.attributes["to"] = ir.AttrInt64("to", ir.DataType.FLOAT.value)
    save(model, to)
