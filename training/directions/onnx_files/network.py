"""Networks in ONNX files, run by torch: what they compute has a gradient then, which ONNX Runtime gives none of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training.directions.onnx_files.operators import OPERATORS, Node, OnnxError

LEAST_OPSET = 7  # earlier ones broadcast by an attribute of each operator


class OnnxNetwork(nn.Module):
    """A network of one input float32 and one output, as an ONNX file has it. Its weights are buffers."""

    def __init__(self, file: Path) -> None:
        """Raises OnnxError; OSError where the file cannot be read."""
        super().__init__()
        try:
            import onnx
            import onnx.inliner
            from google.protobuf.message import DecodeError
        except ImportError:
            raise OnnxError("ONNX files are read by the package onnx: pip install 'onnx>=1.17,<2'") from None
        try:
            model = onnx.load(str(file))
            onnx.checker.check_model(model)
        except (DecodeError, onnx.checker.ValidationError, ValueError) as error:
            raise OnnxError("it is no valid ONNX file; export it again") from error
        if model.functions:
            model = onnx.inliner.inline_local_functions(model)
        graph = model.graph
        opset = next((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), 0)
        if opset < LEAST_OPSET:
            raise OnnxError(f"it is of opset {opset}; export it with {LEAST_OPSET} or a later one")
        weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
        given = [value for value in graph.input if value.name not in weights]
        if len(given) != 1 or len(graph.output) != 1:
            raise OnnxError(
                f"it has {len(given)} inputs and {len(graph.output)} outputs; a network of one picture and one score "
                "has one of each"
            )
        if given[0].type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
            raise OnnxError("its input is no float32; export it with float32 pictures")
        strange = {
            f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
            for node in graph.node
            if node.op_type not in OPERATORS or node.domain not in ("", "ai.onnx")
        }
        if strange:
            raise OnnxError(
                f"it has {', '.join(sorted(strange))}, which are no operators that are known here: "
                f"{', '.join(sorted(OPERATORS))}"
            )
        self._input, self._output = given[0].name, graph.output[0].name
        self._names = {name: f"weight_{n}" for n, name in enumerate(weights)}
        for name, array in weights.items():
            self.register_buffer(self._names[name], torch.from_numpy(array.copy()))

        def value_of(attribute: Any) -> Any:
            value = onnx.helper.get_attribute_value(attribute)
            if isinstance(value, onnx.TensorProto):
                return torch.from_numpy(onnx.numpy_helper.to_array(value).copy())
            return value.decode() if isinstance(value, bytes) else value

        self._nodes = [
            Node(
                node.op_type,
                tuple(node.input),
                node.output[0],
                {attribute.name: value_of(attribute) for attribute in node.attribute},
                opset,
            )
            for node in graph.node
        ]
        for node in graph.node:
            if any(name for name in node.output[1:]):
                raise OnnxError(f"{node.op_type} with a second output is not supported")

    def forward(self, pictures: Tensor) -> Tensor:
        """The output for pictures float32. Raises RuntimeError with the operator that fails and why; OnnxError for one
        with attributes that are not known."""
        values = {name: getattr(self, buffer) for name, buffer in self._names.items()}
        values[self._input] = pictures
        for node in self._nodes:
            inputs = [values[name] if name else None for name in node.inputs]
            try:
                values[node.output] = OPERATORS[node.kind](node, *inputs)
            except OnnxError:
                raise
            except (RuntimeError, ValueError, IndexError, TypeError) as error:
                raise RuntimeError(f"{node.kind}: {str(error).strip().splitlines()[0]}") from error
        return values[self._output]
