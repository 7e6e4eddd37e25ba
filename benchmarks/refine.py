"""`make bench-refine`: seconds a picture until a refinement has the loss that the in-domain paper's 100 steps reach.

The paper's code runs 100 Adam steps at a rate of 0.01, with gradients for all weights (Zhu et al., ECCV 2020). Against
it stand a tuned PyTorch loop, and our graphs of Adam and L-BFGS on ONNX Runtime and OpenVINO. Steps are counted on the
mean of the best loss so far, judged in float32 whatever the engine; a step's time is interleaved with the others'.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib
import numpy as np
import torch
import tyro

from benchmarks.graphs import Array, Graphs, markdown_table
from benchmarks.speed import Step, TorchSide, interleaved
from export.bundle import BundleConfig, build, describe_graph
from export.checkpoint import load_pipeline
from export.graphs import to_onnx
from export.storage import save
from serving.backends.engines import OnnxRuntimeSession, OpenVinoSession, Session, has_bfloat16
from serving.bundle import Bundle, GraphSpec
from serving.jobs import RefineOptions
from serving.refinement import RefineSettings, first_inputs
from training.data import load_pictures
from training.refinement import OPTIMISERS, OptimiserName, RefinementConfig
from training.runs import to_uint8

matplotlib.use("Agg")
from matplotlib import pyplot

PAPER_RATE, PAPER_STEPS = 0.01, 100
MOST_STEPS = 150
IN_DOMAIN = "in-domain code's loop (PyTorch)"


@dataclass
class RefineSpeedConfig:
    """Compare refinements by the time that they take to the same loss."""

    repository: Path = Path("model_repository")
    """Model repository, for the encoder."""
    bundle: str = ""
    """Bundle; the first one by default."""
    run: Path = Path("training/checkpoints/faces64")
    """The bundle's checkpoint, from which both refiners are exported."""
    data: Path | None = None
    """Folder or zip of pictures to invert; by default the generator's own."""
    pictures: int = 8
    """How many of them."""
    threads: int = 2
    """Threads of every runtime."""
    rounds: int = 5
    """Times that each step is timed, in turn with the others; the median counts."""
    figure: Path | None = None
    """Where to draw loss against time."""


@dataclass(frozen=True)
class Candidate:
    """A way to refine: its best mean loss after 0, 1, ... steps, and what runs `chunk` steps for a batch."""

    curve: Array
    timed: Callable[[int], Step]
    chunk: int


def main(config: RefineSpeedConfig) -> None:
    """Print the table."""
    torch.set_num_threads(config.threads)
    graphs = Graphs(config.repository, config.bundle, threads=config.threads)
    images = pictures(config, graphs)
    codes = graphs.encode(images)
    side = TorchSide(config.run, graphs)
    candidates = {
        IN_DOMAIN: torch_candidate(side, side.in_domain_step, codes, images),
        "the same loop, tuned (PyTorch)": torch_candidate(side, side.tuned_step, codes, images),
    }
    with tempfile.TemporaryDirectory() as folder:
        for optimiser in OPTIMISERS:
            bundle = with_refiner(graphs.bundle, config.run, optimiser, Path(folder))
            file, graph = bundle.graph_file("refiner"), bundle.graphs["refiner"]
            judge = OnnxRuntimeSession(file, config.threads)
            sessions: dict[str, Session] = {"ONNX Runtime": judge}
            if has_bfloat16():
                sessions["OpenVINO bf16"] = OpenVinoSession(file, graph, config.threads)
            for engine, session in sessions.items():
                candidates[f"{optimiser}, {engine}"] = graph_candidate(session, judge, bundle, codes, images)
    goal = candidates[IN_DOMAIN].curve[PAPER_STEPS]
    batches = [n for n in (1, 4, 8) if n <= len(codes)]
    seconds = {n: step_seconds(candidates, n, config.rounds) for n in batches}  # a step of a picture
    print(f"{graphs.bundle.name}: {len(codes)} pictures, {config.threads} threads; loss to reach {goal:.4f}")
    rows = list(table_rows(candidates, goal, seconds))
    head = [
        "refinement",
        "steps",
        "loss at the end",
        *(f"s a picture, batch {n} (times faster)" for n in batches),
    ]
    print(markdown_table(head, rows))
    print(feedback_line(graphs, side, codes, images))
    if config.figure:
        draw(candidates, seconds[1], config.figure)


def pictures(config: RefineSpeedConfig, graphs: Graphs) -> Array:
    """uint8 [N, H, W, 3]."""
    if config.data:
        source = load_pictures(config.data, graphs.bundle.resolution)
        index = torch.arange(config.pictures) * (len(source) // config.pictures)
        return to_uint8(source.batch(index, mirror=False)).numpy()
    z = np.random.default_rng(0).standard_normal((config.pictures, 512), dtype=np.float32)
    return graphs.decode(graphs.run("mapping", z=z)["code"])


def with_refiner(bundle: Bundle, run: Path, optimiser: OptimiserName, folder: Path) -> Bundle:
    """The bundle with a refiner of that optimiser, exported into `folder`."""
    config = BundleConfig(run, folder, refine=RefinementConfig(optimiser))
    graph, model = build(load_pipeline(run), config).graphs["refiner"], f"{optimiser}_refiner"
    file = folder / model / "1" / "model.onnx"
    file.parent.mkdir(parents=True)
    save(to_onnx(graph, model), file)
    spec = GraphSpec.model_validate(describe_graph(graph, model, 1, folder))
    return replace(bundle, folder=folder, graphs={**bundle.graphs, "refiner": spec})


def torch_candidate(
    side: TorchSide, make: Callable[[Array, Array], Step], codes: Array, images: Array
) -> Candidate:
    """Adam at the paper's rate; the two loops differ in their time only, so the faster one draws the curve."""
    side.rate = PAPER_RATE
    losses: list[Array] = []
    step = side.tuned_step(codes, images, losses.append)
    for _ in range(PAPER_STEPS + 1):
        step()
    return Candidate(np.minimum.accumulate(losses).mean(1), lambda n: make(codes[:n], images[:n]), 1)


def graph_candidate(
    session: Session, judge: Session, bundle: Bundle, codes: Array, images: Array
) -> Candidate:
    """Runs chunks until MOST_STEPS; `judge` says the losses in float32 of the codes that `session` finds best."""
    settings = RefineSettings.resolve(RefineOptions(), bundle.refine, MOST_STEPS)

    def start(n: int) -> dict[str, Array]:
        return first_inputs(bundle, codes[:n], images[:n], settings)

    inputs = start(len(codes))
    best, curve = judge.run(inputs)["loss"][:, 0], []
    chunk = bundle.refine.chunk_steps
    for _ in range(0, MOST_STEPS, chunk):
        outputs = session.run(inputs)
        curve += [np.minimum(best, outputs["loss"][:, k]).mean() for k in range(chunk)]
        found = {**start(len(codes)), "code": np.array(outputs["best_code"])}
        best = np.minimum(best, judge.run(found)["loss"][:, 0])
        curve[-chunk:] = np.maximum(curve[-chunk:], best.mean())
        inputs = {name: outputs.get(f"next_{name}", value) for name, value in inputs.items()}
    return Candidate(np.minimum.accumulate(curve), lambda n: lambda: session.run(start(n)), chunk)


def step_seconds(candidates: dict[str, Candidate], batch: int, rounds: int) -> dict[str, float]:
    """Seconds of one step of one picture in a batch."""
    found = interleaved({name: candidate.timed(batch) for name, candidate in candidates.items()}, rounds)
    return {name: found[name] / candidate.chunk / batch for name, candidate in candidates.items()}


def table_rows(
    candidates: dict[str, Candidate], goal: float, seconds: dict[int, dict[str, float]]
) -> Iterator[list[str]]:
    """Steps to the goal, and the time of these."""
    for name, candidate in candidates.items():
        reached = np.flatnonzero(candidate.curve <= goal)
        row = [name, str(reached[0]) if len(reached) else "never", f"{candidate.curve[-1]:.4f}"]
        for times in seconds.values():
            ours = reached[0] * times[name] if len(reached) else np.nan
            row.append(f"{ours:.3f} ({PAPER_STEPS * times[IN_DOMAIN] / ours:.1f})")
        yield row


def feedback_line(graphs: Graphs, side: TorchSide, codes: Array, images: Array, rounds: int = 5) -> str:
    """What warming up by the encoder's own feedback gives: code += E(x) - E(G(code)), forward only."""
    found, losses = codes, []
    for _ in range(rounds + 1):
        losses.append(side.losses(found, images).mean())
        found = found + codes - graphs.encode(graphs.decode(found))
    return "Encoder feedback, loss after 0, 1, ... rounds: " + ", ".join(f"{loss:.4f}" for loss in losses)


def draw(candidates: dict[str, Candidate], seconds: dict[str, float], file: Path) -> None:
    """Best loss against seconds, one picture at a time."""
    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    for name, candidate in candidates.items():
        axes.plot(np.arange(len(candidate.curve)) * seconds[name], candidate.curve, label=name)
    axes.set(xlabel="seconds a picture, batch 1", ylabel="best loss so far, mean", xscale="symlog")
    axes.legend()
    figure.tight_layout()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    main(tyro.cli(RefineSpeedConfig, prog="python -m benchmarks.refine"))
