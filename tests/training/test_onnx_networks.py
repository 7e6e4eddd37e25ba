"""Networks in ONNX files, run by torch: equal to ONNX Runtime, with the gradient of the network that was exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper
from torch import Tensor, nn

from training.directions.assessors import AssessorError, load_assessor
from training.directions.onnx_files.network import OnnxNetwork
from training.directions.onnx_files.operators import OPERATORS

SIDE = 20


class Mobile(nn.Module):
    """Blocks of MobileNetV3: depthwise convolutions, squeeze and excitation, hard activations."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.Hardswish())
        self.deep = nn.Sequential(nn.Conv2d(8, 8, 5, 2, 2, groups=8), nn.BatchNorm2d(8), nn.ReLU6())
        self.excite = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 4, 1), nn.ReLU(), nn.Conv2d(4, 8, 1), nn.Hardsigmoid()
        )
        self.head = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.SiLU(), nn.Linear(8, 1))

    def forward(self, pictures: Tensor) -> Tensor:
        x = self.deep(self.stem(pictures))
        x = x * self.excite(x)
        return self.head(x.mean((2, 3)))


class Rated(nn.Module):
    """As NIMA scores: a residual network, the distribution of ten marks, and their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 7, 2, 3)
        self.one, self.two = nn.Conv2d(8, 8, 3, 1, 1), nn.Conv2d(8, 8, 3, 1, 2, dilation=2)
        self.marks = nn.Linear(16, 10)
        self.register_buffer("values", torch.arange(1.0, 11.0))

    def forward(self, pictures: Tensor) -> Tensor:
        x = F.max_pool2d(F.leaky_relu(self.stem(pictures)), 3, 2, 1)
        x = x + self.two(torch.relu(self.one(x)))
        wide = F.interpolate(x, scale_factor=2.0, mode="bilinear")
        x = torch.cat([F.avg_pool2d(x, 3, 1, 1, count_include_pad=False), F.avg_pool2d(wide, 2)], 1)
        marks = self.marks(F.adaptive_avg_pool2d(x, 1).flatten(1)).softmax(1)
        return marks @ self.values[:, None]


def exported(network: nn.Module, file: Path) -> Path:
    torch.onnx.export(
        network, (torch.zeros(2, 3, SIDE, SIDE),), str(file), dynamo=False, dynamic_axes={"pictures": {0: "n"}},
        input_names=["pictures"],
    )  # fmt: skip
    return file


def by_runtime(file: Path, pictures: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: pictures})
    return found


@pytest.mark.parametrize("kind", [Mobile, Rated])
def test_an_exported_network_gives_its_scores_and_its_gradient(kind: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = kind().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
    file = exported(network, tmp_path / "score.onnx")
    images = (2 * torch.rand(3, 3, SIDE, SIDE) - 1).requires_grad_()
    scores = load_assessor(str(file))(images)
    wanted = network((images + 1) / 2).flatten()
    np.testing.assert_allclose(
        scores.detach().numpy(),
        by_runtime(file, ((images + 1) / 2).detach().numpy()).ravel(),
        rtol=1e-4,
        atol=1e-5,
    )
    found, own = (torch.autograd.grad(each.sum(), images)[0] for each in (scores, wanted))
    assert own.abs().max() > 0
    torch.testing.assert_close(found, own, rtol=1e-3, atol=1e-3 * float(own.abs().max()))


# Graphs of an input x, float [2, 3, 8, 9], and an output y; the operators that networks above have none of, and odd
# settings of theirs. Constants are written as they are in files.
GRAPHS: dict[str, str] = {
    "same, upper": """
        w = Constant <value = float[3,1,4,3] {W36}> ()
        y = Conv <auto_pad = 'SAME_UPPER', group = 3, strides = [3,2]> (x, w)
    """,
    "same, lower": "y = MaxPool <auto_pad = 'SAME_LOWER', kernel_shape = [2,4], strides = [1,3]> (x)",
    "uneven borders": "y = AveragePool <kernel_shape = [3,3], pads = [0,1,2,1], count_include_pad = 1> (x)",
    "borders that do not count": "y = AveragePool <kernel_shape = [3,2], pads = [0,1,2,0], strides = [2,2]> (x)",
    "ceil": "y = MaxPool <kernel_shape = [3,3], strides = [2,2], ceil_mode = 1> (x)",
    "pad": """
        p = Constant <value_ints = [0,0,1,2,0,0,0,1]> () v = Constant <value_float = 0.5> ()
        y = Pad (x, p, v)
    """,
    "reflect": "p = Constant <value_ints = [0,0,1,2,0,0,0,1]> () y = Pad <mode = 'reflect'> (x, p)",
    "edge": "p = Constant <value_ints = [0,0,1,0,0,0,2,1]> () y = Pad <mode = 'edge'> (x, p)",
    "resize, nearest": """
        s = Constant <value_floats = [1.0,1.0,2.0,3.0]> ()
        y = Resize <mode = 'nearest', coordinate_transformation_mode = 'asymmetric', nearest_mode = 'floor'> (x, ,
            s)
    """,
    "resize, corners": """
        s = Constant <value_ints = [2,3,5,13]> ()
        y = Resize <mode = 'linear', coordinate_transformation_mode = 'align_corners'> (x, , , s)
    """,
    "computed shapes": """
        s = Shape (x) i = Constant <value_int = 0> () n = Gather (s, i)
        a = Constant <value_ints = [0]> () m = Unsqueeze (n, a) r = Constant <value_ints = [-1]> ()
        t = Concat <axis = 0> (m, r) y = Reshape (x, t)
    """,
    "axes": """
        a = Constant <value_ints = [1]> () m = ReduceMean <keepdims = 0> (x, a) u = Unsqueeze (m, a)
        t = Transpose <perm = [0,3,2,1]> (u) b = Constant <value_ints = [3]> () y = Squeeze (t, b)
    """,
    "slices": """
        b = Constant <value_ints = [1,-3]> () e = Constant <value_ints = [100,9]> ()
        a = Constant <value_ints = [1,3]> () c = Constant <value_ints = [1,2]> ()
        y = Slice (x, b, e, a, c)
    """,
    "gather": "i = Constant <value_ints = [2,-2]> () y = Gather <axis = 1> (x, i)",
    "numbers": """
        two = Constant <value_float = 2.0> () a = Abs (x) b = Sqrt (a) c = Pow (a, two) d = Exp (x)
        e = Tanh (x) f = Neg (e) g = Sub (b, c) h = Mul (d, f) i = Div (h, two) y = Add (g, i)
    """,
    "activations": """
        s = Constant <value = float[3,1,1] {0.1, -0.2, 0.3}> () a = PRelu (x, s)
        b = HardSigmoid <alpha = 0.3> (a) lo = Constant <value_float = 0.4> () c = Clip (b, lo)
        d = HardSwish (x) e = Sigmoid (d) f = Mul (c, e) g = Softmax <axis = 1> (f)
        h = Cast <to = 1> (g) y = Identity (h)
    """,
    "gemm": """
        f = GlobalAveragePool (x) g = Flatten (f)
        w = Constant <value = float[2,3] {1.0, 2.0, -1.0, 0.5, 0.1, 3.0}> ()
        c = Constant <value_floats = [0.5, 1.0]> ()
        y = Gemm <transB = 1, alpha = 0.5, beta = 2.0> (g, w, c)
    """,
}


def graph_of(text: str, file: Path) -> Path:
    weights = ", ".join(f"{value:.3f}" for value in np.linspace(-1, 1, 36))
    body = text.replace("{W36}", "{" + weights + "}").replace("'", '"')
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 18]> agraph (float[2,3,8,9] x) => (float y) {{ {body} }}'
    )
    # The parser takes it for a single number.
    model.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(onnx.shape_inference.infer_shapes(model, data_prop=True), str(file))
    return file


@pytest.mark.parametrize("text", GRAPHS.values(), ids=GRAPHS)
def test_operators_do_what_they_do_in_onnx_runtime(text: str, tmp_path: Path) -> None:
    file = graph_of(text, tmp_path / "graph.onnx")
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 9)).astype(np.float32)
    given = torch.from_numpy(x).requires_grad_()
    found = OnnxNetwork(file)(given)
    np.testing.assert_allclose(found.detach().numpy(), by_runtime(file, x), rtol=1e-4, atol=1e-5)
    (gradient,) = torch.autograd.grad(found.sum(), given)
    assert gradient.isfinite().all()


def test_functions_of_a_file_are_run_as_what_they_are_made_of(tmp_path: Path) -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 18, "own" : 1]>
        agraph (float[2,3,8,9] x) => (float[2,3,8,9] y) { y = own.twice (x) }
        <domain: "own", opset_import: ["" : 18]>
        twice (a) => (b) { b = Add (a, a) }
    """)
    file = tmp_path / "functions.onnx"
    onnx.save(model, str(file))
    x = torch.randn(2, 3, 8, 9)
    torch.testing.assert_close(OnnxNetwork(file)(x), 2 * x)


def test_every_operator_is_tried(tmp_path: Path) -> None:
    files = [exported(kind().eval(), tmp_path / f"{kind.__name__}.onnx") for kind in (Mobile, Rated)]
    files += [graph_of(text, tmp_path / f"{n}.onnx") for n, text in enumerate(GRAPHS.values())]
    tried = {node.op_type for file in files for node in onnx.load(str(file)).graph.node}
    # The exporter leaves these out.
    assert set(OPERATORS) - tried <= {"Dropout", "BatchNormalization"}


def test_earlier_opsets_mean_what_they_meant(tmp_path: Path) -> None:
    """Attributes that are inputs today; a softmax over all axes from one on; batch normalization."""
    random = np.random.default_rng(1)
    four = [random.uniform(0.5, 1.5, 3).astype(np.float32) for _ in range(4)]
    names = ["scale", "bias", "mean", "var"]
    nodes = [
        helper.make_node("BatchNormalization", ["x", *names], ["a"], epsilon=1e-3),
        helper.make_node("Dropout", ["a"], ["b"]),
        helper.make_node("Clip", ["b"], ["c"], min=-1.0, max=1.5),
        helper.make_node("Pad", ["c"], ["d"], pads=[0, 0, 1, 0, 0, 0, 0, 1], value=0.25),
        helper.make_node("Softmax", ["d"], ["e"], axis=2),
        helper.make_node("Slice", ["e"], ["f"], axes=[3], starts=[1], ends=[-1]),
        helper.make_node("ReduceMean", ["f"], ["y"], axes=[3], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "old",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, 8, 9])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3, 9])],
        [onnx.numpy_helper.from_array(each, name) for name, each in zip(names, four, strict=True)],
    )
    file = tmp_path / "old.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=7)
    onnx.save(model, str(file))
    x = random.standard_normal((2, 3, 8, 9)).astype(np.float32)
    np.testing.assert_allclose(OnnxNetwork(file)(torch.from_numpy(x)).numpy(), by_runtime(file, x), rtol=1e-4)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("y = Einsum <equation = 'nchw->n'> (x)", "it has Einsum, which are no operators that are known"),
        ("a, b = MaxPool <kernel_shape = [2,2]> (x) y = Cast <to = 1> (b)", "MaxPool with a second output"),
        ("a = Cast <to = 16> (x) y = Cast <to = 1> (a)", "Cast with type 16 is not supported"),
        (
            "s = Constant <value_floats = [1.0,1.0,2.0,2.0]> () y = Resize <mode = 'cubic'> (x, , s)",
            "Resize with mode cubic",
        ),
        ("s = Constant <value_ints = [2,216]> () y = Reshape (x, s)", "fails on pictures.*Reshape: "),
        ("y = Relu (x)", "it must give one value a picture"),
    ],
)
def test_what_no_score_comes_of_is_refused_by_name(text: str, says: str, tmp_path: Path) -> None:
    file = graph_of(text, tmp_path / "graph.onnx")
    with pytest.raises(AssessorError, match=says):
        load_assessor(str(file))(torch.zeros(2, 3, 10, 10))
