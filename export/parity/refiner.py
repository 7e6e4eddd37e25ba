"""Checks of the refiner, whose graph has gradients inside."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import ArrayLike

from export.parity.differences import Array, Figures, relative_lengths
from export.parity.sessions import run
from export.parity.tolerances import TOLERANCES, Tolerances, batches, require
from training.refinement.objective import Objective, to_float
from training.refinement.optimisers import OPTIMISERS, Adam
from training.refinement.refinement import RefinementConfig, refine

EARLY_STEPS = 3
"""Losses of these steps are held closely. After them L-BFGS has made much of what rounding has changed."""

FLOAT32_SHARE = 1.5
"""How much more than PyTorch's float32 a graph's gradient may be off from float64."""

_ONE_LEVEL = (2 / 255) ** 2
"""The mean squared error, on [-1, 1], of a picture that is off by one level of 255 everywhere."""


def refiner_inputs(code: Array, target: Array, config: RefinementConfig) -> dict[str, Array]:
    """The refiner's inputs before the first step, from codes float32 [N, L, 512] and targets uint8 [N, H, W, 3]."""
    n, height, width, _ = target.shape
    shapes = OPTIMISERS[config.optimiser].shapes(code.shape[1:])
    state = {name: np.zeros((n, *shape), np.float32) for name, shape in shapes.items()}
    settings = {name: np.full((n, 1), value, np.float32) for name, value in config.settings.items()}
    mask = np.ones((n, height, width, 1), np.float32)
    return {**state, "code": code, "target": target, "mask": mask, **settings}


def carried_on(inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> dict[str, Array]:
    """The inputs of the next chunk, from the inputs and outputs of one."""
    return {name: outputs.get(f"next_{name}", value) for name, value in inputs.items()}


def first_gradient(session: ort.InferenceSession, inputs: Mapping[str, Array], steps: int) -> Array:
    """The gradient at the codes that go in, by the graph of `steps` steps: at a rate of 0 no step moves them.

    L-BFGS keeps the gradient as it is; Adam's first moment becomes (1 - beta^steps) of it.
    """
    still = {**inputs, "learning_rate": np.zeros_like(inputs["learning_rate"])}
    outputs = run(session, still)
    if "next_accepted_gradient" in outputs:
        return outputs["next_accepted_gradient"]
    return outputs["next_first_moment"] / np.float32(1 - Adam.BETAS[0] ** steps)


def loss_gradient(objective: Objective, code: Array, target: Array, config: RefinementConfig) -> Array:
    """The same gradient by autograd."""
    variable = torch.from_numpy(code.copy()).requires_grad_()
    image = to_float(torch.from_numpy(target)).to(variable.dtype)
    goal = objective.target(image, measurement=config.measurement(image))
    (gradient,) = torch.autograd.grad(objective(variable, goal, config.weights).sum(), variable)
    return gradient.numpy()


def check_refiner(
    session: ort.InferenceSession,
    objective: Objective,
    codes: Array,
    targets: Array,
    config: RefinementConfig,
    tolerances: Tolerances = TOLERANCES,
) -> Figures:
    """Compare gradient, losses and codes of one chunk with autograd; then each sample alone; then with two targets.

    The gradient is compared with that in float64, which PyTorch's float32 does not reach either.

    codes float32 [N, L, 512] and targets uint8 [N, H, W, 3], other pictures than the codes'. Returns the errors. Raises
    ParityError.
    """
    k = config.chunk_steps
    few = RefinementConfig(**{**vars(config), "steps": k})
    gradient, rounding, early, loss, displacement = [], [], [], [], []
    exact = copy.deepcopy(objective).double()
    for n in batches(len(codes)):
        inputs = refiner_inputs(codes[:n], targets[:n], config)
        found = run(session, inputs)
        wanted = refine(objective, torch.from_numpy(codes[:n]), to_float(torch.from_numpy(targets[:n])), few)
        by_autograd = loss_gradient(exact, codes[:n].astype(np.float64), targets[:n], config)
        gradient.append(relative_lengths(first_gradient(session, inputs, k), by_autograd))
        in_float32 = loss_gradient(objective, codes[:n], targets[:n], config)
        rounding.append(relative_lengths(in_float32, by_autograd))
        every = wanted.losses[:, :k].numpy()
        early.append(relative_lengths(found["loss"][:, :EARLY_STEPS], every[:, :EARLY_STEPS]))
        loss.append(relative_lengths(found["loss"], every))
        moved = wanted.last_code.numpy() - codes[:n]
        displacement.append(relative_lengths(found["next_code"] - codes[:n], moved))
    # Float32 errs by itself, and no graph in it can err less: not by a rule that is wrong, but by its rounding.
    figures: Figures = {"gradient_error_of_float32": lower_quartile(np.concatenate(rounding))}
    held_by_float32 = max(tolerances.gradient, FLOAT32_SHARE * figures["gradient_error_of_float32"])
    for name, errors, limit in (
        ("gradient_error", lower_quartile(np.concatenate(gradient)), held_by_float32),
        ("gradient_error_worst", np.max(np.concatenate(gradient)), tolerances.kink),
        ("loss_error", np.median(np.concatenate(early)), tolerances.loss),
        ("loss_error_worst", np.max(np.concatenate(loss)), tolerances.loss_worst),
        ("displacement_error", np.median(np.concatenate(displacement)), tolerances.displacement),
        ("displacement_error_worst", np.max(np.concatenate(displacement)), tolerances.displacement_worst),
    ):
        figures[name] = float(errors)
        require(figures[name] <= limit, "refiner", f"{name} {errors:.2e}; at most {limit:g} allowed")
    figures |= check_measured(session, objective, exact, codes[:2], targets[:2], config, tolerances)
    figures |= check_samples_apart(session, codes, targets, config, tolerances)
    return figures | check_follows_target(session, codes[:1], targets[:2], config)


def check_measured(
    session: ort.InferenceSession,
    objective: Objective,
    exact: Objective,
    codes: Array,
    targets: Array,
    config: RefinementConfig,
    tolerances: Tolerances,
) -> Figures:
    """Compare the gradients where only means of grey values are known. `exact`: the objective in float64.

    Raises ParityError.
    """
    if config.grey is None or config.downsampling is None:
        return {}
    measured = replace(config, grey=True, downsampling=4)
    found = first_gradient(session, refiner_inputs(codes, targets, measured), config.chunk_steps)
    wanted = loss_gradient(exact, codes.astype(np.float64), targets, measured)
    in_float32 = loss_gradient(objective, codes, targets, measured)
    error, rounding = (lower_quartile(relative_lengths(x, wanted)) for x in (found, in_float32))
    limit = max(tolerances.gradient, FLOAT32_SHARE * rounding)
    require(
        error <= limit,
        "refiner",
        f"the gradient towards grey means errs by {error:.2e}; at most {limit:.2e} allowed",
    )
    return {"gradient_error_measured": error}


def lower_quartile(errors: ArrayLike) -> float:
    """The error that a quarter of the samples keep to.

    A wrong rule for a derivative is wrong for every sample. Rounding, where an activation is zero but for it, is large
    for some: of a generator at 128 pixels, in PyTorch's float32 against its float64, it was 1e-3 for two of six.
    """
    return float(np.quantile(np.asarray(errors), 0.25))


def check_samples_apart(
    session: ort.InferenceSession,
    codes: Array,
    targets: Array,
    config: RefinementConfig,
    tolerances: Tolerances,
) -> Figures:
    """Check that a sample's gradient and losses are the same in a batch and alone. Raises ParityError."""
    k = config.chunk_steps
    inputs = refiner_inputs(codes, targets, config)
    gradient, loss = first_gradient(session, inputs, k), run(session, inputs)["loss"]
    gradients, losses = [], []
    for i in range(len(codes)):
        single = {name: value[i : i + 1] for name, value in inputs.items()}
        gradients.append(relative_lengths(first_gradient(session, single, k), gradient[i : i + 1]))
        losses.append(relative_lengths(run(session, single)["loss"], loss[i : i + 1]))
    error, worst, loss_error = lower_quartile(gradients), float(np.max(gradients)), float(np.max(losses))
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
    """Refine one code towards two targets: each loss must fall, and each result be nearest to its own target.

    A gradient that was baked in while tracing would pass every other check; both results would be the same. The domain
    term, which has no target, is left out: with an encoder that was little trained it outweighs the others. Raises
    ParityError.
    """
    inputs = refiner_inputs(np.repeat(code, 2, 0), targets, replace(config, domain_weight=0.0))
    first: Array | None = None
    for _ in range(chunks):
        outputs = run(session, inputs)
        first = outputs["loss"][:, 0] if first is None else first
        inputs = carried_on(inputs, outputs)
    assert first is not None
    # The best code is what a host would answer; the code that goes on was not judged yet.
    result = outputs["best_code"]
    own = run(session, inputs | {"code": result})["loss"][:, 0]
    crossed = run(session, inputs | {"code": result[::-1].copy()})["loss"][:, 0]
    # One that fits to less than a level of 255 has nowhere to fall to: some generators draw one picture from all codes.
    limit = np.maximum(first, _ONE_LEVEL)
    require(
        bool((own < limit).all()),
        "refiner",
        f"losses do not fall: from {first.tolist()} to {own.tolist()}",
    )
    require(
        bool(own.sum() < crossed.sum()),
        "refiner",
        f"the result does not follow its target: losses {own.tolist()}, with the other's {crossed.tolist()}",
    )
    return {"steps_followed": float(chunks * config.chunk_steps), "loss_left": float((own / limit).max())}
