"""The graphs of a bundle: modules with their inputs and outputs, and how the exporter takes them.

Normalisation, rounding and layout changes live here, inside the graphs; pictures are uint8 [N, H, W, 3] outside.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx
import onnx_ir as ir
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from export.graphs.decompositions import trace
from export.graphs.precision import Precision
from export.graphs.storage import compress, tidy
from export.graphs.tensor_spec import DType, TensorSpec
from export.graphs.unrolling import BEST, LOSS, unroll
from training.faces.face_detector import STRIDES, VALUES, FaceDetector
from training.faces.identity import (
    CHIP,
    SIDE,
    WEIGHTS,
    ChannelGrid,
    FaceDescriptor,
    channel_grids,
    normalised,
)
from training.faces.squares import Cut, Square
from training.refinement.objective import to_float
from training.refinement.refiner import Refiner

OPSET = 20
BFLOAT16_OPSET = 22  # the first whose convolutions take bfloat16
DETECTOR_SIDE = 320  # of the square in which faces are looked for, pixels
EXAMPLE_BATCH = 2  # to trace with: 0 and 1 would become constants

TORCH_DTYPES: dict[DType, torch.dtype] = {"uint8": torch.uint8, "float32": torch.float32}


@dataclass(frozen=True)
class Graph:
    """A module, and the inputs and outputs that its ONNX graph will have, in order."""

    role: str
    module: nn.Module
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    precision: Precision = "float32"
    """What its network computes in. Inputs and outputs are uint8 and float32 whatever it is."""

    @property
    def opset(self) -> int:
        """Version of ONNX's operators."""
        return BFLOAT16_OPSET if self.precision == "bfloat16" else OPSET


class EncoderGraph(nn.Module):
    """image uint8 [N, H, W, 3] -> code float32 [N, L, 512]."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, image: Tensor) -> Tensor:
        return self.encoder(to_float(image).to(next(self.encoder.parameters()).dtype))


class GeneratorGraph(nn.Module):
    """code float32 [N, L, 512] -> image uint8 [N, H, W, 3], rounded half to even."""

    def __init__(self, synthesis: nn.Module) -> None:
        super().__init__()
        self.synthesis = synthesis

    def forward(self, code: Tensor) -> Tensor:
        image = self.synthesis(code).permute(0, 2, 3, 1)
        return torch.round((image + 1) * 127.5).clamp(0, 255).to(torch.uint8)


class WithExtraRows(nn.Module):
    """A network that gives codes float [N, L, 512], with additional rows of zeros: float [N, L + R, 512]."""

    def __init__(self, network: nn.Module, rows: int) -> None:
        super().__init__()
        self.network, self.rows = network, rows

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        # torch.export needs the inputs one by one; only a conditional mapping has a second one.
        code = self.network(x) if label is None else self.network(x, label)
        return F.pad(code, (0, 0, 0, self.rows))


class WithoutExtraRows(nn.Module):
    """A network that takes codes float [N, L, 512], of codes with additional rows, float [N, L + R, 512]."""

    def __init__(self, network: nn.Module, layers: int) -> None:
        super().__init__()
        self.network, self.layers = network, layers

    def forward(self, code: Tensor) -> Tensor:
        result: Tensor = self.network(code[:, : self.layers])
        return result


class DomainScoreGraph(nn.Module):
    """code float32 [N, L, 512] -> domain score float32 [N, 1] in 0..1.

    The score is the share of the generator's own pictures whose inversions the latent discriminator finds less native
    than this code. It is the discriminator's mean logit, looked up between `quantiles` (float32 [Q], rising) of theirs
    with linear interpolation. Sampled codes would be no measure: the discriminator tells any encoder's codes from them.
    """

    lower: Tensor
    slope: Tensor

    def __init__(self, discriminator: nn.Module, quantiles: Tensor) -> None:
        super().__init__()
        self.discriminator = discriminator
        # Equal quantiles make a step instead of a division by zero.
        widths = (quantiles[1:] - quantiles[:-1]).clamp(min=1e-6)
        self.register_buffer("lower", quantiles[:-1].clone())
        self.register_buffer("slope", 1 / widths)

    def forward(self, code: Tensor) -> Tensor:
        logit = self.discriminator(code).mean(1, keepdim=True)
        # The interpolated table is a sum of ramps, one for each interval between two quantiles.
        ramps = ((logit - self.lower) * self.slope).clamp(0, 1)
        return ramps.mean(1, keepdim=True)


class DetectorGraph(nn.Module):
    """image uint8 [N, 320, 320, 3] -> faces float32 [N, P, 15], the rows of `FaceDetector`."""

    def __init__(self) -> None:
        super().__init__()
        self.detector = FaceDetector()

    def forward(self, image: Tensor) -> Tensor:
        return self.detector(to_float(image))


def detector_graph() -> Graph:
    """The graph of the face detector: the same in every bundle that is aligned by faces."""
    side = DETECTOR_SIDE
    places = sum((side // stride) ** 2 for stride in STRIDES)
    image, faces = (
        TensorSpec("image", "uint8", (side, side, 3)),
        TensorSpec("faces", "float32", (places, VALUES)),
    )
    return Graph("detector", DetectorGraph(), (image,), (faces,))


def for_detector(images: Tensor) -> Tensor:
    """Resize pictures uint8 [N, H, W, 3] to the size that the detector takes."""
    x = F.interpolate(images.permute(0, 3, 1, 2).float(), (DETECTOR_SIDE, DETECTOR_SIDE))
    return x.permute(0, 2, 3, 1).to(torch.uint8).contiguous()


class StoredConv(nn.Module):
    """A convolution whose weights are stored as their grid. Runtimes fold them to float32 when they load the graph.

    They are a Cast, a product and a sum, not DequantizeLinear, which ONNX Runtime would compute again in every run.
    """

    values: Tensor
    step: Tensor
    lowest: Tensor
    bias: Tensor

    def __init__(self, grid: ChannelGrid, like: nn.Conv2d) -> None:
        super().__init__()
        for name in ("values", "step", "lowest", "bias"):
            self.register_buffer(name, getattr(grid, name))
        self.stride, self.padding = like.stride, like.padding

    def forward(self, x: Tensor) -> Tensor:
        weight = self.values.float() * self.step + self.lowest
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)  # type: ignore[arg-type]


class IdentityGraph(nn.Module):
    """image uint8 [N, H, W, 3] -> descriptor float32 [N, 128] of the face in a square of it."""

    def __init__(self, resolution: int, square: Square, network: FaceDescriptor) -> None:
        super().__init__()
        self.cut, self.network = Cut(resolution, square, SIDE), network

    def forward(self, image: Tensor) -> Tensor:
        # Not after the cut, although that is the same: OpenVINO (2026.4) cannot take a mean of three channels off the
        # cut's matrix product.
        descriptor: Tensor = self.network.describe(self.cut(normalised(to_float(image))))
        return descriptor


def stored_descriptor() -> FaceDescriptor:
    """dlib's network with the weights as the package has them: the descriptors are the same."""
    network = FaceDescriptor()
    for name, grid in channel_grids(load_file(WEIGHTS)).items():
        parent, _, child = name.rpartition(".")
        convolution = network.get_submodule(name)
        assert isinstance(convolution, nn.Conv2d)
        setattr(network.get_submodule(parent), child, StoredConv(grid, convolution))
    return network


def identity_graph(resolution: int, square: Square = CHIP) -> Graph:
    """The graph for pictures of a side in pixels, whose faces lie in a square of them."""
    image = TensorSpec("image", "uint8", (resolution, resolution, 3))
    descriptor = TensorSpec("descriptor", "float32", (FaceDescriptor.values,))
    module = IdentityGraph(resolution, square, stored_descriptor())
    return Graph("identity", module, (image,), (descriptor,))


def bundle_graphs(
    *,
    encoder: nn.Module,
    synthesis: nn.Module,
    mapping: nn.Module,
    critic: nn.Module,
    refiner: Refiner,
    resolution: int,
    code_shape: tuple[int, int],
    z_size: int,
    precision: Precision,
    labels: int = 0,
    relabeller: nn.Module | None = None,
) -> dict[str, Graph]:
    """The five graphs by role, of folded networks. `precision`: what `encoder` and `synthesis` compute in.

    `labels`: how many the mapping takes; `relabeller` gives codes other ones, where that can be done.
    """
    picture = (resolution, resolution, 3)
    code, image = TensorSpec("code", "float32", code_shape), TensorSpec("image", "uint8", picture)
    label = (TensorSpec("label", "float32", (labels,)),) if labels else ()
    graphs = [
        Graph("encoder", EncoderGraph(encoder), (image,), (code,), precision),
        Graph("generator", GeneratorGraph(synthesis), (code,), (image,), precision),
        Graph("mapping", mapping, (TensorSpec("z", "float32", (z_size,)), *label), (code,)),
        Graph("critic", critic, (code,), (TensorSpec("score", "float32", (1,)),)),
        refiner_graph(refiner, resolution),
    ]
    if relabeller is not None:
        edited = TensorSpec("edited_code", "float32", code_shape)
        graphs.append(Graph("relabeller", relabeller, (code, *label), (edited,)))
    return {graph.role: graph for graph in graphs}


def refiner_graph(refiner: Refiner, resolution: int) -> Graph:
    """The graph of a refiner, with its settings by their names."""
    shapes = refiner.one_step.shapes
    state = [TensorSpec(name, "float32", shape) for name, shape in shapes.items()]
    settings = [TensorSpec(name, "float32", (1,)) for name in refiner.one_step.names]
    target = TensorSpec("target", "uint8", (resolution, resolution, 3))
    mask = TensorSpec("mask", "float32", (resolution, resolution, 1))
    outputs = (
        *(TensorSpec(f"next_{spec.name}", "float32", spec.shape) for spec in state),
        TensorSpec("loss", "float32", (refiner.chunk_steps,)),
        TensorSpec("best_code", "float32", shapes["code"]),
        TensorSpec("best_loss", "float32", (1,)),
    )
    return Graph("refiner", refiner, (*state, target, mask, *settings), outputs)


def to_onnx(graph: Graph, name: str) -> ir.Model:
    """Export a graph with dynamic batch and lossless compact storage, as an ONNX graph of that name."""
    if isinstance(graph.module, Refiner):
        model = ir.from_proto(unroll(refiner_step(graph), graph.module.chunk_steps))
    else:
        model = export(graph.module, graph.inputs, [spec.name for spec in graph.outputs], graph.opset)
    model.graph.name = name
    tidy(model)
    compress(model)
    return model


def refiner_step(graph: Graph) -> onnx.ModelProto:
    """Export one step of the refiner, whose inputs are its state, `best_code`, `best_loss` and the settings."""
    assert isinstance(graph.module, Refiner)
    step = graph.module.one_step.eval().requires_grad_(False)
    parts = len(step.shapes)
    best = [spec for spec in graph.outputs if spec.name in BEST]
    inputs = (*graph.inputs[:parts], *best, *graph.inputs[parts:])
    traced = trace(step, tuple(example(spec) for spec in inputs))
    names = [*(f"next_{name}" for name in (*step.shapes, *BEST)), LOSS]
    model = export(traced, inputs, names, graph.opset)
    tidy(model)
    return ir.to_proto(model)


def export(module: nn.Module, inputs: Sequence[TensorSpec], outputs: Sequence[str], opset: int) -> ir.Model:
    """Export a module through torch's exporter, with dynamic batch."""
    module.eval().requires_grad_(False)
    with quiet_exporter():
        program = torch.onnx.export(
            module,
            tuple(example(spec) for spec in inputs),
            dynamo=True,
            dynamic_shapes=tuple({0: torch.export.Dim.DYNAMIC} for _ in inputs),
            input_names=[spec.name for spec in inputs],
            output_names=list(outputs),
            opset_version=opset,
            # The exporter's optimiser deletes "+ 1e-8": gradients would be wrong, and NaN in half precision.
            optimize=False,
        )
    assert program is not None
    return program.model


def example(spec: TensorSpec) -> Tensor:
    """Make a tensor to trace with."""
    shape = (EXAMPLE_BATCH, *spec.shape)
    if spec.dtype == "uint8":
        return torch.randint(0, 256, shape, dtype=torch.uint8)
    return torch.rand(shape)


@contextlib.contextmanager
def quiet_exporter() -> Iterator[None]:
    """Within it the exporter prints no progress and no deprecation notes. Errors are still raised."""
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger("torch.onnx").setLevel(level)
