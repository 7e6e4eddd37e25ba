"""Repeats the refiner's one-step graph K times in one graph, with shared weights and without a Loop node.

So the exporter traces one step only, in a K-th of the time. What does not depend on the state, as the target's
features, is then there K times and is merged by `storage.tidy`.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

BEST = ("best_code", "best_loss")  # start anew in each chunk; the rest of the state goes on
LOSS = "loss"
NEXT = "next_"


def unroll(step: onnx.ModelProto, steps: int) -> onnx.ModelProto:
    """Make a chunk of `steps` steps of one that maps a state and BEST to next_<name>, and gives `loss` [N, 1].

    The chunk's outputs are next_<name> of the state, loss [N, steps], best_code and best_loss.
    """
    graph = step.graph
    names_after = [value.name.removeprefix(NEXT) for value in graph.output if value.name.startswith(NEXT)]
    carried = [name for name in names_after if name not in BEST]
    infinite = helper.make_tensor("infinite_loss", TensorProto.FLOAT, [1, 1], [float("inf")])
    inputs = [value for value in graph.input if value.name not in BEST]
    weights = {tensor.name for tensor in graph.initializer}
    # "" stands for an input that is left out.
    fixed = {value.name for value in inputs} - set(carried) | weights | {""}
    # The infinite losses have the full shape, as the graph may read its batch size from any state.
    nodes = [
        helper.make_node("Shape", ["step"], ["best_loss_shape"]),
        helper.make_node("Expand", [infinite.name, "best_loss_shape"], ["infinite_losses"]),
    ]
    state = {name: name for name in carried} | {"best_code": "code", "best_loss": "infinite_losses"}
    losses: list[str] = []
    for k in range(steps):
        names = {name: name for name in fixed} | state
        for original in graph.node:
            node = onnx.NodeProto()
            node.CopyFrom(original)
            names |= {name: f"step{k}.{name}" for name in original.output if name}
            node.name = f"step{k}.{original.name}"
            node.input[:] = [names[name] for name in original.input]
            node.output[:] = [names[name] for name in original.output]
            nodes.append(node)
        state = {name: names[f"{NEXT}{name}"] for name in state}
        losses.append(names[LOSS])
    nodes.append(helper.make_node("Concat", losses, [LOSS], axis=1))
    results = {name: f"{NEXT}{name}" for name in carried} | {name: name for name in BEST}
    nodes += [helper.make_node("Identity", [state[name]], [result]) for name, result in results.items()]

    given = {value.name: value for value in (*graph.input, *graph.output)}
    batch = given[LOSS].type.tensor_type.shape.dim[0].dim_param
    loss = helper.make_tensor_value_info(LOSS, TensorProto.FLOAT, [batch, steps])
    outputs = [given[f"{NEXT}{name}"] for name in carried] + [loss]
    for name in BEST:
        value = onnx.ValueInfoProto()
        value.CopyFrom(given[name])
        outputs.append(value)
    chunk = helper.make_graph(nodes, graph.name, inputs, outputs, [*graph.initializer, infinite])
    return helper.make_model(chunk, opset_imports=step.opset_import, ir_version=step.ir_version)
