"""Does a graph do what its network does? The checks that a bundle must pass, with their tolerances.

Every check returns the figures it reached, which go into the manifest, or raises ParityError.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import torch
from torch import Tensor, nn

from export.graphs.graphs import EncoderGraph, GeneratorGraph, Graph, for_detector
from export.graphs.precision import Precision, picture_psnr
from training.refinement.objective import Objective, Weights, to_float
from training.refinement.optimisers import OPTIMISERS, Adam
from training.refinement.refinement import RefinementConfig, refine

Array = npt.NDArray[np.generic]
Figures = dict[str, float]

LARGEST_BATCH = 8
BATCH_PIXELS = 1 << 18  # of one batch: the activations of a refinement's backward pass must fit into memory


def sample_count(resolution: int) -> int:
    """How many samples the checks take: the largest batch, fewer where pictures are large, but never one alone."""
    return max(2, min(LARGEST_BATCH, BATCH_PIXELS // resolution**2))


def batches(count: int) -> list[int]:
    """Sizes of the batches that `count` samples are checked in: one alone, a few, all."""
    return sorted({1, (count + 1) // 3, count})


@dataclass(frozen=True)
class Tolerances:
    """How far a graph may be from its network."""

    relative: float = 1e-3
    """Codes and scores: largest difference, relative to the largest value."""
    picture_share: float = 0.999
    """Pictures: share of values within one level of 255."""
    gradient: float = 1e-4
    """First gradient of a refinement: length of the difference relative to the gradient's, the median sample's."""
    kink: float = 5e-2
    """The same, the worst sample's. Where an activation is within rounding of zero, its leaky ReLU may have either
    slope: one such sample in a few is far from float64 in PyTorch or in ONNX Runtime, and neither is wrong. 1.2e-2 was
    met in a trained bundle; a wrong rule for a derivative is wrong for the median sample too."""
    loss: float = 1e-3
    """Losses of a chunk, relative, the median sample's."""
    loss_worst: float = 1e-2
    """The same, the worst sample's, also in a batch against alone: after a kink L-BFGS goes another way. A sample that
    saw another would be wrong by far more."""
    displacement: float = 5e-2
    """Codes after a chunk: length of the difference relative to the way gone, the median sample's. Adam divides by the
    gradient's own size, so entries whose gradient is rounding noise may go either way."""
    displacement_worst: float = 5e-1
    """The same, the worst sample's: it may have met a kink on its way, after which L-BFGS goes another."""
    batch: float = 1e-4
    """A sample in a batch against the sample alone, relative."""
    rounding: float = 5e-3
    """Codes of stored weights against the checkpoint's own, relative."""
    rounding_of_score: float = 5e-2
    """The same of scores. They are percentiles, so what little moves a logit moves them the more, the closer the logits
    of inversions are together."""
    psnr_db: float = 40.0
    """Pictures of a graph that computes in 16 bits against those of float32: PSNR over all sampled codes."""


TOLERANCES = Tolerances()
FORBIDDEN = ("Loop", "Scan", "If", "Random", "Multinomial", "Bernoulli")  # also as beginnings of names


class ParityError(ValueError):
    """A graph does not do what its network does; the message says which, where and by how much."""


def require(condition: bool, graph: str, what: str) -> None:
    """Raise ParityError unless `condition`, which NaN never meets if it is a comparison."""
    if not condition:
        raise ParityError(f"parity: {graph}: {what}; nothing was written")


def open_session(path: Path) -> ort.InferenceSession:
    """An ONNX Runtime session on the CPU that does not spin beside others."""
    options = ort.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(session: ort.InferenceSession, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """All outputs by name."""
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def check_structure(graph: Graph, file: Path) -> None:
    """Valid, its borders as declared, batch dynamic, no control flow, nothing random."""
    onnx.checker.check_model(str(file), full_check=True)  # by its path: weights may lie beside it
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
    for borders, values in ((graph.inputs, model.graph.input), (graph.outputs, model.graph.output)):
        have = [(v.name, *(d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim)) for v in values]
        require([h[0] for h in have] == [b.name for b in borders], graph.role, f"borders are {have}")
        for border, (name, batch, *shape) in zip(borders, have, strict=True):
            require(isinstance(batch, str), graph.role, f"the batch of {name} is fixed at {batch}")
            require(tuple(shape) == border.shape, graph.role, f"{name} has shape {shape}, not {border.shape}")


def relative_error(found: Array, wanted: Array) -> float:
    """Largest difference relative to the largest value; as it is where all of them are zero, as scores may be."""
    return float(np.abs(found - wanted).max() / (np.abs(wanted).max() or 1.0))


def relative_lengths(found: Array, wanted: Array) -> npt.NDArray[np.floating]:
    """Length of each sample's difference relative to the sample's length: [N]."""
    axes = tuple(range(1, wanted.ndim))
    return np.sqrt(np.square(found - wanted).sum(axes) / np.square(wanted).sum(axes))


def within_one_level(found: Array, wanted: Array) -> float:
    """Share of uint8 values that differ by one at most."""
    return float((np.abs(found.astype(int) - wanted.astype(int)) <= 1).mean())


def check_forward(
    graph: Graph,
    session: ort.InferenceSession,
    checkpoint: nn.Module,
    inputs: Tensor,
    tolerances: Tolerances = TOLERANCES,
) -> Figures:
    """A graph of one input and one output against its folded module and against the checkpoint's own network.

    `checkpoint`: the training network behind the same border; `inputs`: as many samples as the largest batch.
    """
    (border,), (result,) = graph.inputs, graph.outputs

    def infer(x: Tensor) -> Array:
        return run(session, {border.name: x.numpy()})[result.name]

    with torch.no_grad():
        folded = [(infer(inputs[:n]), graph.module(inputs[:n]).numpy()) for n in batches(len(inputs))]
        original = checkpoint(inputs).numpy()
    together = infer(inputs)
    alone = np.concatenate([infer(x[None]) for x in inputs])
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


def refiner_inputs(code: Array, target: Array, config: RefinementConfig) -> dict[str, Array]:
    """A refinement's inputs before its first step: code float32 [N, L, 512], target uint8 [N, H, W, 3]."""
    n, height, width, _ = target.shape
    shapes = OPTIMISERS[config.optimiser].shapes(code.shape[1:])
    state = {name: np.zeros((n, *shape), np.float32) for name, shape in shapes.items()}
    settings = {
        name: np.full((n, 1), getattr(config, name), np.float32)
        for name in ("learning_rate", "pixel_weight", "perceptual_weight", "domain_weight")
    }
    mask = np.ones((n, height, width, 1), np.float32)
    return {**state, "code": code, "target": target, "mask": mask, **settings}


def carried_on(inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> dict[str, Array]:
    """The next chunk's inputs."""
    return {name: outputs.get(f"next_{name}", value) for name, value in inputs.items()}


def first_gradient(session: ort.InferenceSession, inputs: Mapping[str, Array], steps: int) -> Array:
    """The gradient at the code that goes in, whatever K: at a rate of 0 no step leaves it.

    L-BFGS keeps it as it is, and Adam's first moment becomes (1 - beta^K) of it.
    """
    still = {**inputs, "learning_rate": np.zeros_like(inputs["learning_rate"])}
    outputs = run(session, still)
    if "next_accepted_gradient" in outputs:
        return outputs["next_accepted_gradient"]
    return outputs["next_first_moment"] / np.float32(1 - Adam.BETAS[0] ** steps)


def loss_gradient(objective: Objective, code: Array, target: Array, config: RefinementConfig) -> Array:
    """The same by autograd."""
    variable = torch.from_numpy(code.copy()).requires_grad_()
    goal = objective.target(to_float(torch.from_numpy(target)))
    weights = Weights(config.pixel_weight, config.perceptual_weight, config.domain_weight)
    (gradient,) = torch.autograd.grad(objective(variable, goal, weights).sum(), variable)
    return gradient.numpy()


def check_refiner(
    session: ort.InferenceSession,
    objective: Objective,
    codes: Array,
    targets: Array,
    config: RefinementConfig,
    tolerances: Tolerances = TOLERANCES,
) -> Figures:
    """Gradient, losses and codes of one chunk against autograd; each sample alone; and does it follow its target?

    codes float32 [N, L, 512] and targets uint8 [N, H, W, 3], other pictures than the codes'.
    """
    k = config.chunk_steps
    few = RefinementConfig(**{**vars(config), "steps": k})
    gradient, loss, displacement = [], [], []
    for n in batches(len(codes)):
        inputs = refiner_inputs(codes[:n], targets[:n], config)
        found = run(session, inputs)
        wanted = refine(objective, torch.from_numpy(codes[:n]), to_float(torch.from_numpy(targets[:n])), few)
        by_autograd = loss_gradient(objective, codes[:n], targets[:n], config)
        gradient.append(relative_lengths(first_gradient(session, inputs, k), by_autograd))
        loss.append(relative_lengths(found["loss"], wanted.losses[:, :k].numpy()))
        moved = wanted.last_code.numpy() - codes[:n]
        displacement.append(relative_lengths(found["next_code"] - codes[:n], moved))
    figures: Figures = {}
    for name, errors, limit in (
        ("gradient_error", np.median(np.concatenate(gradient)), tolerances.gradient),
        ("gradient_error_worst", np.max(np.concatenate(gradient)), tolerances.kink),
        ("loss_error", np.median(np.concatenate(loss)), tolerances.loss),
        ("loss_error_worst", np.max(np.concatenate(loss)), tolerances.loss_worst),
        ("displacement_error", np.median(np.concatenate(displacement)), tolerances.displacement),
        ("displacement_error_worst", np.max(np.concatenate(displacement)), tolerances.displacement_worst),
    ):
        figures[name] = float(errors)
        require(figures[name] <= limit, "refiner", f"{name} {errors:.2e}; at most {limit:g} allowed")
    figures |= check_samples_apart(session, codes, targets, config, tolerances)
    return figures | check_follows_target(session, codes[:1], targets[:2], config)


def check_samples_apart(
    session: ort.InferenceSession,
    codes: Array,
    targets: Array,
    config: RefinementConfig,
    tolerances: Tolerances,
) -> Figures:
    """A sample's gradient and losses in a batch are those of the sample alone."""
    k = config.chunk_steps
    inputs = refiner_inputs(codes, targets, config)
    gradient, loss = first_gradient(session, inputs, k), run(session, inputs)["loss"]
    gradients, losses = [], []
    for i in range(len(codes)):
        single = {name: value[i : i + 1] for name, value in inputs.items()}
        gradients.append(relative_lengths(first_gradient(session, single, k), gradient[i : i + 1]))
        losses.append(relative_lengths(run(session, single)["loss"], loss[i : i + 1]))
    error, worst, loss_error = float(np.median(gradients)), float(np.max(gradients)), float(np.max(losses))
    require(
        error <= tolerances.batch and worst <= tolerances.kink and loss_error <= tolerances.loss_worst,
        "refiner",
        f"a sample's gradient changes by {error:.2e} (worst {worst:.2e}) and its loss by {loss_error:.2e} with its "
        f"batch; at most {tolerances.batch:g} ({tolerances.kink:g}) and {tolerances.loss_worst:g} allowed",
    )
    return {"relative_error_in_batch": error, "loss_error_in_batch": loss_error}


def check_follows_target(
    session: ort.InferenceSession, code: Array, targets: Array, config: RefinementConfig, chunks: int = 4
) -> Figures:
    """One code, two targets: each loss falls, and the results are nearer their own targets than each other's, together.

    A gradient that was baked in while tracing would pass every other look at the shapes; both results would be one.
    The domain term knows of no target and is left out: with an encoder that was little trained it outweighs the others.
    """
    inputs = refiner_inputs(np.repeat(code, 2, 0), targets, replace(config, domain_weight=0.0))
    first: Array | None = None
    for _ in range(chunks):
        outputs = run(session, inputs)
        first = outputs["loss"][:, 0] if first is None else first
        inputs = carried_on(inputs, outputs)
    assert first is not None
    result = outputs["best_code"]  # what a host would answer; the code that goes on was not judged yet
    own = run(session, inputs | {"code": result})["loss"][:, 0]
    crossed = run(session, inputs | {"code": result[::-1].copy()})["loss"][:, 0]
    require(
        bool((own < first).all()), "refiner", f"losses do not fall: from {first.tolist()} to {own.tolist()}"
    )
    require(
        bool(own.sum() < crossed.sum()),
        "refiner",
        f"the result does not follow its target: losses {own.tolist()}, with the other's {crossed.tolist()}",
    )
    return {"steps_followed": float(chunks * config.chunk_steps), "loss_left": float((own / first).max())}


def precision_figures(
    graphs: Mapping[str, Graph], objective: Objective, codes: Sequence[Tensor]
) -> dict[str, Figures]:
    """Pictures of the 16-bit generator, and of the 16-bit encoder's codes, against those of float32's networks.

    `objective` holds the float32 networks; codes: batches of float32 [N, L, 512].
    """
    generator, encoder = graphs["generator"].module, graphs["encoder"].module
    assert isinstance(generator, GeneratorGraph)
    synthesis = objective.synthesis
    pictures = GeneratorGraph(synthesis)

    def reconstruction(network: nn.Module) -> Callable[[Tensor], Tensor]:
        return lambda code: synthesis(network(pictures(code)))

    exact = reconstruction(EncoderGraph(objective.encoder))
    return {
        "generator": picture_psnr(generator.synthesis, synthesis, codes),
        "encoder": picture_psnr(reconstruction(encoder), exact, codes),
    }


def check_precision(
    figures: Mapping[str, Figures], precision: Precision, tolerances: Tolerances = TOLERANCES
) -> None:
    """Raise ParityError where 16 bits move pictures too far."""
    for role, reached in figures.items():
        psnr, limit = reached["psnr_db"], tolerances.psnr_db
        what = f"PSNR of {precision} against float32 {psnr:.1f} dB; at least {limit:g} needed"
        require(psnr >= limit, role, what)


def check_all(
    graphs: Mapping[str, Graph],
    models: Mapping[str, Path],
    widened: Mapping[str, Path],
    checkpoint: Mapping[str, nn.Module],
    objective: Objective,
    config: RefinementConfig,
    z: Tensor,
    announce: Callable[[str], None],
) -> dict[str, Figures]:
    """Every check on every graph, as files. `z`: float32 [N, z_size] to sample codes and pictures from.

    `widened`: the same files, those that compute in 16 bits with float32 in its place (`storage.widen`).
    `checkpoint`: by role, the training networks behind the graphs' own borders. Raises ParityError.
    """
    for role, path in models.items():
        check_structure(graphs[role], path)
    with torch.no_grad():
        codes = graphs["mapping"].module(z)
        pictures = GeneratorGraph(objective.synthesis)(codes)
        inverted = EncoderGraph(objective.encoder)(pictures)  # of sampled codes the score says 1
    figures: dict[str, Figures] = {}
    inputs = {"encoder": pictures, "generator": codes, "mapping": z, "critic": inverted}
    if "detector" in graphs:
        inputs["detector"] = for_detector(pictures)
    for role, x in inputs.items():
        announce(f"checking the {role}")
        graph, original = graphs[role], checkpoint[role]
        if graph.precision != "float32":
            # how far its rounded weights are from the checkpoint's is part of the PSNR
            original = copy.deepcopy(graph.module).float()
            graph = replace(graph, module=original, precision="float32")
        figures[role] = check_forward(graph, open_session(widened[role]), original, x)
    announce("checking the refiner")
    # start from the neighbour's code, so that there is a way to go
    starts, targets = codes.numpy(), np.roll(pictures.numpy(), 1, 0)
    figures["refiner"] = check_refiner(open_session(models["refiner"]), objective, starts, targets, config)
    return figures


def versions(samples: int) -> dict[str, str | Sequence[int]]:
    """What the figures were reached with."""
    return {
        "onnxruntime": ort.__version__,
        "onnx": onnx.__version__,
        "torch": torch.__version__,
        "batches": batches(samples),
    }
