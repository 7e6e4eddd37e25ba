"""`make bench-refine`: seconds a picture until a refinement has the loss that the in-domain paper's 100 steps reach.

The paper's code runs 100 Adam steps at a rate of 0.01, with gradients for all weights (Zhu et al., ECCV 2020). Against
it stand a tuned PyTorch loop, and our graphs of Adam and L-BFGS on ONNX Runtime and OpenVINO. Steps are counted on the
mean of the best loss so far, judged in float32 whatever the engine; a step's time is interleaved with the others'. A
second table has networks of the paper's size, whose weights are random.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib
import numpy as np
import torch
import tyro
from torch import nn

from benchmarks.graphs import Array, Graphs, markdown_table, shipped_checkpoint
from benchmarks.speed import Step, TorchSide, interleaved
from export.bundles.building import fold
from export.bundles.checkpoint import Pipeline, load_pipeline
from export.bundles.manifest import describe_graph
from export.graphs.graphs import refiner_graph, to_onnx
from export.graphs.storage import save
from export.parity.refiner import carried_on, refiner_inputs
from serving.backends.engines.sessions import OnnxRuntimeSession, OpenVinoSession, Session, has_bfloat16
from serving.bundle import GraphSpec
from training.data.pictures import load_pictures
from training.losses.perceptual import LPIPSSq, VGG16Conv43
from training.networks.encoder import Encoder, EncoderConfig
from training.networks.generator import Generator, GeneratorConfig
from training.networks.latent_discriminator import LatentDiscriminator
from training.refinement.objective import Objective, Weights
from training.refinement.optimisers import OPTIMISERS, OptimiserName
from training.refinement.refinement import RefinementConfig
from training.refinement.refiner import Refiner
from training.run_folders.picture_grid import to_uint8

matplotlib.use("Agg")
from matplotlib import pyplot

PAPER_RATE, PAPER_STEPS = 0.01, 100
MOST_STEPS = 150
CHUNK = RefinementConfig().chunk_steps
PAPER_SIZE_GB = 22  # 20.6 were in use at the peak
IN_DOMAIN = "in-domain code's loop (PyTorch)"
TUNED = "the same loop, tuned (PyTorch)"
IDINVERT_ENCODER = EncoderConfig(256, (64, 128, 256, 512, 1024, 1024, 1024), 1024, 14)  # 165 million weights
IDINVERT_GENERATOR = GeneratorConfig(
    256, (512, 512, 512, 512, 256, 128, 64), architecture="stylegan1", final_tanh=True
)


@dataclass
class RefineSpeedConfig:
    """Compare refinements by the time that they take to the same loss."""

    repository: Path = Path("model_repository")
    """Model repository, for the bundle's defaults and its encoder."""
    bundle: str = ""
    """Bundle; the first one by default."""
    run: Path = field(default_factory=shipped_checkpoint)
    """The bundle's checkpoint, from which both refiners are exported."""
    data: Path | None = None
    """Folder or zip of pictures to invert; by default the generator's own."""
    pictures: int = 8
    """How many of them."""
    threads: int = 2
    """Threads of every runtime."""
    rounds: int = 5
    """Times that each step is timed, in turn with the others; the median counts."""
    trained: bool = True
    """Time to one loss with the bundle's networks."""
    paper_size: bool = True
    """Also with networks of the paper's size: 256 pixels, StyleGAN1, an encoder of 165 million weights, all random. The
    picture is a sample. All ways are open at once, so that they take turns; where there is no memory for that, the
    table is left out."""
    paper_batches: tuple[int, ...] = (1, 4)
    """Its batches; steps are counted on one picture."""
    figure: Path | None = None
    """Where to draw loss against time."""


@dataclass(frozen=True)
class Refinement:
    """A way to refine: what runs `chunk` steps for n pictures, and n pictures' best mean loss after 0, 1, ... steps."""

    timed: Callable[[int], Step]
    chunk: int
    curve: Callable[[int], Array]


def main(config: RefineSpeedConfig) -> None:
    """Print the tables."""
    torch.set_num_threads(config.threads)
    if config.trained:
        trained_table(config)
    if config.paper_size and memory_gb() < PAPER_SIZE_GB:
        print(
            f"Without the paper's size: it takes {PAPER_SIZE_GB} GB, and there are {memory_gb():.0f} GB here."
        )
    elif config.paper_size:
        paper_size_table(config)


def memory_gb() -> float:
    """The memory of this machine, or what its container may use, if that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    # Without cgroup v2, or with "max" in it, there is no limit.
    with suppress(OSError, ValueError):
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return total / 1e9


def trained_table(config: RefineSpeedConfig) -> None:
    """Time to one loss, with the bundle's networks."""
    graphs = Graphs(config.repository, config.bundle, threads=config.threads)
    images = pictures(config, graphs)
    codes = graphs.encode(images)
    defaults = graphs.bundle.refine
    weights = Weights(defaults.pixel_weight, defaults.perceptual_weight, defaults.domain_weight)
    pipeline = load_pipeline(config.run)
    with tempfile.TemporaryDirectory() as folder:
        objective = fold(pipeline).objective
        side = TorchSide(pipeline, LPIPSSq(), PAPER_RATE, weights)
        ways = torch_ways(side, codes, images) | graph_ways(
            objective, codes, images, Path(folder), config.threads
        )
        batches = [n for n in (1, 4, 8) if n <= len(codes)]
        found = Comparison.of(ways, len(codes), batches, config.rounds)
    print(f"{graphs.bundle.name}, {config.threads} threads; {found}")
    print(feedback_line(graphs, side, codes, images), flush=True)
    if config.figure:
        draw(found.curves, found.seconds[1], config.figure)


def pictures(config: RefineSpeedConfig, graphs: Graphs) -> Array:
    """uint8 [N, H, W, 3]."""
    if config.data:
        source = load_pictures(config.data, graphs.bundle.resolution)
        index = torch.arange(config.pictures) * (len(source) // config.pictures)
        return as_graphs_take(source.batch(index, mirror=False))
    return graphs.decode(graphs.sample(config.pictures))


def as_graphs_take(images: torch.Tensor) -> Array:
    """float [N, 3, H, W] in [-1, 1] -> uint8 [N, H, W, 3]."""
    return to_uint8(images).permute(0, 2, 3, 1).contiguous().numpy()


def paper_size_table(config: RefineSpeedConfig) -> None:
    """Time to one loss, with networks as large as the paper's."""
    torch.manual_seed(0)
    pipeline, perceptual = paper_size_pipeline()
    with torch.no_grad():
        samples = pipeline.generator.mapping(torch.randn(max(config.paper_batches), 512))
        drawn = pipeline.generator.synthesis(samples).clamp(-1, 1)
        codes, images = pipeline.encoder(drawn).numpy(), as_graphs_take(drawn)
    refine = RefinementConfig()
    weights = Weights(refine.pixel_weight, refine.perceptual_weight, refine.domain_weight)
    with tempfile.TemporaryDirectory() as folder:
        objective = fold(pipeline, perceptual=perceptual).objective
        side = TorchSide(pipeline, perceptual, PAPER_RATE, weights)
        # one optimiser: a step costs what loss and gradient do, and each open graph takes gigabytes
        graphs = graph_ways(objective, codes, images, Path(folder), config.threads, [refine.optimiser])
        found = Comparison.of(torch_ways(side, codes, images) | graphs, 1, config.paper_batches, 3)
    print(f"\nStyleGAN1 at 256 pixels, encoder of 165 M weights, VGG16, all random; {found}")


def paper_size_pipeline() -> tuple[Pipeline, nn.Module]:
    """The in-domain paper's networks and its perceptual network, weights random."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vgg16.pth"
        torch.save(random_vgg16(), file)
        perceptual = VGG16Conv43(file)
    return random_pipeline(IDINVERT_GENERATOR, IDINVERT_ENCODER), perceptual


def random_pipeline(generator_config: GeneratorConfig, encoder_config: EncoderConfig) -> Pipeline:
    """Networks with random weights, whose codes are spread as the mapping's are."""
    generator, encoder = Generator(generator_config).eval(), Encoder(encoder_config)
    with torch.no_grad():
        codes = generator.mapping(torch.randn(64, generator_config.z_size))
        encoder.start_from(codes)
    discriminator = LatentDiscriminator(
        codes.mean(0), codes.std(0) + 1e-6, "layer", inputs=generator.mapping.last_inputs
    )
    return Pipeline(generator, encoder.eval(), discriminator.eval(), {}, {}, [], {})


def random_vgg16() -> dict[str, torch.Tensor]:
    """VGG16's first ten convolutions under torchvision's names, so scaled that activations keep their size."""
    state, inputs, index = {}, 3, 0
    for width in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512):
        if width:
            state[f"features.{index}.weight"] = torch.randn(width, inputs, 3, 3) * (2 / (9 * inputs)) ** 0.5
            state[f"features.{index}.bias"] = torch.zeros(width)
            inputs = width
        index += 2 if width else 1
    return state


def torch_ways(side: TorchSide, codes: Array, images: Array) -> dict[str, Refinement]:
    """Adam at the paper's rate."""

    def curve(n: int) -> Array:
        losses: list[Array] = []
        step = side.tuned_step(codes[:n], images[:n], losses.append)
        for _ in range(PAPER_STEPS + 1):
            step()
        return np.minimum.accumulate(losses).mean(1)

    return {
        IN_DOMAIN: Refinement(lambda n: side.in_domain_step(codes[:n], images[:n]), 1, curve),
        TUNED: Refinement(lambda n: side.tuned_step(codes[:n], images[:n]), 1, curve),
    }


def graph_ways(
    objective: Objective,
    codes: Array,
    images: Array,
    folder: Path,
    threads: int,
    optimisers: Iterable[OptimiserName] = OPTIMISERS,
) -> dict[str, Refinement]:
    """Refiner graphs of each optimiser on each engine; `objective` judges in float32 what an engine finds best."""
    ways = {}
    for optimiser in optimisers:
        graph = refiner_graph(
            Refiner(objective, OPTIMISERS[optimiser], codes.shape[1:], CHUNK, RefinementConfig().settings),
            images.shape[1],
        )
        file = folder / f"{optimiser}_refiner" / "1" / "model.onnx"
        file.parent.mkdir(parents=True)
        save(to_onnx(graph, f"{optimiser}_refiner"), file)
        spec = GraphSpec.model_validate(describe_graph(graph, f"{optimiser}_refiner", 1, folder))
        sessions: dict[str, Session] = {"ONNX Runtime": OnnxRuntimeSession(file, threads)}
        if has_bfloat16():
            sessions["OpenVINO bf16"] = OpenVinoSession(file, spec, threads, bfloat16=True)
        for engine, session in sessions.items():
            ways[f"{optimiser}, {engine}"] = graph_way(session, optimiser, objective, codes, images)
    return ways


def graph_way(
    session: Session, optimiser: OptimiserName, objective: Objective, codes: Array, images: Array
) -> Refinement:
    """A refiner graph on one engine."""
    config = RefinementConfig(optimiser)
    weights = Weights(config.pixel_weight, config.perceptual_weight, config.domain_weight)

    def timed(n: int) -> Step:
        inputs = refiner_inputs(codes[:n], images[:n], config)
        return lambda: session.run(inputs)

    def curve(n: int) -> Array:
        inputs: Mapping[str, Array] = refiner_inputs(codes[:n], images[:n], config)
        best, means = float_losses(objective, codes[:n], images[:n], weights), []
        for _ in range(0, MOST_STEPS, CHUNK):
            outputs = session.run(inputs)
            within = [np.minimum(best, outputs["loss"][:, k]).mean() for k in range(CHUNK)]
            best = np.minimum(best, float_losses(objective, outputs["best_code"], images[:n], weights))
            means += np.maximum(within, best.mean()).tolist()  # never better than float32 says
            inputs = carried_on(inputs, outputs)
        return np.minimum.accumulate(means)

    return Refinement(timed, CHUNK, curve)


@torch.no_grad()
def float_losses(objective: Objective, code: Array, image: Array, weights: Weights) -> Array:
    """float32 [N]."""
    picture = torch.from_numpy(image).permute(0, 3, 1, 2) / 127.5 - 1
    return objective(torch.from_numpy(np.array(code)), objective.target(picture), weights).numpy()


@dataclass(frozen=True)
class Comparison:
    """Ways to refine, by their time to the loss that the in-domain code's loop ends with. As a string: the table."""

    curves: Mapping[str, Array]
    pictures: int
    """Whose mean the curves are."""
    seconds: Mapping[int, Mapping[str, float]]
    """Of each batch and way: those of one step of one picture."""

    @classmethod
    def of(
        cls, ways: Mapping[str, Refinement], pictures: int, batches: Iterable[int], rounds: int
    ) -> Comparison:
        """Measures them."""
        curves = {name: way.curve(pictures) for name, way in ways.items() if name != IN_DOMAIN}
        # they differ in their time only
        curves = {IN_DOMAIN: curves[TUNED]} | curves
        return cls(curves, pictures, {n: step_seconds(ways, n, rounds) for n in batches})

    def __str__(self) -> str:
        head = ["refinement", "steps", f"loss after {PAPER_STEPS} steps"]
        for n in self.seconds:
            head += [f"s a step, batch {n}", f"s to the loss, batch {n} (times faster)"]
        goal = self.curves[IN_DOMAIN][PAPER_STEPS]
        table = markdown_table(head, [self._row(name, goal) for name in self.curves])
        return f"seconds are a picture's; mean loss of {self.pictures} to reach: {goal:.4f}\n{table}"

    def _row(self, name: str, goal: float) -> list[str]:
        curve = self.curves[name]
        reached = np.flatnonzero(curve <= goal)
        row = [name, str(reached[0]) if len(reached) else "never", f"{curve[PAPER_STEPS]:.4f}"]
        for steps in self.seconds.values():
            ours = reached[0] * steps[name] if len(reached) else np.nan
            row += [f"{steps[name]:.3f}", f"{ours:.3f} ({PAPER_STEPS * steps[IN_DOMAIN] / ours:.1f})"]
        return row


def step_seconds(ways: Mapping[str, Refinement], batch: int, rounds: int) -> dict[str, float]:
    """Seconds of one step of one picture in a batch."""
    found = interleaved({name: way.timed(batch) for name, way in ways.items()}, rounds)
    return {name: found[name] / way.chunk / batch for name, way in ways.items()}


def feedback_line(graphs: Graphs, side: TorchSide, codes: Array, images: Array, rounds: int = 5) -> str:
    """What warming up by the encoder's own feedback gives: code += E(x) - E(G(code)), forward only."""
    found, losses = codes, []
    for _ in range(rounds + 1):
        losses.append(side.losses(found, images).mean())
        found = found + codes - graphs.encode(graphs.decode(found))
    return "Encoder feedback, loss after 0, 1, ... rounds: " + ", ".join(f"{loss:.4f}" for loss in losses)


def draw(curves: Mapping[str, Array], seconds: Mapping[str, float], file: Path) -> None:
    """Best loss against seconds, one picture at a time."""
    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    for name, curve in curves.items():
        axes.plot(np.arange(len(curve)) * seconds[name], curve, label=name)
    axes.set(xlabel="seconds a picture, batch 1", ylabel="best loss so far, mean", xscale="symlog")
    axes.legend()
    figure.tight_layout()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    main(tyro.cli(RefineSpeedConfig, prog="python -m benchmarks.refine"))
