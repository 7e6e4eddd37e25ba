"""Networks of several sizes, and the ways to run them that `benchmarks.gpu` compares: ONNX Runtime's sessions, PyTorch.

Arrays of the processor go in and come out of either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.graphs import Array, shipped_checkpoint
from benchmarks.refine import paper_size_pipeline, random_pipeline
from benchmarks.scale import CONFIG_F
from export.bundles.building import Folded, fold
from export.bundles.checkpoint import load_pipeline
from export.bundles.manifest import describe_graph
from export.graphs.graphs import EncoderGraph, GeneratorGraph, Graph, refiner_graph, to_onnx
from export.graphs.precision import Precision, lower
from export.graphs.storage import save
from export.graphs.tensor_spec import TensorSpec
from export.parity.refiner import carried_on, refiner_inputs
from serving.backends.engines.gpu import Device, DeviceSession
from serving.bundle import GraphSpec
from training.networks.encoder import EncoderConfig
from training.networks.generator import GeneratorConfig
from training.refinement.objective import Objective, Weights, to_float
from training.refinement.optimisers import OPTIMISERS, Adam
from training.refinement.refinement import RefinementConfig
from training.refinement.refiner import Refiner

PRECISIONS: tuple[Precision, ...] = ("float32", "float16")
Step = Callable[[], Array]


def networks(side: int) -> tuple[str, GeneratorConfig, Folded]:
    """Networks for pictures of a side: what they are, the generator's shape, and themselves as graphs have them."""
    if side == 256:
        pipeline, perceptual = paper_size_pipeline()
        return (
            "idinvert's shape, random weights",
            pipeline.generator.config,
            fold(pipeline, perceptual=perceptual),
        )
    if shipped_checkpoint().is_dir():
        pipeline = load_pipeline(shipped_checkpoint())
        if pipeline.generator.config.resolution == side:
            return f"{shipped_checkpoint().name}, shipped", pipeline.generator.config, fold(pipeline)
    # The stand-in of a GPU has an eighth of the feature maps.
    channels = tuple(maps if side >= 128 else maps // 8 for maps in CONFIG_F[: side.bit_length() - 2])
    generator = GeneratorConfig(side, channels, per_layer_code=False)
    encoder = EncoderConfig(side, channels[::-1], layers=generator.layers)
    return "configuration F, random weights", generator, fold(random_pipeline(generator, encoder))


@dataclass(frozen=True)
class Side:
    """Everything for pictures of one size."""

    pixels: int
    folded: Folded
    refine: RefinementConfig
    graphs: dict[tuple[str, Precision], Graph]
    codes: Array
    images: Array


def make_side(pixels: int, most: int, refine: RefinementConfig) -> tuple[str, Side]:
    """Networks and inputs: codes of the mapping, pictures of random bytes, as no time depends on what is seen."""
    torch.manual_seed(0)
    what, config, folded = networks(pixels)
    code_shape = (config.layers, config.code_size)
    code = TensorSpec("code", "float32", code_shape)
    image = TensorSpec("image", "uint8", (pixels, pixels, 3))
    graphs: dict[tuple[str, Precision], Graph] = {}
    for precision in PRECISIONS:
        encoder = EncoderGraph(lower(folded.encoder, precision))
        graphs["encode", precision] = Graph("encoder", encoder, (image,), (code,), precision)
        generator = GeneratorGraph(lower(folded.synthesis, precision))
        graphs["decode", precision] = Graph("generator", generator, (code,), (image,), precision)
    optimiser = OPTIMISERS[refine.optimiser]
    graphs["refine", "float32"] = refiner_graph(
        Refiner(folded.objective, optimiser, code_shape, refine.chunk_steps, refine.settings),
        pixels,  # type: ignore[arg-type]
    )
    with torch.no_grad():
        codes = folded.mapping(torch.randn(most, config.z_size)).numpy()
    images = np.random.default_rng(0).integers(0, 256, (most, pixels, pixels, 3), np.uint8)
    return what, Side(pixels, folded, refine, graphs, codes, images)


class OnnxRuntimeWay:
    """The graphs on ONNX Runtime, encoder and generator in one precision; the refiner is always in float32."""

    def __init__(
        self, side: Side, sessions: dict[tuple[str, Precision], DeviceSession], precision: Precision
    ) -> None:
        self.side = side
        self.encoder, self.generator = sessions["encode", precision], sessions["decode", precision]
        self.refiner = sessions["refine", "float32"]

    def encode(self, count: int) -> Step:
        return lambda: self.encoder.run({"image": self.side.images[:count]})["code"]

    def decode(self, count: int) -> Step:
        return lambda: self.generator.run({"code": self.side.codes[:count]})["image"]

    def steps(self, count: int) -> Step:
        """A chunk of steps; the loss before the first, [N, 1]."""
        inputs = refiner_inputs(self.side.codes[:count], self.side.images[:count], self.side.refine)
        return lambda: self.refiner.run(inputs)["loss"][:, :1]

    def inversion(self, count: int, steps: int) -> Step:
        def invert() -> Array:
            images, refine = self.side.images[:count], self.side.refine
            inputs = refiner_inputs(self.encoder.run({"image": images})["code"], images, refine)
            for _ in range(0, steps, refine.chunk_steps):
                outputs = self.refiner.run(inputs)
                inputs = carried_on(inputs, outputs)
            return self.generator.run({"code": outputs["best_code"]})["image"]

        return invert


class TorchWay:
    """The networks in PyTorch, and the loop that people write around them: Adam, weights frozen, the target's features
    computed once."""

    def __init__(self, side: Side, device: str, precision: Precision, *, compiled: bool) -> None:
        self.side, self.device = side, device
        self.weights = Weights(
            side.refine.pixel_weight, side.refine.perceptual_weight, side.refine.domain_weight
        )
        self.objective: Objective = side.folded.objective.to(device).requires_grad_(False)

        def made(network: nn.Module) -> Callable[..., Tensor]:
            if not compiled:
                return network
            # With CUDA graphs. The stand-in generates no code, as that takes a minute for each network.
            return (
                torch.compile(network, mode="reduce-overhead")
                if device == "cuda"
                else torch.compile(network, backend="eager")
            )

        self.loss = made(self.objective)
        self.encoder, self.generator = (
            made(side.graphs[stage, precision].module.to(device).requires_grad_(False))
            for stage in ("encode", "decode")
        )

    def _there(self, value: Array) -> Tensor:
        return torch.from_numpy(value).to(self.device)

    @torch.no_grad()
    def _run(self, network: Callable[..., Tensor], value: Array) -> Array:
        return network(self._there(value)).cpu().numpy()

    def encode(self, count: int) -> Step:
        return lambda: self._run(self.encoder, self.side.images[:count])

    def decode(self, count: int) -> Step:
        return lambda: self._run(self.generator, self.side.codes[:count])

    def _loop(self, codes: Array, images: Array, steps: int) -> tuple[Array, Array]:
        """The codes after so many steps, and the loss before the first, [N, 1]."""
        code = self._there(codes).clone().requires_grad_()
        optimiser = torch.optim.Adam([code], self.side.refine.learning_rate, Adam.BETAS, Adam.EPSILON)
        with torch.no_grad():
            goal = self.objective.target(to_float(self._there(images)))
        losses = []
        for _ in range(steps):
            loss = self.loss(code, goal, self.weights)
            (code.grad,) = torch.autograd.grad(loss.sum(), code)
            optimiser.step()
            # A compiled network's output lies where its next one will.
            losses.append(loss.detach().clone())
        return code.detach().cpu().numpy(), losses[0][:, None].cpu().numpy()

    def steps(self, count: int) -> Step:
        side = self.side
        return lambda: self._loop(side.codes[:count], side.images[:count], side.refine.chunk_steps)[1]

    def inversion(self, count: int, steps: int) -> Step:
        def invert() -> Array:
            images = self.side.images[:count]
            code, _ = self._loop(self._run(self.encoder, images), images, steps)
            return self._run(self.generator, code)

        return invert


def exported(side: Side, folder: Path) -> Iterator[tuple[tuple[str, Precision], Path, GraphSpec]]:
    """The graphs as files, each exported where it is not in the folder yet, and how the back end describes them."""
    for (stage, precision), graph in side.graphs.items():
        name = f"{side.pixels}_{side.refine.optimiser}_{stage}_{precision}"
        file = folder / name / "1" / "model.onnx"
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            save(to_onnx(graph, name), file)
        yield (stage, precision), file, GraphSpec.model_validate(describe_graph(graph, name, 1, folder))


def sessions_of(side: Side, device: Device, folder: Path) -> dict[tuple[str, Precision], DeviceSession]:
    """The graphs, opened as the embedded back end opens them."""
    return {key: DeviceSession(file, spec, device) for key, file, spec in exported(side, folder)}
